import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from snakemake.iocontainers import Namedlist

from matpretrain.files import DataError
from matpretrain.jobs import job

SCRIPTS = Path(__file__).resolve().parents[1] / "workflow/scripts"
TWO_THREADS = """
import torch
from matpretrain.attention import Packed
torch.set_num_threads(2)
groups = Packed(torch.tensor([0, 2, 5, 6]))
nodes, weight, bias = torch.randn(6, 4, requires_grad=True), torch.randn(48, 4), torch.randn(48)
message, total = groups.attend(nodes, weight, weight, bias, torch.randn(3, 8), torch.zeros(6, 3))
(message.sum() + total.sum()).backward()
print(torch.get_num_threads())
"""


def snakemake_of(folder, threads=1):
    """What Snakemake gives the script of a job that makes output.txt and history.csv from input.txt."""
    (folder / "input.txt").write_text("input")
    (folder / "output.txt").write_text("output")
    (folder / "history.csv").write_text("history")
    return SimpleNamespace(
        log=[str(folder / "job.log")],
        rule="pretrain",
        wildcards=Namedlist(fromdict={"pretraining": "ssl"}),
        threads=threads,
        input=Namedlist(fromdict={"examples": str(folder / "input.txt")}),
        output=Namedlist(fromdict={"weights": str(folder / "output.txt"), "history": str(folder / "history.csv")}),
        params=Namedlist(fromdict={"seed": 3, "recipe": {"epochs": 2}, "code": "0123456789ab"}),
    )


def test_a_job_leaves_a_record_beside_its_first_output(tmp_path):
    with job(snakemake_of(tmp_path, threads=2)) as say:
        (tmp_path / "input.txt").write_text("changed meanwhile")
        say.note(device="NVIDIA H200", earlier_seconds=100)
    record = json.loads((tmp_path / "output.provenance.json").read_text())
    assert record["inputs"] == {str(tmp_path / "input.txt"): hashlib.sha256(b"input").hexdigest()}
    made = {"output.txt": b"output", "history.csv": b"history"}
    assert record["outputs"] == {str(tmp_path / name): hashlib.sha256(content).hexdigest() for name, content in made.items()}
    assert record["device"] == "NVIDIA H200" and record["threads"] == 2 and 100 <= record["wall_seconds"] < 160
    assert record["rule"] == "pretrain" and record["wildcards"] == {"pretraining": "ssl"} and record["seed"] == 3
    assert record["params"] == {"seed": 3, "recipe": {"epochs": 2}} and record["code_version"] == "0123456789ab"
    assert record["versions"]["torch"] == torch.__version__


def test_a_job_that_fails_leaves_the_earlier_record(tmp_path):
    (tmp_path / "output.provenance.json").write_text("earlier")
    with pytest.raises(SystemExit), job(snakemake_of(tmp_path)):
        raise DataError("x")
    assert (tmp_path / "output.provenance.json").read_text() == "earlier"


def test_a_job_takes_the_threads_it_was_given(tmp_path):
    before = torch.get_num_threads()
    with job(snakemake_of(tmp_path, threads=3)):
        assert torch.get_num_threads() == 3
    assert torch.get_num_threads() == before


def test_attention_leaves_the_number_of_threads_alone():
    wide = os.environ | {"NUMBA_NUM_THREADS": "16", "PYTHONPATH": str(SCRIPTS)}  # as on a machine of 16 cores
    done = subprocess.run([sys.executable, "-c", TWO_THREADS], env=wide, capture_output=True, text=True)
    assert done.stdout.split() == ["2"], done.stderr


def test_an_error_of_the_user_is_one_line_in_the_terminal_and_in_the_log(tmp_path, capsys):
    with pytest.raises(SystemExit) as ended, job(snakemake_of(tmp_path)):
        raise DataError("mine.csv: no column 'energy'")
    assert ended.value.code == 1
    assert capsys.readouterr().err == "[pretrain ssl] error: mine.csv: no column 'energy'\n"
    assert (tmp_path / "job.log").read_text() == "error: mine.csv: no column 'energy'\n"
