"""One table of the linear probes of all strategies, datasets and epochs."""

from pathlib import Path

import pandas as pd

from matpretrain.files import read_csv, write_csv, write_text
from matpretrain.jobs import job
from matpretrain.tables import markdown_table


def markdown(table, labels, units):
    """MAE for readers: one row per dataset and strategy, one column per epoch."""
    wide = table.pivot_table(index=["dataset", "pretraining"], columns="epoch", values="mae_mean", sort=False)
    rows = [
        [labels.get(dataset, dataset), units[dataset], pretraining, *("" if pd.isna(v) else f"{v:.4g}" for v in row)]
        for (dataset, pretraining), row in wide.iterrows()
    ]
    note = "MAE of a ridge regression on the frozen encoder, mean over the outer folds; epoch 0 is the untrained encoder."
    return markdown_table(["dataset", "unit", "pretraining", *(f"epoch {e}" for e in wide)], rows, [note])


if __name__ == "__main__":
    with job(snakemake):
        parts = []
        for path in map(Path, snakemake.input):
            part = read_csv(path)
            part.insert(0, "dataset", path.parent.name)
            part.insert(1, "pretraining", path.stem)
            parts.append(part)
        table = pd.concat(parts)
        write_csv(table, snakemake.output.csv)
        write_text(markdown(table, snakemake.params.labels, snakemake.params.units), snakemake.output.md)
