"""Pretrain an encoder on a corpus; write its weights, those of every epoch, and the history."""

import importlib
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from matpretrain.devices import claim_device, describe
from matpretrain.files import DataError, copy_file, sha256, write_csv
from matpretrain.jobs import job
from matpretrain.objectives import Pretext
from matpretrain.provenance import environment
from matpretrain.recipe import Recipe
from matpretrain.splits import hold_out
from matpretrain.states import kept_state
from matpretrain.training import fit
from matpretrain.weights import corpus_inputs, save_encoder, save_weights

PROGRESS = 30.0  # seconds between two progress lines
BAR = 20  # characters of the progress bar
ROUNDING = 1e-6  # of the largest value: a feature that deviates by no more is a constant in single precision
# Of the largest principal component's variance: smaller components would bring rounding errors to the size of the others.
LEAST_VARIANCE = 1e-4


def scaled(values, train, scale):
    """Targets [rows, n] as they are learned; ranges, means and components are those of the training rows.

    minmax (FL of Huang et al. 2024), in place, maps the training range of every feature to [0, 1]; features without one are only
    shifted: zero in all training rows.
    whitened (not in the paper): [rows, m <= n] principal components of the standardised features, each with unit variance, without
    those whose variance is below LEAST_VARIANCE of the largest one's. Squared errors of features that vary together count what they
    share many times over; whitened, every direction counts once.
    """
    return SCALES[scale](values, train)


def _minmax(values, train):
    part = values[train]
    low, high = part.min(0), part.max(0)
    values -= low
    values /= np.where(high > low, high - low, 1.0)
    return values


def _whitened(values, train):
    part = values[train]
    mean, std = part.mean(0, dtype=float), part.std(0, dtype=float)
    varies = std > ROUNDING * np.abs(part).max(0)
    values = (values[:, varies] - mean[varies]) / std[varies]
    part = values[train]
    variance, directions = np.linalg.eigh(part.T @ part / len(part))
    kept = variance >= LEAST_VARIANCE * variance.max(initial=0)
    return values @ (directions[:, kept] / np.sqrt(variance[kept]))


SCALES = {"none": lambda values, train: values, "minmax": _minmax, "whitened": _whitened}


def progress_bar(n_rows, n_epochs, say):
    """Function (epoch, step, steps) that prints a bar and the rate every PROGRESS seconds; n_rows per epoch."""
    started = last = time.perf_counter()
    done = 0

    def progress(epoch, step, steps):
        nonlocal last, done
        done += 1
        now = time.perf_counter()
        if now - last < PROGRESS:
            return
        rate = done / (now - started)  # steps per second since this job started
        left = ((n_epochs - epoch + 1) * steps - step) / rate
        bar = "#" * round(BAR * step / steps)
        say(
            f"epoch {epoch}/{n_epochs} [{bar:.<{BAR}}] {step / steps:4.0%}, "
            f"{rate * n_rows / steps:,.0f} examples/s, {left / 60:.0f} min left"
        )
        last = now

    return progress


