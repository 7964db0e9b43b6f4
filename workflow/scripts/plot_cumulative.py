"""Share of the test rows below an error, for every model on one dataset (Ihalage and Hao 2022, Figure 5)."""

from pathlib import Path

from matpretrain import plots, plots_finder
from matpretrain.files import read_csv
from matpretrain.jobs import job
from matpretrain.statistics import ensemble

if __name__ == "__main__":
    with job(snakemake):
        p, errors = snakemake.params, {}
        for path in snakemake.input:
            test = ensemble(read_csv(path, dtype={"id": str}).query("part == 'test'"))
            errors[p.labels[Path(path).parent.name]] = (test["prediction"] - test["target"]).abs().to_numpy()
        plots.style()
        plots.save(plots_finder.cumulative(errors, p.title, p.unit), snakemake.output[0])
