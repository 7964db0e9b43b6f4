"""Train a network on all outer folds of one dataset and seed; predict validation and test rows; keep the weights."""

import importlib
import multiprocessing
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from matpretrain.composition import Compositions
from matpretrain.devices import claim_device, describe
from matpretrain.files import read_csv, write_csv
from matpretrain.jobs import job
from matpretrain.members import fold_weights, keep, save_members
from matpretrain.objectives import SUPERVISED
from matpretrain.provenance import environment, write_json
from matpretrain.spectra import COMPRESS, PARTS, RESTORE, smoothing_matrix
from matpretrain.splits import fold_numbers, inner_split
from matpretrain.subsets import outer_split
from matpretrain.training import Recipe, fit, predict
from matpretrain.weights import load_weights

PROGRESS = 10  # progress lines per fold


@dataclass(frozen=True)
class Training:
    """What all folds of a job share.

    Attributes:
        table: data frame id and fold, and target where it is one number, a row per composition.
        examples: Compositions of the rows, or the file of their structures for a network that reads those.
        encoder: module of the package with the network.
        arguments: of its Model, besides the number of outputs: element_vectors [Z, n], or those of the registry.
        weights: safetensors file of a pretrained encoder to start from, or None.
        loss: name in SUPERVISED.
        recipe: Recipe.
        inner_fraction: share of the outer training rows held out for validation.
        size: outer training rows of every fold (subsets.outer_split), None for all.
        seed: random seed.
        device: "cpu" or "cuda:k".
        spectra: Spectra of the rows where the target is one.
        initial: safetensors file of the trained folds of another network, from which this one starts fold by fold (`Model.adopt`).
    """

    table: pd.DataFrame
    examples: Compositions | str
    encoder: str
    arguments: dict
    weights: str | None
    loss: str
    recipe: Recipe
    inner_fraction: float
    size: str | None
    seed: int
    device: str
    spectra: "Spectra | None" = None
    initial: str | None = None

    @property
    def target(self):
        """[n, T] what is learned, NaN where it is unknown."""
        return self.table["target"].to_numpy()[:, None] if self.spectra is None else COMPRESS(self.spectra.values)

    def smoothing(self):
        """Function [B, n] -> [B, n] from the outputs of the network to the predictions: the identity but for spectra."""
        if self.spectra is None or not self.spectra.resolution:
            return lambda output: output
        kernel = smoothing_matrix(self.spectra.energy, self.spectra.resolution)

        def smoothed(output):
            matrix = (
                kernel if isinstance(output, np.ndarray) else torch.as_tensor(kernel, dtype=output.dtype, device=output.device)
            )
            return (output.reshape(-1, len(kernel)) @ matrix).reshape(output.shape)

        return smoothed

    def rows(self, rows, **values):
        """Data frame of some rows: id, for a spectrum quantity and energy, target, and values [len(rows), T] by name."""
        frame = {"id": self.table["id"].to_numpy()[rows]}
        if self.spectra is None:
            frame["target"] = self.table["target"].to_numpy()[rows]
        else:
            energy = self.spectra.energy
            frame = {
                "id": frame["id"].repeat(self.spectra.values.shape[1]),
                "quantity": np.tile(np.repeat(PARTS, len(energy)), len(rows)),
                "energy": np.tile(energy, len(PARTS) * len(rows)),
                "target": self.spectra.values[rows].ravel(),
            }
            values["prediction"] = RESTORE(values["prediction"])
        return pd.DataFrame(frame | {name: value.ravel() for name, value in values.items()})

    def inputs(self, network):
        """The examples as the Inputs of a network on the device."""
        build = network.Inputs if isinstance(self.examples, Compositions) else network.Inputs.read
        return build(self.examples, self.device)


@dataclass(frozen=True)
class Spectra:
    """Targets that are dielectric functions.

    Attributes:
        energy: [G] eV.
        values: [n, T = 2 G] eps_re, then eps_im, NaN where unknown.
        resolution: standard deviation in eV of the Gaussian with which the outputs of the network are smoothed; 0: none.
    """

    energy: np.ndarray
    values: np.ndarray
    resolution: float

    @classmethod
    def read(cls, path, resolution):
        """Those of a file with the arrays energy [G] and eps [n, G] (complex)."""
        with np.load(path) as arrays:
            eps = arrays["eps"]
            return cls(arrays["energy"], np.concatenate([eps.real, eps.imag], 1), resolution)


