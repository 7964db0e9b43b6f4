import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)  # other jobs may use the other cores
HANGS = 1200  # seconds after which a workflow of these tests, minutes at most, counts as hanging
PROJECT = Path(__file__).resolve().parents[1]
TASKS = ["steels", "jdft2d", "phonons", "dielectric", "log_gvrh", "log_kvrh", "perovskites", "mp_gap", "mp_e_form"]


@pytest.fixture(scope="session")
def mirror():
    """Folder with the real Matbench tables, named by MATPRETRAIN_MIRROR."""
    folder = os.environ.get("MATPRETRAIN_MIRROR")
    if not folder:
        pytest.skip("set MATPRETRAIN_MIRROR to a folder with tables/matbench_*.csv.gz to cover the real tables")
    return Path(folder)


class Checkout:
    """A copy of the workflow in a folder of its own, driven through the command line."""

    def __init__(self, folder):
        self.folder = folder
        for name in ("Snakefile", "config", "workflow", "envs", "resources", "profiles"):
            source = PROJECT / name
            copy = shutil.copytree if source.is_dir() else shutil.copy
            copy(source, folder / name, **({"ignore": shutil.ignore_patterns("downloads")} if source.is_dir() else {}))

    def snakemake(self, *arguments, cores=2):
        """Run snakemake; returns the finished process with its output in .text."""
        program = Path(sys.executable).with_name("snakemake")
        command = [program, f"-c{cores}", "--set-threads", "finetune=2", "fit_baseline=2", *arguments]
        done = subprocess.run(
            command, cwd=self.folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=HANGS
        )
        done.text = done.stdout
        return done

    def planned(self, *arguments):
        """Names of the rules that a dry run would execute, one per job."""
        done = self.snakemake("-n", "--quiet", "host", *arguments)
        assert done.returncode == 0, done.text
        return sorted(
            line.split()[1].rstrip(":") for line in done.text.splitlines() if line.startswith(("rule ", "localrule "))
        )


@pytest.fixture
def checkout(tmp_path):
    return Checkout(tmp_path)
