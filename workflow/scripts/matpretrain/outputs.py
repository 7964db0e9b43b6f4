"""What the outputs of a trained network say about its targets, while it is trained and when its kept weights predict.

A record is what has to be known besides the outputs, from `Training.record` or model.json: the loss (name in
objectives.SUPERVISED), target_scale (name in SCALES) and, of networks of spectra, energy [G] and resolution, both in eV.
"""

from functools import cache

import numpy as np

from matpretrain.objectives import SUPERVISED
from matpretrain.spectra import PARTS, RESTORE, smoother

# What is learned of a target on a scale, the way back, and how much the target changes with what is learned, as a function of the target.
SCALES = {
    "linear": (np.asarray, np.asarray, np.ones_like),
    "log": (np.log, np.exp, np.asarray),
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
    """Predictions [n, T] of the target, in its unit, or of a COMPRESSed spectrum.

    Args:
        outputs: float64 array [n, k] of a network that was trained on (what is learned - mean) / std.
    """
    _, restore, _ = SCALES[record["target_scale"]]
    return restore(_split(smoothing(record)(outputs), record)[0] * std + mean)


def decode(outputs, record, mean, std):
    """Predictions [n, T] and their standard deviation [n, T], both in the unit of the target; T = 2 G for spectra.

    The standard deviation is NaN where the loss predicts none, and for spectra. On the scale log the prediction is the median, and the
    standard deviation that of the logarithm times the prediction (first order).

    Args:
        outputs: float64 array [n, k] of a network that was trained on (what is learned - mean) / std.
    """
    prediction, parts = learned(outputs, record, mean, std), _split(outputs, record)
    if "energy" in record:
        return RESTORE(prediction), np.full_like(prediction, np.nan)
    _, _, slope = SCALES[record["target_scale"]]
    return prediction, np.exp(parts[1]) * std * slope(prediction) if len(parts) > 1 else np.full_like(prediction, np.nan)


def _split(outputs, record):
    """Outputs [n, T] for the prediction and, where the loss has them, for the logarithm of its standard deviation."""
    return np.split(outputs, SUPERVISED[record["loss"]][1], axis=1)
