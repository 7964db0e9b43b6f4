import itertools

import numpy as np
import pandas as pd
import pytest
from conftest import PROJECT, TASKS
from scipy import stats
from sklearn.metrics import mean_absolute_error, mean_squared_error, r2_score
from tabulate_tests import over_datasets

from matpretrain import statistics
from matpretrain.data import read_table
from matpretrain.splits import outer_folds
from matpretrain.statistics import compare_nested, mean_ratio, sign_flip


def predictions(n_seeds=2, n_folds=5, rows=20, seed=0):
    rng = np.random.default_rng(seed)
    target = rng.normal(size=(n_folds, rows))
    return pd.DataFrame(
        [
            {
                "id": f"r{fold}-{i}", "fold": fold, "seed": s, "part": "test", "target": target[fold, i],
                "prediction": target[fold, i] + rng.normal(scale=0.3), "aleatoric_std": 0.4,
            }
            for s in range(n_seeds)
            for fold in range(n_folds)
            for i in range(rows)
        ]
    )  # fmt: skip


def test_a_power_law_gives_back_its_exponent():
    rows = np.array([100, 300, 1000, 4000])
    exponent, factor = statistics.power_law(rows, 5.0 * rows**-0.21)
    assert exponent == pytest.approx(-0.21) and factor == pytest.approx(5.0)
    assert np.isnan(statistics.power_law([10, 10, 20], [1.0, 1.1, 0.9])).all()


def test_fold_scores_equal_scikit_learn():
    table = predictions()
    scores = statistics.fold_scores(table).set_index(["part", "seed", "fold"])
    for (seed, fold), group in table.groupby(["seed", "fold"]):
        row = scores.loc[("test", seed, fold)]
        assert row["n"] == 20
        assert row["mae"] == pytest.approx(mean_absolute_error(group["target"], group["prediction"]))
        assert row["rmse"] == pytest.approx(mean_squared_error(group["target"], group["prediction"]) ** 0.5)
        assert row["r2"] == pytest.approx(r2_score(group["target"], group["prediction"]))


def test_summary_uses_the_population_standard_deviation_as_matbench_does():
    published = pd.read_csv(PROJECT / "resources/paper/matbench_submissions.csv")
    paper = pd.read_csv(PROJECT / "resources/paper/huang2024_table3.csv").set_index(["dataset", "model"])
    for row in published[published["submission"] == "dummy"].to_dict("records"):
        folds = pd.DataFrame({"fold": range(5), "seed": 0, "mae": [row[f"fold_{k}"] for k in range(5)]})
        summary = statistics.summarise(folds)
        assert summary["mae_mean"] == pytest.approx(row["mean"], abs=2e-6)
        assert summary["mae_std"] == pytest.approx(row["std_population"], abs=2e-6)
        printed = paper.loc[(row["dataset"], "dummy")]
        if not isinstance(printed["suspect"], str):
            assert summary["mae_mean"] == pytest.approx(printed["paper_mean"], rel=2e-3)


def test_summary_averages_seeds_within_folds_first():
    scores = pd.DataFrame({"fold": [0, 0, 1, 1], "seed": [0, 1, 0, 1], "mae": [1.0, 3.0, 4.0, 4.0]})
    assert statistics.summarise(scores) == {"mae_mean": 3.0, "mae_std": 1.0, "n_folds": 2, "n_seeds": 2}
    assert np.isnan(statistics.summarise(scores[scores["fold"] == 0])["mae_std"]), "one fold has no spread"


def test_ensemble_and_uncertainties():
    table = predictions(n_seeds=3)
    table["epistemic_std"] = statistics.epistemic_std(table)
    one = table[table["id"] == "r1-4"]
    assert one["epistemic_std"].nunique() == 1
    assert one["epistemic_std"].iloc[0] == pytest.approx(one["prediction"].std(ddof=1))
    together = statistics.ensemble(table)
    assert len(together) == 100
    assert together.set_index("id")["prediction"]["r1-4"] == pytest.approx(one["prediction"].mean())
    assert statistics.total_std(table)["r1-4"] == pytest.approx(0.4)  # what seeds predict is of their whole error
    assert statistics.total_std(table.assign(aleatoric_std=np.nan))["r1-4"] == one["epistemic_std"].iloc[0]
    assert statistics.epistemic_std(predictions(n_seeds=1)).isna().all()


