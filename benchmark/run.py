"""Speed against peers, side by side in one run (`make bench`).

Roost against aviary-models 1.2.1 in an environment of its own, in training and in inference, MEGNet training against matgl's
trainer, all interleaved; Magpie against matminer; last how our own cost grows (growth.py). With MATPRETRAIN_MIRROR set, on
steels, phonons and mp_e_form, the phonon crystals and the OQMD formulas; else on the embedded data.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

from matpretrain.configuration import set_environment
from matpretrain.training import CHUNK

HERE = Path(__file__).resolve().parent
PEER = HERE.parent / ".venv" / "peers" / "aviary"
PEER_PACKAGES = ["torch==2.13.0", "aviary-models==1.2.1", "pandas==2.3.3", "numpy==2.4.6"]
AS_IT_COMES = dict(os.environ)  # idle OpenMP threads that sleep, as in our jobs, halve the rate of aviary on two threads
# name: (implementation, threads per process, processes, precision, rows at a time)
MODES = {
    "aviary, one model, 2 threads": ("aviary", 2, 1, "float32", 128),
    "aviary, two models, 1 thread each": ("aviary", 1, 2, "float32", 128),
    "ours, one model, 2 threads": ("ours", 2, 1, "float32", 128),
    "ours, two models, 1 thread each": ("ours", 1, 2, "float32", 128),
    "ours, two models, 1 thread each, bfloat16": ("ours", 1, 2, "bfloat16", 128),
}
# As many rows at a time as our prediction takes.
OF_PREDICTION = {
    f"{name}, {CHUNK['cpu']} rows": (*mode[:-1], CHUNK["cpu"]) for name, mode in MODES.items() if "two models" in name
}


def peer_python():
    """Interpreter of aviary's environment, made on first use."""
    python = PEER / "bin" / "python"
    if not (PEER / "installed").exists():
        print(f"installing {', '.join(PEER_PACKAGES)} into {PEER}", flush=True)
        venv.create(PEER, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "-q", PEER_PACKAGES[0]], check=True)
        subprocess.run([python, "-m", "pip", "install", "-q", *PEER_PACKAGES], check=True)
        (PEER / "installed").touch()
    return python


def tables(folder):
    """{name: CSV with id, formula, target} to train on, and the CSV of formulas for Magpie."""
    mirror = os.environ.get("MATPRETRAIN_MIRROR")
    if mirror:
        names = ("steels", "phonons", "mp_e_form")
        return {n: f"{mirror}/tables/matbench_{n}.csv.gz" for n in names}, f"{mirror}/corpora/oqmd.csv.gz"
    from matpretrain.sources import EMBEDDED, read_embedded

    paths = {}
    for name in EMBEDDED:
        paths[name] = f"{folder}/{name}.csv"
        read_embedded(name).to_csv(paths[name], index=False)
    return paths, paths["matminer_transport_seebeck_p"]


def rate(table, task, implementation, threads, processes, precision, batch):
    """Samples per second, summed over processes that run at the same time."""
    python = peer_python() if implementation == "aviary" else sys.executable
    command = [python, HERE / "roost_rate.py", implementation, table]
    command += [f"--task={task}", f"--threads={threads}", f"--precision={precision}", f"--batch={batch}"]
    environment = (AS_IT_COMES if implementation == "aviary" else os.environ) | {"OMP_NUM_THREADS": str(threads)}
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) for _ in range(processes)]
    outputs = [process.communicate()[0] for process in running]
    if any(process.returncode for process in running):
        sys.exit(f"{implementation} failed on {table}")
    return sum(float(output.split()[-1]) for output in outputs)


def compare_roost(name, table, task, rounds):
    """Print the rates of all modes on a table, and their ratios to aviary's."""
    modes = MODES | OF_PREDICTION if task == "inference" else MODES
    found = {mode: [] for mode in modes}
    for _ in range(rounds):
        for mode, arguments in modes.items():
            found[mode].append(rate(table, task, *arguments))
    print(f"\nRoost {task} on {name}, batch 128 if not said, samples/s (median of {rounds}, range)")
    median = {mode: statistics.median(rates) for mode, rates in found.items()}
    best_peer = max(value for mode, value in median.items() if mode.startswith("aviary"))
    one_peer = median["aviary, one model, 2 threads"]
    for mode, rates in found.items():
        print(
            f"  {mode:51s} {median[mode]:8,.0f}  ({min(rates):,.0f} to {max(rates):,.0f})  "
            f"{median[mode] / one_peer:5.2f}x aviary's one model, {median[mode] / best_peer:5.2f}x its better mode",
            flush=True,
        )


def compare_megnet(rounds):
    """Print our rates, on orbits and on all atoms, and that of matgl's trainer on the same crystals, one thread each."""
    mirror = os.environ.get("MATPRETRAIN_MIRROR")
    structures = f"{mirror}/structures/phonons.jsonl.gz" if mirror else "aflow_prototypes"
    for size in ("large", "small"):
        found = {"orbits": [], "atoms": [], "matgl": []}
        for _ in range(rounds):
            for implementation, rates in found.items():
                command = [sys.executable, HERE / "megnet_training.py", implementation, structures, f"--size={size}"]
                done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
                rates.append(float(done.stdout.split()[-1]))
        print(f"MEGNet training, {size}, one thread, structures/s (median of {rounds}), and ratio to matgl's trainer:")
        for name, rates in found.items():
            ratios = [a / b for a, b in zip(rates, found["matgl"], strict=True)]
            spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
            print(f"  {name:8s} {statistics.median(rates):6.0f}, {spread}", flush=True)


if __name__ == "__main__":
    # Ours runs as our jobs do, and so does matgl's trainer.
    set_environment({"structure_backend": "pyg", "checkpoint_minutes": 5})
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder:
        data, formulas = tables(folder)
        for task in ("training", "inference"):
            for name, table in data.items():
                compare_roost(name, table, task, rounds)
        print(flush=True)
        subprocess.run([sys.executable, HERE / "magpie_features.py", formulas], check=True)
        print(flush=True)
        for precision in ("float32", "bfloat16"):
            subprocess.run([sys.executable, HERE / "pretraining.py", formulas, f"--precision={precision}"], check=True)
        print(flush=True)
        compare_megnet(rounds)
        subprocess.run([sys.executable, HERE / "growth.py"], check=True)
