"""Scores over folds and tests between models.

A predictions table has the columns id, fold, seed, part, target, prediction, aleatoric_std, epistemic_std.
Spread over folds is the population standard deviation in tables (as Matbench and Huang et al. print it) and the
sample standard deviation inside tests.
"""

import numpy as np
import pandas as pd
from scipy import stats

from matpretrain.tables import ALL

DRAWS = 10  # untrained encoders that a pretrained one is compared with, its own start among them: one alone is a matter of luck
ROUNDING = 1e-12  # share of the scores up to which their differences are rounding
CHANGES = ["change", "change_low", "change_high"]  # of an MAE in %, with the ends of its 95 % interval
# columns of compare_nested
NESTED = ["model", "against", "dataset", "cells", "units", "wins", *CHANGES, "t", "p", "p_flip", "p_cells"]


def epistemic_std(predictions):
    """Standard deviation (n - 1) over seeds of the predictions of one row, a Series; missing where one seed predicts."""
    return predictions.groupby(["part", "fold", *row_keys(predictions)], sort=False)["prediction"].transform("std")


def row_keys(predictions):
    """Columns that name what is predicted: the id, and for spectra the quantity and the energy."""
    return [key for key in ("id", "quantity", "energy") if key in predictions]


def total_std(predictions):
    """Predicted deviation of the seed-averaged prediction of each id, a Series: the root of the mean variance that the seeds predict,
    which is that of their whole error where it was scaled (calibration.py), so that their spread is in it; the standard deviation
    over seeds where they predict none; NaN where there is neither."""
    by_id = predictions.groupby("id", sort=False)
    predicted = (predictions["aleatoric_std"] ** 2).groupby(predictions["id"], sort=False).mean()
    return np.sqrt(predicted).fillna(by_id["epistemic_std"].first())


def ensemble(predictions):
    """One row per (part, fold, id), or point of a spectrum: predictions averaged over seeds."""
    keys = ["part", "fold", *row_keys(predictions)]
    return predictions.groupby(keys, sort=False, as_index=False).agg({"target": "first", "prediction": "mean"})


