"""Train a network on all outer folds of one dataset and seed; predict validation and test rows; keep the weights.

Where its folds were trained together with those of other seeds and initialisations (finetune_together.py), they are only written."""

import hashlib
import json
import math
import sys
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch.func import vmap

from matpretrain.cohort import Cohort, level
from matpretrain.composition import Compositions, take
from matpretrain.devices import claim_device, describe
from matpretrain.files import read_csv, sha256, write_csv
from matpretrain.jobs import job
from matpretrain.members import fold_weights, keep, save_members
from matpretrain.objectives import SUPERVISED
from matpretrain.outputs import decode, learned, smoothing
from matpretrain.processes import Stopped, side_by_side
from matpretrain.provenance import stacks
from matpretrain.recipe import Recipe
from matpretrain.run import Diverged
from matpretrain.selection import overtrained
from matpretrain.splits import fold_numbers
from matpretrain.states import check_history, kept_state, load_state, save_state
from matpretrain.supervised import Spectra, Training, crowded
from matpretrain.training import fit_cohort, predict_members
from matpretrain.weights import load_weights

PROGRESS = 10  # progress lines per fold
TOGETHER = "together.json"  # beside the folds of a job of several Trainings: device, seconds of all, and how many runs
PARTS = ("train", "validation", "test")  # in the order of Training.split


