"""Training subsets: the draw, what honours it, the table and the figure."""

import dataclasses

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import tabulate_subsets
from conftest import PROJECT
from score_subsets import score_run

from matpretrain import plots
from matpretrain.files import DataError, read_csv
from matpretrain.sources import read_embedded
from matpretrain.splits import fold_numbers, inner_split, outer_folds
from matpretrain.subsets import outer_split


def table_of(rows):
    table = read_embedded("pymatgen_exp_formation_energy").sample(rows, random_state=1).reset_index(drop=True)
    return table.assign(fold=outer_folds(rows))


def test_smaller_draws_lie_within_larger_ones_and_test_parts_stay_whole():
    folds = outer_folds(10987)
    for fold in range(5):
        whole, test = outer_split(folds, fold)
        assert np.array_equal(whole, np.flatnonzero(folds != fold)) and np.array_equal(test, np.flatnonzero(folds == fold))
        inner = whole
        for size in (4000, 2000, 1000, 500):
            train, same_test = outer_split(folds, fold, str(size))
            assert len(set(train)) == size and set(train) < set(inner) and np.array_equal(np.sort(train), train)
            assert np.array_equal(same_test, test) and np.array_equal(train, outer_split(folds, fold, str(size))[0])
            inner = train
    first, second = (outer_split(folds, fold, "500")[0] for fold in (0, 1))
    assert len(np.intersect1d(first, second)) < 60  # 500 of 8,790 by chance: 28


FAULTS = "Training subsets"


def test_more_rows_than_a_fold_has_are_refused_in_one_line(fault):
    folds = outer_folds(50)
    assert len(outer_split(folds, 0, "40")[0]) == 40
    with fault("A subset of more rows than a fold has", "fold 0 has only 40 training rows; make it smaller"):
        outer_split(folds, 0, "41")
    for what, size in {"A subset of 0": "0", "A subset of 1": "1", "A subset of 1%": "1%"}.items():
        with fault(what, f"a subset of {size} has", "a training needs at least 2; make it larger"):
            outer_split(folds, 0, size)


def test_a_training_part_of_one_row_is_refused(fault):
    with fault("Two rows in two folds", "fold 0 has 1 training rows, a training needs at least 2; add rows"):
        outer_split(np.array([0, 1]), 0)


def test_shares_are_of_all_rows_and_splits_have_disjoint_test_parts():
    folds = outer_folds(636, 3, test_fraction=0.3)
    assert fold_numbers(folds) == [0, 1, 2] and np.unique(folds, return_counts=True)[1].tolist() == [66, 190, 190, 190]
    for fold in range(3):
        test = outer_split(folds, fold)[1]
        nested = [outer_split(folds, fold, f"{percent}%")[0] for percent in (10, 40, 70)]
        assert [len(rows) for rows in nested] == [64, 254, 445]
        assert set(nested[0]) < set(nested[1]) < set(nested[2]) and not set(nested[2]) & set(test)
    with pytest.raises(DataError, match="a subset of 80% has 509 rows, but fold 0 has only 446 training rows"):
        outer_split(folds, 0, "80%")
    with pytest.raises(ValueError, match="4 test parts of 0.3 of the rows overlap"):
        outer_folds(100, 4, test_fraction=0.3)


def test_baselines_learn_from_the_drawn_rows_only():
    from fit_baseline import fit_baseline

    from matpretrain import estimators

    table = table_of(100)
    predictions = fit_baseline(table, np.zeros((100, 1)), lambda: estimators.mean(0), 1, lambda text: None, size="30")
    assert sorted(predictions["id"]) == sorted(table["id"])
    for fold, part in predictions.groupby("fold"):
        drawn = outer_split(table["fold"].to_numpy(), fold, "30")[0]
        assert part["prediction"].to_numpy() == pytest.approx(table["target"].to_numpy()[drawn].mean())


def test_networks_split_the_drawn_rows_into_training_and_validation(monkeypatch):
    from matpretrain import supervised
    from matpretrain.composition import matscholar_vectors, parse_formulas
    from matpretrain.recipe import Recipe

    table = table_of(100)
    seen = []

    def fit_cohort(cohort, loss, trains, evaluate, recipe, **options):
        seen.extend(train.numpy() for train in trains)
        return [[{"epoch": 0}]]

    monkeypatch.setattr(supervised, "fit_cohort", fit_cohort)
    recipe = Recipe(
        epochs=1, batch_size=16, min_steps=1, learning_rate=1e-3, weight_decay=0.0, schedule="constant",
        warmup=0.0, clip=0.0, average=0.0, select="last", patience=0, precision="float32",
    )  # fmt: skip
    training = supervised.Training(
        table=table, examples=parse_formulas(table["formula"].tolist())[0], encoder="roost",
        arguments={"element_vectors": matscholar_vectors()}, weights=None, loss="robust_l1", recipe=recipe,
        inner_fraction=0.1, size="30", seed=0, device="cpu",
    )  # fmt: skip
    predictions = supervised.train_members([(training, 2)], lambda text: None)[0][0]
    drawn, test = outer_split(table["fold"].to_numpy(), 2, "30")
    train, validation = inner_split(drawn, 0.1, 0, 2)
    ids = table["id"].to_numpy()
    assert np.array_equal(seen[0], train) and len(train) == 27
    by_part = predictions.groupby("part")["id"].apply(list)
    assert by_part["validation"] == ids[validation].tolist() and by_part["test"] == ids[test].tolist()
    drawn = [outer_split(table["fold"].to_numpy(), k, "30")[0] for k in range(5)]
    assert training.trained_rows().tolist() == sorted({*np.concatenate(drawn)}) and len(training.trained_rows()) < 100
    one = dataclasses.replace(training, table=table.assign(fold=np.where(table["fold"] == 0, 0, -1)), size=None)
    assert one.trained_rows().tolist() == np.flatnonzero(table["fold"] != 0).tolist()


