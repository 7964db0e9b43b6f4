"""Losses, errors and gradient norm over the epochs of a pretraining run."""

from matpretrain import plots
from matpretrain.files import read_csv
from matpretrain.jobs import job

if __name__ == "__main__":
    with job(snakemake):
        plots.style()
        figure = plots.pretraining(read_csv(snakemake.input[0]), snakemake.params.tasks, snakemake.params.title)
        plots.save(figure, snakemake.output[0])