def train_members(members, say, state=None):
    """Train outer folds as a cohort, going on from a state where that exists (training.fit_cohort).

    Args:
        members: list of (Training, outer fold). The Trainings differ at most in seed, weights, initial and name.

    Returns:
        For each of them its prediction rows and history as data frames, and what is kept of the network.
    """
    training = members[0][0]
    recipe, device, target, record = training.recipe, training.device, training.target, training.record()
    splits = [own.split(fold) for own, fold in members]
    mean = [np.nanmean(target[train]) for train, _, _ in splits]
    std = [np.nanstd(target[train], ddof=1) for train, _, _ in splits]
    std = [own if own > 0 else 1.0 for own in std]
    watched = len(splits[0][1]) > 0

    loss, smoothed, inputs = SUPERVISED[training.loss][0], smoothing(record), training.inputs
    scaled = np.stack([(target - m) / s for m, s in zip(mean, std, strict=True)])
    scaled = torch.as_tensor(scaled, dtype=torch.float32, device=device)  # [members, n, T]
    member = torch.arange(len(members), device=device)[:, None]
    cohort = Cohort([initial_network(fold, own, record["n_outputs"], say) for own, fold in members])

    def losses(cohort, rows):
        rows, fills = level(rows)
        targets = scaled[member, rows].masked_fill(fills.unsqueeze(-1), math.nan)
        return vmap(loss)(smoothed(cohort(inputs, rows)), targets)

    def outputs(cohort, part):
        """Of every member for its validation or test rows."""
        rows = [torch.as_tensor(split[PARTS.index(part)], device=device) for split in splits]
        return predict_members(cohort, inputs, rows, recipe)

    def evaluate(cohort):
        if not watched:
            return [{"mae": math.nan}] * cohort.size
        scores = []
        for k, output in enumerate(outputs(cohort, "validation")):
            error = learned(output, record, mean[k], std[k]) - target[splits[k][1]]
            scores.append({"mae": float(np.nanmean(np.abs(error)))})
        return scores

    def report(rows):
        for (own, fold), row in zip(members, rows, strict=True):
            if row and row["epoch"] % max(1, recipe.epochs // PROGRESS) == 0:
                say(
                    f"{own.name + ' ' * bool(own.name)}fold {fold}: epoch {row['epoch']}/{recipe.epochs}, loss {row['loss']:.4f}, "
                    + f"validation MAE {row['mae']:.4g}, " * watched
                    + f"{row['seconds']:.0f} s"
                )

    histories = fit_cohort(
        cohort,
        losses,
        [torch.as_tensor(train, device=device) for train, _, _ in splits],
        evaluate,
        recipe,
        seeds=[1000 * own.seed + fold for own, fold in members],
        cost=getattr(inputs, "cost", None),
        reserve=getattr(inputs, "reserve", None) if training.spectra is None else None,
        report=report,
        state=state,
    )
    results, predicted = [], {part: outputs(cohort, part) for part in (PARTS[1:] if watched else PARTS[2:])}
    for k, (own, fold) in enumerate(members):
        parts = []
        for part, of_members in predicted.items():
            prediction, deviation = decode(of_members[k], record, mean[k], std[k])
            rows = training.rows(splits[k][PARTS.index(part)], prediction=prediction, aleatoric_std=deviation)
            parts.append(rows.assign(fold=fold, seed=own.seed, part=part))
        history = pd.DataFrame(histories[k]).assign(fold=fold, seed=own.seed)
        results.append((pd.concat(parts), history, keep(cohort.member(k), fold, mean[k], std[k])))
    return results


def initial_network(fold, training, n_outputs, say):
    """The network with which the training of a fold begins, on the device."""
    torch.manual_seed(1000 * training.seed + fold)
    model = training.network().Model(**training.arguments, n_outputs=n_outputs)
    if training.weights:
        load_weights(model.encoder, training.weights, say if fold == 0 else None)
    if training.initial:
        taken = model.adopt(fold_weights(training.initial, fold))
        if fold == 0:
            say(f"took over {taken:,} of {sum(p.numel() for p in model.parameters()):,} numbers from {training.initial}")
    return model.to(training.device)


def cohorts(trainings):
    """Lists of (Training, outer fold) that train together: those with steps of the same size and number."""
    first = trainings[0]
    folds, size = fold_numbers(first.table["fold"]), first.cohort
    if not stacks(first.encoder):
        size = 1
    elif size == "all":
        size = len(trainings) * len(folds)
    elif size == "auto":
        size = 1 if first.device == "cpu" else len(trainings) * len(folds)
    groups = {}
    for training in trainings:
        for fold in folds:
            groups.setdefault(first.recipe.batches_for([training.split(fold)[0]]), []).append((training, fold))
    return [group[k : k + size] for group in groups.values() for k in range(0, len(group), size)]


def finetune(trainings, threads, say, state):
    """Train all outer folds of a dataset in one or several Trainings: cohorts of them, on a CPU side by side.

    Args:
        trainings: list of Training that differ at most in seed, weights, initial and name.
        threads: on a CPU as many cohorts train side by side, one thread each; a single one has all of them.
        state: folder with a file per cohort, its training state, and a file per finished fold, its result (result_file). Finished
            cohorts are not trained again.

    Raises:
        Stopped: a signal asked for it; the states of all folds are written.
    """
    first, together = trainings[0], cohorts(trainings)
    n_folds = sum(map(len, together))
    forks = sys.platform.startswith("linux")  # elsewhere forking is unsafe: cohorts run one after another
    workers = min(threads, len(together)) if first.device == "cpu" and forks else 1
    sizes = f", in cohorts of {', '.join(str(len(cohort)) for cohort in together)}" if len(together) < n_folds else ""
    say(f"{len(first.table)} rows, {n_folds} folds{sizes}, {workers} at a time on {describe(first.device)}")
    if advice := crowded(first.target, first.loss):
        say(advice)
    left = [cohort for cohort in together if not all(result_file(state, *member).exists() for member in cohort)]

    def work(cohort):
        finish_members(cohort, say, state)

    if workers == 1:
        if first.device == "cpu":
            torch.set_num_threads(threads)
        for cohort in left:
            work(cohort)
    elif left:  # side by side, one thread each
        load_once(first)
        side_by_side(work, left, workers)


def read_folds(training, state):
    """What `finetune` left of all outer folds of a Training: predictions and history as data frames, and what is kept of each fold
    (members.keep)."""
    folds = fold_numbers(training.table["fold"])
    finished = [read_fold(fold, training, result_file(state, training, fold)) for fold in folds]
    predictions, histories, kept = zip(*finished, strict=True)
    return pd.concat(predictions), pd.concat(histories), kept


def load_once(training):
    """Predict a row and make an optimiser, so that what libraries load on first use is there before the folds fork, and shared."""
    torch.set_num_threads(1)  # a process that has started threads must not fork
    model = training.network().Model(**training.arguments, n_outputs=1).eval()
    with torch.inference_mode():
        model(training.inputs[torch.arange(1)])
    torch.optim.AdamW(model.parameters(), fused=True)


def result_file(state, training, fold):
    """The file of a finished fold in the folder of a job's state."""
    return state / training.name / f"fold{fold}.pt"


def finish_members(members, say, state):
    """Train a cohort of (Training, outer fold) and leave their results in the folder `state`, in place of its training state."""
    folds = list(dict.fromkeys(fold for _, fold in members))
    names = "".join(dict.fromkeys(training.name for training, _ in members))
    of = hashlib.sha256(names.encode()).hexdigest()[:8] + "-" if names else ""
    under_way = state / f"training{of}{'-'.join(map(str, folds))}.pt"
    try:
        results = train_members(members, say, under_way)
    except Diverged as error:
        training, fold = members[error.member]
        raise FloatingPointError(f"{training.name + ' ' * bool(training.name)}fold {fold}: {error}") from None
    except Stopped as stop:
        named = f"fold{'s' * (len(folds) > 1)} {', '.join(map(str, folds))}"
        raise Stopped(stop.reason, [f"{named} {place}" for place in stop.places]) from None
    for (training, fold), (predictions, history, kept) in zip(members, results, strict=True):
        kept["weights"] = {name: torch.from_numpy(array) for name, array in kept["weights"].items()}
        columns = {"predictions": predictions.to_dict("list"), "history": history.to_dict("records")}
        save_state({"of": _identity(fold, training), **columns, "kept": kept}, result_file(state, training, fold))
    under_way.unlink(missing_ok=True)


def read_fold(fold, training, path):
    """What `train_members` returned of a fold, from the file that `finish_members` wrote."""

    def check(saved):
        check_history(saved["history"], training.recipe.epochs)
        _, _, test = training.split(fold)
        predicted = saved["predictions"]
        n_test, finite = predicted["part"].count("test"), np.isfinite(np.asarray(predicted["prediction"], float))
        if n_test != len(test) * training.target.shape[1] or not finite.all():
            raise ValueError(f"{n_test} predictions of {len(test)} test rows, {(~finite).sum()} of them not finite")
        if saved["kept"]["fold"] != fold:
            raise ValueError(f"weights of fold {saved['kept']['fold']}")

    saved = load_state(path, _identity(fold, training), check)
    kept = saved["kept"]
    kept["weights"] = {name: tensor.numpy() for name, tensor in kept["weights"].items()}
    return pd.DataFrame(saved["predictions"]), pd.DataFrame(saved["history"]), kept


def _identity(fold, training):
    return {"fold": fold, "seed": training.seed, "recipe": vars(training.recipe)}


def of_job(snakemake, device, **own):
    """The Training of a job; `own` are its seed, cohort and what else single ones of several have."""
    p, files = snakemake.params, snakemake.input
    arguments = dict(p.arguments)
    if files.get("elements"):
        arguments["element_vectors"] = np.load(files.elements)
    return Training(
        read_csv(files.table, dtype={"id": str, "formula": str}),
        files.get("structures") or Compositions.read(files.compositions),
        encoder=p.encoder,
        arguments=arguments,
        loss=p.loss,
        recipe=Recipe(**p.recipe),
        inner_fraction=p.inner_fraction,
        size=p.size,
        device=device,
        spectra=Spectra.read(files.spectra, p.resolution) if files.get("spectra") else None,
        **own,
    )


if __name__ == "__main__":
    with job(snakemake) as say:
        p, files, out = snakemake.params, snakemake.input, snakemake.output
        folder, seed = Path(out.weights).parent, int(snakemake.wildcards.seed)
        with ExitStack() as held:
            if files.get("together"):  # the folds are trained: their files are read as those of an interrupted job
                state, device = Path(files.together), "cpu"
                own = {"name": f"{snakemake.wildcards.model}/seed{seed}"}
                made = json.loads((state / TOGETHER).read_text())
                shared = round(made["wall_seconds"] / made["runs"], 1)
                say.note(device=made["device"], wall_seconds=shared, trained_together=made)
            else:
                device = held.enter_context(claim_device(snakemake.config["device"], say))
                state, own = say.enter(kept_state(snakemake, folder, device, say)), {}
                say.note(device=describe(device))
            weights, initial = files.get("weights"), files.get("initial")
            training = of_job(snakemake, device, seed=seed, weights=weights, initial=initial, cohort=p.cohort, **own)
            if not files.get("together"):
                finetune([training], snakemake.threads, say, state)
            predictions, history, kept = read_folds(training, state)
        if p.recipe["select"] == "last" and (advice := overtrained(history)):
            say(advice)
        write_csv(history, out.history)
        unit = snakemake.config["datasets"][snakemake.wildcards.dataset]["unit"]  # no parameter: another word trains nothing
        save_members(
            kept,
            training.arguments,
            take(Compositions.read(files.compositions), training.trained_rows()),
            {
                "dataset": snakemake.wildcards.dataset,
                "model": snakemake.wildcards.model,
                "unit": unit,
                "data_sha256": sha256(files.get("spectra") or files.table),
                "code_version": p.code,
                **training.record(),
            },
            folder,
        )
        write_csv(predictions, out.predictions)
