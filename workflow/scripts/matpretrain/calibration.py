"""Predicted deviations are scaled on rows that were not learned.

A likelihood that trains for hundreds of epochs takes its own training errors, which vanish, for those of new rows: its deviations
end up many times too small (docs/reproduction/deviations.md). One factor per fold, from inner validation or out-of-bag rows, takes
that back and leaves their order as it is. What it scales to is the whole error of one network or forest.
"""

import math

import numpy as np

NORMAL = 0.6827  # share of a normal distribution within one standard deviation
LEAST_ROWS = 10  # for a factor


def error_ratios(error, std):
    """Errors [n] by their deviations [n]: zero for an exact prediction, whatever its deviation, else infinite for one of zero."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(error > 0, error / std, 0.0)


def deviation_factor(error, std):
    """What deviations have to be multiplied by for the share NORMAL of new errors to lie within them.

    The k-th smallest of n ratios of error and deviation, k = NORMAL (n + 1) rounded up. Of networks whose validation rows chose
    nothing and are drawn as new rows will be, at least that share of new errors lies within, on average over such draws (split
    conformal prediction, Lei et al. 2018, section 2.2); with weights chosen by these rows, and out of bag, it is an approximation.

    Args:
        error: [n] absolute errors of rows that the model has not learned from.
        std: [n] their predicted deviations, NaN where there is none.

    Returns:
        The factor; None where fewer than LEAST_ROWS rows have a deviation, or where it would be zero or infinite.
    """
    error, std = np.asarray(error, float), np.asarray(std, float)
    known = np.isfinite(error) & np.isfinite(std)
    if known.sum() < LEAST_ROWS:
        return None
    ratio = np.sort(error_ratios(error[known], std[known]))
    factor = float(ratio[min(len(ratio), math.ceil(NORMAL * (len(ratio) + 1))) - 1])
    return factor if 0 < factor < math.inf else None
