"""Figure style and drawing."""

import itertools

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns

WIDTH = 3.5  # inches, one journal column
COLOURS = sns.color_palette("colorblind")


def style():
    """Font sizes and lines of all figures."""
    sns.set_theme(context="paper", style="ticks", palette="colorblind", font_scale=0.9)
    matplotlib.rcParams.update({"savefig.dpi": 200, "figure.constrained_layout.use": True, "svg.fonttype": "none"})


def save(figure, path):
    """Write a figure as PNG or SVG (by suffix), atomically, without a time stamp."""
    from matpretrain.files import atomic_path

    with atomic_path(path) as temporary:
        figure.savefig(
            temporary, format=str(path).rsplit(".", 1)[-1], metadata={"Date": None} if str(path).endswith("svg") else None
        )
    plt.close(figure)


def parity(target, prediction, std, quantity, unit, title):
    """Predicted against measured values with marginal histograms; colour is the predicted standard deviation, if any.

    Args:
        target, prediction: [n] in `unit`.
        std: [n] predicted standard deviation in `unit`, or None.

    Returns:
        Figure.
    """
    figure = plt.figure(figsize=(WIDTH * 1.35, WIDTH * 1.25))
    grid = figure.add_gridspec(2, 2, width_ratios=(5, 1), height_ratios=(1, 5))
    axes = figure.add_subplot(grid[1, 0])
    top, right = figure.add_subplot(grid[0, 0], sharex=axes), figure.add_subplot(grid[1, 1], sharey=axes)
    low, high = np.percentile(np.concatenate([target, prediction]), [0.1, 99.9])
    margin = 0.04 * (high - low)
    limits = (low - margin, high + margin)
    inside = ((target >= limits[0]) & (target <= limits[1]) & (prediction >= limits[0]) & (prediction <= limits[1])).sum()
    axes.plot(limits, limits, color="0.4", lw=0.8, zorder=1)
    size = float(np.clip(4000 / len(target), 2, 14))
    if std is not None:
        order = np.argsort(std)
        points = axes.scatter(
            target[order], prediction[order], c=std[order], s=size, lw=0, cmap="viridis", vmax=np.percentile(std, 98), zorder=2,
            rasterized=True,
        )  # fmt: skip
        bar = figure.colorbar(points, ax=right, location="right", fraction=0.6, aspect=30)
        bar.set_label(f"predicted standard deviation ({unit})")
        bar.outline.set_visible(False)
    else:
        axes.scatter(target, prediction, s=size, lw=0, color=COLOURS[0], zorder=2, rasterized=True)
    bins = np.linspace(*limits, 41)
    top.hist(target, bins, color="0.65")
    right.hist(prediction, bins, color="0.65", orientation="horizontal")
    for side in (top, right):
        side.axis("off")
    axes.set(xlim=limits, ylim=limits, xlabel=f"{quantity} ({unit})", ylabel=f"predicted ({unit})")
    error = np.abs(prediction - target)
    axes.text(
        0.04, 0.96, f"MAE {error.mean():.3g} {unit}\nn = {len(target):,}"
        + (f"\n{len(target) - inside:,} outside the frame" if inside < len(target) else ""),
        transform=axes.transAxes, va="top",
    )  # fmt: skip
    top.set_title(title, loc="left", fontsize="medium")
    sns.despine(ax=axes)
    return figure


def learning_curves(histories, label, unit):
    """Training loss and validation MAE by epoch; line: mean over folds and seeds, band: their range.

    Args:
        histories: {model label: data frame (epoch, loss, mae, fold, seed)}.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(WIDTH * 2, WIDTH * 0.8))
    for colour, (model, history) in zip(itertools.cycle(COLOURS), histories.items(), strict=False):
        for axes, column in ((left, "loss"), (right, "mae")):
            by_epoch = history.groupby("epoch")[column]
            axes.plot(by_epoch.mean(), color=colour, lw=1.2, label=model)
            axes.fill_between(by_epoch.min().index, by_epoch.min(), by_epoch.max(), color=colour, alpha=0.2, lw=0)
    left.set(xlabel="epoch", ylabel="training loss (standardised target)", title=label)
    right.set(xlabel="epoch", ylabel=f"validation MAE ({unit})")
    right.set_ylim(bottom=0, top=np.percentile(np.concatenate([h["mae"] for h in histories.values()]), 99.5) * 1.05)
    runs = max(len(h[["fold", "seed"]].drop_duplicates()) for h in histories.values())
    right.legend(frameon=False, title=f"mean and range of {runs} runs", title_fontsize="small")
    sns.despine(figure)
    return figure


def mae_bars(table, labels, units):
    """MAE of every model, one panel per dataset; error bars: standard deviation over folds.

    Args:
        table: data frame dataset, model, mae_mean, mae_std; models in drawing order.
    """
    datasets = list(dict.fromkeys(table["dataset"]))
    columns = min(3, len(datasets))
    rows = -(-len(datasets) // columns)
    figure, grid = plt.subplots(rows, columns, figsize=(WIDTH * 0.85 * max(columns, 1.4), WIDTH * 0.8 * rows), squeeze=False)
    models = list(dict.fromkeys(table["model"]))
    colour = dict(zip(models, itertools.cycle(COLOURS), strict=False))
    for axes, dataset in zip(grid.flat, datasets, strict=False):
        part = table[table["dataset"] == dataset]
        axes.barh(
            [labels.get(m, m) for m in part["model"]], part["mae_mean"], xerr=part["mae_std"],
            color=[colour[m] for m in part["model"]], error_kw={"lw": 0.8, "capsize": 2},
        )  # fmt: skip
        axes.invert_yaxis()
        axes.set(title=labels.get(dataset, dataset), xlabel=f"MAE ({units[dataset]})")
    for axes in list(grid.flat)[len(datasets) :]:
        axes.axis("off")
    sns.despine(figure)
    return figure
