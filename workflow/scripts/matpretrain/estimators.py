"""Baselines without a network: functions named by `estimator` in the registry of models.

Each makes a regressor with scikit-learn's fit() and predict() from a seed and its `arguments` there.
"""

import numpy as np


class Forest:
    """A random forest whose prediction is the median or the mean of its trees'.

    A tree grown to single rows (those with the same features share a leaf) predicts the target of one training row, so that
    the trees of a forest are a sample of the conditional distribution (Meinshausen 2006, quantile regression forests). Its
    median has the lowest absolute error, by which every model here is scored, as its mean has the lowest squared error.

    Args:
        forest: scikit-learn's RandomForestRegressor.
        statistic: function of the trees' predictions [trees, rows] and axis=0.
    """

    def __init__(self, forest, statistic):
        self.forest, self.statistic = forest, statistic

    def fit(self, features, target):
        """Grow the trees on features [rows, n] and targets [rows]; returns self."""
        self.forest.fit(features, target)
        return self

    def trees(self, features):
        """Predictions [trees, rows] of the trees for features [rows, n]."""
        features = np.asarray(features, np.float32)  # what trees compare with
        return np.stack([tree.predict(features) for tree in self.forest.estimators_])

    def predict(self, features):
        """Predictions [rows] for features [rows, n]."""
        return self.statistic(self.trees(features), axis=0)


def random_forest(seed, trees=500, prediction="median", max_features=1 / 3):
    """500 trees grown to single rows, the recipe chosen on out-of-bag rows (docs/reproduction/recipe.md).

    Args:
        prediction: "median" of the trees, or their "mean", as in the Matbench reference.
        max_features: share of the features that a split chooses from (Breiman's third); the Matbench reference has 1.0.
    """
    from sklearn.ensemble import RandomForestRegressor

    forest = RandomForestRegressor(trees, max_features=float(max_features), random_state=seed)
    return Forest(forest, {"median": np.median, "mean": np.mean}[prediction])


def mean(seed):
    """Predicts the mean of the training targets."""
    from sklearn.dummy import DummyRegressor

    return DummyRegressor()