def test_paired_t_and_wilcoxon_equal_scipy():
    rng = np.random.default_rng(2)
    for k in (5, 10, 25):
        a, b = rng.normal(size=(2, k))
        expected = stats.ttest_rel(a, b)
        assert statistics.paired_t(a, b) == pytest.approx((expected.statistic, expected.pvalue))
        assert statistics.wilcoxon(a, b)[1] == pytest.approx(stats.wilcoxon(a, b).pvalue)


def test_paired_t_reproduces_the_printed_p_values_of_table_4():
    # t and p as printed by Huang et al.; five folds leave four degrees of freedom
    for t, p in [(-1.93, 0.125), (-2.35, 0.078), (-5.45, 0.005), (-7.63, 0.002), (0.27, 0.8)]:
        noise = np.array([1.0, -1.0, 2.0, -2.0, 0.0])
        difference = noise + t * noise.std(ddof=1) / np.sqrt(5)
        found = statistics.paired_t(difference, np.zeros(5))
        assert found[0] == pytest.approx(t) and found[1] == pytest.approx(p, abs=2e-3)


def test_nadeau_bengio_widens_the_naive_test_by_its_factor():
    a, b = np.random.default_rng(3).normal(size=(2, 5))
    naive, corrected = statistics.paired_t(a, b), statistics.corrected_paired_t(a, b, 0.25)
    assert corrected[0] == pytest.approx(naive[0] * np.sqrt((1 / 5) / (1 / 5 + 0.25)))
    assert corrected[1] == pytest.approx(2 * stats.t.sf(abs(corrected[0]), 4)) and corrected[1] > naive[1]


def test_intervals_belong_to_the_tests():
    a, b = np.random.default_rng(3).normal(size=(2, 5))
    assert statistics.corrected_interval(a, b, 0) == pytest.approx(stats.ttest_rel(a, b).confidence_interval(0.95))
    p = statistics.corrected_paired_t(a, b, 0.25)[1]
    low, high = statistics.corrected_interval(a, b, 0.25, 1 - p)
    assert min(abs(low), abs(high)) < 1e-9 < high - low  # one end is zero at the level of p
    assert np.isnan(statistics.corrected_interval([1.0], [2.0], 0.25)).all()


def test_a_prediction_interval_holds_one_more_draw_as_often_as_it_says():
    draws = np.random.default_rng(0).normal(3.0, 2.0, size=(4000, 6))
    low, high = np.array([statistics.prediction_interval(row[:5]) for row in draws]).T
    assert ((low < draws[:, 5]) & (draws[:, 5] < high)).mean() == pytest.approx(0.95, abs=0.01)
    assert np.isnan(statistics.prediction_interval([1.0])).all()


def test_identical_and_constant_differences():
    a = np.array([1.0, 2.0, 3.0])
    assert statistics.paired_t(a, a) == (0.0, 1.0)
    t, p = statistics.paired_t(a + 1, a)
    assert t > 1e6 and p < 1e-9
    assert statistics.paired_t(a / 3 * 3e6 + 1e-9, a * 1e6) == (0.0, 1.0)
    assert np.isnan(statistics.paired_t([1.0], [2.0])).all()


@pytest.mark.parametrize("unit", [1e-20, 1e20])
def test_tests_do_not_depend_on_the_unit_of_the_scores(unit):
    a, b = np.array([1.0, 2.0, 3.0]), np.array([1.1, 2.4, 3.2])
    assert statistics.paired_t(unit * a, unit * b) == pytest.approx(statistics.paired_t(a, b))


def test_holm_by_hand():
    adjusted = statistics.holm([0.01, 0.04, 0.03, np.nan, 0.005])
    assert adjusted[[0, 1, 2, 4]] == pytest.approx([0.03, 0.06, 0.06, 0.02]) and np.isnan(adjusted[3])
    assert statistics.holm([0.9, 0.8]) == pytest.approx([1.0, 1.0])


def test_models_scored_on_other_folds_are_not_compared():
    scores = pd.DataFrame({"part": "test", "model": ["a", "a", "b"], "fold": [0, 1, 0], "mae": [1.0, 2.0, 3.0]})
    with pytest.raises(ValueError, match="different folds"):
        statistics.compare(scores, "a", "b")


