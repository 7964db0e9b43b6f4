import errno
import gzip
import hashlib
import json
import os
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
import requests
from conftest import SIZES, TASKS, load
from prepare_dataset import prepare_dataset

from matpretrain import sources
from matpretrain.composition import known_elements
from matpretrain.data import encode, read_table
from matpretrain.files import DataError, atomic_path, check_hash, read_csv, write_csv

FAULTS = "Tables, formulas and downloads"
KNOWN = known_elements()


def csv(tmp_path, text):
    path = tmp_path / "mine.csv"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("what", "text", "words"),
    [
        ("An empty file", "", ["mine.csv", "empty"]),
        ("A header and no rows", "formula,gap\n", ["mine.csv", "no rows"]),
        ("No column of the target", "formula,bandgap\nFe,1\n", ["mine.csv", "no column 'gap'", "bandgap"]),
        ("No column of formulas", "composition,gap\nFe,1\n", ["mine.csv", "no column 'formula'"]),
        ("A target NaN", "formula,gap\nFe,1\nO2,NaN\n", ["line 3", "'NaN'", "finite"]),
        ("A target that is not there", "formula,gap\nFe,1\nO2,\n", ["line 3", "finite"]),
        ("An infinite target", "formula,gap\nFe,inf\n", ["line 2", "'inf'"]),
        ("A target whose square overflows", "formula,gap\nFe,1\nO2,-1e200\n", ["line 3", "-1e+200", "another unit"]),
        ("A target that is no number", "formula,gap\nFe,high\n", ["line 2", "'high'"]),
        ("A bad target after a blank line", "formula,gap\nFe,1\n\nO2,NaN\n", ["line 4", "'NaN'"]),
        ("A bad target after a cell of two lines", 'formula,note,gap\nFe,"a\nb",1\nO2,,NaN\n', ["line 4", "'NaN'"]),
        ("A blank first line", "\nformula,gap\nFe,1\n", ["mine.csv", "begins with a blank line"]),
        ("A row with too many cells", "formula,gap\nFe,1,5\n", ["mine.csv", "more cells than the header"]),
        ("A quote that is never closed", 'formula,gap\nFe,1\n"O2,2\nMgO,3\n', ["mine.csv", "line 3 opens a quote"]),
        ("A quote that is never closed after a cell of three lines", 'note,gap\n"a\n\nb",1\n\n"O2,2\nFe,3\n', ["line 6 opens"]),
        ("A row with too many cells after a cell of two lines", 'formula,gap\nFe,"1\n"\nNi,1,2,3\n', ["line 4 has 4 cells"]),
        ("An id that is empty", "id,formula,gap\na,Fe,1\n ,O2,2\n", ["line 3", "id is empty"]),
        ("The same id twice", "id,formula,gap\na,Fe,1\na,O2,2\n", ["line 3", "id a", "unique"]),
        ("Two ids that differ by a blank", "id,formula,gap\na,Fe,1\na ,O2,2\n", ["line 3", "id a", "unique"]),
        ("Columns separated by semicolons", "formula;gap\nFe;1\n", ["no column 'formula'", "commas, not by ';'"]),
        ("Columns separated by tabs", "formula\tgap\nFe\t1\n", ["no column 'formula'", "commas, not by '\\t'"]),
        ("Semicolons, and commas in numbers", "formula;gap\nFe;1,5\n", ["line 2 has 2 cells", "separate columns by commas"]),
        ("A column whose name differs in case", "Formula,gap\nFe,1\n", ["no column 'formula'", "'Formula' differs in case"]),
        ("A column twice", "formula,gap,gap\nFe,1,2\n", ["2 columns 'gap'", "rename or remove one"]),
    ],
)
def test_bad_tables_are_named_in_one_line(tmp_path, fault, what, text, words):
    with fault(what, *words):
        read_table(csv(tmp_path, text), "gap")


def test_an_id_column_that_is_asked_for_must_exist(tmp_path, fault):
    path = csv(tmp_path, "formula,gap\nFe,1\n")
    assert read_table(path, "gap")["id"].tolist() == ["row-1"]
    with fault("No id column of the name given in the registry", "no column 'key'"):
        read_table(path, "gap", id_column="key")


def test_blanks_around_names_and_cells_are_taken_off(tmp_path):
    table = read_table(csv(tmp_path, "id , formula, gap\n a,Fe , 1\n\nb, O2,2\n"), "gap")
    assert table.reset_index().to_numpy().tolist() == [[2, "a", "Fe", 1.0], [4, "b", "O2", 2.0]]
    assert list(table.columns) == ["id", "formula", "target"]
    doubled = read_table(csv(tmp_path, "formula,gap,note,note\nFe,1,x,y\n"), "gap")
    assert doubled["target"].tolist() == [1.0], "other columns may have any names"


