"""Rate of C Roosts (or --encoder finder) that train as one cohort against the same one after another, on a CPU or GPU, in turns.

    .venv/bin/snakemake -c1 results/data/matbench_phonons/table.csv results/data/elements/matscholar.npy
    .venv/bin/python benchmark/cohort.py results/data/matbench_phonons --sizes 5 20 [--device cuda] [--precision bfloat16]

Prints rows per second of all members together and the ratio, and on a GPU the largest memory of either form. Both train through
fit_cohort() with the steps and shapes of finetuning: batches of 128, the robust loss, clipped gradients, and after every epoch the
predictions of each member for a tenth as many rows. On a GPU the single networks are given their operations one by one (--replay:
they are replayed, as finetuning does), the cohort is replayed.
"""

import argparse
import copy
import importlib
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch.func import vmap

sys.path.insert(0, str(Path(__file__).parents[1] / "workflow" / "scripts"))

from matpretrain.cohort import Cohort, level
from matpretrain.composition import Compositions
from matpretrain.objectives import robust_l1
from matpretrain.recipe import Recipe
from matpretrain.training import fit_cohort, predict_members


def seconds(cohort, inputs, target, recipe, rows, replayed):
    """Time of an epoch of training on rows of inputs, without the first one, and the largest memory in GB."""
    ended = []

    def loss(cohort, rows):
        rows, _ = level(rows)
        return vmap(robust_l1)(cohort(inputs, rows), target[rows])

    def evaluate(cohort):
        predict_members(cohort, inputs, [rows[: len(rows) // 10]] * cohort.size, recipe)
        ended.append(time.perf_counter())
        return [{"mae": 0.0}] * cohort.size

    if target.is_cuda:
        torch.cuda.reset_peak_memory_stats()
    reserve = inputs.reserve if replayed else None
    fit_cohort(cohort, loss, [rows] * cohort.size, evaluate, recipe, seeds=range(cohort.size), reserve=reserve)
    memory = torch.cuda.max_memory_allocated() / 1e9 if target.is_cuda else 0.0
    return (ended[-1] - ended[1]) / (len(ended) - 2), memory


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("dataset", type=Path, help="folder with table.csv and compositions.npz; element vectors are beside it")
    parser.add_argument("--sizes", type=int, nargs="+", default=[5, 20])
    parser.add_argument("--encoder", default="roost", help="module of a network of compositions whose weights can be stacked")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--epochs", type=int, default=4, help="at least 3: the first two are not timed")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--rows", type=int, default=1024)
    parser.add_argument("--replay", action="store_true")
    options = parser.parse_args()
    if options.epochs < 3:
        parser.error("--epochs: at least 3, the first two are not timed")
    torch.set_num_threads(1)
    device = options.device
    target = pd.read_csv(options.dataset / "table.csv")["target"].to_numpy()
    target = torch.tensor((target - target.mean()) / target.std(), dtype=torch.float32, device=device)[:, None]
    network = importlib.import_module(f"matpretrain.{options.encoder}")
    inputs = network.Inputs(Compositions.read(options.dataset / "compositions.npz"), device)
    vectors = np.load(options.dataset.parent / "elements" / "matscholar.npy")
    rows = torch.arange(min(options.rows, len(inputs)), device=device)
    recipe = Recipe(
        epochs=options.epochs, batch_size=128, min_steps=1, learning_rate=3e-4, weight_decay=1e-6, schedule="constant",
        warmup=0.0, clip=1.0, average=0.0, select="last", patience=0, precision=options.precision,
    )  # fmt: skip
    for size in options.sizes:
        rates, memory = {"one after another": [], "as one": []}, {}
        for _ in range(options.rounds):
            models = [network.Model(vectors, 2).to(device) for _ in range(size)]
            alone = [seconds(Cohort([copy.deepcopy(model)]), inputs, target, recipe, rows, options.replay) for model in models]
            as_one = seconds(Cohort(models), inputs, target, recipe, rows, True)
            rates["one after another"].append(size * len(rows) / sum(time for time, _ in alone))
            rates["as one"].append(size * len(rows) / as_one[0])
            memory = {"one after another": alone[0][1], "as one": as_one[1]}
        first, second = (np.array(values) for values in rates.values())
        line = ", ".join(f"{name} {' '.join(f'{rate:,.0f}' for rate in values)}" for name, values in rates.items())
        memory = "; " + ", ".join(f"{gb:.2f} GB {name}" for name, gb in memory.items()) if device != "cpu" else ""
        print(f"{size} networks: {line} rows/s; ratio {' '.join(f'{r:.2f}' for r in second / first)}{memory}", flush=True)
