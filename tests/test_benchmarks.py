"""What the benchmarks, which no other test runs, import from the package and from the scripts is there; the cheapest ones run."""

import ast
import importlib
import itertools
import runpy
import sys
import time

import numpy as np
import pandas as pd
import pytest
from conftest import PROJECT

from matpretrain.composition import parse_formulas


@pytest.mark.parametrize("path", sorted((PROJECT / "benchmark").glob("*.py")), ids=lambda path: path.stem)
def test_a_benchmark_finds_what_it_imports(path):
    ours = {"matpretrain", *(script.stem for script in (PROJECT / "workflow/scripts").glob("*.py"))}
    ours |= {script.stem for script in (PROJECT / "tests").glob("*.py")}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in ours:
            module = importlib.import_module(node.module)
            for alias in node.names:
                assert hasattr(module, alias.name) or importlib.import_module(f"{node.module}.{alias.name}")


def run(monkeypatch, capsys, name, *arguments):
    """What a benchmark prints."""
    monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
    runpy.run_path(PROJECT / "benchmark" / name, run_name="__main__")
    return capsys.readouterr().out


@pytest.mark.parametrize("grouped", [False, True])
def test_forests_are_judged_on_rows_whose_group_no_tree_has_seen(tmp_path, monkeypatch, capsys, grouped):
    """Four rows of each composition have one target: a tree that has seen one of them knows the others."""
    number = np.arange(80) % 20
    table = pd.DataFrame({"id": np.arange(80), "formula": [f"FeO{k + 1}" for k in number], "target": (number * 7 % 20) / 20})
    table = table.assign(fold=number // 10, **({"group": number} if grouped else {}))
    folder = tmp_path / "data/mine"
    folder.mkdir(parents=True)
    table.to_csv(folder / "table.csv", index=False)
    np.savez(folder / "compositions.npz", **parse_formulas(table["formula"].tolist())[0].arrays())
    head, *lines = run(monkeypatch, capsys, "forests.py", "mine:onehot", "--trees=20", f"--results={tmp_path}").splitlines()
    found = [line.split(",") for line in lines]
    assert head == "dataset,features,max_features,fold,mean,median"
    assert [row[:4] for row in found] == [["mine", "onehot", share, fold] for fold in "01" for share in ("1", "0.333")]
    assert all((float(mae) > 0.1) == grouped for row in found for mae in row[4:])


def test_the_rate_of_finder_is_that_of_the_rows_of_a_small_table(tmp_path, monkeypatch, capsys):
    (tmp_path / "table.csv").write_text("formula\nFe2O3\nNaCl\nBaTiO3\n")
    clock = itertools.count()
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))  # one second for each pass
    lines = run(monkeypatch, capsys, "finder_training.py", tmp_path / "table.csv").splitlines()
    assert lines[0] == "3 formulas, 1 threads, batches of 128" and float(lines[1].split()[-1]) < 1e-5
    assert len(lines) == 8 and all(": 3 compositions/s (3 to 3), elements 1.00 times" in line for line in lines[2:])
