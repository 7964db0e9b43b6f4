"""Losses on model outputs, one function each: (output [B, n], target [B]) -> scalar tensor.

Targets are standardised with the mean and standard deviation of the training rows before they come here.
"""

import math

SQRT2 = math.sqrt(2)


def l1(output, target):
    """Mean absolute error."""
    return (output[:, 0] - target).abs().mean()


def robust_l1(output, target):
    """Negative log likelihood of a Laplace distribution, sqrt(2) |mu - y| exp(-s) + s, up to a constant.

    output[:, 1] is s, the logarithm of the predicted standard deviation (Goodall and Lee 2020, eq. 8).
    """
    mean, log_std = output.unbind(1)
    return (SQRT2 * (mean - target).abs() * (-log_std).exp() + log_std).mean()


SUPERVISED = {"l1": (l1, 1), "robust_l1": (robust_l1, 2)}  # name -> function, number of model outputs
