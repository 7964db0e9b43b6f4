"""Tables and figures for readers, on numbers whose result is known."""

import json
from io import StringIO

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import tabulate_huang2024
import tabulate_probes
import tabulate_tests
from compare_models import compare_models
from scipy import stats

from matpretrain import plots, plots_finder, statistics
from matpretrain.files import read_csv, write_csv
from matpretrain.statistics import DRAWS
from matpretrain.tables import markdown_table, printed

LABELS = {"a": "Alloys", "b": "Borides", "roost": "Roost", "rf": "RF", "crabnet": "CrabNet"}
PAPER = pd.DataFrame(
    [("a", "roost", 6.5, 0.5, None), ("a", "rf", 9.0, np.nan, "the mean is another table's"), ("a", "crabnet", 5.0, 1.0, None),
     ("b", "rf", 300.0, 10.0, None), ("c", "roost", 1.0, 0.1, None), ("a", "atomsets", np.nan, np.nan, None)],
    columns=["dataset", "model", "paper_mean", "paper_std", "suspect"],
).assign(unit="eV")  # fmt: skip


@pytest.fixture
def ours(tmp_path):
    """Our rows of two datasets: the network has two seeds whose errors of opposite signs cancel in their ensemble."""
    paths, made = [], []
    for dataset, model, errors in (("a", "roost", (6.0, -6.0)), ("a", "rf", (9.5,)), ("b", "rf", (250.0,))):
        folder = tmp_path / "finetune" / dataset / model
        parts = [
            pd.DataFrame({"id": [f"{k}-{i}" for i in range(4)], "fold": k, "part": part, "target": 1.0, "seed": seed,
                          "prediction": 1.0 + error * (1 + k) / 1.5, "aleatoric_std": np.nan})
            for seed, error in enumerate(errors) for k in (0, 1) for part in ("test", "validation")
        ]  # fmt: skip
        folder.mkdir(parents=True)
        pd.concat(parts).to_csv(folder / "predictions.csv", index=False)
        paths.append(folder / "predictions.csv")
        for seed in range(len(errors)):
            record = {"device": "EPYC", "wall_seconds": 10.04 + seed, "code_version": "abc"}
            made.append(folder / f"seed{seed}" / "provenance.json")
            made[-1].parent.mkdir()
            made[-1].write_text(json.dumps(record))
    return tabulate_huang2024.our_rows(paths, tabulate_huang2024.provenance(made))


def test_our_rows_are_means_over_seeds_and_ensembles(ours):
    rows = ours.set_index(["dataset", "model"])
    assert list(rows.index) == [("a", "roost"), ("a", "roost-ensemble"), ("a", "rf"), ("b", "rf")]
    assert rows["mae_mean"].tolist() == pytest.approx([6, 0, 9.5, 250]) and rows["n_seeds"].tolist() == [2, 2, 1, 1]
    assert rows["mae_std"].tolist() == pytest.approx([2, 0, 9.5 / 3, 250 / 3])
    assert rows["wall_seconds"].tolist() == [21.1, 21.1, 10.0, 10.0] and set(rows["device"]) == {"EPYC"}


def test_the_paper_stands_beside_our_rows(ours):
    table = tabulate_huang2024.tabulate(ours, PAPER)
    models = table.groupby("dataset", sort=False)["model"].apply(list).to_dict()
    assert models == {"a": ["roost", "roost-ensemble", "rf", "crabnet"], "b": ["rf"]}, "of datasets and numbers that are there"
    published = pd.DataFrame(
        [("a", "dummy", 20.0, 2.0), ("b", "CrabNet", 123.0, 4.56), ("a", "other", 1.0, 1.0)],
        columns=["dataset", "submission", "mean", "std_population"],
    )
    text = tabulate_huang2024.markdown(table, published, LABELS, {"a": "eV", "b": "MPa"}, {"a": 0.1, "b": 0})
    head, _, alloys, borides, _, *notes = text.splitlines()
    assert head == (
        "| dataset | unit | Roost, ours | Roost, paper | Roost ensemble, ours | RF, ours | RF, paper "
        "| Matbench dummy, published | CrabNet, published |"
    )
    assert alloys == (
        "| Alloys | eV | 6.0000 ± 2.0000 | 6.5000 ± 0.5000 | 0.0000 ± 0.0000 | 9.5000 ± 3.1667 | 9.0000 (!) | 20.0000 ± 2.0000 |  |"
    )
    assert borides == "| Borides | MPa |  |  |  | 250.0 ± 83.3 | 300.0 ± 10.0 |  | 123.0 ± 4.6 |"
    assert notes[1].endswith("(seeds: Alloys 2).") and notes[3] == "* (!) Alloys, RF: the mean is another table's."
    assert "(Alloys 10%); baselines learn all of them" in notes[2]


