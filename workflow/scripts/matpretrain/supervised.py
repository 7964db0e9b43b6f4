"""Supervised training: what all outer folds of a finetuning job share, and how they train as a cohort."""

import importlib
import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
import torch
from torch.func import vmap

from matpretrain.calibration import LEAST_ROWS, deviation_factor
from matpretrain.cohort import Cohort, level
from matpretrain.composition import Compositions
from matpretrain.files import DataError
from matpretrain.members import fold_weights, keep
from matpretrain.objectives import SUPERVISED
from matpretrain.outputs import SCALES, decode, learned, n_outputs, smoothing
from matpretrain.recipe import Recipe
from matpretrain.spectra import one_below_another
from matpretrain.splits import inner_split
from matpretrain.subsets import outer_split, trained_rows
from matpretrain.training import fit_cohort, predict_members
from matpretrain.weights import load_weights

PARTS = ("train", "validation", "test")  # in the order of Training.split
PROGRESS = 10  # progress lines per fold
# Share and number of targets that are one number, from which on they are many: 0.43 on band gaps, at most 0.02 on other Matbench tasks.
CROWD, LEAST = 0.1, 10


@dataclass(frozen=True)
class Training:
    """What all folds of a job share.

    Attributes:
        table: data frame id and fold, target where it is one number, and group where rows of one composition stay together, a row per
            example.
        examples: Compositions of the rows, or the file of their structures for a network that reads those.
        encoder: module of the package with the network.
        arguments: of its Model, besides the number of outputs: element_vectors [Z, n], or those of the registry.
        weights: safetensors file of a pretrained encoder to start from, or None.
        loss: name in SUPERVISED.
        recipe: Recipe.
        inner_fraction: share of the outer training rows held out for validation; 0: none.
        size: outer training rows of every fold (subsets.outer_split), None for all.
        seed: random seed.
        device: "cpu" or "cuda:k".
        spectra: Spectra of the rows where the target is one.
        initial: safetensors file of the trained folds of another network, from which this one starts fold by fold (`Model.adopt`).
        cohort: folds that train as one network with stacked weights (cohort.Cohort), "all", or "auto": all of them on a GPU, one on a
            CPU, where a step is bound by its arithmetic; one where the network cannot be stacked.
        name: of this one among Trainings that are one job (finetune_together.py), "model/seed0"; empty for a job of its own.
        target_scale: name in outputs.SCALES, on which the target is learned.
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
    cohort: int | str = "auto"
    name: str = ""
    target_scale: str = "linear"

    def network(self):
        """The module of the package with the network."""
        return importlib.import_module(f"matpretrain.{self.encoder}")

    def split(self, fold):
        """Rows of an outer fold: training, validation, test."""
        outer_train, test = outer_split(self.table["fold"].to_numpy(), fold, self.size)
        groups = self.table["group"].to_numpy()[outer_train] if "group" in self.table else None
        return *inner_split(outer_train, self.inner_fraction, self.seed, fold, groups), test

    def trained_rows(self):
        """[k] int64 rows that are in the outer training part of some fold, sorted."""
        return trained_rows(self.table["fold"].to_numpy(), self.size)

    @property
    def target(self):
        """[n, T] the target in its unit, NaN where it is unknown."""
        return self.table["target"].to_numpy()[:, None] if self.spectra is None else self.spectra.values

    @property
    def scaled_target(self):
        """[n, T] the target on its scale: what is learned."""
        return SCALES[self.target_scale].apply(self.target)

    def record(self):
        """What has to be known besides the weights to build the networks and to read their outputs: part of model.json."""
        spectra = {} if self.spectra is None else self.spectra.record()
        return {
            "encoder": self.encoder,
            "n_outputs": n_outputs({"loss": self.loss, **spectra}),
            "loss": self.loss,
            "target_scale": self.target_scale,
            "recipe": vars(self.recipe),
            "size": self.size,
            "inner_fraction": self.inner_fraction,
            "seed": self.seed,
            **spectra,
        }

    def rows(self, rows, **values):
        """Data frame of some rows: id, for a spectrum quantity and energy, target, and values [len(rows), T] by name."""
        frame, target = self.table[["id"]].iloc[rows].reset_index(drop=True), self.table.get("target")
        if self.spectra is None:
            target = target.to_numpy()[rows]
        else:
            frame, target = one_below_another(frame, self.spectra.energy), self.spectra.values[rows]
        return frame.assign(target=target.ravel(), **{name: value.ravel() for name, value in values.items()})

    @cached_property
    def inputs(self):
        """The examples as the Inputs of the network, on the device."""
        network = self.network()
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

    def record(self):
        """What has to be known to read the outputs of a network."""
        return {"energy": self.energy.tolist(), "resolution": self.resolution}


def crowded(target, loss):
    """What to do where many targets are one number and the loss is a likelihood, in a line; None otherwise.

    Measured on band gaps, of which 43 % are zero (docs/reproduction/recipe.md).

    Args:
        target: [n] or [n, T], NaN where unknown.
        loss: name in objectives.SUPERVISED.
    """
    known = target[np.isfinite(target)]
    values, counts = np.unique(known, return_counts=True)
    if loss != "robust_l1" or counts.max(initial=0) < max(LEAST, CROWD * len(known)):
        return None
    return (
        f"{counts.max() / len(known):.0%} of the targets are {values[counts.argmax()]:g}: the likelihood of robust_l1 rises without end as their "
        "predicted deviation shrinks, and the others are learned badly; give the dataset recipe: {loss: l1} of its own"
    )


def train_members(members, say, state=None):
    """Train outer folds as a cohort, going on from a state where that exists (training.fit_cohort).

    Args:
        members: list of (Training, outer fold). The Trainings differ at most in seed, weights, initial and name.
        say: function of a line of progress.
        state: file of the training state, or None to keep none.

    Returns:
        For each of them its prediction rows (Training.rows with fold, seed, part; in the unit of the target) and history as data
        frames, and what is kept of the network (members.keep).

    Raises:
        Diverged, Stopped: as fit_cohort.
        DataError: a fold without validation rows where select or patience need some; as initial_network.
    """
    training = members[0][0]
    recipe, device, record = training.recipe, training.device, training.record()
    splits = [own.split(fold) for own, fold in members]
    to_learn = training.scaled_target
    validated = training.target if training.spectra is None else to_learn  # as outputs.learned
    mean = [np.nanmean(to_learn[train]) for train, _, _ in splits]
    std = [np.nanstd(to_learn[train], ddof=1) for train, _, _ in splits]
    std = [own if own > 0 else 1.0 for own in std]
    watched = [len(validation) > 0 for _, validation, _ in splits]
    titles = [f"{own.name + ' ' * bool(own.name)}fold {fold}: " for own, fold in members]
    if not all(watched) and (recipe.select == "best" or recipe.patience):
        raise DataError(
            f"{titles[watched.index(False)]}no validation rows, which select: best and patience need; set select: last and "
            "patience: 0, or give the dataset a split that leaves every fold several groups to train on"
        )

    loss, smoothed, inputs = SUPERVISED[training.loss][0], smoothing(record), training.inputs
    scaled = np.stack([(to_learn - m) / s for m, s in zip(mean, std, strict=True)])
    scaled = torch.as_tensor(scaled, dtype=torch.float32, device=device)  # [members, n, T]
    member = torch.arange(len(members), device=device)[:, None]
    cohort = Cohort([initial_network(own, fold, say) for own, fold in members])

    def losses(cohort, rows):
        rows, fills = level(rows)
        targets = scaled[member, rows].masked_fill(fills.unsqueeze(-1), math.nan)
        return vmap(loss)(smoothed(cohort(inputs, rows)), targets)

    def outputs(cohort, part):
        """Of every member for its validation or test rows, of which some members may have none."""
        asked = [split[PARTS.index(part)] for split in splits]
        rows = [own if len(own) else train[:1] for own, (train, *_) in zip(asked, splits, strict=True)]
        found = predict_members(cohort, inputs, [torch.as_tensor(own, device=device) for own in rows], recipe)
        return [output[: len(own)] for output, own in zip(found, asked, strict=True)]

    def evaluate(cohort):
        scores = [{"mae": math.nan}] * cohort.size
        for k, output in enumerate(outputs(cohort, "validation") if any(watched) else ()):
            if watched[k]:
                error = learned(output, record, mean[k], std[k]) - validated[splits[k][1]]
                scores[k] = {"mae": float(np.nanmean(np.abs(error)))}
        return scores

    def report(rows):
        for title, row, own in zip(titles, rows, watched, strict=True):
            if row and row["epoch"] % max(1, recipe.epochs // PROGRESS) == 0:
                say(
                    f"{title}epoch {row['epoch']}/{recipe.epochs}, loss {row['loss']:.4f}, "
                    + f"validation MAE {row['mae']:.4g}, " * own
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
    results, predicted = [], {part: outputs(cohort, part) for part in (PARTS[1:] if any(watched) else PARTS[2:])}
    for k, (own, fold) in enumerate(members):
        parts = []
        for part, of_members in predicted.items():
            if not len(of_members[k]):
                continue
            prediction, deviation = decode(of_members[k], record, mean[k], std[k])
            rows = training.rows(splits[k][PARTS.index(part)], prediction=prediction, aleatoric_std=deviation)
            parts.append(rows.assign(fold=fold, seed=own.seed, part=part))
        rows, factor = _calibrated(pd.concat(parts), lambda text, title=titles[k]: say(title + text))
        history = pd.DataFrame(histories[k]).assign(fold=fold, seed=own.seed)
        results.append((rows, history, keep(cohort.member(k), fold, mean[k], std[k], factor)))
    return results


def _calibrated(rows, say):
    """Prediction rows of a fold with deviations scaled on its validation rows, and the factor or None (calibration.py)."""
    if rows["aleatoric_std"].isna().all():
        return rows, None
    held_out = rows[rows["part"] == PARTS[1]]
    factor = deviation_factor((held_out["prediction"] - held_out["target"]).abs(), held_out["aleatoric_std"])
    if factor is None:
        say(f"predicted deviations as trained, often much too small: {LEAST_ROWS} validation rows would scale them")
        return rows, None
    say(f"predicted deviations times {factor:.3g}, from {len(held_out)} validation rows")
    return rows.assign(aleatoric_std=factor * rows["aleatoric_std"]), factor


def initial_network(training, fold, say):
    """The network with which the training of an outer fold begins, on the device; of the first one `say` tells where it starts.

    Raises:
        DataError: weights to start from that are not those of such a network.
    """
    torch.manual_seed(1000 * training.seed + fold)
    model = training.network().Model(**training.arguments, n_outputs=training.record()["n_outputs"])
    if training.weights:
        load_weights(model.encoder, training.weights, say if fold == 0 else None)
    if training.initial:
        taken = model.adopt(fold_weights(training.initial, fold))
        if fold == 0:
            say(f"took over {taken:,} of {sum(p.numel() for p in model.parameters()):,} numbers from {training.initial}")
    return model.to(training.device)
