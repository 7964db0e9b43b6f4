"""Datasets with crystal structures: their sources, rows without one, logarithms, and a network trained on them."""

import gzip
import json

import numpy as np
import pandas as pd
import pytest
import torch
from connect_structures import connect_structures
from prepare_dataset import prepare_dataset
from pymatgen.core import Lattice, Structure
from small_problem import all_folds

from matpretrain import graphs, sources
from matpretrain.composition import Compositions
from matpretrain.crystal import read_structures
from matpretrain.data import check_targets, log10_targets, one_per_composition
from matpretrain.files import DataError, read_csv
from matpretrain.members import load_members, save_members
from matpretrain.predict import predict_file
from matpretrain.recipe import Recipe
from matpretrain.splits import outer_folds
from matpretrain.supervised import Training
from matpretrain.training import predict

FAULTS = "Datasets with structures"
SALT = Structure(Lattice.cubic(4.2), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
ALLOY = Structure(Lattice.cubic(3.6), [{"Fe": 0.5, "Ni": 0.5}], [[0, 0, 0]])


def quiet(text):
    pass


def downloaded(path, structures, **columns):
    """A file in the form of matminer's downloads."""
    names = [*columns, "structure"]
    data = [list(row) for row in zip(*columns.values(), [s.as_dict() for s in structures], strict=True)]
    path.write_bytes(gzip.compress(json.dumps({"index": [0], "columns": names, "data": data}).encode()))
    return path


def prepare(folder, entry, path=None, kind="csv", say=quiet):
    prepare_dataset("mine", entry, path, kind, "error", folder / "table.csv", folder / "compositions.npz", say)
    return read_csv(folder / "table.csv")


def test_structures_of_a_download_keep_the_ids_of_its_rows(tmp_path):
    path = downloaded(tmp_path / "x.json.gz", [SALT, SALT * 2], mpid=["mp-2", "mp-1"], s_n=[-3.0, 4.0])
    table = sources.read_download("boltztrap_mp", path, "s_n")
    assert table.values.tolist() == [["mp-2", "Cl1Na1", -3.0], ["mp-1", "Cl8Na8", 4.0]]
    structures = list(sources.downloaded_structures("boltztrap_mp", path))
    assert [s[0] for s in structures] == ["mp-2", "mp-1"] and structures[0][2].tolist() == [11, 17]
    assert np.allclose(structures[0][1], SALT.lattice.matrix) and np.allclose(structures[1][3], (SALT * 2).frac_coords)
    official = list(sources.downloaded_structures("matbench_tiny", path))
    assert [s[0] for s in official] == ["mb-tiny-1", "mb-tiny-2"]


def of_three_files(folder, **columns):
    """A folder in the layout of the sets of Ihalage and Hao: train.csv, val.csv and test.csv with CIF texts."""
    for name, ids in (("train", "abc"), ("val", "d"), ("test", "ef")):
        table = pd.DataFrame({"ID": list(ids), "formula": "NaCl", "target": np.arange(len(ids)), "cif": SALT.to(fmt="cif")})
        table.assign(**columns.get(name, {})).to_csv(folder / f"{name}.csv", index=False)
    return folder


def test_a_folder_keeps_its_own_split_and_holds_structures(tmp_path):
    folder = tmp_path / "gap"
    folder.mkdir()
    entry = {"csv": str(folder), "target": "target", "id": "ID", "structures": str(folder)}
    table = prepare(tmp_path, entry, str(of_three_files(folder)))
    assert table["id"].tolist() == table["structure"].tolist() == list("abcdef")
    assert table["fold"].tolist() == [-1] * 4 + [0, 0]
    structures = {s[0]: s for s in sources.open_structures(str(folder), None, None, table)[0]}
    assert len(structures) == 6 and sorted(structures["e"][2]) == [11, 17] and structures["e"][1].shape == (3, 3)
    (folder / "val.csv").unlink()
    assert prepare(tmp_path, entry, str(folder))["id"].tolist() == list("abcef")


@pytest.mark.parametrize(
    ("what", "columns", "words"),
    [
        (
            "A row of the test part that is also in the training part",
            {"test": {"ID": ["b", "f"]}},
            ["test.csv: line 2 (id b)", "also in train.csv"],
        ),
        ("A bad target in one file of a split", {"val": {"target": "high"}}, ["val.csv: line 2 (id d)", "'high'"]),
        ("A bad formula in one file of a split", {"val": {"formula": "XyZ"}}, ["line 2 of val.csv (id d)", "'XyZ'"]),
    ],
)
def test_bad_rows_of_a_folder_are_named_with_their_file(tmp_path, fault, what, columns, words):
    (tmp_path / "gap").mkdir()
    folder = of_three_files(tmp_path / "gap", **columns)
    with fault(what, *words):
        prepare(tmp_path, {"target": "target", "id": "ID"}, str(folder))


def test_rows_of_a_folder_without_ids_have_names_of_their_own(tmp_path):
    folder = of_three_files(tmp_path)
    for path in folder.glob("*.csv"):
        pd.read_csv(path).drop(columns="ID").to_csv(path, index=False)
    table = prepare(tmp_path, {"target": "target"}, str(folder))
    assert table["id"].tolist() == [f"train-row-{k}" for k in (1, 2, 3)] + ["val-row-1", "test-row-1", "test-row-2"]


def test_a_structure_of_another_composition_is_refused(tmp_path, fault):
    (tmp_path / "gap").mkdir()
    folder = of_three_files(tmp_path / "gap")
    rows = pd.DataFrame({"id": list("abe"), "structure": list("abe"), "formula": ["NaCl", "Na0.5Cl0.5", "NaCl2"]})
    with fault("A row with the structure of another composition", "structure e is not NaCl2, the formula of row e"):
        sources.open_structures(str(folder), None, None, rows)
    assert len(sources.open_structures(str(folder), None, None, rows[:2])[0]) == 2


def test_bad_cif_texts_are_named_by_file_and_id(tmp_path, fault):
    with fault("A CIF text in a table that cannot be read", "test.csv: id e: not a readable CIF"):
        list(read_structures(of_three_files(tmp_path, test={"cif": "data_x"})))
    (tmp_path / "none.csv").write_text("id,formula\na,NaCl\n")
    with fault("A table of structures without CIF texts", "none.csv: no column 'cif'"):
        list(read_structures(tmp_path / "none.csv"))


def test_one_row_stays_of_each_composition(tmp_path):
    rows = [("a", "NaCl", 3.0), ("b", "Fe", 1.0), ("c", "Cl2Na2", 1.0), ("d", "NaCl", 2.0), ("e", "Fe", 1.0), ("f", "KCl", 9.0)]
    pd.DataFrame(rows, columns=["id", "formula", "y"]).to_csv(tmp_path / "x.csv", index=False)
    entry = {"target": "y", "n_folds": 3, "n_samples": 6}
    for keep, ids in (("median", "bdf"), ("lowest", "bcf")):
        table = prepare(tmp_path, entry | {"one_per_composition": keep}, tmp_path / "x.csv")
        assert table["id"].tolist() == list(ids) and sorted(table["fold"]) == [0, 1, 2]
        with np.load(tmp_path / "compositions.npz") as arrays:
            assert len(arrays["offset"]) == 4
    one = one_per_composition(np.zeros(4, int), np.array([4.0, 1.0, 3.0, 2.0]), "median")
    assert one.tolist() == [3], "of an even number the lower middle"


def test_a_disordered_structure_of_a_download_is_refused_by_its_id(tmp_path, fault):
    path = downloaded(tmp_path / "x.json.gz", [SALT, ALLOY], mpid=["mp-1", "mp-2"], s_n=[1.0, 2.0])
    with fault("A disordered structure of a download", "x.json.gz: id mp-2: sites with partial occupancy"):
        list(sources.downloaded_structures("boltztrap_mp", path))


def test_rows_of_a_download_without_ids_are_numbered(tmp_path):
    path = downloaded(tmp_path / "y.json.gz", [SALT], s_n=[1.0])
    assert [identity for identity, *_ in sources.downloaded_structures("castelli_perovskites", path)] == ["row-1"]
    assert sources.read_download("castelli_perovskites", path, "s_n")["id"].tolist() == ["row-1"]
    for ids in (["mp-1", None, "mp-2"], ["mp-1", "mp-2", "mp-1"]):
        path = downloaded(tmp_path / "y.json.gz", [SALT] * 3, mpid=ids, jid=["a", "b", "c"], s_n=[1.0, 2.0, 3.0])
        assert sources.read_download("jarvis", path, "s_n")["id"].tolist() == ["a", "b", "c"]


def test_formulas_of_a_download_may_be_called_so(tmp_path):
    path = tmp_path / "z.json.gz"
    path.write_bytes(
        gzip.compress(json.dumps({"columns": ["formula", "gap expt"], "data": [["GaAs", 1.4], ["Si", 1.1]]}).encode())
    )
    table = sources.read_download("expt_gap", path, "gap expt")
    assert table.to_numpy().tolist() == [["row-1", "GaAs", 1.4], ["row-2", "Si", 1.1]]


def test_a_download_of_truth_values_is_refused(tmp_path, fault):
    path = downloaded(
        tmp_path / "x.json.gz", [SALT] * 5, mpid=[f"mp-{k}" for k in range(5)], is_metal=[True, None, False, 1, 0]
    )
    with fault("A target of a download that is true or false", "x.json.gz: row 1 (id mp-0)", "is_metal is True, not a number"):
        check_targets(sources.read_download("boltztrap_mp", path, "is_metal"), path, "is_metal")
    with pytest.raises(DataError, match=r"line 2 .*: target is 'True', not a finite number"):
        prepare(tmp_path, {"target": "target"}, of_three_files(tmp_path, train={"target": "True"}))


def test_rows_without_a_structure_stop_or_are_told(tmp_path, fault):
    path = tmp_path / "mine.csv.gz"
    rows = [f"r{k},NaCl,{k},{'' if k in (1, 3) else f's{k}'}" for k in range(8)]
    path.write_bytes(gzip.compress("\n".join(["id,formula,gap,structure_id", *rows]).encode()))
    entry = {"matminer": "mine", "target": "gap", "structures": True, "n_folds": 2}
    with fault(
        "Rows without a structure", "line 3 (id r1) (and 1 more rows): no structure; name one or set missing_structures"
    ):
        prepare(tmp_path, entry, path, "mirror")
    said = []
    table = prepare(tmp_path, entry | {"missing_structures": "drop", "mirror_samples": 8}, path, "mirror", said.append)
    fault.told("Rows without a structure, with missing_structures: drop", said[0])
    assert said[0] == "dropped 2 rows without a structure: r1, r3" and "6 rows" in said[1] and "2 dropped" in said[1]
    assert table["structure"].tolist() == ["s0", "s2", "s4", "s5", "s6", "s7"]
    assert table["fold"].tolist() == np.delete(outer_folds(8, 2), [1, 3]).tolist() != outer_folds(6, 2).tolist()
    with fault("Another number of rows than the registry gives", "8 rows, the registry says n_samples: 7"):
        prepare(tmp_path, entry | {"n_samples": 7}, path, "mirror")


def test_elements_that_the_network_lacks_are_named(tmp_path, fault):
    path = tmp_path / "mine.csv"
    path.write_text("id,formula,gap\na,NaCl,1\nb,PoO2,2\nc,Fe,3\nd,FeO,4\ne,KCl,5\n")
    assert len(prepare(tmp_path, {"csv": "mine.csv", "target": "gap"}, path)) == 5
    with fault(
        "A row with an element that networks of structures do not know", "line 3 (id b): networks of structures know no Po"
    ):
        prepare(tmp_path, {"csv": "mine.csv", "target": "gap", "structures": "cifs"}, path)


def test_logarithms_need_positive_targets(tmp_path, fault):
    table = pd.DataFrame({"id": ["a", "b"], "formula": "Fe", "target": [100.0, 0.1]})
    assert log10_targets(table, "x.csv")["target"].tolist() == [2.0, -1.0]
    with fault("A target of zero with log10: true", "x.csv: row 2 (id b): target 0 has no logarithm"):
        log10_targets(table.assign(target=[1.0, 0.0]), "x.csv")


def test_graphs_follow_the_rows_of_a_dataset(tmp_path, fault):
    folder = tmp_path / "cifs"
    folder.mkdir()
    for name, cell in (("small", SALT), ("large", SALT * 2), ("unused", SALT * 3)):
        cell.to(filename=str(folder / f"{name}.cif"))
    rows = pd.DataFrame({"id": ["a", "b", "c"], "structure": ["large", "small", "large"], "formula": "NaCl"})
    outputs = (tmp_path / "graphs.safetensors", tmp_path / "graphs.csv")
    connect_structures(folder, None, None, None, "error", *outputs, quiet, rows)
    table = read_csv(outputs[1])
    assert table["id"].tolist() == ["a", "b", "c"] and table["atoms"].tolist() == [16, 2, 16]
    assert graphs.open_graphs(outputs[0], "cpu").number[16:18].tolist() == [11, 17]
    with fault(
        "A row whose structure is not there", "cifs: no structure gone, which row d of the dataset names (and 1 more rows)"
    ):
        more = pd.DataFrame({"id": ["d", "e"], "structure": ["gone", "lost"]})
        connect_structures(folder, None, None, None, "error", *outputs, quiet, pd.concat([rows, more]))


def test_a_network_of_structures_learns_and_its_members_load(tmp_path, fault):
    table = sources.read_embedded("aflow_prototypes").head(40)
    table = table.assign(fold=outer_folds(40, 2, test_fraction=0.3))
    cells = [s for s in sources.aflow_prototypes() if graphs.KNOWN[s[2]].all()][:40]
    assert [s[0] for s in cells] == table["id"].tolist()
    graphs.save_graphs(graphs.connect(cells), tmp_path / "graphs.safetensors")
    assert table["target"].to_numpy() == pytest.approx(graphs.densities(graphs.connect(cells)), rel=1e-4)
    recipe = Recipe(
        epochs=10, batch_size=4, min_steps=1, learning_rate=2e-3, weight_decay=0.0, schedule="cosine", warmup=0.1, clip=1.0,
        average=0.0, select="last", patience=0, precision="float32",
    )  # fmt: skip
    training = Training(
        table, str(tmp_path / "graphs.safetensors"), "megnet", {"size": "small"}, None, "mse", recipe, 0.1, "70%", 0, "cpu"
    )
    predictions, history, kept = all_folds(training, 1, quiet, tmp_path / "state")
    loss = history.groupby("epoch")["loss"].mean()
    assert loss.iloc[-1] < 0.8 * loss.iloc[0]
    compositions = Compositions(np.array([11], np.uint8), np.array([1.0]), np.array([0, 1]))
    record = {
        "encoder": "megnet",
        "n_outputs": 1,
        "loss": "mse",
        "target_scale": "linear",
        "recipe": vars(recipe),
        "dataset": "d",
        "unit": "g/cm3",
        "seed": 0,
    }
    save_members(kept, {"size": "small"}, compositions, record, tmp_path / "seed0")
    ensemble = load_members([tmp_path / "seed0"])
    member = ensemble.members[1]
    test = predictions[(predictions["part"] == "test") & (predictions["fold"] == 1)]
    rows = torch.as_tensor(np.flatnonzero(table["fold"] == 1))
    network = training.inputs
    again = predict(member.network, network, rows, recipe)[:, 0] * member.std + member.mean
    assert (
        test["prediction"].to_numpy() == pytest.approx(again, rel=1e-5)
        and test["id"].tolist() == table["id"].iloc[rows].tolist()
    )
    (tmp_path / "new.csv").write_text("formula\nNaCl\n")
    with fault("Formulas given to a network of structures", "seed0: megnet reads structures"):
        predict_file(tmp_path / "new.csv", [tmp_path / "seed0"])
