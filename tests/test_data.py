import errno
import gzip
import hashlib
import json
import os
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy as np
import pandas as pd
import pytest
from conftest import TASKS

from matpretrain import sources
from matpretrain.composition import matscholar_vectors
from matpretrain.data import encode, read_table
from matpretrain.files import DataError, atomic_path, check_hash, read_csv, write_csv
from matpretrain.splits import inner_split, outer_folds

KNOWN = ~np.isnan(matscholar_vectors()).any(1)
SIZES = dict(zip(TASKS, [312, 636, 1265, 4764, 10987, 10987, 18928, 106113, 132752], strict=True))


def csv(tmp_path, text):
    path = tmp_path / "mine.csv"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["mine.csv", "empty"]),
        ("formula,gap\n", ["mine.csv", "no rows"]),
        ("formula,bandgap\nFe,1\n", ["mine.csv", "no column 'gap'", "bandgap"]),
        ("composition,gap\nFe,1\n", ["mine.csv", "no column 'formula'"]),
        ("formula,gap\nFe,1\nO2,NaN\n", ["line 3", "'NaN'", "finite"]),
        ("formula,gap\nFe,1\nO2,\n", ["line 3", "finite"]),
        ("formula,gap\nFe,inf\n", ["line 2", "'inf'"]),
        ("formula,gap\nFe,high\n", ["line 2", "'high'"]),
        ("formula,gap\nFe,1\n\nO2,NaN\n", ["line 4", "'NaN'"]),
        ("formula,gap\nFe,1,5\n", ["mine.csv", "more cells than the header"]),
        ("id,formula,gap\na,Fe,1\n ,O2,2\n", ["line 3", "id is empty"]),
        ("id,formula,gap\na,Fe,1\na,O2,2\n", ["line 3", "id a", "unique"]),
    ],
)
def test_bad_tables_are_named_in_one_line(tmp_path, text, words):
    with pytest.raises(DataError) as error:
        read_table(csv(tmp_path, text), "gap")
    message = str(error.value)
    assert "\n" not in message and all(word in message for word in words), message


def test_an_id_column_that_is_asked_for_must_exist(tmp_path):
    path = csv(tmp_path, "formula,gap\nFe,1\n")
    assert read_table(path, "gap")["id"].tolist() == ["row-1"]
    with pytest.raises(DataError, match="no column 'key'"):
        read_table(path, "gap", id_column="key")


