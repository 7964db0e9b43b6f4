"""Figure style and drawing."""

import itertools

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.mathtext import MathTextParser

from matpretrain.statistics import power_law
from matpretrain.tables import ALL

WIDTH = 3.5  # inches, one journal column
LINES = 40  # thin lines that a panel of learning curves can hold
BEYOND = 1.35  # times the median MAE: the end of the axis of `mae_points`
DECADES = 30  # losses that span more than this factor are drawn on a logarithmic axis
AT_RIGHT = {"ha": "right", "va": "center", "size": "x-small"}  # a note at the end of a row
COLOURS = sns.color_palette("colorblind")


def style():
    """Font sizes and lines of all figures."""
    sns.set_theme(context="paper", style="ticks", palette="colorblind", font_scale=0.9)
    matplotlib.rcParams.update({"savefig.dpi": 200, "figure.constrained_layout.use": True, "svg.fonttype": "none"})


def save(figure, path):
    """Write a figure as PNG or SVG (by suffix), atomically, without a time stamp."""
    from matpretrain.files import atomic_path

    take_literally(figure)
    with atomic_path(path) as temporary:
        figure.savefig(
            temporary, format=str(path).rsplit(".", 1)[-1], metadata={"Date": None} if str(path).endswith("svg") else None
        )
    plt.close(figure)


def take_literally(figure):
    """Have texts of a figure drawn as they are written where matplotlib cannot read the formula that they look like."""
    for text in figure.findobj(matplotlib.text.Text):
        try:
            MathTextParser("path").parse(text.get_text())
        except ValueError:
            text.set_parse_math(False)


def with_unit(quantity, unit):
    """Words for an axis: "quantity (unit)", without the unit where there is none."""
    return quantity if unit in ("", "unitless") else f"{quantity} ({unit})"


def parity(target, prediction, std, quantity, unit, title, score):
    """Predicted against measured values with marginal histograms (logarithmic counts); colour is the predicted standard
    deviation, if any.

    Args:
        target, prediction: [n] in `unit`.
        std: [n] predicted standard deviation in `unit`, or None.
        score: what the mean absolute error of these predictions is.

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
        bar = figure.colorbar(points, ax=right, location="right", fraction=0.6, aspect=30, extend="max")
        bar.set_label(with_unit("predicted standard deviation", unit))
        bar.outline.set_visible(False)
    else:
        axes.scatter(target, prediction, s=size, lw=0, color=COLOURS[0], zorder=2, rasterized=True)
    bins = np.linspace(*limits, 41)
    top.hist(target, bins, color="0.65", log=True)
    right.hist(prediction, bins, color="0.65", orientation="horizontal", log=True)
    corner = figure.add_subplot(grid[0, 1])
    corner.text(0, 0, "counts on\nlog scales", fontsize="x-small", color="0.4", va="bottom")
    for side in (top, right, corner):
        side.axis("off")
    axes.set(xlim=limits, ylim=limits, xlabel=with_unit(quantity, unit), ylabel=with_unit("predicted", unit))
    axes.yaxis.set_major_locator(matplotlib.ticker.FixedLocator(axes.get_xticks()))
    axes.set(ylim=limits, box_aspect=1)
    error = np.abs(prediction - target)
    axes.text(
        0.04, 0.96, f"{score} {error.mean():.3g}{'' if unit == 'unitless' else f' {unit}'}\nn = {len(target):,}"
        + (f"\n{len(target) - inside:,} outside the frame" if inside < len(target) else ""),
        transform=axes.transAxes, va="top",
    )  # fmt: skip
    top.set_title(title, loc="left", fontsize="medium")
    sns.despine(ax=axes)
    return figure


def learning_curves(histories, label, unit):
    """Training loss and validation MAE by epoch; thin lines: folds and seeds, where they are few, thick: their median.

    Args:
        histories: {model label: data frame (epoch, loss, mae, fold, seed)}.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(WIDTH * 2, WIDTH * 0.8))
    draw_curves(left, right, histories, unit)
    figure.suptitle(label)
    sns.despine(figure)
    return figure


