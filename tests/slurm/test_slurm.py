"""The workflow through sbatch on two nodes: it ends with the tables of a local run, whatever happens to nodes and jobs."""

import subprocess
import tempfile
from contextlib import contextmanager

import pytest
from cluster import Cluster, install, wait_for
from conftest import PROJECT, Checkout
from runs import write_config, write_csv_of_60

from matpretrain.files import read_csv

HANGS = 3600  # seconds: each job of the demo starts snakemake twice
OPTIONS = (  # of the cluster of these tests, which has no database, and whose jobs are short
    "--profile", "profiles/slurm", "--slurm-status-command", "squeue",
    "--slurm-init-seconds-before-status-checks", "2", "--latency-wait", "10",
)  # fmt: skip


@pytest.fixture(scope="module")
def cluster():
    """A running cluster, ended with everything on it."""
    reason = install()
    if reason:
        pytest.skip(reason)
    with tempfile.TemporaryDirectory(prefix="slurm-") as folder:
        cluster = Cluster(folder)
        try:
            cluster.start()
            yield cluster
        finally:
            cluster.stop()


@contextmanager
def submitted(checkout, arguments, options=OPTIONS):
    """Run the workflow through sbatch in the background; yields a function that waits for its end and returns its products."""
    output = checkout.folder / "snakemake.txt"
    with output.open("w") as log:
        command = checkout.command(*options, *arguments)
        process = subprocess.Popen(command, cwd=checkout.folder, stdout=log, stderr=subprocess.STDOUT)

    def finished():
        assert process.wait(timeout=HANGS) == 0, output.read_text()
        return products(checkout)

    try:
        yield finished
    finally:
        process.terminate()  # Snakemake takes its jobs with it
        process.wait(timeout=HANGS)


def products(checkout):
    """{path: content} of all tables and weights, without the columns that hold measured times."""
    results, found = checkout.folder / "results", {}
    for path in results.rglob("*.*"):
        if path.suffix == ".csv":
            table = read_csv(path, dtype=str).drop(columns=["seconds", "wall_seconds"], errors="ignore")
            found[path.relative_to(results)] = table.to_csv()
        elif path.suffix in (".md", ".safetensors"):
            found[path.relative_to(results)] = path.read_bytes()
    assert found
    return found


def differing(found, expected):
    """Names of the products that two runs do not share, to the last digit."""
    return sorted(str(path) for path in found.keys() | expected.keys() if found.get(path) != expected.get(path))


def small(folder):
    """A checkout with a benchmark of 60 rows, and the arguments that run it."""
    checkout = Checkout(folder)
    write_csv_of_60(folder)
    benchmark = {"datasets": ["mine"], "models": ["roost", "rf-onehot"], "seeds": [0], "probes": []}
    return checkout, [*write_config(folder, benchmark=benchmark), "--", "tables"]


def demo(folder):
    """A checkout, and the arguments that run the demo with all its targets; as in the Makefile, one thread pretrains."""
    targets = next(line for line in (PROJECT / "Makefile").read_text().splitlines() if line.startswith("DEMO = "))
    threads = ["--set-threads", "pretrain=1", "finetune=2", "fit_baseline=2"]
    return Checkout(folder), [*threads, "--configfile", "config/demo.yaml", "--", *targets.split()[2:]]


def finished_locally(checkout, arguments):
    """Products of a local run."""
    with submitted(checkout, arguments, options=()) as finished:
        return finished()


def test_a_node_that_goes_down_and_a_walltime_cost_nothing_but_time(cluster, tmp_path):
    local = finished_locally(*small(tmp_path / "local"))
    checkout, arguments = small(tmp_path / "slurm")
    with submitted(checkout, arguments) as finished:
        lost, late = cluster.running("finetune"), cluster.running("fit_baseline")
        for job in (lost, late):
            cluster.freeze(job)
        first = cluster.jobs("fit_baseline")[late]
        cluster.run("scontrol", "update", f"JobId={late}", "TimeLimit=1")
        cluster.run("scontrol", "update", "NodeName=gpus", "State=DOWN", "Reason=test")
        wait_for(lambda: cluster.jobs("finetune")[lost]["restarts"] == "1", "a requeued job")
        cluster.run("scontrol", "update", "NodeName=gpus", "State=RESUME")
        assert differing(finished(), local) == []
    finetuned, baselines = cluster.jobs("finetune"), cluster.jobs("fit_baseline")
    assert finetuned == {lost: finetuned[lost]} and finetuned[lost]["state"] == "COMPLETED"
    assert (first["limit"], first["memory"]) == ("12:00:00", "16000M")
    assert baselines[late]["state"] == "TIMEOUT"
    [again] = [about for job, about in baselines.items() if job != late and about["comment"] == first["comment"]]
    assert (again["state"], again["limit"], again["memory"]) == ("COMPLETED", "1-00:00:00", "32000M")
    assert {about["node"] for about in (finetuned | baselines).values()} == {"gpus", "plain"}


def test_the_demo_twice_in_a_row(cluster, tmp_path):
    local = finished_locally(*demo(tmp_path / "local"))
    for turn in ("first", "second"):
        checkout, arguments = demo(tmp_path / turn)
        with submitted(checkout, arguments) as finished:
            assert differing(finished(), local) == [], f"{turn} run"
