"""What `make verify` says of results that were tampered with: a line each."""

import json
import shutil

import pytest

from matpretrain.provenance import content_hash, fingerprint, write_json
from matpretrain.verify import main


@pytest.fixture
def results(tmp_path, monkeypatch):
    """Two scores made from one table, which was made from a CSV of the user, and figures made from the scores."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.csv").write_text("formula,gap\nFe,0\n")
    (tmp_path / "results/figures").mkdir(parents=True)
    for name in ("table.csv", "first.csv", "second.csv", "figures/a.png"):
        (tmp_path / "results" / name).write_text(f"content of {name}")
    record("table", "prepare_dataset", ["mine.csv"], ["results/table.csv"])
    record("first", "score_models", ["results/table.csv"], ["results/first.csv"])
    record("second", "score_models", ["results/table.csv"], ["results/second.csv"])
    record("figures", "plot_mae", ["results/first.csv"], ["results/figures"])
    return tmp_path / "results"


def record(name, rule, inputs, outputs, **changes):
    made = {"rule": rule, "code_version": changes.pop("code_version", None) or fingerprint(rule)}
    made |= {"inputs": {p: content_hash(p) for p in inputs}, "outputs": {p: content_hash(p) for p in outputs}}
    write_json(made | changes, f"results/{name}.provenance.json")


def test_what_is_as_it_was_made_is_verified(results, capsys):
    assert main(["results"]) == 0
    assert capsys.readouterr().out == "4 results verified\n"
    (results / "figures/.snakemake_timestamp").touch()
    assert main(["results"]) == 0 and capsys.readouterr().out == "4 results verified\n"
    shutil.rmtree(results)
    assert main(["results"]) == 0 and capsys.readouterr().out == "0 results verified\n"


@pytest.mark.parametrize(
    ("tamper", "lines"),
    [
        (
            lambda r: (r.parent / "mine.csv").write_text("formula,gap\nFe,1\n"),
            ["mine.csv: not the file that results/table.provenance.json was made from; restore it or run snakemake again"],
        ),
        (
            lambda r: (r.parent / "mine.csv").unlink(),
            ["mine.csv: missing; results/table.provenance.json was made from it: restore it"],
        ),
        (
            lambda r: (r / "table.csv").write_text("another"),
            ["results/table.csv: changed since prepare_dataset made it; restore it, or delete it and run snakemake again"],
        ),
        (
            lambda r: (r / "first.csv").unlink(),
            ["results/first.csv: missing; score_models made it: run snakemake again"],
        ),
        (
            lambda r: (r / "figures/b.png").write_text("added"),
            ["results/figures: changed since plot_mae made it; restore it, or delete it and run snakemake again"],
        ),
        (
            lambda r: (r / "figures/a.png").rename(r / "figures/b.png"),
            ["results/figures: changed since plot_mae made it; restore it, or delete it and run snakemake again"],
        ),
        (
            lambda r: (
                (r / "table.csv").write_text("new"),
                record("table", "prepare_dataset", ["mine.csv"], ["results/table.csv"]),
            ),
            [
                "results/table.csv: not the file that results/first.provenance.json (and 1 more) was made from; "
                "restore it or run snakemake again"
            ],
        ),
        (
            lambda r: record("first", "score_models", ["results/table.csv"], ["results/first.csv"], code_version="0" * 12),
            ["results/first.provenance.json: made by other code of score_models (000000000000); run snakemake again"],
        ),
        (
            lambda r: (r / "first.provenance.json").write_text(json.dumps({"device": "CPU", "code_version": "0"})),
            ["results/first.provenance.json: not a record with the hashes of inputs and outputs; run snakemake again"],
        ),
        (
            lambda r: [(r / f"{name}.csv").write_text("x") for name in ("first", "second")],
            [
                "results/first.csv: changed since score_models made it; restore it, or delete it and run snakemake again",
                "results/second.csv: changed since score_models made it; restore it, or delete it and run snakemake again",
            ],
        ),
    ],
)
def test_what_does_not_match_is_said_in_one_line(results, capsys, tamper, lines):
    tamper(results)
    assert main(["results"]) == 1
    assert capsys.readouterr().out.splitlines() == lines


def test_the_code_of_a_network_is_that_of_its_script_and_module(results, capsys):
    record("first", "finetune", [], [], code_version=fingerprint("finetune", "finder"))
    assert main(["results"]) == 0 and "4 results" in capsys.readouterr().out


def test_rules_that_share_a_script_and_copies_that_may_be_deleted_are_verified(results, capsys):
    record("first", "connect_left_out", [], [], code_version=fingerprint("connect_structures"))
    (results / "together").mkdir()
    (results / "together/folds").write_text("weights")
    record("second", "finetune", ["results/together/folds"], [], code_version=fingerprint("finetune", "roost"))
    (results / "together/folds").unlink()
    assert main(["results"]) == 0 and "4 results" in capsys.readouterr().out


def test_the_committed_tables_are_those_of_their_record(monkeypatch, capsys):
    from conftest import PROJECT

    monkeypatch.chdir(PROJECT)
    assert main(["docs/reproduction"]) == 0
    assert capsys.readouterr().out == "1 result verified\n"
