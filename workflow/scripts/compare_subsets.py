"""Every two models of a study of training subsets: cells won, change of the error, and tests that respect the nesting."""

import itertools

import pandas as pd

from matpretrain.files import read_csv, write_csv
from matpretrain.jobs import job
from matpretrain.statistics import NESTED, compare_nested

if __name__ == "__main__":
    with job(snakemake):
        scores = read_csv(snakemake.input[0], dtype={"size": str})
        models = list(dict.fromkeys(scores["model"]))
        materials = snakemake.params.materials
        tables = [compare_nested(scores, b, a, materials) for a, b in itertools.combinations(models, 2)]
        write_csv(pd.concat(tables) if tables else pd.DataFrame(columns=NESTED), snakemake.output[0])
