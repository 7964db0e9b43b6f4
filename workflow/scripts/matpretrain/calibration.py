"""Predicted deviations are scaled on rows that were not learned.

A likelihood that trains for hundreds of epochs takes its own training errors, which vanish, for those of new rows: its deviations
end up many times too small (docs/reproduction/uncertainty.md). One factor per fold, from inner validation or out-of-bag rows, takes
that back and leaves their order as it is.
"""

import math

import numpy as np

NORMAL = 0.6827  # share of a normal distribution within one standard deviation
LEAST_ROWS = 10  # rows for a factor


def deviation_factor(error, std):
    """What deviations have to be multiplied by for the share NORMAL of new errors to lie within them.

    The k-th smallest of n ratios of error and deviation, k = NORMAL (n + 1) rounded up: at least that share of further rows is within
    on average, however few n are, if they come from the same distribution (split conformal prediction, Lei et al. 2018, section 2.2).

    Args:
        error: [n] absolute errors of rows that the model has not learned from.
        std: [n] their predicted deviations, NaN or zero where there is none.

    Returns:
        1.0 where fewer than LEAST_ROWS rows have a deviation, or where that many errors are zero.
    """
    error, std = np.asarray(error, float), np.asarray(std, float)
    known = (std > 0) & np.isfinite(error)
    if known.sum() < LEAST_ROWS:
        return 1.0
    ratio = np.sort(error[known] / std[known])
    factor = ratio[min(len(ratio), math.ceil(NORMAL * (len(ratio) + 1))) - 1]
    return float(factor) if factor > 0 else 1.0
