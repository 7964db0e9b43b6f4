"""Baselines without a network. Each function makes a scikit-learn regressor from a seed and its arguments in the registry of
models, where `estimator` is its name."""


def random_forest(seed, trees=500):
    """500 trees, otherwise scikit-learn's defaults, as in the Matbench reference."""
    from sklearn.ensemble import RandomForestRegressor

    return RandomForestRegressor(trees, random_state=seed)


def mean(seed):
    """Predicts the mean of the training targets."""
    from sklearn.dummy import DummyRegressor

    return DummyRegressor()
