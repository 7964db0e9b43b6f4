"""Training subsets: outer folds whose training part is cut to a number of rows (data efficiency)."""

import numpy as np

from matpretrain.files import DataError
from matpretrain.splits import fold_numbers

SUBSET_SEED = 2024
LEAST = 2  # training rows: one of them validates
FULL = "full"  # in place of a size: the whole training part


def n_training(size, n_rows):
    """Number of training rows that a subset size stands for: "500", or a share of all n_rows such as "10%"."""
    return round(float(size[:-1]) / 100 * n_rows) if size.endswith("%") else int(size)


def outer_split(folds, fold, size=None):
    """Row positions (training, test) of an outer fold, both sorted; the test part is always whole.

    Args:
        folds: [n_rows] test fold of every row.
        size: training rows to draw, "500" or, as a share of all rows, "10%"; None for the whole training part. The draw
            depends on the fold alone, neither on a model nor on its seed, and smaller draws lie within larger ones.

    Raises:
        DataError: the training part has fewer rows (a share may miss it by the rounding of a fold), or fewer than LEAST
            are there or wanted.
    """
    train, test = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
    if size is None:
        if len(train) < LEAST:
            raise DataError(f"fold {fold} has {len(train)} training rows, a training needs at least {LEAST}; add rows")
        return train, test
    wanted = n_training(size, len(folds))
    if wanted < LEAST:
        raise DataError(f"a subset of {size} has {wanted} rows, a training needs at least {LEAST}; make it larger")
    if wanted > len(train) + size.endswith("%"):
        raise DataError(
            f"a subset of {size} has {wanted} rows, but fold {fold} has only {len(train)} training rows; make it smaller"
        )
    drawn = np.random.default_rng([SUBSET_SEED, fold]).permutation(train)[:wanted]
    return np.sort(drawn), test


def for_rows(recipe, folds, size=None):
    """The settings of a recipe, without its key `large`, whose settings hold where as many rows train in every fold as that says.

    Args:
        recipe: dictionary as in the configuration (registries.recipe_of).
        folds, size: as of `outer_split`, which may refuse them.
    """
    settings = {key: value for key, value in recipe.items() if key != "large"}
    if "large" not in recipe:
        return settings
    large = dict(recipe["large"])
    rows = large.pop("rows")
    enough = all(len(outer_split(folds, fold, size)[0]) >= rows for fold in fold_numbers(folds))
    return settings | large if enough else settings


def trained_rows(folds, size=None):
    """[k] int64 rows that are in the training part of some outer fold (`outer_split`), sorted."""
    return np.unique(np.concatenate([outer_split(folds, fold, size)[0] for fold in fold_numbers(folds)]))
