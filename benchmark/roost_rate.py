"""Throughput of Roost in training or inference, ours or aviary's: prints samples per second.

Run by benchmark/run.py, each implementation in its own environment. Both train the same model sizes with AdamW, L1
loss, float32 (ours also bfloat16) and batches of --batch compositions drawn from data that are already in memory. For inference
the batches are those of the data in order, without gradients.
"""

import argparse
import itertools
import time

import pandas as pd
import torch

WARM_UP = 4


def ours(table, precision, training, size):
    """Step function of our Roost."""
    from matpretrain.composition import matscholar_vectors, parse_formulas
    from matpretrain.objectives import l1
    from matpretrain.recipe import rounded
    from matpretrain.roost import CompositionInputs, Roost

    compositions, _ = parse_formulas(table["formula"].tolist())
    inputs = CompositionInputs(compositions)
    target = torch.tensor(table["target"].to_numpy(), dtype=torch.float32)
    model = Roost(torch.nan_to_num(torch.tensor(matscholar_vectors()))).train(training)
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-4, weight_decay=1e-6, fused=True)

    def step(part):
        with rounded("cpu", "bf16" if precision == "bfloat16" else "ieee"):
            output = model(inputs[part])
            if not training:
                return
            loss = l1(output, target[part])
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
        optimiser.step()

    rows = torch.arange(len(table))
    draw = (lambda: torch.randperm(len(table))) if training else (lambda: rows)
    return step, (part for _ in itertools.count() for part in draw().split(size) if len(part) == size)


def aviary(table, precision, training, size):
    """Step function of aviary's Roost, its items cached and collated by its own loader."""
    from aviary.roost.data import CompositionData, collate_batch
    from aviary.roost.model import Roost

    table = table.rename(columns={"formula": "composition", "id": "material_id"})
    data = CompositionData(table, {"target": "regression"})
    for i in range(len(data)):
        data[i]
    loader = torch.utils.data.DataLoader(data, size, shuffle=training, collate_fn=collate_batch, drop_last=True)
    model = Roost(task_dict={"target": "regression"}, robust=False, n_targets=[1]).train(training)
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-4, weight_decay=1e-6)

    def step(batch):
        inputs, targets, *_ = batch
        output = model(*inputs)[0][:, 0]
        if not training:
            return
        loss = (output - targets[0].squeeze()).abs().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    return step, (batch for _ in itertools.count() for batch in loader)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("implementation", choices=["ours", "aviary"])
    parser.add_argument("table", help="CSV with columns id, formula, target")
    parser.add_argument("--task", choices=["training", "inference"], default="training")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--batch", type=int, default=128)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    table = pd.read_csv(options.table, keep_default_na=False)
    table = table.sample(min(len(table), 6400), random_state=0).reset_index(drop=True)
    table["target"] = (table["target"] - table["target"].mean()) / table["target"].std()
    training, size = options.task == "training", min(options.batch, len(table))
    step, batches = {"ours": ours, "aviary": aviary}[options.implementation](table, options.precision, training, size)
    with torch.set_grad_enabled(training):
        for batch in itertools.islice(batches, WARM_UP):
            step(batch)
        started, steps = time.perf_counter(), 0
        while time.perf_counter() - started < options.seconds:
            step(next(batches))
            steps += 1
    print(steps * size / (time.perf_counter() - started))
