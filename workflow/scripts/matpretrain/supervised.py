"""What all outer folds of a finetuning job share."""

import importlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from matpretrain.composition import Compositions
from matpretrain.outputs import n_outputs
from matpretrain.recipe import Recipe
from matpretrain.spectra import COMPRESS, one_below_another
from matpretrain.splits import fold_numbers, inner_split
from matpretrain.subsets import outer_split

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
        folds = self.table["fold"].to_numpy()
        return np.unique(np.concatenate([outer_split(folds, fold, self.size)[0] for fold in fold_numbers(folds)]))

    @property
    def target(self):
        """[n, T] what is learned, NaN where it is unknown."""
        return self.table["target"].to_numpy()[:, None] if self.spectra is None else COMPRESS(self.spectra.values)

    def record(self):
        """What has to be known besides the weights to build the networks and to read their outputs: part of model.json."""
        spectra = {} if self.spectra is None else self.spectra.record()
        return {
            "encoder": self.encoder,
            "n_outputs": n_outputs({"loss": self.loss, **spectra}),
            "loss": self.loss,
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
