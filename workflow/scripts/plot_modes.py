"""Two networks of one dataset side by side: training curves, t-SNE of the same test rows from the same start, and correlations
of the principal components of their representations (Ihalage and Hao 2022, Figure 5)."""

import numpy as np
import pandas as pd

from matpretrain import plots, plots_finder
from matpretrain.files import DataError, read_csv, write_csv
from matpretrain.jobs import job
from matpretrain.maps import MIN_ROWS, component_correlations, principal_components, sample, standardise, tsne

if __name__ == "__main__":
    with job(snakemake) as say:
        p, histories, points = snakemake.params, {}, {}
        for model, path in zip(p.history_models, snakemake.input.histories, strict=True):
            histories.setdefault(p.labels[model], []).append(read_csv(path))
        table = read_csv(snakemake.input.table, dtype={"id": str, "formula": str}).set_index("id")
        for model, path in zip(p.models, snakemake.input.features, strict=True):
            with np.load(path) as arrays:
                ids = arrays["id"]
                rows = sample(len(ids), p.rows)
                points[p.labels[model]] = standardise(arrays["features"][rows])
        if len(rows) < MIN_ROWS:
            raise DataError(
                f"{path}: {len(rows)} rows in the test part of a fold, a map needs at least {MIN_ROWS}; take another dataset"
            )
        target = table["target"].loc[ids[rows]].to_numpy()
        correlations = component_correlations(*points.values())
        say(f"first principal components: |r| = {correlations['r'].iloc[0]:.3f}, {len(rows)} rows")
        start = principal_components(next(iter(points.values())), 2)[0]
        maps = {label: tsne(features, start) for label, features in points.items()}
        plots.style()
        figure = plots_finder.modes(
            {label: pd.concat(parts) for label, parts in histories.items()}, maps, target, correlations,
            plots.with_unit(p.quantity, p.unit), p.unit, f"{p.title} (maps: {len(rows):,} of {len(ids):,} test rows of one fold)",
        )  # fmt: skip
        plots.save(figure, snakemake.output.figure)
        write_csv(correlations.assign(model_a=p.models[0], model_b=p.models[1]), snakemake.output.correlations)
