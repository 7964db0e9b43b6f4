"""Linear probe of density and volume on the frozen encoder of crystals, after every epoch of pretraining.

New et al. 2024 draw 4,096 structures from the validation part of the corpus and fit a ridge regression on 80 % of them. A corpus
that is a sample has few validation rows: there it is structures that the sample leaves out, as unseen as those. The authors
do not say whether the volume is that of the cell, on which a mean over atoms says nothing, or that per atom: both are here.
The representations before and after pretraining are kept for the map of plot_crystals.py.
"""

import importlib
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from matpretrain.composition import distinct_numbers, take
from matpretrain.crystal import compositions_of
from matpretrain.files import DataError, atomic_path, write_csv
from matpretrain.graphs import densities, open_graphs, volumes
from matpretrain.jobs import job
from matpretrain.probes import ridge
from matpretrain.splits import hold_out
from matpretrain.weights import corpus_inputs, embed, load_encoder, load_weights

TRAIN, LEAST = 0.8, 10


def r2(features, target):
    """R2 on the last fifth of the rows of a ridge regression fitted on the others: features [n, d], target [n]."""
    n_train = round(TRAIN * len(target))
    model = ridge().fit(features[:n_train], target[:n_train])
    return model.score(features[n_train:], target[n_train:])


if __name__ == "__main__":
    with job(snakemake) as say:
        p = snakemake.params
        encoder, record = load_encoder(Path(snakemake.input.record).parent)
        network = importlib.import_module(f"matpretrain.{record['encoder']}")
        inputs = corpus_inputs(network).read(snakemake.input.graphs)
        rows = np.arange(len(inputs)) if p.left_out else hold_out(len(inputs), p.validation_fraction, p.seed)[1]
        rows = rows[: p.structures]
        if len(rows) < LEAST:
            raise DataError(
                f"{snakemake.input.graphs}: {len(rows)} structures that pretraining has not seen are too few for a probe"
            )
        graphs = open_graphs(snakemake.input.graphs)
        volume = volumes(graphs)
        quantities = {
            "density": densities(graphs),
            "volume_per_atom": volume / np.diff(graphs.node_offset),
            "volume": volume,
        }
        targets = {name: np.log(values[rows]) for name, values in quantities.items()}
        table, kept = [], {}
        for path in sorted(Path(snakemake.input.epochs).glob("*.safetensors")):
            load_weights(encoder, path)
            features = embed(encoder, inputs, torch.as_tensor(rows))
            row = {"epoch": int(path.stem), "structures": len(rows)}
            table.append(row | {f"r2_log_{name}": r2(features, target) for name, target in targets.items()})
            kept = {"first": kept.get("first", features), "last": features}
            say(f"epoch {row['epoch']}: " + ", ".join(f"{k} {v:.3f}" for k, v in table[-1].items() if k.startswith("r2")))
        group = distinct_numbers(take(compositions_of(graphs.number, graphs.node_offset), rows))
        with atomic_path(snakemake.output.features) as temporary:
            np.savez(temporary, **kept, density=quantities["density"][rows], group=group, epochs=table[-1]["epoch"])
        write_csv(pd.DataFrame(table), snakemake.output.table)
