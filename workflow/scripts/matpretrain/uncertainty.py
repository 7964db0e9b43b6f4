"""How far predicted standard deviations can be believed, on test rows.

Errors are divided by the deviation that was predicted for their row, seeds averaged (statistics.total_std). A deviation is worth
something where rows with a larger one have larger errors (rank), and can be taken at its word where about two thirds of the
errors lie within it: 68.3 % of a normal distribution, 75.7 % of Laplace's; within two of them 95.4 and 94.1 %.
"""

import numpy as np
import pandas as pd
from scipy import stats

from matpretrain.calibration import NORMAL, error_ratios
from matpretrain.statistics import ensemble, total_std

SHARES = np.linspace(0.05, 1, 20)  # of the rows that are kept
KEPT = [f"kept_{share:.2f}" for share in SHARES]
COLUMNS = ("mae", "mean_std", "within_one", "within_two", "factor", "rank", "surest_half", "ideal_half", *KEPT)


def absolute_errors(predictions):
    """Absolute errors and predicted deviations of the test rows of a model, seeds averaged.

    Args:
        predictions: predictions table (statistics.py).

    Returns:
        Data frame fold, error, std, without the rows that have no deviation.
    """
    test = predictions[predictions["part"] == "test"]
    rows = ensemble(test)
    rows["error"] = (rows["prediction"] - rows["target"]).abs()
    std = pd.concat({fold: total_std(part) for fold, part in test.groupby("fold")})
    rows["std"] = std.loc[pd.MultiIndex.from_frame(rows[["fold", "id"]])].to_numpy()
    return rows.loc[rows["std"].notna(), ["fold", "error", "std"]].reset_index(drop=True)


def reliability(errors):
    """What the deviations of a model are worth: the mean over folds of numbers of each.

    Args:
        errors: data frame of `absolute_errors`.

    Returns:
        dict mae; mean_std; within_one and within_two, the shares of errors within one and two deviations; factor, by which
        deviations have to be multiplied so that NORMAL of the errors lie within; rank, Spearman's correlation of deviations and
        errors (NaN where all deviations or all errors of some fold are equal); surest_half, the MAE of the half with the smallest
        deviations, and ideal_half, of the half with the smallest errors, as shares of the MAE of all; and, by the names KEPT,
        that of SHARES of the rows, those with the smallest deviations.
    """
    folds = pd.DataFrame([_of_fold(part["error"].to_numpy(), part["std"].to_numpy()) for _, part in errors.groupby("fold")])
    return folds.mean(skipna=False).to_dict()


def _of_fold(error, std):
    scaled = error_ratios(error, std)
    varied = np.ptp(std) > 0 and np.ptp(error) > 0
    return {
        "mae": error.mean(),
        "mean_std": std.mean(),
        "within_one": (scaled <= 1).mean(),
        "within_two": (scaled <= 2).mean(),
        "factor": np.quantile(scaled, NORMAL, method="inverted_cdf"),
        "rank": stats.spearmanr(std, error).statistic if varied else np.nan,
        "surest_half": kept_errors(error, std, [0.5])[0],
        "ideal_half": kept_errors(error, error, [0.5])[0],
        **dict(zip(KEPT, kept_errors(error, std), strict=True)),
    }


def kept_errors(error, std, shares=SHARES):
    """MAE of the rows with the smallest deviations as a share of the MAE of all, for each share of rows kept (at least one row).

    Rows of equal deviation come in by their mean error, so that their order is none.

    Args:
        error, std: [n].
        shares: of the rows.

    Returns:
        [shares]; NaN where no row has an error.
    """
    order = np.argsort(std, kind="stable")
    level = np.unique(std, return_inverse=True)[1].ravel()
    alike = (np.bincount(level, error) / np.bincount(level))[level]
    kept = np.maximum(1, np.rint(np.asarray(shares) * len(error))).astype(int)
    means = np.cumsum(alike[order])[kept - 1] / kept
    return means / error.mean() if error.any() else np.full(len(kept), np.nan)
