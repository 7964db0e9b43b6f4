"""How the cost of one thread grows: with the number of compositions, the elements of a composition, the edges of a crystal.

Prints a table and the exponent b of a least-squares fit log(cost) = a + b log(size), whose standard error is that of the
line, and writes growth.csv and growth.png into the folder given. Costs are CPU seconds of this process, the least of some repeats, so
that other jobs on the machine matter little. With MATPRETRAIN_MIRROR set, OQMD's and Matbench's formulas and the structures
of the Materials Project; else the embedded data, whose range is shorter.
"""

import argparse
import itertools
import os
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy.stats import linregress

from matpretrain import graphs, megnet, roost
from matpretrain.composition import matscholar_vectors, parse_formulas, take
from matpretrain.crystal import read_structures
from matpretrain.elements import element_tables
from matpretrain.magpie import magpie_features
from matpretrain.megnet_graphs import CrystalInputs
from matpretrain.sources import STRUCTURES, read_embedded

warnings.filterwarnings("ignore", "No Pauling electronegativity")  # pymatgen, of noble gases
BATCH, REPEATS = 128, 5


def cpu_seconds(work, repeats=REPEATS):
    """The least CPU time of some calls, after one that warms up."""
    work()
    taken = []
    for _ in range(repeats):
        started = time.process_time()
        work()
        taken.append(time.process_time() - started)
    return min(taken)


def read_formulas(mirror):
    """Formulas of many numbers of elements."""
    if mirror:
        names = ("corpora/oqmd.csv.gz", "tables/matbench_mp_e_form.csv.gz", "tables/matbench_steels.csv.gz")
        tables = [pd.read_csv(f"{mirror}/{name}", keep_default_na=False) for name in names]
    else:
        tables = [read_embedded("matminer_transport_seebeck_p"), read_embedded("pymatgen_exp_formation_energy")]
    return pd.concat(tables)["formula"].tolist()


def training_step(model, inputs, rows):
    """Forward and backward pass over batches of rows."""

    def work():
        for part in rows:
            model.zero_grad(set_to_none=True)
            model(inputs[part]).square().mean().backward()

    return work


def by_number(formulas):
    """(quantity, size, seconds): preparing and training on more and more compositions."""
    rng = np.random.default_rng(0)
    element_tables()
    model = roost.Model(np.nan_to_num(matscholar_vectors()))

    def draw(size):  # anew for every call: pymatgen remembers formulas
        return parse_formulas([formulas[i] for i in rng.choice(len(formulas), size, replace=False)])[0]

    for size in (2**k for k in range(9, 30) if 2**k <= len(formulas)):
        yield "compositions: parse and encode", size, cpu_seconds(lambda: draw(size), 2)  # noqa: B023
        compositions = draw(size)
        yield "compositions: Magpie", size, cpu_seconds(lambda: magpie_features(compositions), 2)  # noqa: B023
        if size <= 2**14:
            inputs = roost.Inputs(compositions)
            work = training_step(model, inputs, torch.randperm(size).split(BATCH))
            yield "compositions: Roost, an epoch", size, cpu_seconds(work, 1)


def by_elements(formulas):
    """(quantity, size, seconds): a training step of Roost on compositions of n elements."""
    compositions, _ = parse_formulas(formulas)
    count = compositions.count
    model = roost.Model(np.nan_to_num(matscholar_vectors()))
    for n in np.unique(count):
        rows = np.flatnonzero(count == n)
        if n < 2 or len(rows) < BATCH:
            continue
        chosen = take(compositions, np.random.default_rng(0).choice(rows, BATCH, replace=False))
        inputs = roost.Inputs(chosen)
        yield "elements of a composition: Roost, a step", n, cpu_seconds(training_step(model, inputs, [torch.arange(BATCH)]))


def by_edges(mirror):
    """(quantity, size, seconds): a training step of MEGNet on crystals, sorted by their edges; size is edges per crystal."""
    structures = (
        read_structures(f"{mirror}/structures/materials_project.jsonl.gz") if mirror else STRUCTURES["aflow_prototypes"]()
    )
    known = list(itertools.islice((s for s in structures if graphs.KNOWN[s[2]].all()), 4000 if mirror else None))
    packed = graphs.connect(known)
    inputs = CrystalInputs(graphs.Graphs(**{name: torch.from_numpy(getattr(packed, name)) for name in graphs.NAMES}))
    order = torch.argsort(inputs.cost)
    model = megnet.Model(size="large")
    for rows in order.split(max(16, len(order) // 12)):
        rows = rows[torch.linspace(0, len(rows) - 1, 16).long()]
        edges = int(inputs.cost[rows].sum())
        if edges:
            yield "edges of a crystal: MEGNet, a step", edges / len(rows), cpu_seconds(training_step(model, inputs, [rows]), 3)


def draw(table, fits, path):
    """One log-log panel per quantity, with the fitted line."""
    import matplotlib.pyplot as plt

    quantities = list(fits)
    figure, axes = plt.subplots(1, len(quantities), figsize=(3.2 * len(quantities), 3), layout="constrained")
    for axis, quantity in zip(axes, quantities, strict=True):
        part, fit = table[table["quantity"] == quantity], fits[quantity]
        axis.loglog(part["size"], part["seconds"], "o", color="C0")
        axis.loglog(part["size"], np.exp(fit.intercept) * part["size"] ** fit.slope, color="0.4", lw=1)
        what, how = quantity.split(": ")
        if part["size"].max() < 100:
            axis.set_xticks(ticks := part["size"].tolist()[::2], map("{:g}".format, ticks))
            axis.set_xticks([], minor=True)
        axis.set(xlabel=what, ylabel="CPU seconds", title=f"{how}\nexponent {fit.slope:.2f} ± {fit.stderr:.2f}")
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path, default=Path("results/benchmark"), help="for growth.csv and growth.png")
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    mirror = os.environ.get("MATPRETRAIN_MIRROR")
    formulas = read_formulas(mirror)
    rows = []
    for row in itertools.chain(by_elements(formulas), by_edges(mirror), by_number(formulas)):
        print("{}, {:,.0f}: {:.4g} s".format(*row), flush=True)
        rows.append(row)
    table = pd.DataFrame(rows, columns=["quantity", "size", "seconds"])
    fits = {
        name: linregress(np.log(part["size"]), np.log(part["seconds"])) for name, part in table.groupby("quantity", sort=False)
    }
    for name, fit in fits.items():
        print(f"{name}: exponent {fit.slope:.3f} ± {fit.stderr:.3f}")
    table.to_csv(folder / "growth.csv", index=False)
    draw(table, fits, folder / "growth.png")