def test_the_correction_takes_the_sizes_of_the_folds():
    folds, errors = np.repeat([0, 1, 2, -1], [15, 15, 15, 55]), np.random.default_rng(4).normal(size=(100, 2))
    parts = []
    for model, error in zip("ab", errors.T, strict=True):
        table = pd.DataFrame({"part": "test", "seed": 0, "fold": folds, "target": 0.0, "prediction": error})
        parts.append(statistics.fold_scores(table[folds >= 0], 100).assign(model=model))
    scores = pd.concat(parts)
    assert scores["n"].tolist() == [15] * 6 and scores["train_rows"].tolist() == [85] * 6
    x, y = (np.abs(errors[:45, k]).reshape(3, 15).mean(1) for k in (0, 1))
    tests = statistics.compare(scores, "a", "b")
    assert (tests["t_corrected"], tests["p_corrected"]) == pytest.approx(statistics.corrected_paired_t(x, y, 15 / 85))
    interval = tests["difference_low"], tests["difference_high"]
    assert interval == pytest.approx(statistics.corrected_interval(x, y, 15 / 85)) and interval[0] < interval[1]
    one = statistics.compare(scores[scores["fold"] == 0], "a", "b")
    assert np.isnan([one["p"], one["p_corrected"], one["p_wilcoxon"]]).all()


@pytest.mark.parametrize("task", TASKS)
def test_the_mean_predictor_equals_the_matbench_dummy(mirror, task):
    from fit_baseline import fit_baseline

    from matpretrain import estimators

    table = read_table(mirror / f"tables/matbench_{task}.csv.gz", "target")
    table["fold"] = outer_folds(len(table))
    predictions = fit_baseline(table, np.zeros((len(table), 1)), lambda: estimators.mean(0), 1, print).assign(seed=0)
    summary = statistics.summarise(statistics.fold_scores(predictions))
    published = pd.read_csv(PROJECT / "resources/paper/matbench_submissions.csv").set_index(["dataset", "submission"])
    expected = published.loc[(f"matbench_{task}", "dummy")]
    assert summary["mae_mean"] == pytest.approx(expected["mean"], abs=5e-5)
    assert summary["mae_std"] == pytest.approx(expected["std_population"], abs=5e-5)


OWN = {name: name for name in ("first", "second", "third")}  # materials of its own for each


def nested_scores(ratios, sizes=("10%", "20%")):
    """Scores of models a and b; the MAE of b in (dataset, fold) is that of a times its ratio, at every size."""
    rows = []
    for (dataset, folds), (place, size) in itertools.product(ratios.items(), enumerate(sizes)):
        for fold, ratio in enumerate(folds):
            mae = 2.0 / (1 + place) + 0.1 * fold
            common = {"dataset": dataset, "size": size, "fold": fold, "seed": 0, "n": 30, "pool_rows": 70}
            rows += [{**common, "model": "a", "mae": mae}, {**common, "model": "b", "mae": mae * ratio}]
    return pd.DataFrame(rows)


def test_nested_comparison_by_hand():
    ratios = {"first": [0.9, 0.8, 0.95], "second": [0.7, 0.9, 0.8], "third": [1.1, 1.05, 1.2]}
    table = compare_nested(nested_scores(ratios), "b", "a", OWN).set_index("dataset")
    logs = {name: np.log(values) for name, values in ratios.items()}
    assert table["cells"].tolist() == [2, 2, 2, 6] and table["wins"].tolist() == [2, 2, 0, 4]
    for name, values in logs.items():
        assert table.loc[name, "change"] == pytest.approx(100 * (np.exp(values.mean()) - 1))
        t = values.mean() / np.sqrt((1 / 3 + 30 / 70) * values.var(ddof=1))  # 30 test rows, 70 others
        assert table.loc[name, "t"] == pytest.approx(t) and table.loc[name, "p"] == pytest.approx(2 * stats.t.sf(abs(t), 2))
        half = stats.t.ppf(0.975, 2) * values.mean() / t
        assert table.loc[name, "change_high"] == pytest.approx(100 * np.expm1(values.mean() + abs(half)))
    means = [values.mean() for values in logs.values()]
    expected = stats.ttest_1samp(means, 0)
    assert (table.loc["all", "t"], table.loc["all", "p"]) == pytest.approx((expected.statistic, expected.pvalue))
    assert table.loc["all", "p_cells"] == pytest.approx(stats.binomtest(4, 6).pvalue)
    assert table["p_flip"].notna().tolist() == [False, False, False, True]


