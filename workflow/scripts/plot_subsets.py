"""MAE of every model of a study against the number of training rows, a panel per dataset."""

from matpretrain import plots
from matpretrain.files import read_csv
from matpretrain.jobs import job

if __name__ == "__main__":
    with job(snakemake):
        p = snakemake.params
        table = read_csv(snakemake.input[0], dtype={"size": str})
        table = table[table["mae_mean"].notna()]
        draw = plots.subset_bars if table["size"].str.endswith("%").any() else plots.subset_curves
        plots.style()
        plots.save(plots.subset_panels(table, p.models, p.titles, p.units, draw), snakemake.output[0])
