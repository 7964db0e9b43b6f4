"""What predicted deviations are worth: numbers by hand, and where the truth is known."""

import numpy as np
import pandas as pd
import pytest
from conftest import load
from scipy import stats
from small_problem import all_folds
from tabulate_uncertainty import markdown, tabulate

from matpretrain.calibration import LEAST_ROWS, NORMAL, deviation_factor
from matpretrain.composition import matscholar_vectors, parse_formulas
from matpretrain.members import load_members, save_members
from matpretrain.recipe import Recipe
from matpretrain.sources import read_embedded
from matpretrain.splits import outer_folds
from matpretrain.statistics import epistemic_std
from matpretrain.supervised import Training
from matpretrain.uncertainty import KEPT, SHARES, absolute_errors, kept_errors, reliability


def table_of(target, predictions, stds, folds=None):
    """Predictions table of several seeds, [seeds][rows], merged as the workflow merges them."""
    n = len(target)
    rows = [
        {"id": [f"r{i}" for i in range(n)], "fold": np.zeros(n, int) if folds is None else folds, "seed": seed, "part": "test",
         "target": target, "prediction": prediction, "aleatoric_std": std}
        for seed, (prediction, std) in enumerate(zip(predictions, stds, strict=True))
    ]  # fmt: skip
    table = pd.concat([pd.DataFrame(part) for part in rows]).sort_values(["part", "seed", "fold"], kind="stable")
    return table.assign(epistemic_std=epistemic_std(table))


def draws(distribution, n=20_000, overconfident=1.0):
    """Targets drawn around predictions of zero, from deviations that differ from row to row."""
    random = np.random.default_rng(0)
    std = random.uniform(0.5, 4, n)
    target = distribution.rvs(size=n, random_state=random) * std / distribution.std()
    return table_of(target, [np.zeros(n)], [std / overconfident], np.arange(n) % 5)


@pytest.mark.parametrize(("distribution", "one", "two"), [(stats.norm, 0.6827, 0.9545), (stats.laplace, 0.7569, 0.9409)])
def test_true_deviations_are_found_true(distribution, one, two):
    found = reliability(absolute_errors(draws(distribution)))
    assert found["within_one"] == pytest.approx(one, abs=0.01) and found["within_two"] == pytest.approx(two, abs=0.01)
    expected = distribution.ppf((1 + NORMAL) / 2) / distribution.std()
    assert found["factor"] == pytest.approx(expected, rel=0.03) and found["mean_std"] == pytest.approx(2.25, rel=0.02)
    assert 0.3 < found["rank"] < 0.6 and found["ideal_half"] < found["surest_half"] < 0.75


def test_deviations_that_are_too_small_are_found_too_small():
    true, small = (reliability(absolute_errors(draws(stats.norm, overconfident=k))) for k in (1.0, 3.0))
    assert small["factor"] == pytest.approx(3 * true["factor"]) and small["within_one"] < 0.35
    same = ("mae", "rank", "surest_half", "ideal_half")  # what does not depend on their size
    assert [small[key] for key in same] == pytest.approx([true[key] for key in same])


def test_numbers_of_one_fold_by_hand():
    found = reliability(
        absolute_errors(table_of(np.array([1.0, -2.0, 3.0, 0.0]), [np.zeros(4)], [np.array([2.0, 1.0, 4.0, 1.0])]))
    )
    # errors 1, 2, 3, 0 of deviations 2, 1, 4, 1: ratios 0.5, 2, 0.75, 0
    expected = {"mae": 1.5, "mean_std": 2, "within_one": 0.75, "within_two": 1, "factor": 0.75}
    expected |= {"rank": stats.spearmanr([2, 1, 4, 1], [1, 2, 3, 0]).statistic, "surest_half": 1 / 1.5, "ideal_half": 0.5 / 1.5}
    assert {key: found[key] for key in expected} == pytest.approx(expected)
    assert [found[name] for name in ("kept_0.05", "kept_0.75", "kept_1.00")] == pytest.approx([1 / 1.5, 1 / 1.5, 1])


def test_seeds_are_averaged_and_their_spread_counts_where_they_predict_none():
    predictions, stds = [np.array([1.0, 4.0]), np.array([3.0, 4.0])], [np.array([3.0, 1.0]), np.array([4.0, 1.0])]
    errors = absolute_errors(table_of(np.array([2.5, 0.0]), predictions, stds))
    assert errors["error"].tolist() == [0.5, 4.0]
    assert errors["std"].to_numpy() == pytest.approx([np.sqrt((9 + 16) / 2), 1])
    nothing = [np.full(2, np.nan)] * 2
    assert absolute_errors(table_of(np.array([2.5, 0.0]), predictions, nothing))["std"].tolist() == [pytest.approx(2**0.5), 0]
    assert absolute_errors(table_of(np.array([2.5, 0.0]), predictions[:1], nothing[:1])).empty


def test_the_error_of_rows_of_equal_deviation_does_not_depend_on_their_order():
    error, std = np.array([4.0, 0.0, 1.0, 3.0]), np.array([2.0, 2.0, 1.0, 2.0])
    expected = np.array([1, (1 + 7 / 3) / 2, 2]) / 2
    for order in ([0, 1, 2, 3], [3, 2, 1, 0], [1, 3, 0, 2]):
        assert kept_errors(error[order], std[order], [0.25, 0.5, 1]) == pytest.approx(expected)
    assert np.isnan(kept_errors(np.zeros(3), np.ones(3), [0.5])).all()


