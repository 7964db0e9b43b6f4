"""What the outputs of a trained network say about its targets, while it is trained and when its kept weights predict.

A record is what has to be known besides the outputs, from `Training.record` or model.json: the loss (name in
objectives.SUPERVISED), target_scale (name in SCALES) and, of networks of spectra, energy [G] and resolution, both in eV.
"""

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import numpy as np

from matpretrain.objectives import SUPERVISED
from matpretrain.spectra import PARTS, smoother


class Scale(NamedTuple):
    """A scale on which targets are learned: functions of arrays.

    Attributes:
        apply: from the target to what is learned.
        restore: the way back.
        slope: of the way back, at a target.
    """

    apply: Callable
    restore: Callable
    slope: Callable


SCALES = {
    "linear": Scale(np.asarray, np.asarray, np.ones_like),
    "log": Scale(np.log, np.exp, np.asarray),
    # linear near zero, logarithmic far away, of either sign
    "asinh": Scale(np.arcsinh, np.sinh, lambda target: np.hypot(1, target)),
}


def n_outputs(record):
    """How many outputs a network of a record has."""
    n_targets = len(PARTS) * len(record["energy"]) if "energy" in record else 1
    return SUPERVISED[record["loss"]][1] * n_targets


def smoothing(record):
    """Function [B, n] -> [B, n] of arrays or tensors from outputs to what the loss compares: the identity but for spectra."""
    return _smoother(tuple(record["energy"]), record["resolution"]) if "energy" in record else smoother(None, 0)


@cache
def _smoother(energy, resolution):
    return smoother(np.array(energy), resolution)


def learned(outputs, record, mean, std):
    """Predictions [n, T] as they are validated: in the unit of the target; of spectra on their scale, where metals do not drown the others.

    Args:
        outputs: float64 array [n, k] of a network that was trained on (what is learned - mean) / std.
    """
    return _on_scale(outputs, record, mean, std) if "energy" in record else decode(outputs, record, mean, std)[0]


def decode(outputs, record, mean, std):
    """Predictions [n, T] and their standard deviation [n, T], both in the unit of the target; T = 2 G for spectra.

    The standard deviation is NaN where the loss predicts none. On another scale than linear it is that there times the slope of the way
    back (first order); the prediction is the median (l1, robust_l1), for mse the mean there, brought back (of logarithms the geometric mean).

    Args:
        outputs: float64 array [n, k] of a network that was trained on (what is learned - mean) / std.
    """
    scale, parts = SCALES[record["target_scale"]], _split(outputs, record)
    prediction = scale.restore(_on_scale(outputs, record, mean, std))
    if len(parts) == 1:
        return prediction, np.full_like(prediction, np.nan)
    return prediction, np.exp(parts[1]) * std * scale.slope(prediction)


def _on_scale(outputs, record, mean, std):
    """Predictions [n, T] of what is learned: the target on its scale."""
    return _split(smoothing(record)(outputs), record)[0] * std + mean


def _split(outputs, record):
    """Outputs [n, T] for the prediction and, where the loss has them, for the logarithm of its standard deviation."""
    return np.split(outputs, SUPERVISED[record["loss"]][1], axis=1)
