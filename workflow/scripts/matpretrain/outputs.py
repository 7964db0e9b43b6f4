"""What the outputs of a trained network say about its targets, while it is trained and when its kept weights predict.

A record is what has to be known besides the outputs, from `Training.record` or model.json: the loss (name in
objectives.SUPERVISED), target_scale (name in SCALES) and, of networks of spectra, energy [G] and resolution, both in eV.
"""

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import numpy as np

from matpretrain.objectives import SUPERVISED
from matpretrain.spectra import PARTS, RESTORE, smoother


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


SCALES = {"linear": Scale(np.asarray, np.asarray, np.ones_like), "log": Scale(np.log, np.exp, np.asarray)}


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
    """Predictions [n, T] of the target, in its unit, or of a COMPRESSed spectrum.

    Args:
        outputs: float64 array [n, k] of a network that was trained on (what is learned - mean) / std.
    """
    return SCALES[record["target_scale"]].restore(_split(smoothing(record)(outputs), record)[0] * std + mean)


def decode(outputs, record, mean, std):
    """Predictions [n, T] and their standard deviation [n, T], both in the unit of the target; T = 2 G for spectra.

    The standard deviation is NaN where the loss predicts none, and for spectra. Of logarithms, it is theirs times the prediction (first
    order), and the prediction the median (l1, robust_l1) or the geometric mean (mse).

    Args:
        outputs: float64 array [n, k] of a network that was trained on (what is learned - mean) / std.
    """
    prediction, parts = learned(outputs, record, mean, std), _split(outputs, record)
    if "energy" in record:
        return RESTORE(prediction), np.full_like(prediction, np.nan)
    if len(parts) == 1:
        return prediction, np.full_like(prediction, np.nan)
    return prediction, np.exp(parts[1]) * std * SCALES[record["target_scale"]].slope(prediction)


def _split(outputs, record):
    """Outputs [n, T] for the prediction and, where the loss has them, for the logarithm of its standard deviation."""
    return np.split(outputs, SUPERVISED[record["loss"]][1], axis=1)
