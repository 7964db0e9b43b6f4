"""Bars of the MAE of every model on every dataset."""

from matpretrain import plots
from matpretrain.files import read_csv
from matpretrain.jobs import job

if __name__ == "__main__":
    with job(snakemake):
        table = read_csv(snakemake.input[0])
        table = table[table["mae_mean"].notna()]
        labels = dict(snakemake.params.labels)
        labels.update({f"{m}-ensemble": f"{label} ensemble" for m, label in snakemake.params.labels.items()})
        plots.style()
        plots.save(plots.mae_bars(table, labels, snakemake.params.units), snakemake.output[0])
