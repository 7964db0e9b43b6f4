"""How far the predicted standard deviations of every model can be believed, on test rows."""

from pathlib import Path

import pandas as pd

from matpretrain.files import read_csv, write_csv, write_text
from matpretrain.jobs import job
from matpretrain.tables import markdown_table
from matpretrain.uncertainty import COLUMNS, absolute_errors, reliability

HEADINGS = [
    "dataset",
    "model",
    "seeds",
    "MAE",
    "mean deviation",
    "within one",
    "within two",
    "factor",
    "rank",
    "surest half (ideal)",
]
NOTES = [
    "Test rows, seeds averaged, mean over the outer folds. Deviation: root of the mean variance that seeds predict (aleatoric_std, scaled "
    "on inner validation or out-of-bag rows), or the standard deviation over seeds where they predict none.",
    "Within one, two: share of the errors that are smaller than one and two deviations; 68 and 95 % of a normal distribution, 76 and "
    "94 % of Laplace's. Factor: by which deviations have to be multiplied for 68 % (above 1: the model is too sure).",
    "Rank: Spearman's correlation of deviations and errors. Surest half: the error of the rows with the smallest deviations as a "
    "share of that of all; in brackets what the smallest errors have.",
]


def tabulate(predictions):
    """One row per dataset and model that predicts deviations.

    Args:
        predictions: {(dataset, model): predictions table}.
    """
    rows = []
    for (dataset, model), table in predictions.items():
        errors = absolute_errors(table)
        if len(errors):
            rows.append({"dataset": dataset, "model": model, "n_seeds": table["seed"].nunique(), **reliability(errors)})
    return pd.DataFrame(rows, columns=["dataset", "model", "n_seeds", *COLUMNS])


def markdown(table, labels, units):
    """The table for readers."""
    rows = []
    for row in table.itertuples():
        unit = "" if units[row.dataset] == "unitless" else f" {units[row.dataset]}"
        cells = [labels.get(row.dataset, row.dataset), labels.get(row.model, row.model), row.n_seeds]
        cells += [f"{row.mae:.4g}{unit}", f"{row.mean_std:.4g}"]
        cells += [f"{100 * share:.0f} %" for share in (row.within_one, row.within_two)]
        cells += [f"{row.factor:.2f}", "" if pd.isna(row.rank) else f"{row.rank:.2f}"]
        rows.append([*cells, f"{100 * row.surest_half:.0f} % ({100 * row.ideal_half:.0f} %)"])
    return markdown_table(HEADINGS, rows, NOTES)


if __name__ == "__main__":
    with job(snakemake):
        names = [Path(path).parts[-3:-1] for path in snakemake.input]
        tables = [read_csv(path, dtype={"id": str}) for path in snakemake.input]
        table = tabulate(dict(zip(names, tables, strict=True)))
        write_csv(table, snakemake.output.csv)
        write_text(markdown(table, snakemake.params.labels, snakemake.params.units), snakemake.output.md)
