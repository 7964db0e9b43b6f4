"""Learning curves of the networks on one dataset."""

import pandas as pd

from matpretrain import plots
from matpretrain.files import read_csv
from matpretrain.jobs import job

if __name__ == "__main__":
    with job(snakemake):
        p = snakemake.params
        histories = {}
        for model, path in zip(p.models, snakemake.input.histories, strict=True):
            histories.setdefault(p.labels[model], []).append(read_csv(path))
        plots.style()
        merged = {label: pd.concat(parts) for label, parts in histories.items()}
        plots.save(plots.learning_curves(merged, p.title, p.unit), snakemake.output[0])