def test_bytes_at_which_pandas_ends_a_cell_are_refused(tmp_path, fault):
    content = b'formula,gap\r\n"Cu2O",1\r\nCu2\0O2,2\r\n'
    (tmp_path / "mine.csv").write_bytes(content)
    with fault("A NUL byte in a cell", "mine.csv: line 3 holds a NUL byte; remove it"):
        read_table(tmp_path / "mine.csv", "gap")
    path = tmp_path / "mine.csv.gz"
    path.write_bytes(gzip.compress(content))
    with pytest.raises(DataError, match="line 3 holds a NUL byte"):
        read_table(path, "gap")
    (tmp_path / "mine.csv").write_bytes("formula,note\nFe,1\nCu,µ\n".encode("latin-1"))
    with fault("A character of Latin-1", "mine.csv: line 3 holds a character that is not UTF-8; save the file as UTF-8"):
        read_table(tmp_path / "mine.csv")
    (tmp_path / "mine.xlsx").write_bytes(b"PK\x03\x04\x14\0")
    with fault("A workbook in place of a CSV", "mine.xlsx: this is an Excel workbook or an archive; save it as CSV"):
        read_table(tmp_path / "mine.xlsx", "gap")
    path.write_bytes(gzip.compress("formula,gap\nFe,1\n".encode("utf-16")))
    with pytest.raises(DataError, match="save the file as UTF-8"):
        read_table(path, "gap")


def test_missing_and_damaged_files_are_named(tmp_path, fault):
    with fault("A table that is not there", "no such file"):
        read_table(tmp_path / "absent.csv", "gap")
    broken = tmp_path / "broken.csv.gz"
    broken.write_bytes(gzip.compress(b"formula,gap\nFe,1\n" * 100)[:40])
    with fault("A compressed table that is cut off", "not a readable CSV"):
        read_table(broken, "gap")
    whole = bytearray(gzip.compress(b"formula,gap\n" + os.urandom(400).hex().encode()))
    whole[100] ^= 255
    broken.write_bytes(whole)
    with pytest.raises(DataError, match="not a readable CSV"):
        read_table(broken, "gap")
    named = {
        "A table named .zip that is none": "zip",
        "A table named .xz that is none": "xz",
        "A table named .zst that is none": "zst",
        "A table named .tar that is none": "tar",
    }
    for what, ending in named.items():
        with fault(what, f"other.csv.{ending}: not a readable CSV", "correct or replace"):
            (tmp_path / f"other.csv.{ending}").write_text("formula,gap\nFe,1\n")
            read_table(tmp_path / f"other.csv.{ending}", "gap")
    broken.write_bytes(b"formula,gap\n")
    with fault("A file with another hash than the registry gives", "sha256 is", "expected", "fetch it again"):
        check_hash(broken, "0" * 64)


def test_nan_is_sodium_nitride_from_reading_to_writing(tmp_path):
    table = read_table(csv(tmp_path, "formula,gap\nNaN,1.5\nFe,0\n"), "gap")
    table, compositions, _ = encode(table, "mine.csv", KNOWN)
    assert compositions.number[:2].tolist() == [11, 7]
    write_csv(table, tmp_path / "out.csv")
    assert read_csv(tmp_path / "out.csv")["formula"].tolist() == ["NaN", "Fe"]


@pytest.mark.parametrize(
    ("what", "formula"),
    [
        ("A dummy species in a formula", "Xx2"),
        ("A formula that cannot be parsed", "banana"),
        ("A charge in a formula", "Fe2+"),
        ("A formula that is empty", '""'),
        ("Water of crystallisation after a dot", "CuSO4.5H2O"),
        ("Water of crystallisation in parentheses after a dot", "CuSO4.5(H2O)"),
        ("Ammonia after a dot", "MgCl2.6NH3"),
        ("Water of crystallisation after a dot and a number apart", "CuSO4.5 H2O"),
        ("The number of a second compound after a dot", "CaO.2SiO2"),
        ("An oxidation state in a formula", "Fe(III)2O3"),
        ("A sign that formulas do not have", "Y3N@C80"),
        ("An amount of zero", "Fe0O"),
        ("A polytype behind a formula", "SiC 4H"),
        ("An amount that is nothing beside the other", "Fe1e50O"),
        ("An amount that is nothing", "SiB1e-9"),
        ("Amounts whose sum overflows", "Fe1e308O1e308"),
    ],
)
def test_unparsable_formulas_name_their_row(tmp_path, fault, what, formula):
    table = read_table(csv(tmp_path, f"formula,gap\nFe,1\n{formula},2\n"), "gap")
    with fault(what, "line 3 (id row-2)", "correct or remove"):
        encode(table, "mine.csv", KNOWN)


