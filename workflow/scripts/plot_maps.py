"""Maps of the representations of one dataset by several frozen encoders, coloured by the target."""

import numpy as np

from matpretrain import plots
from matpretrain.composition import Compositions, distinct_numbers, take
from matpretrain.files import read_csv
from matpretrain.jobs import job
from matpretrain.maps import METHODS, check_size, neighbour_r2, sample, standardise

if __name__ == "__main__":
    with job(snakemake) as say:
        p = snakemake.params
        table = read_csv(snakemake.input.table, dtype={"id": str, "formula": str})
        rows = sample(len(table), p.rows)
        target = table["target"].to_numpy()[rows]
        compositions = take(Compositions.read(snakemake.input.compositions), rows)
        groups = distinct_numbers(compositions)
        check_size(snakemake.input.table, groups, "take another dataset")
        columns = {}
        for name, path in zip(p.pretraining, snakemake.input.features, strict=True):
            points = standardise(np.load(path)[rows])
            maps = {method: draw(points) for method, draw in METHODS.items()}
            scores = {method: neighbour_r2(points, target, groups) for method, points in (("features", points), *maps.items())}
            say(f"{name}: R2 of neighbours: " + ", ".join(f"{method} {score:.3f}" for method, score in scores.items()))
            columns[name] = {"maps": maps, "scores": scores, "n_features": points.shape[1]}
        plots.style()
        of = f" of {len(table):,}" if len(rows) < len(table) else ""
        title = f"{p.title}, n = {len(rows):,}{of}"
        plots.save(plots.maps(columns, target, plots.with_unit(p.quantity, p.unit), title), snakemake.output[0])
