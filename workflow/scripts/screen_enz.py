"""Held-out predictions of dielectric functions -> scores, a screening for zero crossings, and the list of candidates.

A material is near zero (ENZ) where eps_re changes sign; it is of use where eps_im, the loss, is small there (Ihalage and
Hao 2022). What was predicted without a material is compared with its measured spectrum, at the energies that were measured.
"""

import numpy as np
import pandas as pd

from matpretrain.files import read_csv, write_csv
from matpretrain.jobs import job
from matpretrain.spectra import ABOVE_HULL, PARTS, UNKNOWN, crossovers, kramers_kronig_misfit, near_zero, scores, side_by_side
from matpretrain.statistics import ensemble

HULL = 0.025  # eV/atom above the convex hull that a candidate may have, where it is known


def crossing(grid, eps, near=np.nan):
    """Energy, loss and width of |eps_re| < 1 of the crossing nearest to an energy, or of that of the loss nearest to zero.

    NaN without a crossing. A predicted loss can be negative, which no passive material's is: its size counts.
    """
    at, loss = crossovers(grid, eps)
    if not len(at):
        return np.nan, np.nan, np.nan
    k = int(np.argmin(np.abs(loss) if np.isnan(near) else np.abs(at - near)))
    return at[k], loss[k], near_zero(grid, eps, at[k])


def screen(grid, predicted, measured, table):
    """Data frame, a row per material: the predicted crossing of the smallest loss, where the spectrum is measured, and the
    measured crossing nearest to it.

    Args:
        predicted, measured: complex [n, G], measured NaN where unknown.
        table: id, formula and, where it is known, energy_above_hull.
    """
    rows = []
    for p, m in zip(predicted, measured, strict=True):
        found = crossing(grid, np.where(np.isfinite(m), p, UNKNOWN))
        rows.append([*found, *crossing(grid, m, near=found[0])])
    names = ["crossover", "loss", "width", "measured_crossover", "measured_loss", "measured_width"]
    screening = pd.concat([table.reset_index(drop=True), pd.DataFrame(rows, columns=names)], axis=1)
    screening["predicted"], screening["confirmed"] = screening["crossover"].notna(), screening["measured_crossover"].notna()
    return screening


def select(screening, largest_loss):
    """The candidates: predicted to cross zero with a small loss, confirmed by measurement, and stable where that is known."""
    good = screening["predicted"] & screening["confirmed"] & (screening["loss"].abs() < largest_loss)
    if ABOVE_HULL in screening:
        hull = pd.to_numeric(screening[ABOVE_HULL], errors="coerce")
        good &= hull.isna() | (hull < HULL)
    return screening[good].sort_values("loss", key=abs).drop(columns=["predicted", "confirmed"])


def summarise(grid, predicted, measured, screening):
    """Data frame quantity, metric, value: table 4 of the paper, the consistency of the spectra, the quality of the screening."""
    rows = []
    for part, values in zip(PARTS, ("real", "imag"), strict=True):
        found = scores(getattr(measured, values), getattr(predicted, values))
        rows += [(part, metric, value) for metric, value in found.items()]
    misfit = np.median(kramers_kronig_misfit(grid, predicted))
    both = screening["predicted"] & screening["confirmed"]
    error = (screening["crossover"] - screening["measured_crossover"])[both].abs().median()
    rows += [
        ("eps", "kramers_kronig_misfit", misfit),
        ("crossing", "materials", len(screening)),
        ("crossing", "share_measured", screening["confirmed"].mean()),
        ("crossing", "precision", both.sum() / max(1, screening["predicted"].sum())),
        ("crossing", "recall", both.sum() / max(1, screening["confirmed"].sum())),
        ("crossing", "median_energy_error", error),
    ]
    return pd.DataFrame(rows, columns=["quantity", "metric", "value"])


if __name__ == "__main__":
    with job(snakemake) as say:
        predictions = read_csv(snakemake.input.predictions, dtype={"id": str})
        test = ensemble(predictions[predictions["part"] == "test"])
        ids, grid, predicted = side_by_side(test, "prediction")
        measured = side_by_side(test, "target")[2]
        table = read_csv(snakemake.input.table, dtype={"id": str, "formula": str}).set_index("id").loc[ids].reset_index()
        screening = screen(grid, predicted, measured, table.drop(columns=["fold", "group"]))
        candidates = select(screening, snakemake.params.largest_loss)
        summary = summarise(grid, predicted, measured, screening)
        for quantity, metric, value in summary.itertuples(index=False):
            say(f"{quantity} {metric}: {value:.4g}")
        say(f"{len(candidates)} candidates with a loss below {snakemake.params.largest_loss:g}")
        write_csv(screening, snakemake.output.screening)
        write_csv(candidates, snakemake.output.candidates)
        write_csv(summary, snakemake.output.scores)