def test_unknown_elements_stop_or_are_listed(tmp_path, fault):
    table = read_table(csv(tmp_path, "formula,gap\nFe,1\nOg2Fe,2\nO2,3\n"), "gap")
    with fault("An element without a vector", "line 3", "Og", "unknown_elements: drop"):
        encode(table, "mine.csv", KNOWN)
    kept, compositions, dropped = encode(table, "mine.csv", KNOWN, "drop")
    assert kept["formula"].tolist() == ["Fe", "O2"] and len(compositions) == 2
    assert dropped == ["row-2 Og2Fe (Og)"] and kept.index.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("what", "rows", "changes", "words"),
    [
        ("A target that is the same in all rows", ["Fe,2", "O2,2", "Si,2", "C,2", "KCl,2"], {}, ["gap is 2 in all rows"]),
        ("Fewer rows than folds", ["Fe,1", "O2,2", "Si,3", "C,4"], {}, ["4 rows", "5 folds", "n_folds"]),
        (
            "Fewer compositions than folds",
            ["Fe,1", "Fe2,2", "O2,3", "O,4", "Fe4,5"],
            {"split": "group_by_formula"},
            ["2 rows or groups", "5 folds"],
        ),
        (
            "Test parts that do not fit beside each other",
            ["Fe,1", "O2,2", "Si,3", "C,4", "KCl,5"],
            {"test_fraction": 0.4},
            ["overlap"],
        ),
    ],
)
def test_tables_that_cannot_be_split_or_learned_are_refused(tmp_path, fault, what, rows, changes, words):
    path = csv(tmp_path, "\n".join(["formula,gap", *rows]))
    outputs = tmp_path / "table.csv", tmp_path / "compositions.npz"
    with fault(what, "mine.csv", *words):
        prepare_dataset("mine", {"target": "gap"} | changes, path, "csv", "error", *outputs, print)
    assert os.listdir(tmp_path) == ["mine.csv"]


def test_fractions_sodium_nitride_and_unknown_elements_are_told(tmp_path, fault):
    rows = ["Fe0.62Ni0.1805Mo0.0302Co0.139Ti0.0292C0.0011,2411.5", "NaN,1", "OgFe,2", "Fe1e-3C0.5,3", "Si,5"]
    said, outputs = [], (tmp_path / "table.csv", tmp_path / "compositions.npz")
    path = csv(tmp_path, "\n".join(["formula,gap", *rows]))
    prepare_dataset("mine", {"target": "gap", "n_folds": 2}, path, "csv", "drop", *outputs, said.append)
    assert read_csv(outputs[0])["formula"].tolist() == [row.split(",")[0] for k, row in enumerate(rows) if k != 2]
    assert "4 rows, 4 distinct compositions, 1 dropped" in said[1]
    fault.told("An element without a vector, with unknown_elements: drop", said[0])
    fault.told("Fractions of steels, scientific notation and sodium nitride (NaN) as formulas", said[1])
    path = csv(tmp_path, "formula,gap\nOg,1\nOgFe,2\n")
    with fault("Rows that all have an unknown element, with unknown_elements: drop", "mine.csv: none of 2 rows is left"):
        prepare_dataset("mine", {"target": "gap", "n_folds": 2}, path, "csv", "drop", *outputs, said.append)


@pytest.mark.parametrize(
    "error",  # as they come where the disk is full
    [
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        OSError("1000000 requested and 61408 written"),
        RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534"),
    ],
)
def test_a_full_disk_is_one_line(tmp_path, error):
    line = r"table.csv: cannot be written \(.*\); free space"
    with pytest.raises(DataError, match=line) as refused, atomic_path(tmp_path / "table.csv"):
        raise error
    assert "\n" not in str(refused.value) and not os.listdir(tmp_path)


