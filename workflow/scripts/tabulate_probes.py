"""One table of the linear probes of all strategies, datasets and epochs."""

from pathlib import Path

import pandas as pd

from matpretrain.files import read_csv, write_csv, write_text
from matpretrain.jobs import job
from matpretrain.statistics import DRAWS, prediction_interval
from matpretrain.tables import markdown_table


def beside(own, untrained):
    """Probes of a strategy's encoder, which begins with those of its own initial weights, and of untrained ones with others: together
    DRAWS initial weights."""
    return pd.concat([own, untrained[~untrained["seed"].isin(own["seed"])].iloc[: DRAWS - 1]])


def markdown(table, labels, units):
    """MAE for readers: one row per dataset and strategy, untrained encoders and one column per epoch."""
    epochs, rows = [e for e in sorted(table["epoch"].unique()) if e > 0], []
    for (dataset, strategy), part in table.groupby(["dataset", "pretraining"], sort=False):
        before = part.loc[part["epoch"] == 0, "mae_mean"]
        low, _ = prediction_interval(before)
        after = part[part["epoch"] > 0].set_index("epoch")["mae_mean"].reindex(epochs)
        cells = ["" if pd.isna(mae) else f"**{mae:.4g}**" if mae < low else f"{mae:.4g}" for mae in after]
        rows.append(
            [labels.get(dataset, dataset), units[dataset], strategy, f"{before.mean():.4g} ± {before.std():.2g}", *cells]
        )
    n = table[table["epoch"] == 0].groupby(["dataset", "pretraining"]).size().max()
    notes = [
        "MAE of a ridge regression on the frozen encoder, mean over the outer folds.",
        f"Untrained: mean and standard deviation over {n} initial weights. Bold: lower than one more untrained encoder would be in "
        "39 of 40 cases, if these are normally distributed (below the 95 % prediction interval).",
    ]
    return markdown_table(["dataset", "unit", "pretraining", "untrained", *(f"epoch {e}" for e in epochs)], rows, notes)


if __name__ == "__main__":
    with job(snakemake):
        parts = []
        for path, untrained in zip(map(Path, snakemake.input.probes), snakemake.input.untrained, strict=True):
            part = beside(read_csv(path), read_csv(untrained))
            part.insert(0, "dataset", path.parent.name)
            part.insert(1, "pretraining", path.stem)
            parts.append(part)
        table = pd.concat(parts)
        write_csv(table, snakemake.output.csv)
        write_text(markdown(table, snakemake.params.labels, snakemake.params.units), snakemake.output.md)
