"""Training subsets: outer folds whose training part is cut to a number of rows (data efficiency)."""

import numpy as np

from matpretrain.files import DataError

SUBSET_SEED = 2024


def outer_split(folds, fold, train_rows=None):
    """Row positions (training, test) of an outer fold, both sorted; the test part is always whole.

    Args:
        folds: [n_rows] test fold of every row.
        train_rows: number of training rows to draw, None for all. The draw depends on the fold alone, neither on a model
            nor on its seed, and smaller draws lie within larger ones.

    Raises:
        DataError: train_rows is larger than the training part.
    """
    train, test = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
    if train_rows is None:
        return train, test
    if train_rows > len(train):
        raise DataError(
            f"train_rows is {train_rows}, but fold {fold} has only {len(train)} training rows; set a smaller number"
        )
    drawn = np.random.default_rng([SUBSET_SEED, fold]).permutation(train)[:train_rows]
    return np.sort(drawn), test
