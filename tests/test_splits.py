"""Outer folds and inner validation splits."""

import numpy as np
import pandas as pd
import pytest
from conftest import SIZES, TASKS
from prepare_dataset import prepare_dataset, shared
from small_problem import recipe

from matpretrain import sources
from matpretrain.composition import matscholar_vectors, parse_formulas
from matpretrain.files import DataError, read_csv
from matpretrain.splits import has_official_folds, inner_split, outer_folds
from matpretrain.supervised import Training, train_members

FAULTS = "Splits"


@pytest.mark.parametrize("task", TASKS)
def test_folds_and_ids_are_those_packaged_in_matbench(task):
    from matbench.metadata import mbv01_validation

    name = f"matbench_{task}"
    ids = np.array(sources.matbench_row_ids(name, SIZES[task]))
    fold = outer_folds(SIZES[task])
    for k in range(5):
        official = mbv01_validation.splits[name][f"fold_{k}"]
        assert set(ids[fold == k]) == set(official.test)
        assert set(ids[fold != k]) == set(official.train)


def test_groups_stay_together_and_too_few_rows_are_refused():
    groups = np.repeat(np.arange(20), 3)
    fold = outer_folds(60, groups=groups)
    assert all(len(set(fold[groups == g])) == 1 for g in range(20)) and set(fold) == set(range(5))
    with pytest.raises(ValueError, match="4 rows"):
        outer_folds(4)


def test_test_parts_have_their_share_of_the_rows():
    assert (outer_folds(100, 3, test_fraction=0.29) == 0).sum() == 29
    assert (outer_folds(105, 3, test_fraction=0.29) == 2).sum() == 30, "30.45 rows are 30"


def test_inner_split_is_seeded_disjoint_and_complete():
    rows = np.arange(100, 200)
    train, validation = inner_split(rows, 0.1, seed=3, fold=1)
    assert len(validation) == 10 and sorted([*train, *validation]) == rows.tolist()
    assert np.array_equal(validation, inner_split(rows, 0.1, seed=3, fold=1)[1])
    assert not np.array_equal(validation, inner_split(rows, 0.1, seed=4, fold=1)[1])
    assert [len(part) for part in inner_split(rows[:2], 0.1, 0, 0)] == [1, 1]
    assert [part.tolist() for part in inner_split(rows, 0, seed=3, fold=1)] == [sorted(rows), []]


def test_inner_split_keeps_groups_whole_and_is_the_same_where_each_has_one_row():
    rows, groups = np.arange(200)[::-1], np.repeat(np.arange(50), 4)
    train, validation = inner_split(rows, 0.1, 0, 0, groups)
    of_row = dict(zip(rows.tolist(), groups.tolist(), strict=True))
    assert len(validation) == 20 and sorted([*train, *validation]) == sorted(rows)
    assert not {of_row[r] for r in train} & {of_row[r] for r in validation}
    alone = np.random.default_rng(0).permutation(200)
    for given, expected in zip(inner_split(rows, 0.1, 3, 1, alone), inner_split(rows, 0.1, 3, 1), strict=True):
        assert np.array_equal(given, expected)
    assert [len(part) for part in inner_split(rows, 0.1, 0, 0, np.zeros(200))] == [200, 0]


def test_a_large_group_takes_no_more_than_the_share_that_is_held_out():
    rows, groups = np.arange(120), np.repeat(np.arange(31), [90] + 30 * [1])
    assert {len(inner_split(rows, 0.1, seed, 0, groups)[1]) for seed in range(40)} == {12}
    for seed in range(20):  # none fits: the smallest, and of several equal ones the first that is drawn
        assert inner_split(rows[:20], 0.1, seed, 0, np.repeat([0, 1, 2], [9, 4, 7]))[1].tolist() == [9, 10, 11, 12]
    of_equal = {tuple(inner_split(rows[:20], 0.1, seed, 0, np.repeat([0, 1], 10))[1]) for seed in range(20)}
    assert of_equal == {tuple(range(10)), tuple(range(10, 20))}


