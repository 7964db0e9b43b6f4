"""Jobs that are killed at random times and started again end with the same bits as undisturbed ones."""

import multiprocessing
import os
import random
import re
import runpy
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from conftest import PROJECT, Checkout
from runs import write_config, write_csv_of_60

from matpretrain.files import read_csv

KILLS = {"pretrain": 11, "finetune": 16}  # of the job itself; with those of Snakemake 30
RESULTS = {"pretrain": "results/pretrain/ssl", "finetune": "results/finetune/mine/roost-ssl/seed0"}
WRITTEN = {"pretrain": "encoder.safetensors", "finetune": "predictions.csv"}
BITS = ["encoder.safetensors", "weights.safetensors", "predictions.csv", *(f"epochs/{k:04d}.safetensors" for k in range(3))]
PRELOADED = ["snakemake.script", "matpretrain.roost", "matpretrain.members", "matpretrain.weights", "finetune", "pretrain"]
SHORT = {"epochs": 2, "min_steps": 3}
MINE = {"csv": "mine.csv", "target": "energy", "unit": "eV/atom", "n_folds": 2}
THREADS = ["--set-threads", "pretrain=1", "finetune=2"]
MINUTES = 0  # a state after every step


def run_script(folder, script, log):
    """In a process of its own: what Snakemake starts as the script of a job."""
    os.chdir(folder)
    os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
    runpy.run_path(script, run_name="__main__")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """A checkout in which an encoder was pretrained and finetuned on a CSV of 60 rows, with the scripts of the jobs kept."""
    checkout = Checkout(tmp_path_factory.mktemp("undisturbed"))
    write_csv_of_60(checkout.folder)
    arguments = write_config(
        checkout.folder,
        datasets={"mine": MINE},
        recipe=SHORT,
        pretraining_recipe={**SHORT, "batch_size": 16},
        checkpoint_minutes=MINUTES,
    )
    checkout.arguments = [*THREADS, *arguments, "--", f"{RESULTS['finetune']}/predictions.csv"]
    done = checkout.snakemake("--skip-script-cleanup", *checkout.arguments)
    assert done.returncode == 0, done.text
    checkout.scripts = {
        rule: str(next(checkout.folder.glob(f".snakemake/scripts/*.{rule}.py")).relative_to(checkout.folder))
        for rule in RESULTS
    }
    checkout.bits = {rule: bits_of(checkout.folder / path) for rule, path in RESULTS.items()}
    return checkout


def bits_of(folder):
    """What must not depend on a kill: {file: content}, and the history but for its times."""
    found = {name: (folder / name).read_bytes() for name in BITS if (folder / name).exists()}
    return found | {"history": read_csv(folder / "history.csv").drop(columns="seconds").to_csv()}


def leftovers(folder):
    return [path for path in (folder / "results").rglob("*") if ".tmp" in path.name or ".state" in path.parts]


def newest(folder):
    """When the newest training state in a folder was written, in seconds since 1970; 0 without one."""
    times = [0.0]
    for path in folder.glob("*/training*.pt"):
        with suppress(FileNotFoundError):  # replaced in between
            times.append(path.stat().st_mtime)
    return max(times)


def forget(folder):
    """Remove the outputs of a job, as Snakemake does before it runs it again."""
    for name in (*BITS, "history.csv", "provenance.json", "model.json", "encoder.json"):
        (folder / name).unlink(missing_ok=True)


