"""One table of the linear probes of all strategies, datasets and epochs."""

from pathlib import Path

import pandas as pd

from matpretrain.files import atomic_path, read_csv, write_csv
from matpretrain.jobs import job


def markdown(table, labels, units):
    """MAE for readers: one row per dataset and strategy, one column per epoch."""
    wide = table.pivot_table(index=["dataset", "pretraining"], columns="epoch", values="mae_mean", sort=False)
    lines = ["| dataset | unit | pretraining | " + " | ".join(f"epoch {e}" for e in wide) + " |"]
    lines.append("|---" * (wide.shape[1] + 3) + "|")
    for (dataset, pretraining), row in wide.iterrows():
        cells = " | ".join("" if pd.isna(v) else f"{v:.4g}" for v in row)
        lines.append(f"| {labels.get(dataset, dataset)} | {units[dataset]} | {pretraining} | {cells} |")
    note = "MAE of a ridge regression on the frozen encoder, mean over the outer folds; epoch 0 is the untrained encoder."
    return "\n".join(lines) + f"\n\n* {note}\n"


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
        with atomic_path(snakemake.output.md) as temporary:
            temporary.write_text(markdown(table, snakemake.params.labels, snakemake.params.units))
