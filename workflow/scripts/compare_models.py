"""Paired tests between every two models on every dataset, Holm-adjusted over the whole table."""

from itertools import combinations

import pandas as pd

from matpretrain.files import read_csv, write_csv
from matpretrain.jobs import job
from matpretrain.statistics import COMPARED, compare, with_holm


def compare_models(scores, models):
    """One row per dataset and pair of models; negative differences mean that model_a is better."""
    rows = []
    for dataset, part in scores.groupby("dataset", sort=False):
        present = [m for m in models if m in set(part["model"])]
        rows += [{"dataset": dataset, "model_a": a, "model_b": b, **compare(part, a, b)} for a, b in combinations(present, 2)]
    table = pd.DataFrame(rows, columns=["dataset", "model_a", "model_b", *COMPARED])
    return with_holm(table)


if __name__ == "__main__":
    with job(snakemake):
        write_csv(compare_models(read_csv(snakemake.input.scores), snakemake.params.models), snakemake.output[0])
