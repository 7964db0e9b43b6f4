"""Figures of Ihalage and Hao (2022): predicted edges, cumulative errors, both modes of Finder, near-zero permittivity."""

import itertools

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns

from matpretrain.plots import COLOURS, WIDTH, draw_curves, take_literally, with_unit

FLOOR = 0.01  # smaller losses are drawn here
NAMED = 20  # candidates whose formulas are written beside their points
BESIDE = ((1, 1), (-1, 1), (1, -1), (-1, -1))  # right or left, above or below a point


def near_zero(candidates, energy, shown, largest_loss, title):
    """Four panels on materials whose permittivity crosses zero.

    Args:
        candidates: data frame formula, crossover and measured_crossover (eV), loss and measured_loss.
        energy: [G] eV.
        shown: list of (formula, predicted and nearest measured crossover in eV, predicted [G], measured [G]), spectra
            complex, measured NaN where unknown; two are drawn.
        largest_loss: predicted loss that a candidate stays below.

    Returns:
        Figure.
    """
    figure, ((left, right), *below) = plt.subplots(2, 2, figsize=(2 * WIDTH, 1.7 * WIDTH))
    losses = candidates[["loss", "measured_loss"]].clip(lower=FLOOR)
    left.plot(candidates[["crossover", "measured_crossover"]].T, losses.T, color="0.8", lw=0.6, zorder=1)
    for k, (prefix, name) in enumerate((("", "predicted"), ("measured_", "measured"))):
        left.scatter(candidates[f"{prefix}crossover"], losses[f"{prefix}loss"], s=12, lw=0, color=COLOURS[k], label=name)
    left.axhline(largest_loss, color="0.5", lw=0.8, ls="--", label="largest predicted loss")
    left.set(xlabel="crossover energy (eV)", ylabel="loss, Im ε at the crossover", yscale="log")
    left.margins(x=0.08)
    left.set_ylim(losses.to_numpy(float).min(initial=1) / 2, 4 * losses.to_numpy(float).max(initial=10))
    left.legend(frameon=False, fontsize="small")
    left.set_title(f"{len(candidates)} candidates and their nearest measured crossing")
    if not _pair_network(right, candidates["formula"]):
        _deviations(right, candidates)
    panels = itertools.zip_longest(below[0], shown[:2], fillvalue=(None,) * 5)
    for axes, (formula, crossover, measured_crossover, predicted, measured) in panels:
        if formula is None:
            axes.set_axis_off()
            continue
        for part, name, colour in ((np.real, "Re ε", COLOURS[0]), (np.imag, "Im ε", COLOURS[1])):
            axes.plot(energy, part(predicted), color=colour, label=f"{name}, predicted")
            axes.plot(energy, part(measured), ".", color=colour, ms=2, label=f"{name}, measured")
        largest = np.nanpercentile(np.abs([measured.real, measured.imag]), 90)
        axes.axhline(0, color="0.6", lw=0.6)
        axes.axvline(crossover, color="0.5", lw=0.8, ls="--", label="predicted crossover")
        axes.axvline(measured_crossover, color="0.5", lw=0.8, ls=":", label="measured crossover")
        axes.set(xlabel="photon energy (eV)", ylabel="ε", title=formula, ylim=(-1.2 * largest, 1.2 * largest))
        axes.legend(framealpha=0.85, edgecolor="none", fontsize="x-small")
    figure.suptitle(title)
    if len(candidates) <= NAMED:
        _name(left, candidates["crossover"], losses["loss"], candidates["formula"])
    return figure


def _name(axes, x, y, texts):
    """Write texts beside points [n], each away from the nearest other point and where it meets none and no text before it."""
    take_literally(axes.figure)
    axes.figure.draw_without_rendering()  # until then the layout is not known
    points, taken = axes.transData.transform(np.column_stack([x, y])), []
    for k, (place, text) in enumerate(zip(zip(x, y, strict=True), texts, strict=True)):
        away = points[k] - points
        away = away[np.argsort(np.hypot(*away.T))[min(1, len(points) - 1)]]
        for right, up in sorted(BESIDE, key=lambda side: -np.dot(side, np.sign(away))):
            note = axes.annotate(
                text, place, xytext=(3 * right, 3 if up > 0 else -7), textcoords="offset points", size="xx-small",
                ha="left" if right > 0 else "right",
            )  # fmt: skip
            box = note.get_window_extent()
            if not box.count_contains(points) and not box.count_overlaps(taken):
                break
            note.remove()
        else:
            note = axes.annotate(text, place, xytext=(3, 10), textcoords="offset points", size="xx-small")
        taken.append(note.get_window_extent())


def _deviations(axes, candidates):
    """How far the predicted crossover of each candidate is from the nearest measured one, the closest NAMED of them."""
    deviation = (candidates["crossover"] - candidates["measured_crossover"]).abs().set_axis(candidates["formula"])
    deviation = deviation.sort_values()[:NAMED]
    axes.barh(range(len(deviation)), deviation, color=COLOURS[2])
    axes.set_yticks(range(len(deviation)), deviation.index)
    axes.set(xlabel="|predicted − measured crossover| (eV)", title="No two elements in one candidate")
    axes.invert_yaxis()


