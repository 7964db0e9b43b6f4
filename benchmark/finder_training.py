"""Training Finder in composition mode: distinct elements with multiplicities against the graph of all atoms.

All forms are the same network with the same numbers out. "atoms" is our layer on the graph of all atoms, "atoms, per edge"
writes the layer as the released code does: concatenated inputs of every network for every edge. Prints compositions
per second of the whole network and of its message layers and pooling alone, in alternating rounds, and the largest
difference of the outputs. The argument is a table (CSV with a column formula).
"""

import argparse
import copy
import functools
import math
import statistics
import time

import numpy as np
import pandas as pd
import torch
from torch.nn import functional as F

from matpretrain.composition import atom_counts, matscholar_vectors, parse_formulas
from matpretrain.finder import MESSAGE_SCALE, Finder, softmax_by
from matpretrain.finder_graphs import GraphInputs

BATCH, STEPS, ROUNDS = 128, 4, 5


class AtomInputs(GraphInputs):
    """One node per atom: what GraphInputs holds per distinct element, repeated."""

    def __init__(self, compositions):
        count = atom_counts(compositions)
        atoms = np.add.reduceat(count, compositions.offset[:-1])
        ends = [np.nonzero(~np.eye(n, dtype=bool)) for n in atoms]
        receiver, sender = np.concatenate(ends, 1)
        pairs, nodes = (np.concatenate([[0], n.cumsum()]) for n in (atoms * (atoms - 1), atoms))
        number, ones = compositions.number.repeat(count), np.ones(nodes[-1])
        self._store("cpu", number, ones, nodes, receiver, sender, pairs, np.ones(pairs[-1]), [])


def per_edge(layer, v, batch, edge):
    """MessageLayer.forward with every product taken per edge."""
    receiver, sender, degree = batch.receiver, batch.sender, batch.degree.clamp(min=1)[:, None]
    middle = (v[receiver] + v[sender]) / 2
    mean = torch.zeros_like(v).index_add(0, receiver, middle * batch.weight[:, None]) / degree
    edge = network(torch.cat([middle, mean[receiver]], 1), layer.edge)
    query, key, value = layer.query(v)[receiver], layer.key(v)[sender], layer.value(v)[sender]
    share = softmax_by(batch, receiver, len(v), query * key / math.sqrt(v.shape[1]), batch.weight)
    message = share * value * network(torch.cat([middle, edge], 1), layer.message) * MESSAGE_SCALE
    return F.relu(layer.update(v)) + torch.zeros_like(v).index_add(0, receiver, message) / degree


def network(x, layers):
    """Dense layers with ReLU between them."""
    for layer in layers[:-1]:
        x = F.relu(layer(x))
    return layers[-1](x)


def seconds(inputs, model, batches, part):
    """Of one forward and backward pass over the batches."""
    started = time.perf_counter()
    for rows in batches:
        model.zero_grad(set_to_none=True)
        batch = inputs[rows]
        (model(batch) if part == "network" else sum(model.encoder.pooled(batch))).square().mean().backward()
    return time.perf_counter() - started


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("table")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    formulas = pd.read_csv(given.table, dtype={"formula": str}, keep_default_na=False)["formula"].tolist()
    compositions, _ = parse_formulas(formulas)
    forms = {"elements": GraphInputs(compositions), "atoms": AtomInputs(compositions)}
    model = Finder(np.nan_to_num(matscholar_vectors()), 2)
    plain = copy.deepcopy(model)
    for layer in plain.encoder.layers:
        layer.forward = functools.partial(per_edge, layer)
    forms = {
        "elements": (forms["elements"], model),
        "atoms": (forms["atoms"], model),
        "atoms, per edge": (forms["atoms"], plain),
    }
    batches = torch.randperm(len(formulas))[: BATCH * STEPS].split(BATCH)
    rows = sum(map(len, batches))
    with torch.inference_mode():
        outputs = torch.stack([net(inputs[batches[0]]) for inputs, net in forms.values()])
    print(f"{len(formulas)} formulas, {given.threads} threads, batches of {BATCH}")
    print(f"largest difference of the outputs {(outputs - outputs[0]).abs().max():.1e}")
    for part in ("network", "layers"):
        taken = {name: [] for name in forms}
        for _ in range(ROUNDS + 1):  # the first one warms up
            for name, (inputs, net) in forms.items():
                taken[name].append(seconds(inputs, net, batches, part))
        rates = {name: [rows / t for t in times[1:]] for name, times in taken.items()}
        for name, rate in rates.items():
            ratios = [a / b for a, b in zip(rates["elements"], rate, strict=True)]
            print(
                f"{part}, {name}: {statistics.median(rate):,.0f} compositions/s ({min(rate):,.0f} to {max(rate):,.0f}), "
                f"elements {statistics.median(ratios):.2f} times as fast ({min(ratios):.2f} to {max(ratios):.2f})"
            )


if __name__ == "__main__":
    main()
