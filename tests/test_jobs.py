import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from matpretrain.files import DataError
from matpretrain.jobs import job

SCRIPTS = Path(__file__).resolve().parents[1] / "workflow/scripts"
TWO_THREADS = """
import torch
from matpretrain.attention import attend
torch.set_num_threads(2)
offset = torch.tensor([0, 2, 5, 6])
nodes = torch.randn(6, 3, 2, 8, requires_grad=True)
message, total = attend(nodes, nodes, torch.randn(3, 8), torch.zeros(6, 3), offset, offset)
(message.sum() + total.sum()).backward()
print(torch.get_num_threads())
"""


def snakemake_of(folder, threads=1):
    return SimpleNamespace(log=[str(folder / "job.log")], rule="pretrain", wildcards=["ssl"], threads=threads)


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
