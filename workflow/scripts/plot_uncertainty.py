"""Error of the rows of which a model is surest, by their share, a panel per dataset."""

from matpretrain import plots, plots_uncertainty
from matpretrain.files import read_csv
from matpretrain.jobs import job

if __name__ == "__main__":
    with job(snakemake):
        p = snakemake.params
        plots.style()
        plots.save(plots_uncertainty.confidence(read_csv(snakemake.input[0]), p.labels, p.models), snakemake.output[0])