def train_fold(fold, training, say):
    """Train one outer fold. Returns its prediction rows and history as data frames, and what is kept of the network."""
    table, recipe, seed, device = training.table, training.recipe, training.seed, training.device
    if device == "cpu":
        torch.set_num_threads(1)  # folds run side by side, one thread each
    network = importlib.import_module(f"matpretrain.{training.encoder}")
    target = training.target
    outer_train, test = outer_split(table["fold"].to_numpy(), fold, training.size)
    train, validation = inner_split(outer_train, training.inner_fraction, seed, fold)
    mean, std = np.nanmean(target[train]), np.nanstd(target[train], ddof=1)
    std, n_targets = std if std > 0 else 1.0, target.shape[1]

    loss, n_outputs = SUPERVISED[training.loss]
    smoothed = training.smoothing()
    torch.manual_seed(1000 * seed + fold)
    model = network.Model(**training.arguments, n_outputs=n_outputs * n_targets)
    if training.weights:
        load_weights(model.encoder, training.weights, say if fold == 0 else None)
    if training.initial:
        taken = model.adopt(fold_weights(training.initial, fold))
        if fold == 0:
            say(f"took over {taken:,} of {sum(p.numel() for p in model.parameters()):,} numbers from {training.initial}")
    model = model.to(device)
    inputs = training.inputs(network)
    scaled = torch.as_tensor((target - mean) / std, dtype=torch.float32, device=device)

    def outputs(model, rows):
        return smoothed(predict(model, inputs, torch.as_tensor(rows, device=device), recipe))

    def evaluate(model):
        error = outputs(model, validation)[:, :n_targets] * std + mean - target[validation]
        return {"mae": float(np.nanmean(np.abs(error)))}

    def report(row):
        if row["epoch"] % max(1, recipe.epochs // PROGRESS) == 0:
            say(
                f"fold {fold}: epoch {row['epoch']}/{recipe.epochs}, loss {row['loss']:.4f}, "
                f"validation MAE {row['mae']:.4g}, {row['seconds']:.0f} s"
            )

    history = fit(
        model,
        lambda model, rows: loss(smoothed(model(inputs[rows])), scaled[rows]),
        torch.as_tensor(train, device=device),
        evaluate,
        recipe,
        seed=1000 * seed + fold,
        cost=getattr(inputs, "cost", None),
        report=report,
    )
    parts = []
    for part, rows in (("validation", validation), ("test", test)):
        output = outputs(model, rows)
        prediction, deviation = output[:, :n_targets] * std + mean, np.exp(output[:, n_targets:]) * std
        if not deviation.size or training.spectra is not None:
            deviation = np.full_like(prediction, np.nan)
        part_rows = training.rows(rows, prediction=prediction, aleatoric_std=deviation)
        parts.append(part_rows.assign(fold=fold, seed=seed, part=part))
    return pd.concat(parts), pd.DataFrame(history).assign(fold=fold, seed=seed), keep(model, fold, mean, std)


def finetune(training, threads, say):
    """Train all outer folds of a dataset, side by side on a CPU.

    Returns:
        Predictions and history as data frames, and what is kept of each fold (members.keep).
    """
    folds = fold_numbers(training.table["fold"])
    forks = sys.platform.startswith("linux")  # elsewhere forking is unsafe: folds run one after another
    workers = min(threads, len(folds)) if training.device == "cpu" and forks else 1
    say(f"{len(training.table)} rows, {len(folds)} folds, {workers} at a time on {describe(training.device)}")
    if workers == 1:
        results = [train_fold(fold, training, say) for fold in folds]
    else:
        results = _side_by_side(folds, (training, say), workers)
    predictions, histories, kept = zip(*results, strict=True)
    return pd.concat(predictions), pd.concat(histories), kept


def _side_by_side(folds, job_arguments, workers):
    """Folds in forked processes: the arrays and `say` are inherited, and no thread pool exists yet to be broken."""
    global _inherited
    _inherited = job_arguments
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("fork")) as pool:
        return list(pool.map(_inherited_fold, folds))


def _inherited_fold(fold):
    return train_fold(fold, *_inherited)


if __name__ == "__main__":
    with job(snakemake) as say:
        started = time.perf_counter()
        p, files, out = snakemake.params, snakemake.input, snakemake.output
        with np.load(files.compositions) as arrays:
            compositions = Compositions(**arrays)
        arguments = dict(p.arguments)
        if files.get("elements"):
            arguments["element_vectors"] = np.load(files.elements)
        with claim_device(p.device, say) as device:
            training = Training(
                read_csv(files.table, dtype={"id": str, "formula": str}),
                files.get("structures", compositions),
                encoder=p.encoder,
                arguments=arguments,
                weights=files.get("weights"),
                loss=p.loss,
                recipe=Recipe(**p.recipe),
                inner_fraction=p.inner_fraction,
                size=p.size,
                seed=int(snakemake.wildcards.seed),
                device=device,
                spectra=Spectra.read(files.spectra, p.resolution) if files.get("spectra") else None,
                initial=files.get("initial"),
            )
            predictions, history, kept = finetune(training, snakemake.threads, say)
        write_csv(history, out.history)
        save_members(
            kept,
            arguments,
            compositions,
            {
                "encoder": p.encoder,
                "n_outputs": SUPERVISED[p.loss][1] * training.target.shape[1],
                "loss": p.loss,
                "recipe": dict(p.recipe),
                "dataset": snakemake.wildcards.dataset,
                "size": p.size,
                "model": snakemake.wildcards.model,
                "seed": training.seed,
                "unit": p.unit,
                "code_version": p.code,
            },
            Path(out.weights).parent,
        )
        write_json(
            {
                "device": describe(device),
                "threads": snakemake.threads,
                "wall_seconds": round(time.perf_counter() - started, 1),
                "code_version": p.code,
                "loss": p.loss,
                "recipe": dict(p.recipe),
                "versions": environment(),
            },
            out.provenance,
        )
        write_csv(predictions, out.predictions)
