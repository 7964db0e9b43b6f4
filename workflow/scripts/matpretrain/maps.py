"""Two-dimensional maps of representations, and how far neighbours in them share a target."""

import numpy as np
import pandas as pd
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from sklearn.metrics import r2_score
from sklearn.model_selection import PredefinedSplit, cross_val_predict
from sklearn.neighbors import KNeighborsRegressor
from sklearn.preprocessing import StandardScaler

from matpretrain.files import DataError
from matpretrain.splits import outer_folds

SEED = 0
NEIGHBOURS = 10
COMPONENTS = 50  # principal components that t-SNE starts from
COMPARED = 5  # principal components of two representations that are correlated
MIN_ROWS, FOLDS = 50, 5


def check_size(path, groups, remedy, rows="rows"):
    """Whether rows are enough for `neighbour_r2`.

    Args:
        path: file that they come from, for the message, as `remedy` and what `rows` are called.
        groups: [n] labels, one per composition.

    Raises:
        DataError: too few rows, compositions, or rows beside those of the commonest composition.
    """
    if len(groups) < MIN_ROWS:
        raise DataError(f"{path}: {len(groups)} {rows}, a map needs at least {MIN_ROWS}; {remedy}")
    if (distinct := len(np.unique(groups))) < FOLDS:
        raise DataError(f"{path}: {len(groups)} {rows} of {distinct} compositions, a map needs at least {FOLDS}; {remedy}")
    others = len(groups) - np.bincount(outer_folds(len(groups), FOLDS, groups=groups)).max()
    if others < NEIGHBOURS:
        raise DataError(
            f"{path}: {len(groups)} {rows}, but {others} without those that share a fold with the commonest composition, "
            f"a map needs at least {NEIGHBOURS}; {remedy}"
        )


def sample(n_rows, rows):
    """At most `rows` distinct positions out of n_rows in random order, the same ones in every call."""
    return np.random.default_rng(SEED).permutation(n_rows)[:rows]


def standardise(features):
    """[n, d] features with zero mean and unit variance; constant columns become zero."""
    return StandardScaler().fit_transform(np.asarray(features, float))


def neighbour_r2(points, target, groups):
    """R2 of predicting every target by the mean of its ten nearest neighbours among the other four of five folds.

    Args:
        points: [n, d] coordinates, Euclidean distance.
        target: [n].
        groups: [n] labels; rows of one label share a fold, so that a composition is no neighbour of itself.
    """
    folds = PredefinedSplit(outer_folds(len(points), FOLDS, groups=groups))
    prediction = cross_val_predict(KNeighborsRegressor(NEIGHBOURS), points, target, cv=folds)
    return r2_score(target, prediction)


def principal_components(points, n):
    """The first n principal components [rows, n] of points [rows, d], and their shares of the variance [n]."""
    pca = PCA(min(n, *points.shape), random_state=SEED)
    return pca.fit_transform(points), pca.explained_variance_ratio_


def tsne(points, start=None):
    """[n, 2] t-SNE of the first principal components of points [n, d].

    Args:
        start: [n, 2] where the rows start, up to a factor; by default from their own first two principal components.
    """
    init = "pca"
    if start is not None:
        init = (1e-4 * start / start[:, 0].std()).astype(np.float32)  # the size scikit-learn starts with
    return TSNE(init=init, random_state=SEED).fit_transform(principal_components(points, COMPONENTS)[0])


def component_correlations(a, b):
    """Correlations of the first principal components of two representations [n, d] of the same rows.

    Returns:
        Data frame component_a, share_a (of the variance), component_b, share_b, r, the absolute value of Pearson's
        coefficient: the sign of a component means nothing.
    """
    (x, share_x), (y, share_y) = (principal_components(points, COMPARED) for points in (a, b))
    r = np.abs(np.corrcoef(x.T, y.T)[: x.shape[1], x.shape[1] :])
    i, j = np.indices(r.shape).reshape(2, -1)
    columns = {"component_a": i + 1, "share_a": share_x[i], "component_b": j + 1, "share_b": share_y[j], "r": r.ravel()}
    return pd.DataFrame(columns)


def umap(points):
    """[n, 2] UMAP of points [n, d]."""
    from umap import UMAP

    return UMAP(random_state=SEED, n_jobs=1).fit_transform(points)


METHODS = {"t-SNE": tsne, "UMAP": umap}