def test_equal_deviations_know_nothing():
    random = np.random.default_rng(1)
    errors = absolute_errors(table_of(random.normal(size=100), [np.zeros(100)], [np.ones(100)]))
    found = reliability(errors)
    assert np.isnan(found["rank"]) and found["surest_half"] == pytest.approx(1)
    assert [found[name] for name in KEPT] == pytest.approx(np.ones(20))


def test_the_table_has_the_models_that_predict_deviations():
    random = np.random.default_rng(2)
    target, std = random.normal(size=60), random.uniform(1, 2, 60)
    runs = {
        ("mine", "roost"): table_of(target, [np.zeros(60)], [std]),
        ("mine", "l1"): table_of(target, [np.zeros(60)], [std * np.nan]),
    }
    table = tabulate(runs)
    assert table["model"].tolist() == ["roost"] and table["n_seeds"].tolist() == [1]
    lines = markdown(table, {"mine": "Mine"}, {"mine": "eV"}).splitlines()
    assert lines[2].startswith("| Mine | roost | 1 | ") and " eV | " in lines[2] and lines[2].count("%") == 4
    nothing = tabulate({("mine", "l1"): runs["mine", "l1"]})
    assert len(nothing) == 0 and markdown(nothing, {}, {}).splitlines()[0].startswith("| dataset | model |")


def test_curves_are_drawn_for_the_models_that_have_one():
    from matpretrain import plots_uncertainty

    curves = {("a", "x"): SHARES, ("a", "y"): SHARES**2, ("b", "x"): SHARES}
    table = pd.DataFrame([{"dataset": d, "model": m, **dict(zip(KEPT, c, strict=True))} for (d, m), c in curves.items()])
    figure = plots_uncertainty.confidence(table, {"x": "Model X"}, ["y", "x", "z"])
    first, second = (axes for axes in figure.axes if axes.lines)
    assert [line.get_label() for line in first.lines[1:]] == ["y", "x"] and [line.get_label() for line in second.lines[1:]] == [
        "x"
    ]
    assert second.lines[1].get_color() == first.lines[2].get_color()
    assert np.allclose(first.lines[1].get_ydata(), 100 * SHARES**2)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["y", "Model X"]


def test_a_factor_lets_new_errors_lie_within_the_deviations_on_average():
    random = np.random.default_rng(3)
    within = []
    for _ in range(4000):  # of ten rows, and one more
        std = random.uniform(0.5, 4, 11)
        error = np.abs(random.laplace(size=11)) * std
        within.append(error[10] <= deviation_factor(error[:10], std[:10] / 7) * std[10] / 7)
    assert np.mean(within) == pytest.approx(8 / 11, abs=0.02)  # with the seventh of ten it would be 7 / 11, too few


def test_a_factor_needs_rows_that_have_a_deviation():
    error = np.arange(1.0, LEAST_ROWS + 1)
    assert deviation_factor(error, np.ones(LEAST_ROWS)) == 8  # the 8th of ten: 0.6827 * 11 rounded up
    assert deviation_factor(error[:-1], np.ones(LEAST_ROWS - 1)) is None
    for nothing in (np.nan, 0.0):
        assert deviation_factor(error, np.full(LEAST_ROWS, nothing)) is None
    assert deviation_factor(np.zeros(LEAST_ROWS), np.ones(LEAST_ROWS)) is None
    half = np.repeat([0.0, 1.0], LEAST_ROWS)  # exact predictions without a deviation are within it
    assert deviation_factor(half, half * 4) == 0.25


@pytest.mark.parametrize("inner_fraction", [0.2, 0])
def test_deviations_of_networks_are_scaled_on_validation_rows(tmp_path, inner_fraction):
    table = read_embedded("matminer_transport_seebeck_p").sample(160, random_state=1).reset_index(drop=True)
    table = table.assign(fold=outer_folds(160, 2))
    compositions, _ = parse_formulas(table["formula"].tolist())
    recipe = load("config/config.yaml")["default_recipes"]["all"]
    recipe = {key: value for key, value in recipe.items() if key not in ("loss", "target_scale")}
    vectors, said = np.nan_to_num(matscholar_vectors()), []
    training = Training(
        table, compositions, "roost", {"element_vectors": vectors}, None, "robust_l1", Recipe(**recipe | {"epochs": 3}), inner_fraction,
        size=None, seed=0, device="cpu",
    )  # fmt: skip
    predictions, _, kept = all_folds(training, 1, said.append, tmp_path / "state")
    factors = [member["deviation_factor"] for member in kept]
    if not inner_fraction:
        assert factors == [None, None] and sum("as trained, often much too small" in line for line in said) == 2
        return
    assert all(factor > 0 and factor != 1 for factor in factors)
    assert [line for line in said if "times" in line] == [
        f"fold {fold}: predicted deviations times {factor:.3g}, from 16 validation rows" for fold, factor in enumerate(factors)
    ]
    for _, rows in predictions[predictions["part"] == "validation"].groupby("fold"):
        assert deviation_factor((rows["prediction"] - rows["target"]).abs(), rows["aleatoric_std"]) == pytest.approx(1)
    record = {
        "encoder": "roost",
        "n_outputs": 2,
        "loss": "robust_l1",
        "target_scale": "linear",
        "recipe": vars(training.recipe),
    }
    record |= {"dataset": "mine", "seed": 0, "unit": "1"}
    save_members(kept, {"element_vectors": vectors}, compositions, record, tmp_path / "seed0")
    _, stds = load_members([tmp_path / "seed0"]).predictions(compositions)
    for fold, rows in predictions[predictions["part"] == "test"].groupby("fold"):
        expected = rows.set_index("id").loc[table["id"][table["fold"] == fold], "aleatoric_std"]
        np.testing.assert_allclose(stds[fold, table["fold"] == fold], expected, rtol=1e-4)