def draw_curves(left, right, histories, unit):
    """Training losses on the axes `left`, validation MAE on `right`; histories and unit as in `learning_curves`."""
    numbers = [len(h[["fold", "seed"]].drop_duplicates()) for h in histories.values()]
    for colour, (model, history) in zip(itertools.cycle(COLOURS), histories.items(), strict=False):
        for axes, column in ((left, "loss"), (right, "mae")):
            runs = history.pivot(index="epoch", columns=["seed", "fold"], values=column)
            if sum(numbers) <= LINES:
                axes.plot(runs, color=colour, lw=0.5, alpha=0.35)
            axes.plot(runs.median(1), color=colour, lw=1.6, label=model, zorder=3)
    left.set(xlabel="epoch", ylabel="training loss (standardised target)")
    right.set(xlabel="epoch", ylabel=with_unit("validation MAE", unit))
    losses, errors = (np.concatenate([h[column].dropna() for h in histories.values()]) for column in ("loss", "mae"))
    low, high = losses.min(), np.percentile(losses, 99.5)  # a single step can leave a spike
    left.set_ylim(low - 0.05 * (high - low), high + 0.05 * (high - low))
    if len(errors):
        right.set_ylim(bottom=0, top=np.percentile(errors, 99.5) * 1.05)
    else:
        right.set(xticks=[], yticks=[])
        right.text(0.5, 0.5, "all rows train (inner_fraction: 0)", ha="center", transform=right.transAxes)
    right.legend(frameon=False, title=f"median of {max(numbers)} folds and seeds", title_fontsize="small")


def pretraining(history, tasks, title):
    """Losses on training and validation rows by epoch; where there are any, mean absolute errors and the gradient norm.

    Args:
        history: data frame epoch, loss, validation_loss and, as the tasks have them, {task}_mae, {task}_training_mae,
            gradient_norm.
        tasks: names of the pretext tasks.

    Returns:
        Figure.
    """
    panels = [("pretext loss", {"training": "loss", "validation": "validation_loss"})]
    for task in tasks:
        panels.append((f"mean absolute error, {task}", {"training": f"{task}_training_mae", "validation": f"{task}_mae"}))
    panels.append(("gradient norm before clipping", {"training": "gradient_norm"}))
    panels = [(name, {k: c for k, c in lines.items() if c in history}) for name, lines in panels]
    panels = [(name, lines) for name, lines in panels if lines]
    figure, grid = plt.subplots(1, len(panels), squeeze=False, figsize=(WIDTH * len(panels), WIDTH * 0.8))
    for axes, (name, lines) in zip(grid.flat, panels, strict=True):
        for colour, (side, column) in zip(COLOURS, lines.items(), strict=False):
            axes.plot(history["epoch"], history[column], color=colour, lw=1.2, marker="o", ms=2.5, label=side)
        axes.set(xlabel="epoch", ylabel=name)
        drawn = history[list(lines.values())].to_numpy()
        if drawn.min() > 0 and drawn.max() > DECADES * drawn.min():
            axes.set_yscale("log")
        axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True))
    grid[0, 0].set_title(title, loc="left")
    grid[0, 0].legend(frameon=False)
    sns.despine(figure)
    return figure


def mae_points(table, labels, units):
    """MAE of every model, one panel per dataset; error bars: standard deviation over folds; diamonds: the paper's, if any.

    The axis shows how most models differ: a value beyond BEYOND times their median is a number at its end.

    Args:
        table: data frame dataset, model, mae_mean, mae_std, paper_mean; models in drawing order.
    """
    datasets = list(dict.fromkeys(table["dataset"]))
    columns = min(3, len(datasets))
    rows = -(-len(datasets) // columns)
    models = list(dict.fromkeys(table["model"]))
    size = (WIDTH * 0.85 * max(columns, 1.4), rows * (0.75 + 0.22 * len(models)))
    figure, grid = plt.subplots(rows, columns, figsize=size, squeeze=False, sharey=True)
    for axes, dataset in zip(grid.flat, datasets, strict=False):
        part = table[table["dataset"] == dataset].set_index("model").reindex(models)
        most = BEYOND * part["mae_mean"].median()
        for place, (model, colour) in enumerate(zip(models, itertools.cycle(COLOURS), strict=False)):
            mean, std, paper = part.loc[model, ["mae_mean", "mae_std", "paper_mean"]].astype(float)
            if mean <= most:
                axes.errorbar(mean, place, xerr=std, fmt="o", ms=4.5, lw=1.4, capsize=2, color=colour)
            if paper <= most:
                axes.plot(paper, place, "D", ms=4, mfc="white", mec="0.2", mew=0.8)
            words = ["not run"] if np.isnan(mean) else [f"{mean:.3g}"] if mean > most else []
            words += [f"paper {paper:.3g}"] if paper > most else []
            if words:
                axes.annotate(", ".join(words), (0.98, place), **AT_RIGHT, xycoords=axes.get_yaxis_transform())
        axes.margins(x=0.1)
        axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(4))
        axes.set(title=labels.get(dataset, dataset), xlabel=with_unit("MAE", units[dataset]))
        axes.grid(axis="y", color="0.93", lw=0.6)
    grid[0, 0].set_yticks(range(len(models)), [labels.get(m, m) for m in models])
    grid[0, 0].set_ylim(len(models) - 0.5, -0.5)
    finish(figure, grid, len(datasets), "mean ± standard deviation over folds", table["paper_mean"])
    return figure


