"""Random forests: their statistics against scikit-learn's own and by hand."""

import numpy as np
import pandas as pd
import pytest
from fit_baseline import fit_baseline
from sklearn.ensemble import RandomForestRegressor

from matpretrain.estimators import out_of_bag_errors, random_forest


@pytest.fixture
def skewed():
    """Features [400, 12] and targets [400] whose logarithm is the first feature with noise: means lie far above medians."""
    random = np.random.default_rng(0)
    features = random.normal(size=(400, 12))
    return features, np.exp(features[:, 0] + random.normal(size=400))


@pytest.mark.parametrize("ties", [False, True])
def test_with_the_reference_arguments_it_is_scikit_learns(skewed, ties):
    features, target = skewed
    if ties:  # of their nodes the variance is rounding, which decides whether they are split
        features, target = features.round(), np.log10(1 + target.round())
    expected = RandomForestRegressor(30, random_state=3).fit(features[:300], target[:300]).predict(features[300:])
    forest = random_forest(3, 30, prediction="mean", max_features=1).fit(features[:300], target[:300])
    np.testing.assert_allclose(forest.predict(features[300:]), expected, rtol=1e-12)


def test_the_median_is_that_of_its_trees(skewed):
    features, target = skewed
    reference = RandomForestRegressor(30, max_features=1 / 3, random_state=0).fit(features[:300], target[:300])
    by_hand = [sorted(tree.predict([row])[0] for tree in reference.estimators_)[14:16] for row in features[300:310]]
    predicted = random_forest(0, 30, "median").fit(features[:300], target[:300]).predict(features[300:310])
    np.testing.assert_allclose(predicted, np.mean(by_hand, axis=1), rtol=1e-12)


def test_medians_have_the_lower_absolute_and_means_the_lower_squared_error(skewed):
    features, target = skewed
    errors = {}
    for statistic in ("mean", "median"):
        forest = random_forest(0, 200, prediction=statistic).fit(features[:200], target[:200])
        errors[statistic] = forest.predict(features[200:]) - target[200:]
    assert np.abs(errors["median"]).mean() < 0.95 * np.abs(errors["mean"]).mean()
    assert np.square(errors["median"]).mean() > np.square(errors["mean"]).mean()


def test_out_of_bag_predictions_are_those_of_trees_that_have_not_seen_a_row(skewed):
    features, target = skewed
    reference = RandomForestRegressor(30, max_features=1 / 3, oob_score=True, random_state=0).fit(features, target)
    forest = random_forest(0, 30).fit(features, target)
    np.testing.assert_allclose(np.nanmean(forest.out_of_bag(features), axis=0), reference.oob_prediction_, rtol=1e-12)


def test_the_statistic_is_chosen_on_rows_out_of_bag(skewed):
    features, target = skewed
    assert str(random_forest(0, 100).fit(features, target)) == "median of 100 trees"
    # pairs of rows with the same features: most trees have seen the twin and predict its target, of the other sign
    twins, signs = np.repeat(features[:100], 2, axis=0), np.tile([1.0, -1.0], 100)
    forest = random_forest(0, 100).fit(twins, signs)
    assert str(forest) == "mean of 100 trees"
    errors, _ = out_of_bag_errors(forest.out_of_bag(twins), signs)
    assert errors["mean"].mean() < errors["median"].mean()


@pytest.mark.parametrize("size", [1, 5, 20])
def test_deviations_hold_for_new_groups_of_any_size(size):
    """Rows of a group share features and a part of the target, which no other group tells."""
    random = np.random.default_rng(size)
    groups = np.repeat(np.arange(800 // size), size)
    features = random.normal(size=(len(groups) // size, 4))[groups]
    target = features[:, 0] + random.normal(size=len(groups) // size)[groups] + 0.1 * random.normal(size=len(groups))
    old = groups < groups.max() // 2
    forest = random_forest(0, 100).fit(features[old], target[old], groups[old])
    prediction, deviation = forest.predict(features[~old], return_std=True)
    assert forest.scaled
    assert np.mean(np.abs(prediction - target[~old]) <= deviation) == pytest.approx(0.68, abs=0.15 if size == 20 else 0.07)


def test_a_single_group_scales_nothing(skewed):
    features, target = skewed
    forest = random_forest(0, 20).fit(features[:50], target[:50], np.zeros(50, int))
    assert str(forest) == "median of 20 trees, deviations not scaled" and forest.deviation_factor == 1


def test_rows_that_every_tree_has_seen_do_not_count():
    predictions = np.array([[1.0, np.nan, 4.0], [3.0, np.nan, np.nan]])
    errors, unseen = out_of_bag_errors(predictions, np.array([0.0, 9.0, 1.0]))
    assert unseen.tolist() == [True, False, True]
    assert {name: own.tolist() for name, own in errors.items()} == {"median": [2.0, 3.0], "mean": [2.0, 3.0]}


@pytest.mark.parametrize("unit", [2.0**-100, 2.0**-30, 2.0**30])  # powers of two, with which nothing is rounded
def test_the_unit_of_the_target_changes_nothing(skewed, unit):
    features, target = skewed
    own, other = (random_forest(0, 20).fit(features[:300], y[:300]) for y in (target, unit * target))
    np.testing.assert_array_equal(other.predict(features), unit * own.predict(features))
    assert other.deviation_factor == pytest.approx(own.deviation_factor)


@pytest.mark.parametrize("unit", [1.0, 2.0**-30])
def test_an_offset_of_the_target_is_no_matter(skewed, unit):
    (features, target), offset = skewed, unit * 2.0**33
    target = (unit * target + offset) - offset  # what it leaves of the digits
    own, other = (random_forest(0, 100).fit(features[:300], y[:300]).predict(features) for y in (target, target + offset))
    assert np.abs(other - offset - own).mean() < 0.01 * target.std()  # splits that are as good as another depend on rounding


def test_targets_that_are_all_the_same_are_predicted(skewed):
    forest = random_forest(0, 20).fit(skewed[0], np.full(400, 3.0))
    assert (forest.predict(skewed[0]) == 3).all()


def test_predictions_of_a_forest_do_not_depend_on_its_threads():
    values = np.random.default_rng(0).normal(size=(40, 20))
    table = pd.DataFrame({"id": [f"r{i}" for i in range(40)], "target": values[:, 0], "fold": np.arange(40) % 2})
    runs = [
        fit_baseline(table, values, lambda: random_forest(0), threads, print)["prediction"].to_numpy() for threads in (1, 2)
    ]
    assert np.array_equal(*runs)