def test_rows_of_one_composition_carry_their_group_where_they_stay_together(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text("\n".join(["formula,gap", "Fe2O3,1", "O6Fe4,2", "Si,3", "NaCl,4", "ClNa,5", "KCl,6", "FeO,7"]))
    outputs = tmp_path / "table.csv", tmp_path / "compositions.npz"
    entry = {"target": "gap", "n_folds": 2}
    for split, groups in (
        ("random", None),
        ("group_by_chemical_system", [0, 0, 1, 2, 2, 3, 0]),
        ("group_by_formula", [0, 0, 1, 2, 2, 3, 4]),
    ):
        prepare_dataset("mine", entry | {"split": split}, path, "csv", "error", *outputs, print)
        table = read_csv(outputs[0])
        assert (table["group"].tolist() if "group" in table else None) == groups
    own = Training(
        table=table, examples=None, encoder="roost", arguments={}, weights=None, loss="l1", recipe=None, inner_fraction=0.3,
        size=None, seed=0, device="cpu",
    )  # fmt: skip
    for fold in range(2):
        parts = [set(table["group"].iloc[rows]) for rows in own.split(fold)]
        assert all(parts) and not parts[0] & parts[1] and not parts[0] & parts[2] and not parts[1] & parts[2]


@pytest.mark.parametrize(
    ("entry", "official"),
    [
        ({"matbench": "matbench_steels", "log10": True}, True),
        ({"matbench": "matbench_steels", "csv": "mine.csv", "fold": "part"}, False),
        ({"matbench": "matbench_steels", "csv": "mine.csv", "group": "lab"}, False),
        ({"matbench": "matbench_steels", "split_seed": 1}, False),
        ({"matbench": "matbench_steels", "n_folds": 5, "split": "random", "split_seed": 18012019}, True),
        ({"csv": "mine.csv"}, False),
    ],
)
def test_which_folds_are_the_official_ones(entry, official):
    assert has_official_folds(entry) is official


def prepared(tmp_path, text, **entry):
    """table.csv of a CSV, and what was said."""
    (tmp_path / "mine.csv").write_text(text)
    lines, outputs = [], (tmp_path / "table.csv", tmp_path / "compositions.npz")
    prepare_dataset("mine", {"target": "gap"} | entry, tmp_path / "mine.csv", "csv", "error", *outputs, lines.append)
    return read_csv(outputs[0]), lines


OWN = "formula,gap,part,lab\nFe2O3,1,10,a\nSi,2,9,a\nNaCl,3,,b\nKCl,4,9,c\nGaAs,5,10,b\n"


def test_own_folds_are_numbered_in_their_order_and_rows_without_one_only_train(tmp_path):
    assert prepared(tmp_path, OWN, fold="part")[0]["fold"].tolist() == [1, 0, -1, 0, 1]
    words = OWN.replace("10", "holdout").replace("9", "cluster 2")
    table = prepared(tmp_path, words.replace("2,a", "2,d").replace("t,b", "t,a"), fold="part", group="lab")[0]
    assert table["fold"].tolist() == [1, 0, -1, 0, 1] and table["group"].tolist() == [0, 1, 2, 3, 0]
    single = prepared(tmp_path, OWN.replace(",9,", ",,"), fold="part")[0]
    assert single["fold"].tolist() == [0, -1, -1, -1, 0], "a single hold-out"
    for trains, validates in (("Train", "val"), ("training", "valid"), ("-1", "-1.0"), ("validation", "dev")):
        words = OWN.replace(",10,", ",test,").replace(",9,", f",{trains},").replace(",,", f",{validates},")
        table, said = prepared(tmp_path, words, fold="part")
        assert table["fold"].tolist() == [0, -1, -1, -1, 0] and "rows per test part: 2; 3 rows only train" in said


def test_sodium_is_a_part_as_any_other(tmp_path):
    text = OWN.replace(",10,", ",Na,").replace(",9,", ",Li,").replace(",,", ",NA,")
    assert prepared(tmp_path, text, fold="part")[0]["fold"].tolist() == [2, 0, 1, 0, 2]


def test_own_groups_stay_in_one_fold_also_where_rows_are_dropped(tmp_path):
    rows = [f"Fe{k}O,{k},{group}" for k, group in enumerate("xyzxyzxyzw" * 3, 1)]
    text = "\n".join(["formula,gap,system", *rows, "OgFe,7,x"])
    (table, _), (same, _) = (
        prepared(tmp_path, t, group="system", n_folds=3) for t in (text.rsplit("\n", 1)[0], text.replace("OgFe", "FeO99"))
    )
    assert (
        table.groupby("group")["fold"].nunique().eq(1).all() and table["fold"].nunique() == 3 and table["group"].nunique() == 4
    )
    assert same["fold"].iloc[:-1].tolist() == table["fold"].tolist()


@pytest.mark.parametrize(
    ("what", "text", "entry", "line"),
    [
        ("A column of folds that is empty", OWN.replace(",9,", ",,").replace(",10,", ",,"), {"fold": "part"}, "part is in no row a test part; name the part"),
        ("A group in two folds", OWN.replace(",9,c", ",9,a").replace(",10,a", ",9,a"), {"fold": "part", "group": "lab"}, "line 6 (id row-5): other rows with this lab have another part; keep each in one"),
        ("A column of folds in which all rows are tested at once", OWN.replace(",,b", ",9,b").replace("10", "9"), {"fold": "part"}, "part is 9 in all rows; name the part"),
        ("A row without a group", OWN.replace(",c", ","), {"group": "lab"}, "line 5 (id row-4): lab is empty; give the row a group"),
        ("A column of folds with a word for nothing", OWN.replace(",,b", ",NaN,b"), {"fold": "part"}, "part is NaN; leave it empty or write train where the row only trains"),
        ("A column of folds that is not there", OWN, {"fold": "split"}, "no column 'split' (it has formula, gap, part, lab)"),
    ],
)  # fmt: skip
def test_columns_that_do_not_split_are_refused(tmp_path, fault, what, text, entry, line):
    with fault(what, line):
        prepared(tmp_path, text, **entry)


def test_compositions_in_several_folds_are_told(tmp_path, fault):
    path = tmp_path / "mine.csv"
    rows = [f"{formula},{k}" for k, formula in enumerate(["Fe2O3", "Fe4O6", "NaCl", "KCl", "Si", "C", "GaAs", "MgO", "Fe2O3"])]
    path.write_text("\n".join(["formula,gap", *rows]))

    def said(**changes):
        lines = []
        outputs = tmp_path / "table.csv", tmp_path / "compositions.npz"
        prepare_dataset("mine", {"target": "gap"} | changes, path, "csv", "error", *outputs, lines.append)
        return [line for line in lines if "share" in line]

    (line,) = said()
    fault.told("Rows of one composition in several folds", line)
    assert line.startswith("3 of 9 rows share their composition with a row of another fold")
    assert line.endswith("config key datasets.mine.split: group_by_formula keeps them together")
    path.write_text("\n".join(["formula,gap,lab", *(f"{row},{k}" for k, row in enumerate(rows))]))
    assert said(group="lab")[0].endswith("another fold"), "split: has no place beside group:"
    assert not said(split="group_by_formula") and not said(one_per_composition="median")
    assert not said(matbench="mine"), "official folds are not for the user to change"
    assert said(matbench="mine", split_seed=1)
    assert shared(np.array([0, 0, 1, 1, 2]), np.array([0, 1, 2, 2, -1])).tolist() == [True, True, False, False, False]


@pytest.mark.parametrize(
    ("rows", "changes"),
    [
        (["Fe,2", "Fe2,3", "O2,2", "O2,4", "Si,2"], {"one_per_composition": "lowest"}),
        (["Fe,2", "Og,3", "O2,2", "OgFe,4", "Si,2"], {}),
    ],
)
def test_targets_of_the_rows_that_are_left_differ(tmp_path, rows, changes):
    path = tmp_path / "mine.csv"
    path.write_text("\n".join(["formula,gap", *rows]))
    outputs = tmp_path / "table.csv", tmp_path / "compositions.npz"
    with pytest.raises(DataError, match="gap is 2 in all rows"):
        prepare_dataset("mine", {"target": "gap", "n_folds": 2} | changes, path, "csv", "drop", *outputs, print)
    assert not any(output.exists() for output in outputs)


def grouped(**changes):
    """A Training of two folds; the training part of fold 1 is a single group, of which none is held out."""
    compositions, _ = parse_formulas(["Fe2O3"] * 4 + ["KCl", "MgO", "Si", "GaAs"])
    table = pd.DataFrame({"id": [f"r{k}" for k in range(8)], "target": np.arange(8.0) ** 2, "fold": [0] * 4 + [1] * 4})
    return Training(
        table=table.assign(group=[0] * 4 + [1, 2, 3, 4]), examples=compositions, encoder="roost",
        arguments={"element_vectors": np.nan_to_num(matscholar_vectors())}, weights=None, loss="l1",
        recipe=recipe(**{"epochs": 2, "batch_size": 4, "select": "last"} | changes), inner_fraction=0.3, size=None, seed=0,
        device="cpu",
    )  # fmt: skip


@pytest.mark.filterwarnings("error:Mean of empty slice")
@pytest.mark.parametrize("order", [[0, 1], [1, 0]])
def test_folds_without_validation_rows_train_beside_others(order):
    training = grouped()
    assert [len(training.split(fold)[1]) for fold in (0, 1)] == [1, 0]
    together = dict(zip(order, train_members([(training, fold) for fold in order], print), strict=True))
    for fold in (0, 1):
        rows, history, _ = together[fold]
        ((alone, history_alone, _),) = train_members([(training, fold)], print)
        parts = ["validation"] * (fold == 0) + ["test"] * 4
        assert rows["part"].tolist() == alone["part"].tolist() == parts
        np.testing.assert_allclose(rows["prediction"], alone["prediction"], rtol=1e-4)
        np.testing.assert_allclose(history["mae"], history_alone["mae"], rtol=1e-4)
        assert history["mae"].isna().all() == (fold == 1)


@pytest.mark.parametrize("changes", [{"select": "best"}, {"patience": 1}])
def test_a_fold_without_validation_rows_selects_nothing(changes, fault):
    training = grouped(**changes)
    with fault(
        "A fold of one group where weights are chosen by validation rows", "fold 1: no validation rows", "set select: last"
    ):
        train_members([(training, 0), (training, 1)], print)
