"""Parity plot of one model on one dataset, test parts of all folds, seeds averaged."""

import numpy as np

from matpretrain import plots
from matpretrain.files import read_csv
from matpretrain.jobs import job
from matpretrain.statistics import ensemble, total_std

if __name__ == "__main__":
    with job(snakemake):
        p = snakemake.params
        test = read_csv(snakemake.input.predictions, dtype={"id": str}).query("part == 'test'")
        mean = ensemble(test)
        std = total_std(test).reindex(mean["id"]).to_numpy()
        std = None if np.isnan(std).any() else std
        score = "MAE over all rows" if test["seed"].nunique() == 1 else "ensemble MAE over all rows"
        plots.style()
        figure = plots.parity(mean["target"].to_numpy(), mean["prediction"].to_numpy(), std, p.quantity, p.unit, p.title, score)
        plots.save(figure, snakemake.output[0])