def predictions(errors):
    """Predictions of five folds of ten rows whose MAE in fold k is errors[k]."""
    parts = [{"id": f"{k}-{i}", "fold": k, "seed": 0, "part": "test", "target": 1.0 * i, "prediction": i + e}
             for k, e in enumerate(errors) for i in range(10)]  # fmt: skip
    return pd.DataFrame(parts)


@pytest.fixture
def subset_table():
    base, better = np.array([1.0, 1.1, 0.9, 1.0, 1.0]), np.array([0.9, 1.0, 0.8, 0.9, 0.9])
    runs = [("matbench_log_gvrh", m, s) for m in ("roost", "roost-ssl") for s in ("20", "30", "full")]
    errors = [2 * base, base, 0.5 * base, 1.9 * base, better, 0.5 * base]
    scores = pd.concat(score_run(predictions(e), run, 50) for run, e in zip(runs, errors, strict=True))
    ours = tabulate_subsets.our_rows(scores.assign(structures="as published"), "roost")
    paper = read_csv(PROJECT / "resources/paper/huang2024_subsets.csv", dtype={"size": str})
    return tabulate_subsets.tabulate(ours, paper)


def test_improvements_by_hand(subset_table):
    assert subset_table["model"].tolist() == ["roost"] * 3 + ["roost-ssl"] * 4
    assert subset_table["size"].tolist() == ["20", "30", "full", "20", "30", "full", "mean"]
    assert subset_table["train_rows"].tolist()[:6] == [20, 30, 40, 20, 30, 40]
    assert score_run(predictions(np.ones(5)), ("d", "roost", "20"), 50)["pool_rows"].tolist() == [40] * 5
    by_size = subset_table.query("model == 'roost-ssl'").set_index("size")
    assert by_size["improvement"].to_dict() == pytest.approx({"20": 5.0, "30": 10.0, "full": 0.0, "mean": 7.5})
    assert by_size.loc["20", "improvement_std"] == pytest.approx(0, abs=1e-9)
    ratio = 1 - np.array([0.9, 1.0, 0.8, 0.9, 0.9]) / np.array([1.0, 1.1, 0.9, 1.0, 1.0])
    assert by_size.loc["30", "improvement_std"] == pytest.approx(100 * ratio.std())
    assert by_size["paper_improvement"].dropna().to_dict() == {"mean": 4.67}
    assert subset_table.query("model == 'roost'")["improvement"].isna().all()
    one = pd.Series([0.9])
    assert np.isnan(tabulate_subsets.improvements(one, one)[1]), "one fold has no spread"


def test_a_table_without_the_reference_has_no_improvement():
    scores = score_run(predictions(np.ones(5)), ("mine", "dummy", "50%"), 50)
    ours = tabulate_subsets.our_rows(scores.assign(structures=""), "roost")
    assert (
        ours["train_rows"].tolist() == [25]
        and len(ours) == 1
        and ours["improvement"].isna().all()
        and ours["mae_mean"].tolist() == [1.0]
    )


def test_the_figures_mark_the_sizes_only(subset_table, tmp_path):
    plots.style()
    part = subset_table[subset_table["mae_mean"].notna()].astype({"train_rows": float})  # as read beside means
    labels, name = {"roost": "Roost", "roost-ssl": "Roost-SSL"}, "matbench_log_gvrh"
    for draw, ticks in (
        (plots.subset_curves, ["20", "30", "40\n(all)"]),
        (plots.subset_bars, ["20", "30", "full"]),
    ):
        figure = plots.subset_panels(part, labels, {name: "log GVRH"}, {name: "log10(GPa)"}, draw)
        assert [t.get_text() for t in figure.axes[0].get_xticklabels()] == ticks
        assert [t.get_text() for t in figure.legends[0].get_texts()] == ["Roost", "Roost-SSL"]
        plots.save(figure, tmp_path / "subsets.png")
        assert plt.imread(tmp_path / "subsets.png").std() > 0.05


def test_bars_show_the_standard_error():
    plots.style()
    table = pd.DataFrame(
        {"dataset": "d", "model": ["a", "b"], "size": "10%", "train_rows": 30, "mae_mean": [1.0, 2.0], "mae_std": [0.2, 0.1],
         "n_folds": 3}
    )  # fmt: skip
    figure = plots.subset_panels(table, {"a": "A", "b": "B"}, {"d": "D"}, {"d": "eV"}, plots.subset_bars)
    bars = [c for c in figure.axes[0].containers if hasattr(c, "errorbar") and c.errorbar]
    lines = [bar.errorbar.lines[2][0].get_segments()[0][:, 1] for bar in bars]
    assert [np.ptp(line) / 2 for line in lines] == pytest.approx([0.2 / np.sqrt(2), 0.1 / np.sqrt(2)])
    plt.close(figure)
