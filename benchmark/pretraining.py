"""Rate of pretraining Roost against the limit that its matrix products set on this machine.

Two processes of one thread each train side by side, as two strategies on two cores would; or one process takes both
threads. The limit is the time of the matrix products alone, measured in the same process and run: the same shapes, each
three times (forward, and two products backward). The processes have the settings of our jobs.
"""

import argparse
import subprocess
import sys
import time

import torch

from matpretrain.configuration import set_libraries
from matpretrain.recipe import rounded

BATCH, WARM_UP = 256, 4
TASKS = {"ssl": {"barlow_twins": {}}, "fl": {"magpie": {"scale": "minmax"}}}


def matrix_products(n_nodes, n_rows, views, with_correlation):
    """(m, k, n, times) of the products of one step, forward."""
    nodes = [(n_nodes, 64, 1536, 2 * 3 + 1), (n_nodes, 768, 64, 3)]
    rows = [(n_rows, 768, 64, 1), (n_rows, 64, 1024, 2), (n_rows, 1024, 512, 2), (n_rows, 512, 256, 1)]
    products = [(m, k, n, views * times) for m, k, n, times in nodes + rows]
    return products + ([(n_rows, 256, 1024, 2), (n_rows, 1024, n_rows, 2)] if with_correlation else [(n_rows, 256, 145, 1)])


def seconds_of(products, repeats=3):
    """Time of the products and of the two of equal cost backward; the best of some repeats."""
    best = float("inf")
    pairs = [(torch.randn(m, k), torch.randn(k, n), times) for m, k, n, times in products]
    for _ in range(repeats):
        started = time.perf_counter()
        for a, b, times in pairs:
            for _ in range(3 * times):
                a @ b
        best = min(best, time.perf_counter() - started)
    return best


def measure(strategy, formulas, seconds):
    """Print compositions per second of training, and of the matrix products alone."""
    import pandas as pd

    from matpretrain import roost
    from matpretrain.composition import matscholar_vectors, parse_formulas
    from matpretrain.objectives import Pretext

    table = pd.read_csv(formulas, keep_default_na=False).sample(20_000, random_state=0)
    compositions, _ = parse_formulas(table["formula"].tolist())
    inputs = roost.Inputs(compositions)
    torch.manual_seed(0)
    targets = {"magpie": torch.rand(len(compositions), 145)} if strategy == "fl" else {}
    elements = torch.nan_to_num(torch.tensor(matscholar_vectors()))
    model = Pretext(roost.Encoder(elements), TASKS[strategy], targets)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def step():
        loss = model(inputs, torch.randint(len(compositions), (BATCH,)))
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()

    for _ in range(WARM_UP):
        step()
    started, steps = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        step()
        steps += 1
    rate = steps * BATCH / (time.perf_counter() - started)
    nodes = round(BATCH * len(compositions.number) / len(compositions))
    views = 2 if strategy == "ssl" else 1
    limit = BATCH / seconds_of(matrix_products(nodes, BATCH, views, strategy == "ssl"))
    print(rate, limit)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("formulas", help="CSV with a column formula, at least 20,000 rows")
    parser.add_argument("--measure", choices=TASKS)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--precision", default="float32")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.measure:
        with rounded("cpu", "bf16" if options.precision == "bfloat16" else "ieee"):
            measure(options.measure, options.formulas, options.seconds)
        sys.exit()
    set_libraries()
    print(f"Pretraining Roost, batch {BATCH}, two cores; compositions/s, and the limit of its matrix products alone")
    for strategy in TASKS:
        for processes, threads in ((2, 1), (1, 2)):
            command = [sys.executable, __file__, options.formulas, "--measure", strategy, f"--threads={threads}"]
            command += [f"--precision={options.precision}"]
            running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(processes)]
            rate, limit = (sum(v) for v in zip(*(map(float, p.communicate()[0].split()) for p in running), strict=True))
            views = f" = {2 * rate:,.0f} views/s" if strategy == "ssl" else ""
            how = f"{processes} x {threads} thread" + ("s" if threads > 1 else "")
            print(
                f"  {strategy:4s} {how:12s} {rate:7,.0f}{views:18s} limit {limit:7,.0f}  reached {rate / limit:.0%}", flush=True
            )
