"""Baselines without a network: functions named by `estimator` in the registry of models.

Each makes a scikit-learn regressor from a seed and its `arguments` there.
"""


def random_forest(seed, trees=500):
    """500 trees, otherwise scikit-learn's defaults, as in the Matbench reference."""
    from sklearn.ensemble import RandomForestRegressor

    return RandomForestRegressor(trees, random_state=seed)


def mean(seed):
    """Predicts the mean of the training targets."""
    from sklearn.dummy import DummyRegressor

    return DummyRegressor()
