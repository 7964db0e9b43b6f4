"""MAE of every model on one dataset against the number of training rows."""

from matpretrain import plots
from matpretrain.files import read_csv
from matpretrain.jobs import job

if __name__ == "__main__":
    with job(snakemake):
        p = snakemake.params
        table = read_csv(snakemake.input[0], dtype={"size": str})
        table = table[(table["dataset"] == p.dataset) & table["mae_mean"].notna()]
        plots.style()
        plots.save(plots.subset_curves(table, p.labels, p.title, p.unit), snakemake.output[0])