def test_datasets_of_the_same_materials_are_one_unit():
    ratios = {"first": [0.9, 0.8, 0.95], "second": [0.7, 0.9, 0.8], "third": [1.1, 1.05, 1.2]}
    together = compare_nested(nested_scores(ratios), "b", "a", OWN | {"third": "first"}).set_index("dataset")
    alone = compare_nested(nested_scores(ratios), "b", "a", OWN).set_index("dataset")
    pd.testing.assert_frame_equal(together.drop("all"), alone.drop("all"))
    means = {name: np.log(values).mean() for name, values in ratios.items()}
    units = [(means["first"] + means["third"]) / 2, means["second"]]
    assert (together.loc["all", "units"], alone.loc["all", "units"]) == (2, 3)
    assert together.loc["all", "change"] == pytest.approx(100 * np.expm1(np.mean(units)))
    assert together.loc["all", "p"] == pytest.approx(stats.ttest_1samp(units, 0).pvalue)
    assert together.loc["all", "p_flip"] == 0.5
    one = compare_nested(nested_scores(ratios), "b", "a", dict.fromkeys(OWN, "same")).set_index("dataset").loc["all"]
    assert one["units"] == 1 and one["change"] == pytest.approx(alone.loc["all", "change"])
    assert np.isnan([one["p"], one["change_low"]]).all()


def test_more_sizes_of_the_same_folds_are_no_more_evidence():
    ratios = {"first": [0.9, 0.8, 0.95], "second": [0.7, 0.9, 0.8]}
    few, many = (
        compare_nested(nested_scores(ratios, [f"{10 * k}%" for k in range(1, n)]), "b", "a", OWN).set_index("dataset")
        for n in (3, 8)
    )
    assert many.loc["all", "p"] == pytest.approx(few.loc["all", "p"]) and many.loc["all", "p_flip"] == few.loc["all", "p_flip"]
    assert many.loc["all", "p_cells"] < few.loc["all", "p_cells"]  # the naive test takes them for evidence


def test_a_dataset_that_one_model_lacks_does_not_count():
    scores = nested_scores({"first": [0.9, 0.8], "second": [0.9, 0.9]})
    scores = scores[(scores["model"] == "a") | (scores["dataset"] == "first")]
    assert compare_nested(scores, "b", "a", OWN)["dataset"].tolist() == ["first", "all"]
    apart = scores[(scores["model"] == "a") == (scores["size"] == scores["size"].iloc[0])]
    assert compare_nested(apart, "b", "a", OWN).empty


def test_errors_that_rounding_alone_tells_apart_are_the_same():
    rounding = mean_ratio(np.full(5, 2.2e-16), 0.25)
    assert (rounding["t"], rounding["p"], rounding["change"]) == (0.0, 1.0, 0.0)
    assert mean_ratio(np.full(5, 1e-3), 0.25)["p"] < 1e-9
    a = np.linspace(1, 2, 10)
    assert statistics.wilcoxon(a, a * (1 - 4e-16)) == (0.0, 1.0)
    assert statistics.wilcoxon(a, a * (1 - 1e-9))[1] < 0.01
    assert np.isnan(statistics.paired_t([np.nan, 1.0], [1.0, 1.0])).all()
    nested = compare_nested(nested_scores({"first": [1 - 4e-16] * 3, "second": [0.9] * 3}), "b", "a", OWN).set_index("dataset")
    assert nested["wins"].to_dict() == {"first": 0, "second": 2, "all": 2}
    part = pd.DataFrame(
        {"mae_a": [1.0 - 2e-16, 0.9e-6], "mae_b": [1.0, 1e-6], "paper_change": 0.0, "model": "b", "scratch": "a"}
    ).assign(dataset=["first", "second"])
    assert over_datasets(part, OWN)["wins"] == 1


def test_sign_flips_are_counted_exactly():
    values = [0.3, 0.1, -0.05]
    sums = [abs(np.dot(signs, values)) for signs in itertools.product((1, -1), repeat=3)]
    assert sign_flip(values) == pytest.approx(np.mean(np.array(sums) >= abs(sum(values)) - 1e-12))
    assert sign_flip([1, 1, 1]) == 0.25 and np.isnan(sign_flip([]))
