"""Baselines without a network: functions named by `estimator` in the registry of models.

Each makes a regressor with scikit-learn's fit() and predict() from a seed and its `arguments` there. One whose predict() takes
return_std, as scikit-learn's Gaussian processes do, predicts standard deviations as well.
"""

import inspect

import numpy as np

from matpretrain.calibration import NORMAL, deviation_factor

# Standard deviation of targets below which they are scaled up: scikit-learn splits no node whose variance is below 2.2e-16.
SMALL = 1e-3
FAR = 1e4  # mean of targets beside their deviation from which on it is taken off: impurities are differences of squares
PARTS = 5  # into which groups are divided to be held out in turn
STATISTICS = {"median": np.nanmedian, "mean": np.nanmean}  # out of bag, a tree that has seen a row says NaN


class Forest:
    """A random forest: it predicts the median or the mean of its trees' predictions, and as deviation their standard deviation,
    scaled on out-of-bag or, where rows come in groups, held-out rows (calibration.py).

    A tree grown to single rows (those with the same features share a leaf) predicts the target of one training row, so that
    the trees of a forest are a sample of the conditional distribution (Meinshausen 2006, quantile regression forests). Its
    median has the lowest absolute error, by which every model here is scored, as its mean has the lowest squared error. Where
    rows come in pairs of other targets, most trees predict the twin's, and the mean is better.

    Args:
        forest: scikit-learn's RandomForestRegressor.
        prediction: a name of STATISTICS, or "auto": that with the lowest absolute error on out-of-bag rows, of every fit anew.
    """

    def __init__(self, forest, prediction):
        self.forest, self.prediction = forest, prediction
        self.statistic = prediction

    def __str__(self):
        return f"{self.statistic} of {self.forest.n_estimators} trees" + ", deviations not scaled" * (not self.scaled)

    def fit(self, features, target, groups=None):
        """Grow the trees on features [rows, n] and targets [rows], choose the statistic, scale the deviations; returns self.

        Args:
            groups: [rows] labels of rows that new rows are not like, or None. With groups further, smaller forests stand in for the
                trees that have not seen a row (`held_out`), since of a large group every tree has seen some row.
        """
        self.grow(features, target)
        trees = self.unseen(features, target, groups)
        names = list(STATISTICS) if self.prediction == "auto" else [self.prediction]
        errors, unseen = out_of_bag_errors(trees, target, names)
        self.statistic = min(names, key=lambda name: errors[name].mean()) if unseen.any() else names[0]
        factor = deviation_factor(errors[self.statistic], np.nanstd(trees[:, unseen], axis=0))
        self.scaled, self.deviation_factor = factor is not None, factor or 1.0
        return self

    def grow(self, features, target):
        """Grow the trees alone; returns self."""
        std = target.std() or 1.0
        self.unit = 1.0 if std > SMALL else 2.0 ** np.floor(np.log2(std))  # a power of two: nothing is rounded
        self.offset = target.mean() if abs(target.mean()) > FAR * std else 0.0
        self.forest.fit(features, (target - self.offset) / self.unit)
        return self

    def trees(self, features):
        """Predictions [trees, rows] of the trees for features [rows, n], in the unit of the target."""
        features = np.asarray(features, np.float32)  # what trees compare with
        return np.stack([tree.predict(features) for tree in self.forest.estimators_]) * self.unit + self.offset

    def unseen(self, features, target, groups=None):
        """Predictions [trees, rows] for the rows it was fitted to by trees that have not seen them, NaN by others: `out_of_bag`, with
        groups [rows] `held_out`."""
        return self.out_of_bag(features) if groups is None else self.held_out(features, target, groups)

    def out_of_bag(self, features):
        """Predictions [trees, rows] for the rows it was fitted to, NaN where a tree has seen the row."""
        predictions = self.trees(features)
        for tree, rows in zip(predictions, self.forest.estimators_samples_, strict=True):
            tree[rows] = np.nan
        return predictions

    def held_out(self, features, target, groups):
        """Predictions [trees / PARTS, rows] for all rows by forests that are grown without a part of the groups [rows] each; NaN where
        there is one group only."""
        from sklearn.base import clone
        from sklearn.model_selection import GroupKFold

        n_trees, n_groups = max(2, self.forest.n_estimators // PARTS), len(np.unique(groups))
        predictions = np.full((n_trees, len(target)), np.nan)
        parts = GroupKFold(min(PARTS, n_groups)).split(features, groups=groups) if n_groups > 1 else ()
        for train, rest in parts:
            smaller = Forest(clone(self.forest).set_params(n_estimators=n_trees), self.prediction)
            predictions[:, rest] = smaller.grow(features[train], target[train]).trees(features[rest])
        return predictions

    def predict(self, features, return_std=False):
        """Predictions [rows] for features [rows, n]; with return_std also their deviations [rows]."""
        trees = self.trees(features)
        prediction = STATISTICS[self.statistic](trees, axis=0)
        return (prediction, self.deviation_factor * trees.std(axis=0)) if return_std else prediction


def out_of_bag_errors(predictions, target, names=STATISTICS):
    """Absolute errors of statistics of trees on the rows that some tree has not seen.

    Args:
        predictions: [trees, rows], NaN where a tree has seen the row.
        target: [rows].
        names: of STATISTICS.

    Returns:
        {name: [k] errors in the unit of the target}, and [rows] bool, which k rows these are.
    """
    unseen = ~np.isnan(predictions).all(axis=0)
    return {name: np.abs(STATISTICS[name](predictions[:, unseen], axis=0) - target[unseen]) for name in names}, unseen


def random_forest(seed, trees=500, prediction="auto", max_features=1 / 3):
    """A Forest of trees grown to single rows, by a recipe chosen on out-of-bag rows (docs/reproduction/recipe.md).

    Args:
        trees: their number.
        prediction: "median" of the trees, their "mean", as in the Matbench reference, or "auto": the better one out of bag.
        max_features: share of the features that a split chooses from (Breiman's third); the Matbench reference has 1.0.
    """
    from sklearn.ensemble import RandomForestRegressor

    forest = RandomForestRegressor(trees, max_features=float(max_features), random_state=seed)
    return Forest(forest, prediction)


class TrainingMean:
    """Predicts the mean of the training targets, whatever the features; NORMAL of these lie within its deviation."""

    def __str__(self):
        return "training mean"

    def fit(self, features, target):
        """Take targets [rows]; returns self."""
        self.mean = target.mean()
        self.deviation = np.quantile(np.abs(target - self.mean), NORMAL)
        return self

    def predict(self, features, return_std=False):
        """The mean [rows] for features [rows, n]; with return_std also the deviation [rows]."""
        mean, deviation = (np.full(len(features), value) for value in (self.mean, self.deviation))
        return (mean, deviation) if return_std else mean


def mean(seed):
    """A TrainingMean."""
    return TrainingMean()


def predicted(model, features):
    """Predictions [rows] and standard deviations [rows] of a fitted regressor; NaN where its predict() has no return_std."""
    if "return_std" in inspect.signature(model.predict).parameters:
        return model.predict(features, return_std=True)
    return model.predict(features), np.full(len(features), np.nan)