@pytest.fixture(scope="module")
def server(undisturbed):
    """Starts processes that have torch loaded, by forks of one that has no thread pools yet."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MATPRETRAIN_CHECKPOINT_MINUTES", str(MINUTES))
        patch.setenv("PYTHONPATH", str(PROJECT / "workflow/scripts"))
        patch.setenv("OMP_NUM_THREADS", "1")
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOADED)
        first = context.Process(target=int)
        first.start()
        first.join()
    return context


@pytest.mark.parametrize("rule", list(RESULTS))
def test_killed_jobs_end_with_the_same_bits(undisturbed, server, rule):
    rng, folder, log = random.Random(f"kills of {rule}"), undisturbed.folder / RESULTS[rule], undisturbed.folder / f"{rule}.txt"

    def start():
        process = server.Process(target=run_script, args=(undisturbed.folder, undisturbed.scripts[rule], log))
        process.start()
        return process

    forget(folder)
    began = time.monotonic()
    start().join()
    length = time.monotonic() - began
    assert bits_of(folder) == undisturbed.bits[rule], log.read_text()
    kills, whole = 0, False
    while not whole:
        began, process = time.time(), start()
        if kills % 2:  # every other kill hits the training itself, the rest any moment of the job
            while process.is_alive() and newest(folder / ".state") < began:
                time.sleep(0.01)
        process.join(rng.uniform(0, length / (1 + 3 * (kills % 2))) if kills < KILLS[rule] else None)
        if process.exitcode is None:
            process.kill()
            process.join()
            kills += 1
            continue
        assert process.exitcode == 0, log.read_text()
        assert bits_of(folder) == undisturbed.bits[rule] and not leftovers(undisturbed.folder)
        whole = kills == KILLS[rule]
        if not whole:
            forget(folder)
    assert log.read_text().count("goes on from") >= KILLS[rule] // 2


@pytest.mark.parametrize(("rule", "place"), [("pretrain", r"after epoch \d"), ("finetune", r"fold 0 after epoch \d")])
def test_a_stopped_job_says_where_and_goes_on(undisturbed, server, rule, place):
    folder, log = undisturbed.folder / RESULTS[rule], undisturbed.folder / f"{rule}.stop.txt"
    forget(folder)
    stopped = server.Process(target=run_script, args=(undisturbed.folder, undisturbed.scripts[rule], log))
    stopped.start()
    while not list(folder.glob(".state/*/training*.pt")):
        assert stopped.is_alive(), log.read_text()
        time.sleep(0.01)
    stopped.terminate()
    stopped.join()
    last = log.read_text().splitlines()[-1]
    assert stopped.exitcode == 1 and re.search(f"stopped on SIGTERM: {place}, step .*; the next run goes on from there$", last)
    assert not (folder / WRITTEN[rule]).exists() and "Traceback" not in log.read_text()
    again = server.Process(target=run_script, args=(undisturbed.folder, undisturbed.scripts[rule], log))
    again.start()
    again.join()
    assert bits_of(folder) == undisturbed.bits[rule] and not leftovers(undisturbed.folder)


def training_process(folder, rule):
    """The process of a rule's script that works in a folder, or None."""
    for process in psutil.process_iter(["cmdline", "cwd"]):
        words = process.info["cmdline"] or [""]
        if process.info["cwd"] == str(folder) and words[-1].endswith(f".{rule}.py"):
            return process
    return None


def killed(folder, command, rule, victim, pause):
    """Run the workflow and kill it, or the script of a rule, `pause` seconds after that left a state; False if it was done before."""
    log = folder / "workflow.txt"
    with open(log, "w") as out:
        run = subprocess.Popen(command, cwd=folder, stdout=out, stderr=out, start_new_session=True)
    try:
        job = None
        while run.poll() is None and not (job and newest(folder / RESULTS[rule] / ".state") > job.create_time()):
            job = job or training_process(folder, rule)
            time.sleep(0.02)
        time.sleep(pause)
        if victim == "script":
            with suppress(psutil.NoSuchProcess):
                job.kill()
            run.wait()
        if run.poll() is not None:
            assert run.returncode in (0, victim == "script"), log.read_text()
            return run.returncode == 1
        return True
    finally:
        if run.poll() is None:
            os.killpg(run.pid, signal.SIGKILL)
            run.wait()


def test_a_killed_workflow_ends_with_the_same_bits(undisturbed):
    rng, folder = random.Random("kills of the workflow"), undisturbed.folder
    snakemake = [Path(sys.executable).with_name("snakemake"), "-c2", "--nolock", *undisturbed.arguments]
    for path in RESULTS.values():
        forget(folder / path)
    for rule, victim in (("pretrain", "workflow"), ("finetune", "workflow"), ("finetune", "script")):
        while not killed(folder, snakemake, rule, victim, rng.uniform(0, 0.3)):
            forget(folder / RESULTS[rule])
    done = undisturbed.snakemake("--nolock", *undisturbed.arguments)
    assert done.returncode == 0, done.text
    assert "goes on from" in done.text and not leftovers(folder)
    assert {rule: bits_of(folder / path) for rule, path in RESULTS.items()} == undisturbed.bits
