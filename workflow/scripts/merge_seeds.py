"""Predictions of all seeds of a model in one file; their spread is the epistemic uncertainty."""

import pandas as pd

from matpretrain.files import read_csv, write_csv
from matpretrain.jobs import job
from matpretrain.statistics import epistemic_std, row_keys

COLUMNS = ["fold", "seed", "part", "target", "prediction", "aleatoric_std", "epistemic_std"]

if __name__ == "__main__":
    with job(snakemake):
        merged = pd.concat([read_csv(path, dtype={"id": str}) for path in snakemake.input.predictions])
        merged = merged.sort_values(["part", "seed", "fold"], kind="stable")
        merged["epistemic_std"] = epistemic_std(merged)
        write_csv(merged[row_keys(merged) + COLUMNS], snakemake.output[0])