def fold_scores(predictions, n_rows=None):
    """Errors per part, seed and fold.

    Args:
        n_rows: rows of the dataset.

    Returns:
        Data frame part, seed, fold, n, mae, rmse, r2; the errors in the unit of the target. R2 is one minus the ratio
        of the squared error to the variance of the targets of the fold. With n_rows also train_rows, the rows outside
        the test part of the fold: what a model is given. A network may hold inner validation rows out of them; that the tests count
        these as training rows makes their intervals 3 % narrower at a tenth.
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
    scores = scores.astype({"n": int})
    if n_rows is None:
        return scores
    tested = scores[scores["part"] == "test"].set_index(["seed", "fold"])["n"].rename("train_rows")
    return scores.join(n_rows - tested, on=["seed", "fold"])


def spread(values):
    """Population standard deviation of the values [k] of folds; NaN for one, which has none."""
    return np.std(values) if len(values) > 1 else np.nan


def summarise(scores):
    """Mean over folds and population standard deviation over folds (NaN for one) of the MAE, each fold averaged over seeds first.

    Returns:
        dict mae_mean, mae_std, n_folds, n_seeds.
    """
    folds = scores.groupby("fold")["mae"].mean()
    return {
        "mae_mean": folds.mean(),
        "mae_std": spread(folds),
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
    mean, error, k = _mean_difference(a, b, test_to_train)
    if k < 2:
        return np.nan, np.nan
    if mean == error == 0:
        return 0.0, 1.0
    with np.errstate(divide="ignore"):
        t = mean / np.float64(error)
    return float(t), float(2 * stats.t.sf(abs(t), k - 1))


def _difference(a, b):
    """a - b of two score vectors [k], without rounding."""
    a, b = np.asarray(a, float), np.asarray(b, float)
    return without_rounding(a - b, np.abs([a, b]).max(initial=0))


def without_rounding(difference, scale):
    """Differences, zero where they are rounding of scores as large as `scale`; that of logarithms of ratios is 1."""
    return np.where(np.abs(difference) <= ROUNDING * scale, 0.0, difference)


def _mean_difference(a, b, test_to_train):
    """Mean of a - b over k folds, its corrected standard error (NaN for one fold), and k."""
    difference = _difference(a, b)
    k = len(difference)
    return difference.mean(), np.sqrt((1 / k + test_to_train) * difference.var(ddof=1)) if k > 1 else np.nan, k


def corrected_interval(a, b, test_to_train, level=0.95):
    """Confidence interval (low, high) of the mean of a - b that belongs to `corrected_paired_t`: it holds zero where p > 1 - level.

    Args:
        a, b, test_to_train: as there.
        level: its coverage.

    Returns:
        (low, high); (nan, nan) for fewer than two folds.
    """
    mean, error, k = _mean_difference(a, b, test_to_train)
    if k < 2:
        return np.nan, np.nan
    half = stats.t.ppf((1 + level) / 2, k - 1) * error
    return float(mean - half), float(mean + half)


def prediction_interval(values, level=0.95):
    """Interval (low, high) that one more draw from the normal distribution of some values [n] falls into: mean ± t s sqrt(1 + 1/n).

    Args:
        level: how often it does.

    Returns:
        (low, high); (nan, nan) for fewer than two values.
    """
    values = np.asarray(values, float)
    n = len(values)
    if n < 2:
        return np.nan, np.nan
    half = stats.t.ppf((1 + level) / 2, n - 1) * values.std(ddof=1) * np.sqrt(1 + 1 / n)
    return float(values.mean() - half), float(values.mean() + half)


def wilcoxon(a, b):
    """Wilcoxon signed-rank test over folds, two-sided. Returns (statistic, p); five folds cannot go below p = 0.0625.

    NaN for fewer than two folds.
    """
    difference = _difference(a, b)
    if len(difference) < 2:
        return np.nan, np.nan
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


TESTS = ("p", "p_corrected", "p_wilcoxon")  # the p values among COMPARED
COMPARED = (
    "mae_a",
    "mae_b",
    "difference",
    "difference_low",
    "difference_high",
    "n_folds",
    "t",
    "p",
    "t_corrected",
    "p_corrected",
    "p_wilcoxon",
)


def with_holm(table):
    """A table of comparisons with further columns *_holm: each of the p values TESTS adjusted over all rows."""
    return table.assign(**{f"{p}_holm": holm(table[p]) for p in TESTS})


def compare(scores, a, b):
    """Tests between models a and b on one dataset, from the test rows of a scores table (dataset already selected).

    Args:
        scores: data frame part, model, fold, mae, n (test rows) and train_rows; the last two of model a count.

    Returns:
        dict with the keys COMPARED: both MAEs, their difference (a - b; negative where a is better) and its corrected 95 %
        interval, number of folds, t and p of the paired and of the corrected test, and p of Wilcoxon's test. Scores are averaged
        over seeds before folds are paired.

    Raises:
        ValueError: the two models were not scored on the same folds.
    """
    test = scores[scores["part"] == "test"]
    folds = {m: test[test["model"] == m].groupby("fold")["mae"].mean() for m in (a, b)}
    if not folds[a].index.equals(folds[b].index):
        raise ValueError(f"{a} and {b} were scored on different folds")
    x, y = folds[a].to_numpy(), folds[b].to_numpy()
    own = test[test["model"] == a]
    ratio = (own["n"] / own["train_rows"]).mean()
    values = (
        *(x.mean(), y.mean(), x.mean() - y.mean(), *corrected_interval(x, y, ratio), len(x)),
        *(*paired_t(x, y), *corrected_paired_t(x, y, ratio), wilcoxon(x, y)[1]),
    )
    return dict(zip(COMPARED, values, strict=True))


def power_law(rows, errors):
    """Exponent m and factor a of error = a rows^m, a straight line through the logarithms by least squares.

    Args:
        rows, errors: [k] training rows and errors.

    Returns:
        (m, a); (nan, nan) for fewer than three numbers of rows, through which any line would pass.
    """
    if len(np.unique(rows)) < 3:
        return np.nan, np.nan
    m, log_a = np.polyfit(np.log(np.asarray(rows, float)), np.log(np.asarray(errors, float)), 1)
    return float(m), float(np.exp(log_a))


def compare_nested(scores, model, against, materials):
    """Two models on training subsets of several datasets, where the cells (dataset, size) are not independent.

    Subsets of one fold lie within each other and share its test part, so that sizes are averaged first: the logarithm of
    the ratio of the MAEs, one value per fold. Folds of a dataset overlap in their training rows: Nadeau and Bengio's
    correction, with the rows that subsets are drawn from in place of the drawn ones, of which folds share fewer, so that the test
    is on the safe side. Over all datasets, those of the same materials are one of the independent units (`by_materials`) of a t test
    and an exact sign-flip test of their means.

    Args:
        scores: data frame dataset, size, fold, model, mae, n (test rows), pool_rows (all others of the dataset); the folds of a
            dataset have all sizes.
        model, against: names in scores["model"]; cells that only one of them has do not count.
        materials: {dataset: name of its materials}.

    Returns:
        Data frame with a row per dataset and one for ALL: model, against, dataset, cells, units (ALL only), wins (cells where the
        mean MAE of `model` is lower), change (of the geometric mean MAE in %) with its 95 % interval, t and p (two-sided, as above), p_flip
        (sign-flip test, ALL only), p_cells (sign test of the wins as if cells were independent, for contrast).
    """
    keys = ["dataset", "size", "fold"]
    scores = scores.groupby(["model", *keys], sort=False)[["mae", "n", "pool_rows"]].mean()  # over seeds
    both = scores.loc[model].join(scores.loc[against]["mae"].rename("other"), how="inner").reset_index()
    both["ratio"] = np.log(both["mae"] / both["other"])
    cells = both.groupby(["dataset", "size"], sort=False)[["mae", "other"]].mean().reset_index()
    cells["won"] = without_rounding(np.log(cells["mae"] / cells["other"]), 1) < 0
    rows, means = [], {}
    for dataset, part in both.groupby("dataset", sort=False):
        folds = part.groupby("fold")["ratio"].mean().to_numpy()
        own = cells[cells["dataset"] == dataset]
        means[dataset] = folds.mean()
        found = mean_ratio(folds, part["n"].mean() / part["pool_rows"].mean())
        rows.append({"dataset": dataset, "cells": len(own), "wins": own["won"].sum()} | found)
    if not rows:
        return pd.DataFrame(columns=NESTED)
    of_units = by_materials(means, materials)
    rows.append({"dataset": ALL, "cells": len(cells), "units": len(of_units), "wins": cells["won"].sum()})
    rows[-1] |= mean_ratio(of_units, 0.0) | {"p_flip": sign_flip(of_units)}
    table = pd.DataFrame(rows).astype({"units": "Int64"})
    table["p_cells"] = [stats.binomtest(int(w), int(n)).pvalue for w, n in zip(table["wins"], table["cells"], strict=True)]
    table = table.assign(model=model, against=against)
    return table[NESTED]


def by_materials(values, materials):
    """The units [n] of a mean over datasets: the mean over those of the same materials, since what helps with one property of a
    crystal may help with another, and the value of every other dataset; NaN where a value is.

    Args:
        values: {dataset: value}.
        materials: {dataset: name of its materials}.

    Raises:
        KeyError: a dataset is not in `materials`.
    """
    units = {}
    for dataset, value in values.items():
        units.setdefault(materials[dataset], []).append(value)
    return np.array([np.mean(unit) for unit in units.values()])


def mean_ratio(logs, test_to_train):
    """{column: value} of CHANGES, t and p: the mean of logarithms of ratios [k] as a change in %, its interval and corrected test."""
    logs, zeros = without_rounding(logs, 1), np.zeros(len(logs))
    low, high = corrected_interval(logs, zeros, test_to_train)
    t, p = corrected_paired_t(logs, zeros, test_to_train)
    return dict(zip(CHANGES, 100 * np.expm1([logs.mean(), low, high]), strict=True)) | {"t": t, "p": p}


def sign_flip(values):
    """p of the mean of values [n] under changes of their signs, two-sided, over all 2^n of them; NaN for none.

    With n values it cannot go below 2 / 2^n.
    """
    values = np.asarray(values, float)
    if len(values) < 2:
        return 1.0 if len(values) else np.nan
    return stats.permutation_test((values,), np.mean, permutation_type="samples", n_resamples=np.inf).pvalue
