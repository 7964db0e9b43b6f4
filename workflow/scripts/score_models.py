"""Tidy scores of every (dataset, model, seed, fold) from the predictions."""

from pathlib import Path

import pandas as pd

from matpretrain.files import read_csv, write_csv
from matpretrain.jobs import job
from matpretrain.statistics import fold_scores

if __name__ == "__main__":
    with job(snakemake):
        units, parts = snakemake.params.units, []
        n_rows = {d: len(read_csv(path)) for d, path in zip(units, snakemake.input.tables, strict=True)}
        for path in snakemake.input.predictions:
            dataset, model = Path(path).parts[-3:-1]
            scores = fold_scores(read_csv(path, dtype={"id": str}), n_rows[dataset])
            scores.insert(0, "dataset", dataset)
            scores.insert(1, "model", model)
            parts.append(scores.assign(unit=units[dataset]))
        write_csv(pd.concat(parts), snakemake.output[0])
