"""Drawing of what predicted uncertainties are worth."""

import itertools

import matplotlib.pyplot as plt
import seaborn as sns

from matpretrain.plots import COLOURS, WIDTH
from matpretrain.uncertainty import KEPT, SHARES


def confidence(table, labels, models):
    """Error of the surest rows by their share, a panel per dataset: a curve that falls to the left knows where it errs.

    Args:
        table: data frame dataset, model and KEPT, the MAE of the rows kept as a share of that of all (uncertainty.reliability).
        labels: {dataset or model: text}.
        models: names in drawing order.

    Returns:
        Figure.
    """
    curves = {dataset: part.set_index("model")[KEPT] for dataset, part in table.groupby("dataset", sort=False)}
    drawn = [m for m in models if m in set(table["model"])]
    looks = dict(zip(drawn, zip(itertools.cycle(COLOURS), itertools.cycle("osD^vPX"), strict=False), strict=False))
    columns = max(1, min(4, len(curves)))
    rows = max(1, -(-len(curves) // columns))
    figure, grid = plt.subplots(
        rows, columns, squeeze=False, sharey=True, figsize=(WIDTH * 0.85 * columns, WIDTH * 0.8 * rows + 0.6)
    )
    for axes, (dataset, panel) in zip(grid.flat, curves.items(), strict=False):
        axes.axhline(100, color="0.8", lw=0.8, zorder=0)
        for model in drawn:
            if model in panel.index:
                colour, marker = looks[model]
                axes.plot(
                    100 * SHARES, 100 * panel.loc[model], color=colour, marker=marker, ms=3, lw=1, markevery=(1, 3), label=model
                )
        axes.set(title=labels.get(dataset, dataset), xlim=(0, 101), xlabel="rows kept, surest first (%)")
    for axes in list(grid.flat)[len(curves) :]:
        axes.axis("off")
    for axes in grid[:, 0]:
        axes.set_ylabel("MAE of these rows\n(% of that of all)")
    grid[0, 0].set_ylim(bottom=0)
    handles = [plt.Line2D([], [], color=looks[m][0], marker=looks[m][1], ms=3, lw=1) for m in drawn]
    if drawn:
        names = [labels.get(m, m) for m in drawn]
        figure.legend(handles, names, loc="outside lower center", ncols=min(len(drawn), 2 * columns), frameon=False)
    sns.despine(figure)
    return figure
