import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from faults import fault, pytest_addoption, pytest_collection_modifyitems, pytest_configure  # noqa: F401

from matpretrain import provenance
from matpretrain.files import DataError

torch.set_num_threads(1)  # other jobs may use the other cores
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # before Triton is imported: test_kernels.py
HANGS = 1200  # seconds after which a workflow of these tests, minutes at most, counts as hanging
PROJECT = Path(__file__).resolve().parents[1]
OFFLINE = Path(__file__).with_name("offline")
TASKS = ["steels", "jdft2d", "phonons", "dielectric", "log_gvrh", "log_kvrh", "perovskites", "mp_gap", "mp_e_form"]
SIZES = dict(zip(TASKS, [312, 636, 1265, 4764, 10987, 10987, 18928, 106113, 132752], strict=True))


def load(path):
    """A YAML file of the project."""
    return yaml.safe_load((PROJECT / path).read_text())


@pytest.fixture(scope="session")
def mirror():
    """Folder with the real Matbench tables, named by MATPRETRAIN_MIRROR."""
    folder = os.environ.get("MATPRETRAIN_MIRROR")
    if not folder:
        pytest.skip("set MATPRETRAIN_MIRROR to a folder with tables/matbench_*.csv.gz to cover the real tables")
    return Path(folder)


@pytest.fixture
def shipped():
    """The configuration as it is shipped."""
    config = {}
    for name in ("config", "datasets", "models", "pretraining"):
        config |= load(f"config/{name}.yaml")
    return config


@pytest.fixture
def own_package(tmp_path, monkeypatch):
    """The folder of a package to which a user's modules can be added, which `check(config, tmp_path)` reads."""
    package = tmp_path / "workflow/scripts/matpretrain"
    package.mkdir(parents=True)
    for path in provenance.PACKAGE.glob("*.py"):
        (package / path.name).symlink_to(path)
    (tmp_path / "workflow/schemas").symlink_to(PROJECT / "workflow/schemas")
    monkeypatch.setattr(provenance, "PACKAGE", package)
    return package


def until(condition, seconds=30):
    """Wait until a condition holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


def overlaid(config, changes):
    """A configuration with the changes of an overlay, before the others as Snakemake puts them."""
    merged = {key: config.get(key) for key in [*changes, *config]}
    for key, value in changes.items():
        merged[key] = overlaid(config[key], value) if isinstance(value, dict) and key in config else value
    return merged


def error_line(done):
    """The first line of a failed run that is meant for the user."""
    lines = [line for line in done.text.splitlines() if re.search(r"error:|config key|^target ", line)]
    assert len(lines) >= 1, done.text
    return lines[0]


class Checkout:
    """A copy of the workflow in a folder of its own, driven through the command line."""

    def __init__(self, folder):
        self.folder = folder
        folder.mkdir(exist_ok=True)
        for name in ("Snakefile", "config", "workflow", "envs", "resources", "profiles"):
            source = PROJECT / name
            copy = shutil.copytree if source.is_dir() else shutil.copy
            copy(source, folder / name, **({"ignore": shutil.ignore_patterns("downloads")} if source.is_dir() else {}))

    @staticmethod
    def command(*arguments, cores=2):
        """The words that run snakemake."""
        program = Path(sys.executable).with_name("snakemake")
        return [program, f"-c{cores}", "--set-threads", "pretrain=2", "finetune=2", "fit_baseline=2", *arguments]

    def snakemake(self, *arguments, cores=2):
        """Run snakemake where no other machine can be reached; returns the finished process with its output in .text."""
        path = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), str(OFFLINE)]))
        done = subprocess.run(
            self.command(*arguments, cores=cores),
            cwd=self.folder,
            env=os.environ | {"PYTHONPATH": path},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=HANGS,
        )
        done.text = done.stdout
        return done

    def make(self, *arguments):
        """Run snakemake where it succeeds; raise its one line for the user where it ends with exit status 1."""
        done = self.snakemake(*arguments)
        if done.returncode:
            assert done.returncode == 1 and "Traceback (most" not in done.text, done.text
            raise DataError(re.sub(r"^\[.*?\] error: ", "", error_line(done).strip()))
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


@pytest.fixture
def problem():
    """Inputs [96, 3] and targets [96] for the network of small_problem."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(96, 3, generator=generator)
    y = x @ torch.tensor([1.0, -2.0, 0.5])
    return x, y