def _pair_network(axes, formulas):
    """Elements on a circle, joined where they occur in one formula; width and size grow with the count. False, and nothing
    drawn, where no two do."""
    import networkx
    from pymatgen.core import Composition

    graph = networkx.Graph()
    for formula in formulas:
        elements = sorted(element.symbol for element in Composition(formula).elements)
        for element in elements:
            graph.add_node(element, count=graph.nodes.get(element, {"count": 0})["count"] + 1)
        for a, b in itertools.combinations(elements, 2):
            graph.add_edge(a, b, count=graph.get_edge_data(a, b, {"count": 0})["count"] + 1)
    if not graph.number_of_edges():
        return False
    place = networkx.circular_layout(graph)
    networkx.draw_networkx(
        graph, place, ax=axes, font_size=6, font_color="white", edge_color="0.6",
        node_size=[60 + 25 * count for count in networkx.get_node_attributes(graph, "count").values()],
        width=[0.5 + 0.5 * count for count in networkx.get_edge_attributes(graph, "count").values()],
        node_color=[COLOURS[2]],
    )  # fmt: skip
    axes.set_axis_off()
    axes.set_title(f"elements of candidates: {graph.number_of_nodes()}; pairs in one: {graph.number_of_edges()}")
    return True


def edge_matrices(matrices, title):
    """Edge attributes between the atoms of some formulas, a column per formula and a row per layer.

    Args:
        matrices: {formula: ([layers, n, n], symbols of the n atoms)}, NaN where there is no edge.

    Returns:
        Figure.
    """
    n_layers = len(next(iter(matrices.values()))[0])
    figure, grid = plt.subplots(n_layers, len(matrices), figsize=(2 * WIDTH, 0.55 * WIDTH * n_layers), squeeze=False)
    for k, row in enumerate(grid):
        largest = max(np.nanmax(np.abs(layers[k])) for layers, _ in matrices.values())
        for axes, (formula, (layers, symbols)) in zip(row, matrices.items(), strict=True):
            image = axes.imshow(layers[k], cmap="RdBu_r", vmin=-largest, vmax=largest)
            axes.set_facecolor("0.7")  # no edge
            axes.set_xticks(range(len(symbols)), symbols)
            axes.set_yticks(range(len(symbols)), symbols)
            axes.tick_params(length=0)
            if k == 0:
                axes.set_title(formula)
        row[0].set_ylabel(f"layer {k + 1}, receiving atom")
        figure.colorbar(image, ax=row, fraction=0.05, label="edge attribute")
    figure.supxlabel("sending atom; grey: no edge", fontsize="small")
    figure.suptitle(title)
    return figure


CHEMICAL_ACCURACY = 0.043  # eV/atom


def cumulative(errors, title, unit):
    """Share of the rows whose error is below a value, a line per model; chemical accuracy is marked for energies per atom.

    Args:
        errors: {model label: [n] absolute errors}.

    Returns:
        Figure.
    """
    figure, axes = plt.subplots(figsize=(1.2 * WIDTH, WIDTH + 0.17 * len(errors)))
    for colour, (model, values) in zip(itertools.cycle(COLOURS), errors.items(), strict=False):
        name = model
        if unit == "eV/atom":
            name += f" ({(values <= CHEMICAL_ACCURACY).mean():.0%} within 43 meV)"
        share = np.arange(1, len(values) + 1) / len(values)
        axes.plot(np.sort(values), share, color=colour, lw=1.2, label=name, drawstyle="steps-post")
    if unit == "eV/atom":
        axes.axvline(CHEMICAL_ACCURACY, color="0.5", lw=0.8, ls="--")
    positive = np.concatenate(list(errors.values()))
    axes.set(
        xlabel=with_unit("absolute error", unit), ylabel="share of test rows below it", title=title, xscale="log", ylim=(0, 1.02),
        xlim=np.percentile(positive[positive > 0], [1, 100]),
    )  # fmt: skip
    figure.legend(loc="outside lower center", frameon=False)
    sns.despine(figure)
    return figure


def modes(histories, maps, target, correlations, quantity, unit, title):
    """Two networks side by side: training curves above, maps of the same rows and correlations of their components below.

    Args:
        histories: as in `plots.learning_curves`.
        maps: {label: [n, 2]} of two networks.
        target: [n] colour; its range is cut at the percentiles 2 and 98.
        correlations: as `maps.component_correlations` returns them.
        quantity: what the target is, with its unit.

    Returns:
        Figure.
    """
    figure = plt.figure(figsize=(2.3 * WIDTH, 1.8 * WIDTH))
    grid = figure.add_gridspec(2, 6)
    curves = [figure.add_subplot(grid[0, :3]), figure.add_subplot(grid[0, 3:])]
    draw_curves(*curves, histories, unit)
    low, high = np.percentile(target, [2, 98])
    below = [figure.add_subplot(grid[1, 2 * k : 2 * k + 2]) for k in range(3)]
    size = float(np.clip(3000 / len(target), 2, 12))
    for axes, (label, points) in zip(below, maps.items(), strict=False):
        drawn = axes.scatter(*points.T, c=target, s=size, lw=0, cmap="viridis", vmin=low, vmax=high, rasterized=True)
        axes.set(xticks=[], yticks=[], title=label, xlabel="t-SNE, same start")
    bar = figure.colorbar(drawn, ax=below[:2], location="bottom", aspect=40, extend="both", label=quantity)
    bar.outline.set_visible(False)
    (a, b), table = maps, correlations.pivot(index="component_a", columns="component_b", values="r")
    below[2].imshow(table, cmap="Blues", vmin=0, vmax=1)
    for (i, j), r in np.ndenumerate(table.to_numpy()):
        below[2].text(j, i, f"{r:.2f}", ha="center", va="center", size="x-small", color="white" if r > 0.6 else "0.2")
    below[2].set_xticks(range(table.shape[1]), table.columns)
    below[2].set_yticks(range(table.shape[0]), table.index)
    below[2].set(xlabel=f"component of {b}", ylabel=f"component of {a}", title="|r| of principal components")
    below[2].tick_params(length=0)
    figure.suptitle(title)
    sns.despine(figure)
    for axes in below:
        axes.spines[:].set(visible=True, color="0.8", linewidth=0.6)
    return figure
