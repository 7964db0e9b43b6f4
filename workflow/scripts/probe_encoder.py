"""Linear probe on the frozen encoder after every epoch of pretraining, and on untrained ones: how much of a target do they hold?"""

import importlib
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from matpretrain.files import read_csv, write_csv
from matpretrain.jobs import job
from matpretrain.probes import ridge
from matpretrain.splits import fold_numbers
from matpretrain.weights import embed, load_encoder, load_weights

UNTRAINED = 10  # encoders that are probed before training, each with other initial weights: one alone is a matter of luck


def probe(features, target, fold):
    """MAE [folds] on each outer fold of a ridge regression, fitted on the others, of standardised features [n, d]."""
    scores = []
    for k in fold_numbers(fold):
        train, test = fold != k, fold == k
        model = ridge().fit(features[train], target[train])
        scores.append(np.abs(model.predict(features[test]) - target[test]).mean())
    return np.array(scores)


def untrained(network, vectors, arguments, seed):
    """Encoder of a network as pretraining with this seed finds it, in evaluation mode."""
    torch.manual_seed(seed)
    return network.Encoder(**vectors, **arguments).eval()


if __name__ == "__main__":
    with job(snakemake) as say:
        encoder, record = load_encoder(Path(snakemake.input.record).parent)
        table = read_csv(snakemake.input.table, dtype={"id": str, "formula": str})
        network = importlib.import_module(f"matpretrain.{record['encoder']}")
        inputs, rows = network.Inputs.read(snakemake.input.compositions), []

        def score(encoder, epoch, seed):
            mae = probe(embed(encoder, inputs), table["target"].to_numpy(), table["fold"].to_numpy())
            rows.append({"epoch": epoch, "seed": seed, "mae_mean": mae.mean(), "mae_std": mae.std(ddof=0)})
            say("epoch {epoch}, seed {seed}: MAE {mae_mean:.4g} ± {mae_std:.2g}".format(**rows[-1]))

        for path in sorted(Path(snakemake.input.epochs).glob("*.safetensors")):
            load_weights(encoder, path)
            score(encoder, int(path.stem), record["seed"])
        vectors = {"element_vectors": encoder.element_vectors} if "element_vectors" in record else {}
        others = [seed for seed in range(UNTRAINED) if seed != record["seed"]][: UNTRAINED - 1]
        for seed in others:
            score(untrained(network, vectors, record["arguments"], seed), 0, seed)
        write_csv(pd.DataFrame(rows), snakemake.output[0])