def test_missing_and_damaged_files_are_named(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        read_table(tmp_path / "absent.csv", "gap")
    broken = tmp_path / "broken.csv.gz"
    broken.write_bytes(gzip.compress(b"formula,gap\nFe,1\n" * 100)[:40])
    with pytest.raises(DataError, match="not a readable CSV"):
        read_table(broken, "gap")
    whole = bytearray(gzip.compress(b"formula,gap\n" + os.urandom(400).hex().encode()))
    whole[100] ^= 255
    broken.write_bytes(whole)
    with pytest.raises(DataError, match="not a readable CSV"):
        read_table(broken, "gap")
    with pytest.raises(DataError, match=r"sha256 is .* expected"):
        check_hash(broken, "0" * 64)


def test_nan_is_sodium_nitride_from_reading_to_writing(tmp_path):
    table = read_table(csv(tmp_path, "formula,gap\nNaN,1.5\nFe,0\n"), "gap")
    table, compositions, _ = encode(table, "mine.csv", KNOWN)
    assert compositions.number[:2].tolist() == [11, 7]
    write_csv(table, tmp_path / "out.csv")
    assert read_csv(tmp_path / "out.csv")["formula"].tolist() == ["NaN", "Fe"]


@pytest.mark.parametrize("formula", ["Xx2", "banana", "Fe2+"])
def test_unparsable_formulas_name_their_row(tmp_path, formula):
    table = read_table(csv(tmp_path, f"formula,gap\nFe,1\n{formula},2\n"), "gap")
    with pytest.raises(DataError, match=r"line 3 \(id row-2\).*correct or remove") as error:
        encode(table, "mine.csv", KNOWN)
    assert "\n" not in str(error.value)


def test_unknown_elements_stop_or_are_listed(tmp_path):
    table = read_table(csv(tmp_path, "formula,gap\nFe,1\nOg2Fe,2\nO2,3\n"), "gap")
    with pytest.raises(DataError, match="line 3.*Og.*unknown_elements: drop"):
        encode(table, "mine.csv", KNOWN)
    kept, compositions, dropped = encode(table, "mine.csv", KNOWN, "drop")
    assert kept["formula"].tolist() == ["Fe", "O2"] and len(compositions) == 2
    assert dropped == ["row-2 Og2Fe (Og)"] and kept.index.tolist() == [0, 1]


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


def test_inner_split_is_seeded_disjoint_and_complete():
    rows = np.arange(100, 200)
    train, validation = inner_split(rows, 0.1, seed=3, fold=1)
    assert len(validation) == 10 and sorted([*train, *validation]) == rows.tolist()
    assert np.array_equal(validation, inner_split(rows, 0.1, seed=3, fold=1)[1])
    assert not np.array_equal(validation, inner_split(rows, 0.1, seed=4, fold=1)[1])
    assert [len(part) for part in inner_split(rows[:2], 0.1, 0, 0)] == [1, 1]


def test_writing_is_whole_or_not_at_all(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("earlier")
    with pytest.raises(RuntimeError), atomic_path(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "earlier" and os.listdir(tmp_path) == ["table.csv"]
    blocked = tmp_path / "table.csv" / "below.csv"
    with pytest.raises(DataError, match="cannot be written"), atomic_path(blocked):
        pass
    folder = tmp_path / "folder.csv"
    (folder / "in_the_way").mkdir(parents=True)
    with pytest.raises(DataError, match=r"folder.csv: cannot be written"), atomic_path(folder) as temporary:
        temporary.write_text("new")
    with pytest.raises(DataError, match="free space"), atomic_path(path):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert path.read_text() == "earlier" and sorted(os.listdir(tmp_path)) == ["folder.csv", "table.csv"]


@pytest.mark.parametrize(("name", "rows"), [("pymatgen_exp_formation_energy", 2135), ("matminer_transport_seebeck_p", 47737)])
def test_embedded_data_are_complete_and_valid(name, rows):
    table = sources.read_embedded(name)
    assert len(table) == rows and table["id"].is_unique
    encode(table.head(500), name, KNOWN)


def matbench_file():
    """A file in the format of Matbench, with two structures, and its hash."""

    def site(*species):
        return {"species": [{"element": e, "occu": o} for e, o in species], "abc": [0, 0, 0]}

    rows = [
        [{"sites": [site(("Na", 1)), site(("Cl", 1))]}, 5.0],
        [{"sites": [site(("Fe", 0.5), ("Ni", 0.5)), site(("Fe", 1))]}, 0.0],
    ]
    content = json.dumps({"index": [0, 1], "columns": ["structure", "gap pbe"], "data": rows}).encode()
    packed = gzip.compress(content, mtime=0)
    return packed, hashlib.sha256(packed).hexdigest()


@pytest.fixture
def server():
    """A web server that answers each request with the next of its list of (status, body)."""
    answers, served = [], []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            status, body = answers[min(len(served), len(answers) - 1)]
            served.append(self.path)
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments):
            pass

    instance = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=instance.serve_forever, daemon=True).start()
    yield answers, served, f"http://127.0.0.1:{instance.server_port}/file.json.gz"
    instance.shutdown()


def register(monkeypatch, url, digest):
    monkeypatch.setattr(sources, "WAIT", 0.0)
    monkeypatch.setattr("matminer.datasets.utils._load_dataset_dict", lambda: {"tiny": {"url": url, "hash": digest}})


def test_download_retries_checks_the_hash_and_reads_structures(tmp_path, monkeypatch, server):
    answers, served, url = server
    packed, digest = matbench_file()
    register(monkeypatch, url, digest)
    answers += [(503, b"busy"), (200, packed[:50]), (200, packed)]
    path = tmp_path / "tiny.json.gz"
    sources.download("tiny", path)
    assert len(served) == 3 and os.listdir(tmp_path) == ["tiny.json.gz"]
    table = sources.read_download("matbench_tiny", path, "gap pbe")
    assert table["id"].tolist() == ["mb-tiny-1", "mb-tiny-2"] and table["target"].tolist() == [5.0, 0.0]
    parsed = encode(table, path, KNOWN)[1]
    assert parsed.count.tolist() == [2, 2] and sorted(parsed.amount[2:]) == [0.5, 1.5]


def test_download_gives_up_with_one_line_and_leaves_nothing(tmp_path, monkeypatch, server):
    answers, served, url = server
    register(monkeypatch, url, "0" * 64)
    answers.append((200, b"something else"))
    with pytest.raises(DataError, match=r"in 4 tries .*mirror: DIR") as error:
        sources.download("tiny", tmp_path / "tiny.json.gz")
    assert len(served) == 4 and "\n" not in str(error.value) and os.listdir(tmp_path) == []


def test_unreachable_host_names_the_mirror(tmp_path, monkeypatch):
    register(monkeypatch, "http://127.0.0.1:9/file.json.gz", "0" * 64)
    with pytest.raises(DataError, match="mirror: DIR"):
        sources.download("tiny", tmp_path / "tiny.json.gz")


def test_another_file_in_place_of_matbench_is_refused(tmp_path):
    path = tmp_path / "x.json.gz"
    path.write_bytes(gzip.compress(b"{}"))
    with pytest.raises(DataError, match="not the matminer file"):
        sources.read_download("matbench_x", path, "gap")


@pytest.mark.parametrize("task", TASKS)
def test_mirror_tables_hold_what_the_registry_says(mirror, task):
    import yaml
    from conftest import PROJECT

    entry = yaml.safe_load((PROJECT / "config/datasets.yaml").read_text())["datasets"][f"matbench_{task}"]
    path = mirror / entry["mirror_file"]
    check_hash(path, entry["mirror_sha256"])
    table = read_table(path, "target")
    assert len(table) == entry["n_samples"] == SIZES[task]
    assert table["id"].tolist() == sources.matbench_row_ids(f"matbench_{task}", len(table))
    assert isinstance(table, pd.DataFrame)
