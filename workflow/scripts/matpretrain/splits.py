"""Outer folds and inner validation splits."""

import numpy as np

MATBENCH_SEED = 18012019  # random state of the official Matbench v0.1 folds


def outer_folds(n_rows, n_folds=5, seed=MATBENCH_SEED, groups=None):
    """Test fold [n_rows] of every row: K-fold with shuffling, the official Matbench folds for 5 folds and the default seed.

    Args:
        groups: optional [n_rows] labels; rows of one group fall into the same fold (group_by_formula).

    Raises:
        ValueError: fewer rows (or groups) than folds.
    """
    from sklearn.model_selection import KFold

    units, unit_of = (np.arange(n_rows),) * 2 if groups is None else np.unique(groups, return_inverse=True)
    if len(units) < n_folds:
        raise ValueError(f"{len(units)} rows or groups cannot be split into {n_folds} folds")
    fold = np.empty(len(units), np.int64)
    for k, (_, test) in enumerate(KFold(n_folds, shuffle=True, random_state=seed).split(units)):
        fold[test] = k
    return fold[unit_of]


def hold_out(n_rows, fraction, seed):
    """Split rows 0 to n_rows - 1 of a corpus into (training, sorted; validation, shuffled), seeded, neither empty."""
    shuffled = np.random.default_rng(seed).permutation(n_rows)
    n_validation = max(1, round(fraction * n_rows))
    return np.sort(shuffled[n_validation:]), shuffled[:n_validation]


def inner_split(outer_train, fraction, seed, fold):
    """Split the rows of an outer training part into (training, validation), seeded; both sorted, neither empty."""
    shuffled = np.random.default_rng([seed, fold]).permutation(outer_train)
    n_validation = min(max(1, round(fraction * len(shuffled))), len(shuffled) - 1)
    return np.sort(shuffled[n_validation:]), np.sort(shuffled[:n_validation])
