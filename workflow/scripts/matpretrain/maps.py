"""Two-dimensional maps of representations, and how far neighbours in them share a target."""

import numpy as np
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from sklearn.metrics import r2_score
from sklearn.model_selection import PredefinedSplit, cross_val_predict
from sklearn.neighbors import KNeighborsRegressor
from sklearn.preprocessing import StandardScaler

from matpretrain.splits import outer_folds

SEED = 0
NEIGHBOURS = 10
COMPONENTS = 50  # principal components that t-SNE starts from
MIN_ROWS = 50


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
    folds = PredefinedSplit(outer_folds(len(points), groups=groups))
    prediction = cross_val_predict(KNeighborsRegressor(NEIGHBOURS), points, target, cv=folds)
    return r2_score(target, prediction)


def tsne(points):
    """[n, 2] t-SNE of the first principal components of points [n, d]."""
    reduced = PCA(min(COMPONENTS, *points.shape), random_state=SEED).fit_transform(points)
    return TSNE(init="pca", random_state=SEED).fit_transform(reduced)


def umap(points):
    """[n, 2] UMAP of points [n, d]."""
    from umap import UMAP

    return UMAP(random_state=SEED, n_jobs=1).fit_transform(points)


METHODS = {"t-SNE": tsne, "UMAP": umap}
