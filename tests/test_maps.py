"""Maps of representations and the score of neighbours."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

from matpretrain import maps, plots
from matpretrain.composition import element_fractions, parse_formulas
from matpretrain.sources import read_embedded
from matpretrain.splits import outer_folds

FAULTS = "Maps"


@pytest.fixture(scope="module")
def energies():
    """Features [150, 118] and measured formation energies."""
    table = read_embedded("pymatgen_exp_formation_energy").sample(150, random_state=1)
    compositions, _ = parse_formulas(table["formula"].tolist())
    return maps.standardise(element_fractions(compositions)), table["target"].to_numpy()


def test_neighbour_r2_equals_a_plain_loop(energies):
    points, target = energies
    groups = np.arange(len(points))
    folds = outer_folds(len(points))
    prediction = np.empty(len(points))
    for i, point in enumerate(points):
        others = np.flatnonzero(folds != folds[i])
        nearest = others[np.argsort(((points[others] - point) ** 2).sum(1), kind="stable")[:10]]
        prediction[i] = target[nearest].mean()
    expected = 1 - ((target - prediction) ** 2).sum() / ((target - target.mean()) ** 2).sum()
    assert maps.neighbour_r2(points, target, groups) == pytest.approx(expected, abs=0.02)  # ties


def test_neighbour_r2_of_known_embeddings():
    rng = np.random.default_rng(0)
    target = rng.normal(size=400)
    line = np.column_stack([target, np.zeros(400)])
    groups = np.arange(400)
    assert maps.neighbour_r2(line, target, groups) > 0.98
    assert maps.neighbour_r2(rng.normal(size=(400, 2)), target, groups) < 0.05


def test_rows_of_one_composition_do_not_predict_each_other():
    rng = np.random.default_rng(1)
    composition = np.repeat(np.arange(40), 20)
    points, target = rng.normal(size=(40, 8))[composition], rng.normal(size=40)[composition]
    assert maps.neighbour_r2(points, target, np.arange(800)) > 0.99
    assert maps.neighbour_r2(points, target, composition) < 0.1


def test_too_few_rows_or_compositions_are_refused(fault):
    for what, groups, words in (
        ("A map of few rows", np.arange(49), "49 rows, a map needs at least 50; take another dataset"),
        ("A map of few compositions", np.arange(60) % 3, "60 rows of 3 compositions, a map needs at least 5"),
        ("A map of one composition for the most part", np.maximum(np.arange(60), 51), "60 rows, but 7 without"),
    ):
        with fault(what, "table.csv: ", words):
            maps.check_size("table.csv", groups, "take another dataset")
    maps.check_size("table.csv", groups := np.arange(60) % 5, "")
    assert np.isfinite(maps.neighbour_r2(np.eye(60), np.arange(60.0), groups))


def test_samples_are_the_same_in_every_call_and_distinct():
    rows = maps.sample(1000, 300)
    assert len(set(rows)) == 300 and np.array_equal(rows, maps.sample(1000, 300))
    assert sorted(maps.sample(40, 300)) == list(range(40))


def test_constant_features_become_zero():
    points = maps.standardise(np.column_stack([np.full(20, 3.0), np.arange(20)]))
    assert (points[:, 0] == 0).all() and points[:, 1].std() == pytest.approx(1)


def test_tsne_is_repeatable_and_keeps_neighbours(energies):
    points, _ = energies
    target = points[:, 7]  # the fraction of oxygen
    first = maps.tsne(points)
    assert first.shape == (150, 2) and np.array_equal(first, maps.tsne(points))
    assert maps.neighbour_r2(first, target, np.arange(150)) > 0.2


def test_maps_of_two_networks_start_from_the_same_places(energies):
    points, _ = energies
    start = maps.principal_components(points, 2)[0]
    other = maps.tsne(points[:, 20:], start)
    assert np.array_equal(other, maps.tsne(points[:, 20:], 7 * start)), "only the directions count"
    assert not np.array_equal(other, maps.tsne(points[:, 20:]))


def test_principal_components_correlate_up_to_their_sign_and_order():
    rng = np.random.default_rng(0)
    hidden = rng.normal(size=(300, 3)) * [9, 4, 1]
    turned = hidden @ np.linalg.qr(rng.normal(size=(3, 3)))[0]
    table = maps.component_correlations(hidden, -turned)
    own = table[table["component_a"] == table["component_b"]]
    assert own["r"].min() > 0.98 and own["share_a"].to_numpy() == pytest.approx(own["share_b"].to_numpy(), abs=1e-6)
    assert len(table) == 9 and table["r"].drop(own.index).max() < 0.15
    swapped = maps.component_correlations(hidden, hidden * [1, 9, 1]).pivot(
        index="component_a", columns="component_b", values="r"
    )
    assert swapped.loc[1, 2] > 0.98 and swapped.loc[1, 1] < 0.15


def test_the_figure_names_rows_columns_and_scores(energies, tmp_path):
    points, target = energies
    columns = {
        name: {
            "maps": {"t-SNE": part[:, :2], "UMAP": part[:, 2:4]},
            "scores": {"features": 0.71, "t-SNE": 0.5, "UMAP": -0.25},
            "n_features": 256,
        }
        for name, part in (("untrained", points[:, 5:]), ("ssl", points[:, 10:]))
    }
    plots.style()
    figure = plots.maps(columns, target, "formation energy (eV/atom)", "Energies, n = 150 of 2,135")
    panels, bar = figure.axes[:4], figure.axes[4]
    assert [a.get_title() for a in panels[:2]] == [f"{n}\nR² 0.71 in 256 dimensions" for n in ("untrained", "ssl")]
    assert [a.get_ylabel() for a in panels] == ["t-SNE", "", "UMAP", ""]
    assert [a.get_xlabel() for a in panels] == ["R² 0.50 in this map"] * 2 + ["R² -0.25 in this map"] * 2
    assert bar.get_ylabel() == "formation energy (eV/atom)"
    assert panels[-1].collections[0].colorbar.extend == "both"
    cut = plots.maps(columns, np.minimum(target, np.median(target)), "energy", "")
    assert cut.axes[3].collections[0].colorbar.extend == "min"
    plt.close(cut)
    assert panels[0].collections[0].get_clim() == pytest.approx(tuple(np.percentile(target, [2, 98])))
    plots.save(figure, tmp_path / "maps.png")
    assert plt.imread(tmp_path / "maps.png").std() > 0.05
