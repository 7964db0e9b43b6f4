"""Linear probe on the frozen encoder after every epoch of pretraining: how much of a target does it hold?"""

import importlib
from pathlib import Path

import numpy as np
import pandas as pd

from matpretrain.files import read_csv, write_csv
from matpretrain.jobs import job
from matpretrain.probes import ridge
from matpretrain.splits import fold_numbers
from matpretrain.weights import embed, load_encoder, load_weights


def probe(features, target, fold):
    """MAE [folds] on each outer fold of a ridge regression, fitted on the others, of standardised features [n, d]."""
    scores = []
    for k in fold_numbers(fold):
        train, test = fold != k, fold == k
        model = ridge().fit(features[train], target[train])
        scores.append(np.abs(model.predict(features[test]) - target[test]).mean())
    return np.array(scores)


if __name__ == "__main__":
    with job(snakemake) as say:
        encoder, record = load_encoder(Path(snakemake.input.record).parent)
        table = read_csv(snakemake.input.table, dtype={"id": str, "formula": str})
        inputs = importlib.import_module(f"matpretrain.{record['encoder']}").Inputs.read(snakemake.input.compositions)
        rows = []
        for path in sorted(Path(snakemake.input.epochs).glob("*.safetensors")):
            load_weights(encoder, path)
            mae = probe(embed(encoder, inputs), table["target"].to_numpy(), table["fold"].to_numpy())
            rows.append({"epoch": int(path.stem), "mae_mean": mae.mean(), "mae_std": mae.std(ddof=0)})
            say("epoch {epoch}: MAE {mae_mean:.4g} ± {mae_std:.2g}".format(**rows[-1]))
        write_csv(pd.DataFrame(rows), snakemake.output[0])