def test_writing_is_whole_or_not_at_all(tmp_path, fault):
    path = tmp_path / "table.csv"
    path.write_text("earlier")
    with pytest.raises(RuntimeError), atomic_path(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "earlier" and os.listdir(tmp_path) == ["table.csv"]
    blocked = tmp_path / "table.csv" / "below.csv"
    with fault("A folder that is in the way of a file", "cannot be written", kept=[path]), atomic_path(blocked):
        pass
    folder = tmp_path / "folder.csv"
    (folder / "in_the_way").mkdir(parents=True)
    with pytest.raises(DataError, match=r"folder.csv: cannot be written"), atomic_path(folder) as temporary:
        temporary.write_text("new")
    with fault("A full disk", "free space", kept=[path]), atomic_path(path):
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


def test_a_download_that_is_cut_off_or_of_another_file_names_the_mirror(tmp_path, monkeypatch, fault):
    packed, digest = matbench_file()
    register(monkeypatch, "https://data.example/tiny.json.gz", digest)
    for what, body in (("A download that is cut off", packed[:50]), ("A download of another file", b"something else")):
        monkeypatch.setattr(sources, "_fetch", lambda url, path, body=body: path.write_bytes(body))
        with fault(what, "in 4 tries", "hash is wrong", "mirror: DIR"):
            sources.download("tiny", tmp_path / "tiny.json.gz")
        assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("what", "error"),
    [
        ("No network", requests.ConnectionError("Name or service not known")),
        ("A proxy that refuses", requests.exceptions.ProxyError("Tunnel connection failed: 403 Forbidden")),
        ("A server that does not answer", requests.Timeout("Read timed out. (read timeout=60)")),
        ("A file that was moved", requests.HTTPError("403 Client Error: Forbidden")),
    ],
)
def test_a_network_that_fails_names_the_mirror(tmp_path, monkeypatch, fault, what, error):
    def fail(*arguments, **options):
        raise error

    register(monkeypatch, "https://data.example/tiny.json.gz", "0" * 64)
    monkeypatch.setattr(sources.requests, "get", fail)
    with fault(what, "in 4 tries", "network or proxy", "mirror: DIR"):
        sources.download("tiny", tmp_path / "tiny.json.gz")


def test_a_name_that_matminer_does_not_have_is_refused(tmp_path, fault):
    with fault("A dataset that matminer does not have", "absent", "not a matminer dataset"):
        sources.download("absent", tmp_path / "absent.json.gz")


def test_fetching_verifies_replaces_and_names_what_no_loader_offers(tmp_path, monkeypatch, server):
    answers, served, url = server
    packed, digest = matbench_file()
    register(monkeypatch, url, digest)
    answers.append((200, packed))
    path, said = tmp_path / "tiny.json.gz", []
    sources.fetch(path, said.append, dataset="tiny")
    sources.fetch(path, said.append, dataset="tiny")
    assert len(served) == 1 and said == ["downloading tiny", f"{path}: verified"]
    path.write_bytes(packed[:-1])
    sources.fetch(path, said.append, dataset="tiny")
    assert len(served) == 2 and path.read_bytes() == packed
    sources.fetch(path, said.append, sha256=digest)
    with pytest.raises(DataError, match=r"tiny.json.gz: sha256 is"):
        sources.fetch(path, said.append, sha256="0" * 64)
    with pytest.raises(DataError, match=r"absent: no loader offers this file \(sha256 00\); put it there, or name your own"):
        sources.fetch(tmp_path / "absent", said.append, sha256="00", instead="name your own")
    assert len(served) == 2


def test_unreachable_host_names_the_mirror(tmp_path, monkeypatch):
    register(monkeypatch, "http://127.0.0.1:9/file.json.gz", "0" * 64)
    with pytest.raises(DataError, match="mirror: DIR"):
        sources.download("tiny", tmp_path / "tiny.json.gz")


def test_another_file_in_place_of_matbench_is_refused(tmp_path, fault):
    path = tmp_path / "x.json.gz"
    path.write_bytes(gzip.compress(b"{}"))
    with fault("Another file in place of a download", "not the matminer file", "delete it and run again"):
        sources.read_download("matbench_x", path, "gap")
    path.write_bytes(gzip.compress(b'{"columns": ["structure", "gap"], "data": []}'))
    with fault("Another target than a download has", "matbench_x has no column gpa, only structure, gap; correct target"):
        sources.read_download("matbench_x", path, "gpa")
    path.write_bytes(gzip.compress(b'{"columns": ["composition", "gap"], "data": []}'))
    with fault("Structures of a download that has none", "matbench_x has no column structure, only composition, gap"):
        list(sources.downloaded_structures("matbench_x", path))


@pytest.mark.parametrize("task", TASKS)
def test_mirror_tables_hold_what_the_registry_says(mirror, task):
    entry = load("config/datasets.yaml")["datasets"][f"matbench_{task}"]
    path = mirror / entry["mirror_file"]
    check_hash(path, entry["mirror_sha256"])
    table = read_table(path, "target")
    assert len(table) == entry["n_samples"] == SIZES[task]
    assert table["id"].tolist() == sources.matbench_row_ids(f"matbench_{task}", len(table))
