"""What pretraining is worth on every dataset, with intervals."""

from matpretrain import plots
from matpretrain.files import read_csv
from matpretrain.jobs import job

if __name__ == "__main__":
    with job(snakemake):
        plots.style()
        plots.save(plots.gains(read_csv(snakemake.input[0]), snakemake.params.labels), snakemake.output[0])
