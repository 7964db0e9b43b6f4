"""Scores over folds and tests between models.

A predictions table has the columns id, fold, seed, part, target, prediction, aleatoric_std, epistemic_std.
Spread over folds is the population standard deviation in tables (as Matbench and Huang et al. print it) and the
sample standard deviation inside tests.
"""

import numpy as np
import pandas as pd
from scipy import stats

MIN_ERROR_STD = 1e-12


def epistemic_std(predictions):
    """Standard deviation (n - 1) over seeds of the predictions of one row, a Series; missing where one seed predicts."""
    groups = predictions.groupby(["part", "fold", "id"], sort=False)["prediction"]
    return groups.transform("std")


def total_std(predictions):
    """Predicted standard deviation of the seed-averaged prediction of each id, a Series: the root of the mean aleatoric
    variance plus the epistemic variance; NaN where a model predicts neither."""
    by_id = predictions.groupby("id", sort=False)
    aleatoric = (predictions["aleatoric_std"] ** 2).groupby(predictions["id"], sort=False).mean()
    epistemic = by_id["epistemic_std"].first() ** 2
    return np.sqrt(aleatoric.add(epistemic, fill_value=0))


def ensemble(predictions):
    """One row per (part, fold, id): predictions averaged over seeds."""
    keys = ["part", "fold", "id"]
    return predictions.groupby(keys, sort=False, as_index=False).agg({"target": "first", "prediction": "mean"})


def fold_scores(predictions):
    """Errors per part, seed and fold.

    Returns:
        Data frame part, seed, fold, n, mae, rmse, r2; the errors in the unit of the target. R2 is one minus the ratio
        of the squared error to the variance of the targets of the fold.
    """

    def score(group):
        target, error = group["target"].to_numpy(), (group["prediction"] - group["target"]).to_numpy()
        variance = ((target - target.mean()) ** 2).sum()
        return pd.Series(
            {
                "n": len(target),
                "mae": np.abs(error).mean(),
                "rmse": np.sqrt((error**2).mean()),
                "r2": 1 - (error**2).sum() / variance if variance > 0 else np.nan,
            }
        )

    scores = predictions.groupby(["part", "seed", "fold"])[["target", "prediction"]].apply(score).reset_index()
    return scores.astype({"n": int})


def summarise(scores):
    """Mean over folds and population standard deviation over folds of the MAE, each fold averaged over seeds first.

    Returns:
        dict mae_mean, mae_std, n_folds, n_seeds.
    """
    folds = scores.groupby("fold")["mae"].mean()
    return {
        "mae_mean": folds.mean(),
        "mae_std": folds.std(ddof=0),
        "n_folds": len(folds),
        "n_seeds": scores["seed"].nunique(),
    }


def paired_t(a, b):
    """Paired t test over folds of two score vectors [k], two-sided, k - 1 degrees of freedom. Returns (t, p)."""
    return corrected_paired_t(a, b, test_to_train=0.0)


def corrected_paired_t(a, b, test_to_train):
    """Nadeau and Bengio's corrected resampled t test (Mach. Learn. 52, 239 (2003)), two-sided.

    t = mean(d) / sqrt((1/k + n_test/n_train) var(d)) with d = a - b over k folds: training sets of different folds
    overlap, so that the naive variance is too small.

    Args:
        a, b: [k] scores of two models on the same folds.
        test_to_train: n_test / n_train of a fold (0.25 for five folds; 0 gives the plain paired t test).

    Returns:
        (t, p); (0, 1) where the scores are identical, (nan, nan) for fewer than two folds.
    """
    difference = np.asarray(a, float) - np.asarray(b, float)
    k = len(difference)
    if k < 2:
        return np.nan, np.nan
    variance = difference.var(ddof=1)
    if variance <= MIN_ERROR_STD**2 and abs(difference.mean()) <= MIN_ERROR_STD:
        return 0.0, 1.0
    with np.errstate(divide="ignore"):
        t = difference.mean() / np.sqrt((1 / k + test_to_train) * variance)
    return float(t), float(2 * stats.t.sf(abs(t), k - 1))


def wilcoxon(a, b):
    """Wilcoxon signed-rank test over folds, two-sided. Returns (statistic, p); five folds cannot go below p = 0.0625."""
    difference = np.asarray(a, float) - np.asarray(b, float)
    if not np.any(difference):
        return 0.0, 1.0
    result = stats.wilcoxon(difference)
    return float(result.statistic), float(result.pvalue)


def holm(p_values):
    """Holm's step-down adjustment of a family of p values [m]; NaN entries stay NaN and do not count."""
    p = np.asarray(p_values, float)
    adjusted = np.full_like(p, np.nan)
    order = np.argsort(np.where(np.isnan(p), np.inf, p), kind="stable")[: np.isfinite(p).sum()]
    running = 0.0
    for rank, index in enumerate(order):
        running = max(running, min(1.0, (len(order) - rank) * p[index]))
        adjusted[index] = running
    return adjusted


COMPARED = ("mae_a", "mae_b", "difference", "n_folds", "t", "p", "t_corrected", "p_corrected", "p_wilcoxon")


def compare(scores, a, b):
    """Tests between models a and b on one dataset, from the test rows of a scores table (dataset already selected).

    Returns:
        dict with the keys COMPARED: both MAEs, their difference (a - b; negative where a is better), number of folds, t
        and p of the paired and of the corrected test, and p of Wilcoxon's test. Scores are averaged over seeds before folds are paired.

    Raises:
        ValueError: the two models were not scored on the same folds.
    """
    test = scores[scores["part"] == "test"]
    folds = {m: test[test["model"] == m].groupby("fold")["mae"].mean() for m in (a, b)}
    if not folds[a].index.equals(folds[b].index):
        raise ValueError(f"{a} and {b} were scored on different folds")
    x, y = folds[a].to_numpy(), folds[b].to_numpy()
    t, p = paired_t(x, y)
    t_corrected, p_corrected = corrected_paired_t(x, y, 1 / (len(x) - 1) if len(x) > 1 else np.nan)
    values = (
        x.mean(),
        y.mean(),
        x.mean() - y.mean(),
        len(x),
        t,
        p,
        t_corrected,
        p_corrected,
        wilcoxon(x, y)[1],
    )
    return dict(zip(COMPARED, values, strict=True))