def pretrain(examples_path, elements_path, target_paths, encoder, arguments, tasks, recipe, validation_fraction, seed,
             device, state, say):  # fmt: skip
    """Train an encoder on the pretext tasks. Returns (encoder module, history rows).

    Args:
        examples_path: file of the corpus, of the kind that the network reads.
        elements_path: npy file of element vectors, or None for a network that has none.
        arguments: further arguments of the encoder.
        target_paths: {task: npy file [rows, n]} of the tasks that have a target.
        tasks: {task: options} as in the registry; none leaves the encoder as it was initialised.
        state: folder from which an interrupted run goes on; its epochs/ receives the encoder before training (0000) and
            after each epoch.

    Raises:
        DataError: a corpus so small that batches have fewer rows than a task needs; targets to whiten that
            do not vary; as training.fit.
    """
    network = importlib.import_module(f"matpretrain.{encoder}")
    inputs = corpus_inputs(network).read(examples_path, device)
    train, validation = hold_out(len(inputs), validation_fraction, seed)
    targets = {
        name: torch.as_tensor(
            scaled(np.load(path), train, tasks[name].get("scale", "none")), dtype=torch.float32, device=device
        )
        for name, path in target_paths.items()
    }
    for name, target in targets.items():
        if not target.shape[1]:
            raise DataError(
                f"{target_paths[name]}: the same values in all rows that train leave nothing to whiten; name another corpus, or scale: none"
            )
    torch.manual_seed(seed)
    vectors = {"element_vectors": np.load(elements_path)} if elements_path else {}
    model = Pretext(network.Encoder(**vectors, **arguments), tasks, targets).to(device)
    say(f"{len(train)} examples, {len(validation)} for validation, {torch.get_num_threads()} threads on {describe(device)}")
    batch, cost = recipe.batch_for(len(train)), getattr(inputs, "cost", None)
    for name, task in model.tasks.items():
        if batch < getattr(task, "least_rows", 1):
            small = recipe.batch_size < task.least_rows
            remedy = "raise batch_size" if small else "name a larger corpus, or lower min_steps"
            raise DataError(
                f"{examples_path}: {len(train)} examples to train on make batches of {batch}, and {name} needs {task.least_rows} rows; "
                f"{remedy} of the strategy's recipe (pretraining_recipe)"
            )
    train, validation = (torch.as_tensor(rows, device=device) for rows in (train, validation))

    def weight(rows):
        """What the losses of rows are means over: the rows, or the edges of crystals, where those are what rows cost."""
        return len(rows) if cost is None else cost[rows].sum().clamp(min=1)

    with_error = [name for name, task in model.tasks.items() if hasattr(task, "error")]
    evaluated = model  # the last one that `evaluate` saw: averaged weights where the recipe averages
    trained = dict.fromkeys(with_error, 0.0)  # summed errors on the training rows since the last evaluation

    def loss(model, rows):
        value = model(inputs, rows)
        for name in with_error:
            trained[name] += model.tasks[name].error * weight(rows)
        return value

    def evaluate(model):
        """Losses on the validation rows, in batches of the training size, always with the same masks."""
        nonlocal evaluated
        evaluated = model
        model.eval()
        totals = dict.fromkeys(["validation_loss", *tasks], 0.0)
        for name in with_error:
            totals[f"{name}_mae"], totals[f"{name}_training_mae"] = 0.0, float(trained[name] / weight(train))
            trained[name] = 0.0
        with torch.random.fork_rng(), torch.inference_mode(), recipe.autocast(device):
            torch.manual_seed(seed)
            for rows in validation.split(batch):
                share = float(weight(rows) / weight(validation))
                for name, value in model.losses(inputs, rows).items():
                    totals[name] += value.item() * share
                for name in with_error:
                    totals[f"{name}_mae"] += model.tasks[name].error.item() * share
        totals["validation_loss"] = sum(model.weights[name] * totals[name] for name in tasks)
        return totals

    def report(row):
        save_weights(evaluated.encoder.state_dict(), state / "epochs" / f"{row['epoch']:04d}.safetensors")
        rate = len(train) * row["epoch"] / row["seconds"]
        say(
            f"epoch {row['epoch']}/{recipe.epochs}: loss {row['loss']:.4g}, validation {row['validation_loss']:.4g}, "
            f"{rate:,.0f} examples/s, {row['seconds'] / 60:.1f} min"
        )

    if not (state / "training.pt").exists():
        save_weights(model.encoder.state_dict(), state / "epochs" / "0000.safetensors")
    if not tasks:
        return model.encoder, []
    history = fit(
        model,
        loss,
        train,
        evaluate,
        recipe,
        seed=seed,
        cost=cost,
        reserve=None if with_error else getattr(inputs, "reserve", None),
        weight=weight,
        report=report,
        progress=progress_bar(len(train), recipe.epochs, say),
        state=state / "training.pt",
        sums=trained,
    )
    return model.encoder, history


if __name__ == "__main__":
    with job(snakemake) as say:
        p, files, out = snakemake.params, snakemake.input, snakemake.output
        folder = Path(out.weights).parent
        with claim_device(snakemake.config["device"], say) as device:
            state = say.enter(kept_state(snakemake, folder, device, say))
            encoder, history = pretrain(
                files.examples,
                files.get("elements"),
                {name: files[name] for name in p.tasks if files.get(name)},
                encoder=p.encoder,
                arguments=p.arguments,
                tasks=p.tasks,
                recipe=Recipe(**p.recipe),
                validation_fraction=p.validation_fraction,
                seed=p.seed,
                device=device,
                state=state,
                say=say,
            )
            write_csv(pd.DataFrame(history, columns=list(history[0]) if history else ["epoch", "loss"]), out.history)
            save_encoder(
                encoder,
                p.encoder,
                folder,
                {
                    "arguments": p.arguments,
                    "tasks": p.tasks,
                    "corpus": p.corpus,
                    "corpus_sha256": sha256(files.examples),
                    "elements": p.elements,
                    "epochs": len(history),
                    "recipe": dict(p.recipe),
                    "seed": p.seed,
                    "device": describe(device),
                    "threads": snakemake.threads,
                    "wall_seconds": round(history[-1]["seconds"], 1) if history else 0.0,
                    "code_version": p.code,
                    "versions": environment(),
                },
            )
            for epoch in range(len(history) + 1):
                name = f"{epoch:04d}.safetensors"
                copy_file(state / "epochs" / name, Path(out.epochs) / name)
            say.note(device=describe(device))
