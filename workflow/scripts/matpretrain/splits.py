"""Outer folds and inner validation splits."""

import numpy as np
import pandas as pd

from matpretrain.files import DataError

MATBENCH_SEED = 18012019  # random state of the official Matbench v0.1 folds
# Keys of a dataset that say how its rows are split, with their defaults, which are those of the official folds.
SPLIT = {"n_folds": 5, "split": "random", "split_seed": MATBENCH_SEED, "test_fraction": None}
COLUMNS = ("fold", "group")  # of the user's, which split them too
OWN_FOLDS = (*SPLIT, *COLUMNS)
NEVER_TESTED = -1  # fold of a row that is in no test part


def outer_folds(n_rows, n_folds=5, seed=MATBENCH_SEED, groups=None, test_fraction=None):
    """Test fold [n_rows] of every row: K-fold with shuffling, the official Matbench folds for 5 folds and the default seed.

    Args:
        groups: optional [n_rows] labels; rows of one group fall into the same fold (group_by_formula).
        test_fraction: share of the rows (or groups) in each test part, by default 1 / n_folds. The parts are disjoint;
            rows that are left over are NEVER_TESTED.

    Raises:
        ValueError: fewer rows (or groups) than folds, or test parts that do not fit beside each other.
    """
    from sklearn.model_selection import KFold

    units, unit_of = (np.arange(n_rows),) * 2 if groups is None else np.unique(groups, return_inverse=True)
    if len(units) < n_folds:
        raise ValueError(f"{len(units)} rows or groups cannot be split into {n_folds} folds")
    fold = np.full(len(units), NEVER_TESTED)
    if test_fraction is None:
        parts = [test for _, test in KFold(n_folds, shuffle=True, random_state=seed).split(units)]
    else:
        size = max(1, int(round(test_fraction * len(units), 6)))  # 0.29 * 100 is 28.999...
        if size * n_folds > len(units):
            raise ValueError(f"{n_folds} test parts of {test_fraction:g} of the rows overlap")
        parts = np.random.default_rng(seed).permutation(len(units))[: size * n_folds].reshape(n_folds, size)
    for k, test in enumerate(parts):
        fold[test] = k
    return fold[unit_of]


def split_of(entry):
    """The keys SPLIT of a dataset, by its registry entry, with the defaults of those that it does not have."""
    return {key: entry.get(key, default) for key, default in SPLIT.items()}


def has_official_folds(entry):
    """Whether a dataset, by its registry entry, is a Matbench task whose rows fall into the official folds."""
    return "matbench" in entry and split_of(entry) == SPLIT and not any(key in entry for key in COLUMNS)


def fold_numbers(folds):
    """The outer folds, sorted, of the test folds [n_rows] of all rows."""
    numbers = np.unique(folds)
    return numbers[numbers != NEVER_TESTED].tolist()


def hold_out(n_rows, fraction, seed):
    """Split rows 0 to n_rows - 1 of a corpus into (training, sorted; validation, shuffled), seeded, neither empty.

    Raises:
        DataError: fewer than two rows.
    """
    if n_rows < 2:
        raise DataError(f"{n_rows} examples cannot be split into training and validation; name a larger corpus")
    shuffled = np.random.default_rng(seed).permutation(n_rows)
    n_validation = max(1, round(fraction * n_rows))
    return np.sort(shuffled[n_validation:]), shuffled[:n_validation]


def inner_split(outer_train, fraction, seed, fold, groups=None):
    """Split the rows of an outer training part into (training, validation), seeded; both sorted, neither empty but for a fraction of 0.

    Args:
        outer_train: [n] row numbers.
        fraction: share of the rows that is held out.
        groups: optional [n] labels; rows of one group fall into the same part. Shuffled groups are held out as far as they fit into
            the share, the smallest one where none fits; of a single group none is.
    """
    # groups are numbered in order of appearance, so that those of one row change nothing
    n_rows = len(outer_train)
    unit_of = np.arange(n_rows) if groups is None else pd.factorize(groups)[0]
    size = np.bincount(unit_of)
    shuffled = np.random.default_rng([seed, fold]).permutation(len(size))
    room, chosen = min(max(1, round(fraction * n_rows)), n_rows - 1) if fraction else 0, []
    for unit in shuffled:
        if size[unit] <= room:
            chosen.append(unit)
            room -= size[unit]
    if fraction and not chosen and len(size) > 1:
        chosen = [shuffled[size[shuffled].argmin()]]
    held_out = np.isin(unit_of, chosen)
    return np.sort(outer_train[~held_out]), np.sort(outer_train[held_out])
