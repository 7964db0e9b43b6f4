"""Training throughput of Roost, ours or aviary's: prints samples per second.

Run by benchmark/run.py, each implementation in its own environment. Both train the same model sizes with AdamW, L1
loss, float32 (ours also bfloat16) and batches of 128 drawn from data that are already in memory.
"""

import argparse
import time

import pandas as pd
import torch

BATCH = 128
WARM_UP = 4


def ours(table, precision):
    """Step function of our Roost."""
    from matpretrain.composition import matscholar_vectors, parse_formulas
    from matpretrain.objectives import l1
    from matpretrain.roost import CompositionInputs, Roost

    compositions, _ = parse_formulas(table["formula"].tolist())
    inputs = CompositionInputs(compositions)
    target = torch.tensor(table["target"].to_numpy(), dtype=torch.float32)
    model = Roost(torch.nan_to_num(torch.tensor(matscholar_vectors())))
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-4, weight_decay=1e-6, fused=True)
    rows = iter(lambda: torch.randint(len(table), (BATCH,)), None)

    def step():
        part = next(rows)
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
            loss = l1(model(inputs[part]), target[part])
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()

    return step


def aviary(table, precision):
    """Step function of aviary's Roost, its items cached and collated by its own loader."""
    from aviary.roost.data import CompositionData, collate_batch
    from aviary.roost.model import Roost

    table = table.rename(columns={"formula": "composition", "id": "material_id"})
    data = CompositionData(table, {"target": "regression"})
    for i in range(len(data)):
        data[i]
    loader = torch.utils.data.DataLoader(data, BATCH, shuffle=True, collate_fn=collate_batch, drop_last=True)
    model = Roost(task_dict={"target": "regression"}, robust=False, n_targets=[1])
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-4, weight_decay=1e-6)

    def batches():
        while True:
            yield from loader

    stream = batches()

    def step():
        inputs, targets, *_ = next(stream)
        loss = (model(*inputs)[0][:, 0] - targets[0].squeeze()).abs().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    return step


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("implementation", choices=["ours", "aviary"])
    parser.add_argument("table", help="CSV with columns id, formula, target")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--precision", default="float32")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    table = pd.read_csv(options.table, keep_default_na=False)
    table = table.sample(min(len(table), 6400), random_state=0).reset_index(drop=True)
    table["target"] = (table["target"] - table["target"].mean()) / table["target"].std()
    step = {"ours": ours, "aviary": aviary}[options.implementation](table, options.precision)
    for _ in range(WARM_UP):
        step()
    started, steps = time.perf_counter(), 0
    while time.perf_counter() - started < options.seconds:
        step()
        steps += 1
    print(steps * BATCH / (time.perf_counter() - started))