def finish(figure, grid, n, words, paper):
    """Take the panels after the n-th away and write below the figure what is drawn, diamonds too where the paper has values [..]."""
    for axes in list(grid.flat)[n:]:
        axes.axis("off")
    figure.supxlabel(words + "; diamonds: the paper's" * bool(paper.notna().any()), fontsize="small")
    sns.despine(figure)


def gains(table, labels):
    """Change of the MAE by pretraining in %, one panel per pretrained network, with 95 % intervals; diamonds: the paper's change.

    Args:
        table: data frame dataset, model, n_units, change, change_low, change_high, paper_change; dataset ALL is the mean over datasets,
            n_units says how many those of the same materials leave.
        labels: {dataset or model: name}.

    Returns:
        Figure.
    """
    models, datasets = (list(dict.fromkeys(table[key])) for key in ("model", "dataset"))
    columns = min(4, len(models))
    n_rows = -(-len(models) // columns)
    size = (WIDTH * (0.35 + 0.6 * max(columns, 2)), n_rows * (0.9 + 0.22 * len(datasets)))
    figure, grid = plt.subplots(n_rows, columns, squeeze=False, sharex=True, sharey=True, figsize=size)
    for axes, model, colour in zip(grid.flat, models, itertools.cycle(COLOURS), strict=False):
        part = table[table["model"] == model].set_index("dataset").reindex(datasets)
        places = np.arange(len(datasets))
        axes.axvline(0, color="0.6", lw=0.8, zorder=0)
        axes.hlines(places, part["change_low"], part["change_high"], color=colour, lw=1.4)
        axes.plot(part["change"], places, "o", ms=4.5, color=colour)
        axes.plot(part["paper_change"], places, "D", ms=4, mfc="white", mec="0.2", mew=0.8)
        axes.set_title(labels.get(model, model), loc="left")
        if ALL in datasets:
            axes.axhline(datasets.index(ALL) - 0.5, color="0.8", lw=0.6)
            n, units = part["change"].drop(ALL).notna().sum(), part.loc[ALL, "n_units"]
            if part["n_units"].notna()[ALL]:  # a network on one dataset has no mean
                count = f"of {n}" if units == n else f"of {n}, {int(units)} units"
                at = {**AT_RIGHT, "va": "bottom", "xycoords": axes.get_yaxis_transform()}
                axes.annotate(count, (0.98, datasets.index(ALL) - 0.06), **at)  # clear of a wide interval
    grid[0, 0].set_yticks(np.arange(len(datasets)), ["mean" if d == ALL else labels.get(d, d) for d in datasets])
    grid[0, 0].invert_yaxis()
    words = "change of MAE by pretraining (%; left of zero it helps) and 95 % interval"
    finish(figure, grid, len(models), words, table["paper_change"])
    return figure


def maps(columns, target, quantity, title):
    """Maps of several representations of the same rows, one row of panels per method and one column per representation.

    Args:
        columns: {heading: dict maps ({method: [n, 2]}), scores ({method or "features": R2 of neighbours}), n_features}.
        target: [n] colour; its range is cut at the percentiles 2 and 98.
        quantity: what the target is, with its unit.
    """
    methods = list(next(iter(columns.values()))["maps"])
    size = WIDTH * 0.56
    figure, grid = plt.subplots(
        len(methods), len(columns), squeeze=False, figsize=(size * len(columns) + 0.8, size * len(methods) + 0.9)
    )
    low, high = np.percentile(target, [2, 98])
    for column, (heading, content) in enumerate(columns.items()):
        for row, method in enumerate(methods):
            axes, points = grid[row, column], content["maps"][method]
            drawn = axes.scatter(
                *points.T, c=target, s=float(np.clip(6000 / len(target), 2, 9)), lw=0, cmap="viridis", vmin=low, vmax=high,
                rasterized=True,
            )  # fmt: skip
            axes.set(xticks=[], yticks=[], ylabel=method if column == 0 else None)
            axes.set_xlabel(f"R² {content['scores'][method]:.2f} in this map", fontsize="small")
        grid[0, column].set_title(
            f"{heading}\nR² {content['scores']['features']:.2f} in {content['n_features']} dimensions", fontsize="medium"
        )
    beyond = {(False, False): "neither", (True, False): "min", (False, True): "max", (True, True): "both"}
    extend = beyond[bool(target.min() < low), bool(target.max() > high)]
    bar = figure.colorbar(drawn, ax=grid, extend=extend, aspect=40, pad=0.01)
    bar.set_label(quantity)
    bar.outline.set_visible(False)
    figure.suptitle(title, x=0.01, ha="left")
    figure.supxlabel(
        "R²: targets predicted by their ten nearest neighbours in other folds", fontsize="small", x=0.01, ha="left"
    )
    for axes in grid.flat:
        axes.spines[:].set(color="0.8", linewidth=0.6)
    return figure


def subset_panels(table, labels, titles, units, draw):
    """MAE by number of training rows, a panel per dataset.

    Args:
        table: data frame dataset, model, size, train_rows, mae_mean, mae_std, n_folds.
        labels: {model: name in the legend}.
        titles, units: {dataset: text}.
        draw: subset_curves or subset_bars.

    Returns:
        Figure.
    """
    datasets = list(dict.fromkeys(table["dataset"]))
    columns = min(4, len(datasets))
    n_rows = -(-len(datasets) // columns)
    figure, grid = plt.subplots(n_rows, columns, squeeze=False, figsize=(WIDTH * 1.05 * columns, WIDTH * 0.95 * n_rows + 0.4))
    models = list(dict.fromkeys(table["model"]))
    for axes, dataset in zip(grid.flat, datasets, strict=False):
        note = draw(axes, table[table["dataset"] == dataset], models)
        axes.set(title=titles[dataset], ylabel=with_unit("MAE", units[dataset]))
    for axes in list(grid.flat)[len(datasets) :]:
        axes.axis("off")
    handles, _ = grid[0, 0].get_legend_handles_labels()  # in the order of the models
    names = [labels[m] for m in models]
    figure.legend(handles, names, loc="outside lower center", ncols=min(columns, len(models)), frameon=False, title=note)
    sns.despine(figure)
    return figure


def subset_curves(axes, table, models):
    """Points per model on logarithmic axes and, through three or more, the power law; error bars: standard deviation over
    folds. Returns what the bars are."""
    laws = []
    markers = itertools.cycle("osD^vP")
    for place, (model, colour, marker) in enumerate(zip(models, itertools.cycle(COLOURS), markers, strict=False)):
        part = table[table["model"] == model].sort_values("train_rows")
        aside = 1.025 ** (place - (len(models) - 1) / 2)  # bars beside each other, not on top
        rows = part["train_rows"].to_numpy(float)
        exponent, factor = power_law(rows, part["mae_mean"])
        if np.isfinite(exponent):
            laws += axes.plot(rows, factor * rows**exponent, color=colour, lw=1, ls="--", label=f"_{exponent:+.2f}")
        axes.errorbar(
            rows * aside, part["mae_mean"], yerr=part["mae_std"], color=colour, label=model,
            marker=marker, ms=3.5, ls="none" if np.isfinite(exponent) else "-", lw=1, elinewidth=0.8, capsize=2,
        )  # fmt: skip
    axes.set(xscale="log", yscale="log", xlabel="training rows")
    sizes = table.drop_duplicates("train_rows")
    names = [f"{r.train_rows:,.0f}" + "\n(all)" * (r.size == "full") for r in sizes[["train_rows", "size"]].itertuples()]
    axes.set_xticks(sizes["train_rows"].tolist(), names)
    axes.yaxis.set_major_locator(matplotlib.ticker.MaxNLocator(5))
    axes.yaxis.set_major_formatter("{x:g}")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_minor_locator(matplotlib.ticker.NullLocator())
    if laws:
        axes.legend(laws, [law.get_label()[1:] for law in laws], title="exponent", frameon=False, fontsize="small")
    return "mean ± standard deviation over folds"


def subset_bars(axes, table, models):
    """Groups of bars, one per model, by training size; error bars: standard error over splits. Returns what the bars are."""
    sizes = list(dict.fromkeys(table.sort_values("train_rows")["size"]))
    width = 0.8 / len(models)
    for place, (model, colour) in enumerate(zip(models, itertools.cycle(COLOURS), strict=False)):
        part = table[table["model"] == model].set_index("size").reindex(sizes)
        error = part["mae_std"] / np.sqrt((part["n_folds"] - 1).clip(lower=1).astype(float))  # mae_std divides by n
        axes.bar(
            np.arange(len(sizes)) + (place - (len(models) - 1) / 2) * width, part["mae_mean"], width, yerr=error, color=colour,
            label=model, error_kw={"lw": 0.8, "capsize": 1.5},
        )  # fmt: skip
    axes.set_xticks(range(len(sizes)), sizes)
    middle, half = (len(sizes) - 1) / 2, max(len(sizes), 3) / 2 + 0.1
    axes.set(xlabel="training share of all rows", xlim=(middle - half, middle + half))
    return "mean ± standard error over splits"
