"""A folder filled on a machine with a network (make mirror) is all that a machine without one needs."""

import gzip
import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from conftest import HANGS, PROJECT, Checkout
from runs import error_line, write_config

from matpretrain.sources import read_embedded

# What Python runs first in every process: matminer's registry is another, and where OFFLINE is set nothing may be reached.
FIRST = """
import importlib.machinery, os, sys

class Registry:
    def find_spec(name, path, target=None):
        if name == "matminer.datasets.utils":
            spec = importlib.machinery.PathFinder.find_spec(name, path)
            load = spec.loader.exec_module
            def changed(module):
                load(module)
                module._load_dataset_dict = lambda: {registry}
            spec.loader.exec_module = changed
            return spec

def refuse(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo"):
        raise ConnectionError(f"offline: {{arguments}}")

sys.meta_path.insert(0, Registry)
if "OFFLINE" in os.environ:
    sys.addaudithook(refuse)
"""
TARGETS = ["results/finetune/tiny/dummy/seed0/predictions.csv", "results/data/away/compositions.npz"]


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


@pytest.fixture
def files(tmp_path, monkeypatch):
    """The folder of a web server with the file of a dataset of matminer's registry, and beside it one of no loader."""
    folder = tmp_path / "served"
    folder.mkdir()
    rows = read_embedded("pymatgen_exp_formation_energy").sample(60, random_state=1)
    data = [list(row) for row in zip(rows["id"], rows["formula"], rows["target"], strict=True)]
    content = json.dumps({"columns": ["material_id", "composition", "gap"], "data": data}).encode()
    (folder / "tiny.json.gz").write_bytes(gzip.compress(content))
    rows[["formula"]].to_csv(folder / "away.csv", index=False)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    digest = hashlib.sha256((folder / "tiny.json.gz").read_bytes()).hexdigest()
    registry = {"tiny": {"url": f"http://127.0.0.1:{server.server_port}/tiny.json.gz", "hash": digest}}
    first = tmp_path / "first"
    first.mkdir()
    (first / "sitecustomize.py").write_text(FIRST.format(registry=registry))
    monkeypatch.setenv("PYTHONPATH", str(first))
    yield folder
    server.shutdown()


def machine(folder, files):
    """A checkout with the dataset and the corpus, as on any machine."""
    checkout = Checkout(folder)
    digest = hashlib.sha256((files / "away.csv").read_bytes()).hexdigest()
    checkout.arguments = write_config(
        folder,
        datasets={"tiny": {"matminer": "tiny", "target": "gap", "unit": "eV"}},
        corpora={"away": {"kind": "formulas", "mirror_file": "corpora/away.csv", "mirror_sha256": digest}},
        pretraining={},
        benchmark={"datasets": ["tiny"], "models": ["dummy"], "seeds": [0], "probes": []},
    )
    return checkout


def make_mirror(checkout, folder):
    shutil.copy(PROJECT / "Makefile", checkout.folder)
    program = checkout.folder / ".venv/bin"
    if not program.exists():
        program.parent.mkdir()
        program.symlink_to(Path(sys.executable).parent)
    command = ["make", "-o", ".venv/installed", "mirror", f"DIR={folder}", f"TARGETS={' '.join(TARGETS)}"]
    done = subprocess.run(
        [*command, f"ARGS={' '.join(checkout.arguments)}"], cwd=checkout.folder, capture_output=True, text=True, timeout=HANGS
    )
    done.text = done.stdout + done.stderr
    return done


def test_what_was_mirrored_is_all_that_is_needed(tmp_path, files, monkeypatch):
    connected, folder = machine(tmp_path / "connected", files), tmp_path / "mirror"
    done = make_mirror(connected, folder)
    assert done.returncode != 0
    line = error_line(done)
    assert f"{folder}/corpora/away.csv: no loader offers this file (sha256" in line and "corpora.away: csv: PATH" in line
    table = folder / "downloads/tiny.json.gz"
    assert table.read_bytes() == (files / "tiny.json.gz").read_bytes()

    (folder / "corpora").mkdir(exist_ok=True)
    shutil.copy(files / "away.csv", folder / "corpora")
    table.write_bytes(table.read_bytes()[:-1])
    done = make_mirror(connected, folder)
    assert done.returncode == 0, done.text
    assert "away.csv: verified" in done.text and table.read_bytes() == (files / "tiny.json.gz").read_bytes()
    records = {"away.provenance.json", "tiny.json.provenance.json"}
    assert {p.name for p in folder.rglob("*") if p.is_file()} == {"away.csv", "tiny.json.gz"} | records
    assert not (connected.folder / "results").exists()

    monkeypatch.setenv("OFFLINE", "1")
    apart = machine(tmp_path / "apart", files)
    arguments = [*apart.arguments, "--config", f"mirror={folder}", "--", *TARGETS]
    done = apart.snakemake(*arguments)
    assert done.returncode == 0, done.text
    assert all((apart.folder / target).is_file() for target in TARGETS)

    os.utime(table)  # verified again: no reason to train again
    assert apart.planned(*arguments) == []
    assert apart.planned(*apart.arguments, "--config", f"mirror={folder}/", "--", *TARGETS) == []  # as a shell completes it

    done = apart.snakemake("--delete-all-output", *arguments)
    assert done.returncode == 0 and (folder / "corpora/away.csv").is_file()  # the user's: no rule offers it
