"""The MAE of every model on every dataset."""

from matpretrain import plots
from matpretrain.files import read_csv
from matpretrain.jobs import job
from matpretrain.tables import ENSEMBLE

if __name__ == "__main__":
    with job(snakemake):
        table = read_csv(snakemake.input[0])
        table = table[table.groupby("model")["mae_mean"].transform("count") > 0]
        table = table[~table["model"].str.endswith(ENSEMBLE)]
        plots.style()
        plots.save(plots.mae_points(table, snakemake.params.labels, snakemake.params.units), snakemake.output[0])
