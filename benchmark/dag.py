"""Seconds of a dry run whose graph holds 540 finetuning jobs: nine datasets, six networks, ten seeds."""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

PROJECT = Path(__file__).resolve().parents[1]
MANY = {
    "models": ["roost", "roost-ssl", "roost-fl", "finder", "finder-onehot", "rescnn"],
    "seeds": list(range(10)),
    "exclude": {},
}


def configuration(folder):
    """An overlay that asks for MANY, and plans without a mirror: SSL and FL learn from formulas that need no download."""
    strategies = {name: {"corpus": "mp_transport"} for name in ("ssl", "fl")}
    path = Path(folder) / "many.yaml"
    path.write_text(yaml.safe_dump({"benchmark": MANY, "pretraining": strategies}))
    return path


def dry_run(overlay):
    """(finetuning jobs planned, seconds, seconds of CPU time) of `snakemake -n`."""
    started, before = time.perf_counter(), os.times()
    command = [Path(sys.executable).with_name("snakemake"), "-n", "--forceall", "-c1", "--configfile", overlay]
    done = subprocess.run(command, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        sys.exit(done.stdout)
    after = os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return done.stdout.count("\nrule finetune:"), time.perf_counter() - started, cpu


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(rounds):
            jobs, seconds, cpu = dry_run(configuration(folder))
            load = os.getloadavg()[0]
            print(
                f"{jobs} finetuning jobs: {seconds:.1f} s, {cpu:.1f} s of CPU time, load {load:.1f} on {os.cpu_count()} cores"
            )
