"""Candidates for a permittivity near zero: losses, pairs of elements, spectra (Ihalage and Hao 2022, Figure 6 c to f)."""

from matpretrain import plots, plots_finder
from matpretrain.files import read_csv
from matpretrain.jobs import job
from matpretrain.spectra import side_by_side
from matpretrain.statistics import ensemble

SHOWN = 2  # candidates whose spectra are drawn

if __name__ == "__main__":
    with job(snakemake):
        predictions = read_csv(snakemake.input.predictions, dtype={"id": str})
        candidates = read_csv(snakemake.input.candidates, dtype={"id": str, "formula": str})
        test = ensemble(predictions[predictions["part"] == "test"])
        ids, grid, predicted = side_by_side(test, "prediction")
        measured = side_by_side(test, "target")[2]
        rows = ids.get_indexer(candidates["id"][:SHOWN])
        named = candidates[["formula", "crossover", "measured_crossover"]].itertuples(index=False)
        shown = [(*about, predicted[row], measured[row]) for about, row in zip(named, rows, strict=False)]
        plots.style()
        p = snakemake.params
        plots.save(plots_finder.near_zero(candidates, grid, shown, p.largest_loss, p.title), snakemake.output[0])