def test_what_others_printed_stands_beside_the_same_rows_and_folds_only(tmp_path):
    write_csv(PAPER, tmp_path / "paper.csv")
    found = printed(tmp_path / "paper.csv", ["a", "mine"])
    assert found["dataset"].tolist() == ["a"] * 4 and list(found.columns) == list(PAPER.columns)
    assert not len(printed(tmp_path / "paper.csv", []))


def test_every_pair_is_tested_and_adjusted_over_the_whole_table():
    draw = np.random.default_rng(0)
    scores = pd.DataFrame(
        [(d, m, k, 2 + 0.3 * i + draw.normal(scale=0.2)) for d in "ab" for i, m in enumerate("xyz") for k in range(5)],
        columns=["dataset", "model", "fold", "mae"],
    ).assign(part="test", seed=0, n=20, train_rows=80)
    table = compare_models(scores, list("xyz"))
    assert [*table["model_a"] + table["model_b"]] == ["xy", "xz", "yz"] * 2
    for p in ("p", "p_corrected", "p_wilcoxon"):
        assert table[f"{p}_holm"].tolist() == pytest.approx(statistics.holm(table[p]))
        assert table[f"{p}_holm"].min() == pytest.approx(6 * table[p].min())


@pytest.mark.parametrize(
    ("words", "drawn"), [("$E_g$", True), (r"$\si{eV}$", False), ("10 $ per kg, 5 $", True), ("a_b^c", True)]
)
def test_words_that_are_no_formula_are_drawn_as_they_are(tmp_path, words, drawn):
    figure, axes = plt.subplots()
    axes.set_xlabel(words)
    plots.save(figure, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").exists() and axes.xaxis.label.get_parse_math() == drawn


def lines_of(axes):
    return {line.get_label(): np.asarray(line.get_ydata(), float).tolist() for line in axes.lines}


def test_the_figure_of_a_pretraining_holds_its_history():
    history = pd.DataFrame({"epoch": [1, 2], "loss": [3.0, 1.0], "validation_loss": [4.0, 2.0]})
    history = history.assign(denoising_mae=[0.9, 0.8], denoising_training_mae=[0.7, 0.6], gradient_norm=[5.0, 4.0])
    panels = plots.pretraining(history, ["denoising"], "CDSSL").axes
    assert [lines_of(axes) for axes in panels] == [
        {"training": [3, 1], "validation": [4, 2]},
        {"training": [0.7, 0.6], "validation": [0.9, 0.8]},
        {"training": [5, 4]},
    ]
    plt.close("all")


def test_the_figure_of_the_search_holds_candidates_and_spectra():
    candidates = pd.DataFrame({"formula": ["TiN", "Au"], "crossover": [2.0, 3.0], "measured_crossover": [2.5, 3.5]})
    candidates = candidates.assign(loss=[0.5, 1.0], measured_loss=[0.7, 0.9])
    energy = np.array([1.0, 2.0, 3.0])
    spectra = np.array([-1 + 1j, 0 + 2j, 1 + 3j]), np.array([-2 + 1j, np.nan, 2 + 1j])
    figure = plots_finder.near_zero(candidates, energy, [("TiN", 2.0, 2.5, *spectra)], 2.0, "search")
    left, _, spectrum, empty = figure.axes[:4]
    predicted, measured = (found.get_offsets() for found in left.collections)
    assert predicted.tolist() == [[2, 0.5], [3, 1]] and measured.tolist() == [[2.5, 0.7], [3.5, 0.9]]
    drawn = lines_of(spectrum)
    assert drawn["Re ε, predicted"] == [-1, 0, 1] and drawn["Im ε, predicted"] == [1, 2, 3]
    assert drawn["Re ε, measured"][::2] == [-2, 2] and np.isnan(drawn["Re ε, measured"][1]) and not empty.axison
    crossings = {line.get_label(): line.get_xdata()[0] for line in spectrum.lines if "crossover" in line.get_label()}
    assert crossings == {"predicted crossover": 2.0, "measured crossover": 2.5}
    plt.close("all")


def test_the_figure_of_two_modes_holds_maps_and_correlations():
    maps = {"without": np.array([[0.0, 1.0], [2.0, 3.0]]), "with": np.array([[4.0, 5.0], [6.0, 7.0]])}
    pairs = [(i, j, 0.1 * i + 0.5 * j) for i in (1, 2) for j in (1, 2)]
    history = pd.DataFrame({"epoch": [1, 2], "loss": [2.0, 1.0], "mae": [4.0, 3.0], "fold": 0, "seed": 0})
    figure = plots_finder.modes(
        dict.fromkeys(maps, history), maps, np.array([0.0, 1.0]),
        pd.DataFrame(pairs, columns=["component_a", "component_b", "r"]), "gap (eV)", "eV", "Gaps",
    )  # fmt: skip
    left, right, table = figure.axes[2:5]
    assert [axes.collections[0].get_offsets().tolist() for axes in (left, right)] == [
        points.tolist() for points in maps.values()
    ]
    assert [text.get_text() for text in table.texts] == ["0.60", "1.10", "0.70", "1.20"]
    plt.close("all")


def test_a_probe_is_bold_where_no_untrained_encoder_would_be():
    before = [{"epoch": 0, "seed": seed, "mae_mean": mae} for seed, mae in enumerate((10.0, 12.0, 14.0))]
    # 12 - 4.303 * 2 * sqrt(4 / 3) = 2.06
    after = [{"epoch": epoch, "seed": 0, "mae_mean": mae} for epoch, mae in ((1, 2.1), (2, 2.0))]
    table = pd.DataFrame(before + after).assign(dataset="steels", pretraining="ssl")
    text = tabulate_probes.markdown(table, {"steels": "Steels"}, {"steels": "MPa"})
    assert "| Steels | MPa | ssl | 12 ± 2 | 2.1 | **2** |" in text and "over 3 initial weights" in text


@pytest.mark.parametrize("seed", [0, 9, 12])
def test_a_strategy_of_any_seed_stands_beside_as_many_untrained_encoders(seed):
    own = pd.DataFrame({"epoch": [0, 1, 2], "seed": seed, "mae_mean": 1.0})
    table = tabulate_probes.beside(own, pd.DataFrame({"epoch": 0, "seed": range(DRAWS), "mae_mean": 2.0}))
    before = table[table["epoch"] == 0]
    assert len(before) == before["seed"].nunique() == DRAWS and before["mae_mean"].tolist().count(1.0) == 1


def test_a_bar_in_a_label_does_not_end_a_cell():
    assert markdown_table(["a", "b|c"], [["|d|", 1]]).splitlines() == [r"| a | b\|c |", "|---|---|", r"| \|d\| | 1 |"]


def scores_of(dataset, models, shift=0.0):
    return [
        {
            "dataset": dataset,
            "model": m,
            "part": "test",
            "seed": 0,
            "fold": k,
            "n": 20,
            "train_rows": 80,
            "mae": v + 0.1 * k + shift,
        }
        for m, values in models.items()
        for k, v in enumerate(values)
    ]


def test_tests_against_the_network_without_pretraining():
    models = {"roost": [3, 3, 3.1, 3, 3], "roost-ssl": [2, 2.2, 2, 2, 2.1], "roost-fl": [3, 2.9, 3.1, 3.1, 2.8], "rf": [9] * 5}
    scores = scores_of("d", models)
    tests = pd.DataFrame([{"dataset": "d", "model": "roost-ssl", "paper_t": -1.9, "paper_p": 0.1, "suspect": None}])
    means = pd.DataFrame({"dataset": "d", "model": ["roost", "roost-ssl", "rf"], "paper_mean": [4.0, 3.0, np.nan]})
    own = {"d": "d", "e": "e"}
    pretrained, labels = {"roost-ssl": "roost", "roost-fl": "roost"}, {"roost-ssl": "Roost-SSL", "roost-fl": "Roost-FL"}
    table = tabulate_tests.tabulate(pd.DataFrame(scores), pretrained, tests, means, own)
    assert table["model"].tolist() == ["roost-ssl", "roost-fl"]
    row, other = table.iloc[0], table.iloc[1]
    assert row["difference"] == pytest.approx(-0.96) and row["t"] < 0 and row["p"] < row["p_corrected"] < other["p_corrected"]
    assert row["change_high"] < 0 < other["change_high"] and row["paper_change"] == pytest.approx(-25)
    assert row["change_low"] + row["change_high"] == pytest.approx(2 * row["change"])
    for p in ("p", "p_corrected", "p_wilcoxon"):
        assert [row[f"{p}_holm"], other[f"{p}_holm"]] == pytest.approx([2 * row[p], max(2 * row[p], other[p])])
    assert "| d | Roost-SSL | -29.8 % | -" in tabulate_tests.markdown(table, labels, own)

    more = tabulate_tests.tabulate(pd.DataFrame(scores + scores_of("e", models, 5.0)), pretrained, tests, means, own)
    assert more["dataset"].tolist() == ["d", "d", "e", "e", "all", "all"]
    ssl = more[more["model"] == "roost-ssl"]
    ratios = np.log(ssl["mae"] / ssl["mae_scratch"])[:2]
    assert ssl.iloc[2]["change"] == pytest.approx(100 * np.expm1(ratios.mean())) and ssl.iloc[2]["wins"] == 2
    assert ssl.iloc[2]["p"] == pytest.approx(stats.ttest_1samp(ratios, 0).pvalue)
    assert ssl["p_corrected_holm"].notna().tolist() == [True, True, False] and ssl["n_datasets"].tolist()[2] == 2
    assert np.isnan(ssl.iloc[2]["paper_change"])  # the paper has one of the two
    both = pd.concat([means, means.assign(dataset="e", paper_mean=[4.0, 2.0, np.nan])])
    printed = tabulate_tests.tabulate(pd.DataFrame(scores + scores_of("e", models, 5.0)), pretrained, tests, both, own)
    assert printed.iloc[-2]["paper_change"] == pytest.approx(100 * (np.sqrt(0.75 * 0.5) - 1))
    written = tabulate_tests.markdown(more, labels, own)
    assert "| all 2 (2 better) | Roost-SSL | " in written and "one unit" not in written

    three = scores + scores_of("e", models, 5.0) + scores_of("f", {m: [v**2 for v in values] for m, values in models.items()})
    same = own | {"f": "d"}
    table = tabulate_tests.tabulate(pd.DataFrame(three), pretrained, tests, means, same)
    last = table.iloc[-2]
    logs = np.log(table["mae"] / table["mae_scratch"])[table["model"] == "roost-ssl"].to_numpy()
    units = [(logs[0] + logs[2]) / 2, logs[1]]
    assert (last["n_datasets"], last["n_units"], last["wins"]) == (3, 2, 3)
    assert last["change"] == pytest.approx(100 * np.expm1(np.mean(units))) and logs[0] != pytest.approx(logs[2])
    assert last["p"] == pytest.approx(stats.ttest_1samp(units, 0).pvalue)
    assert "Those of the same materials are one unit, their mean: d and f." in tabulate_tests.markdown(table, labels, same)
    figure = plots.gains(table, labels)
    assert figure.axes[0].texts[0].get_text() == "of 3, 2 units"
    plt.close(figure)
    wider = same | {"g": "g"}
    lonely = three + [s | {"dataset": "g"} for s in scores if s["model"] != "roost-fl"]
    figure = plots.gains(
        pd.read_csv(StringIO(tabulate_tests.tabulate(pd.DataFrame(lonely), pretrained, tests, means, wider).to_csv())), labels
    )
    assert [[t.get_text() for t in axes.texts] for axes in figure.axes[:2]] == [["of 4, 3 units"], ["of 3, 2 units"]]
    one = [s for s in three if s["model"] != "roost-fl" or s["dataset"] == "d"]
    figure = plots.gains(tabulate_tests.tabulate(pd.DataFrame(one), pretrained, tests, means, same), labels)
    assert [[t.get_text() for t in axes.texts] for axes in figure.axes[:2]] == [["of 3, 2 units"], []]
    plt.close("all")
    figure = plots.gains(more, labels)
    axes = figure.axes[0]
    assert [t.get_text() for t in axes.get_yticklabels()] == ["d", "e", "mean"] and [t.get_text() for t in axes.texts] == [
        "of 2"
    ]
    dots, diamonds = ([line for line in axes.lines if line.get_marker() == marker] for marker in "oD")
    assert dots[0].get_xdata() == pytest.approx(ssl["change"].to_numpy(float))
    assert diamonds[0].get_xdata() == pytest.approx([-25, np.nan, np.nan], nan_ok=True)
    ends = np.array([segment[:, 0] for segment in axes.collections[0].get_segments()])
    assert ends == pytest.approx(ssl[["change_low", "change_high"]].to_numpy(float))
    plt.close(figure)


def test_maes_far_from_the_best_are_numbers():
    rows = [("a", "roost", 2.0, 1.5), ("a", "rf", 2.5, 3.6), ("a", "dummy", 9.0, np.nan), ("b", "rf", 5.0, np.nan)]
    table = pd.DataFrame(rows, columns=["dataset", "model", "mae_mean", "paper_mean"]).assign(mae_std=0.1)
    figure = plots.mae_points(table, LABELS, {"a": "eV", "b": "eV"})
    alloys, borides = figure.axes[:2]
    assert [t.get_text() for t in alloys.texts] == ["paper 3.6", "9"]
    assert [t.get_text() for t in borides.texts] == ["not run", "not run"]
    assert alloys.get_xlim()[1] < 3 and [t.get_text() for t in alloys.get_yticklabels()] == ["Roost", "RF", "dummy"]
    diamonds = [line for line in alloys.lines if line.get_marker() == "D"]
    assert [line.get_xdata()[0] for line in diamonds] == [1.5]
    plt.close(figure)


def test_floats_are_read_as_they_were_written(tmp_path):
    values = np.random.default_rng(0).normal(size=3000) * 10.0 ** np.random.default_rng(1).integers(-9, 9, 3000)
    write_csv(pd.DataFrame({"value": values}), tmp_path / "out.csv")
    assert (read_csv(tmp_path / "out.csv")["value"] == values).all()
