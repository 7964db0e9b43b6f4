"""Predictions of training subsets -> MAE of every fold: one table per study, from which all else about the study is made."""

import pandas as pd

from matpretrain.files import read_csv, write_csv
from matpretrain.jobs import job
from matpretrain.statistics import fold_scores
from matpretrain.subsets import FULL, n_training

COLUMNS = ["dataset", "model", "size", "train_rows", "pool_rows", "seed", "fold", "n", "mae", "rmse", "structures"]


def score_run(predictions, run, n_rows):
    """Scores of the test parts of one run, a row per seed and fold; pool_rows are the rows that a subset is drawn from.

    Args:
        predictions: data frame of the run.
        run: (dataset, model, size), size as in subsets.outer_split or FULL.
        n_rows: rows of the dataset.
    """
    dataset, model, size = run
    scores = fold_scores(predictions[predictions["part"] == "test"], n_rows).assign(dataset=dataset, model=model, size=size)
    scores["pool_rows"] = scores["train_rows"]
    if size != FULL:
        scores["train_rows"] = scores["train_rows"].clip(upper=n_training(size, n_rows))
    return scores


if __name__ == "__main__":
    with job(snakemake):
        p = snakemake.params
        n_rows = {d: len(read_csv(path)) for d, path in zip(p.structures, snakemake.input.tables, strict=True)}
        parts = []
        for run, path in zip(p.runs, snakemake.input.predictions, strict=True):
            parts.append(score_run(read_csv(path, dtype={"id": str}), run, n_rows[run[0]]))
        table = pd.concat(parts)
        table["structures"] = table["dataset"].map(p.structures)
        write_csv(table[COLUMNS], snakemake.output[0])
