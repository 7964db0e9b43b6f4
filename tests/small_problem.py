"""A regression that a small network fits, a recipe for it, and crystals that a network of structures reads."""

import numpy as np
import torch
from torch import nn

from matpretrain import folds, supervised
from matpretrain.composition import parse_formulas
from matpretrain.recipe import Recipe
from matpretrain.sources import read_embedded
from matpretrain.splits import outer_folds

RECIPE = Recipe(
    epochs=5, batch_size=16, min_steps=1, learning_rate=1e-2, weight_decay=1e-6, schedule="cosine", warmup=0.0,
    clip=0.0, average=0.0, select="best", patience=0, precision="float32",
)  # fmt: skip
CUBE = ("cube", np.eye(3) * 4.0, np.array([26], np.uint8), np.zeros((1, 3)))  # six neighbours at 4 angstrom, the next beyond 5
FAR = ("far", np.eye(3) * 20.0, np.array([26, 8], np.uint8), np.array([[0.0, 0, 0], [0.5, 0, 0]]))  # two isolated atoms


class Line(nn.Module):
    """A small regression that can be fitted exactly."""

    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.layers = nn.Sequential(nn.Linear(3, 32), nn.Tanh(), nn.Linear(32, 1))

    def forward(self, x):
        return self.layers(x)


@torch.no_grad()
def magnify(*networks):
    """Multiply all parameters, so that outputs of MEGNet differ between crystals: freshly initialised they agree to 0.001."""
    for parameter in {parameter for network in networks for parameter in network.parameters()}:
        parameter.mul_(2.5)


def recipe(**changes):
    return Recipe(**{**vars(RECIPE), **changes})


def formation_energies(n):
    """n measured formation energies, a data frame with the outer fold of each row."""
    rows = read_embedded("pymatgen_exp_formation_energy").sample(n, random_state=1).reset_index(drop=True)
    return rows.assign(fold=outer_folds(n))


def finetuning(table, **values):
    """supervised.Training on a table of formulas, from random weights, with a tenth that validates, on a CPU, but for `values`."""
    common = {"weights": None, "inner_fraction": 0.1, "size": None, "seed": 0, "device": "cpu"}
    return supervised.Training(table, parse_formulas(table["formula"].tolist())[0], **common | values)


def all_folds(training, threads, say, state):
    """What a job of one Training makes of all outer folds: predictions, history, what is kept of each fold."""
    folds.finetune([training], threads, say, state)
    return folds.read_folds(training, state)


def far(found, expected, least=1e-12):
    """Norm of the difference by that of what is expected, or by `least` where that is smaller."""
    found, expected = found.detach().cpu().double(), expected.detach().cpu().double()
    return ((found - expected).norm() / expected.norm().clamp(min=least)).item()
