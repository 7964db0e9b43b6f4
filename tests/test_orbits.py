import itertools

import numpy as np
import pytest
import torch
from small_problem import CUBE, FAR, magnify

from matpretrain import megnet, megnet_graphs, orbits
from matpretrain.crystal import owners
from matpretrain.graphs import NAMES, Graphs, connect, separations
from matpretrain.sources import aflow_prototypes

CORNERS = np.array(list(itertools.product(range(2), repeat=3)))


@pytest.fixture(scope="module")
def structures():
    return [CUBE, FAR, *itertools.islice(aflow_prototypes(), 1, 121, 12)]


def supercell(structure):
    name, lattice, number, frac = structure
    cells = np.concatenate([(frac + corner) / 2 for corner in CORNERS])
    return name, 2 * lattice, np.tile(number, len(CORNERS)), cells


def displaced(structure):
    """All atoms of a crystal moved, so that no two of them are equivalent."""
    name, lattice, number, frac = structure
    return name, lattice, number, frac + 0.02 * np.random.default_rng(0).standard_normal(frac.shape)


def of_tensors(graphs):
    return Graphs(**{name: torch.from_numpy(getattr(graphs, name)) for name in NAMES})


def merged(graphs):
    """Orbits, and the share of each class in the atoms of its crystal and of each of its edges in the directed edges."""
    own = orbits.merge(graphs.number, graphs.node_offset, graphs.first, graphs.second, separations(graphs), graphs.pair_offset)
    crystal, of_edge = owners(own.node_offset), owners(own.edge_offset)
    leaving = own.count * own.atoms[own.node_offset[of_edge] + own.sender]
    n_edges = 2 * np.diff(graphs.pair_offset)
    return own, own.atoms / np.diff(graphs.node_offset)[crystal], leaving / n_edges[of_edge]


def naive_classes(graphs):
    """Partition of the atoms of one crystal by plain colour refinement with nested tuples: the class of each."""
    length = np.round(separations(graphs) / (10 * orbits.TOLERANCE)).astype(int)
    neighbours = [[] for _ in graphs.number]
    for i, j, d in zip(graphs.first, graphs.second, length, strict=True):
        neighbours[i].append((j, d))
        neighbours[j].append((i, d))
    colour = [int(z) for z in graphs.number]
    for _ in graphs.number:
        seen = [(colour[i], tuple(sorted((colour[j], d) for j, d in own))) for i, own in enumerate(neighbours)]
        known = {key: k for k, key in enumerate(sorted(set(seen)))}
        colour = [known[key] for key in seen]
    return colour


def test_the_network_finds_on_orbits_what_it_finds_on_atoms(structures):
    torch.manual_seed(0)
    graphs, model = connect([*structures, displaced(structures[3])]), megnet.Model(size="small")
    magnify(model)
    inputs = megnet_graphs.CrystalInputs(of_tensors(graphs)), megnet_graphs.OrbitInputs(graphs)
    rows, found, gradients = torch.arange(len(graphs)), [], []
    weights = torch.randn(len(graphs), 1)
    for own in inputs:
        model.zero_grad()
        found.append(torch.cat([model(own[rows]), model.encoder(own[rows])], 1))
        (model(own[rows]) * weights).sum().backward()
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    assert found[0][:, 0].std() > 0.1 and torch.allclose(*found, rtol=1e-4, atol=1e-5)
    for of_atoms, of_orbits in zip(*gradients, strict=True):
        assert (of_atoms - of_orbits).abs().max() <= 1e-3 * of_atoms.abs().max() + 1e-6
    assert inputs[1].cost.sum() < inputs[0].cost.sum() / 3 and inputs[1].cost.tolist()[:2] == [1, 0]


def test_a_supercell_has_the_orbits_of_its_cell(structures):
    cells = [s for s in structures if len(s[2]) < 12]
    (cell, *of_cell), (large, *of_large) = (merged(connect(own)) for own in (cells, map(supercell, cells)))
    assert len(large.number) < sum(len(number) for _, _, number, _ in cells)
    for name in ("number", "node_offset", "edge_offset", "length_offset"):
        assert np.array_equal(getattr(cell, name), getattr(large, name)), name
    assert np.allclose(cell.length, large.length, atol=1e-4)
    for shares, of_supercell in zip(of_cell, of_large, strict=True):
        assert np.allclose(np.sort(shares), np.sort(of_supercell))


def test_atoms_are_merged_as_plain_colour_refinement_merges_them(structures):
    own, share, _ = merged(connect(structures))
    for k, structure in enumerate(structures):
        graphs = connect([structure])
        classes = naive_classes(graphs)
        nodes = slice(*own.node_offset[k : k + 2])
        expected = sorted((int(graphs.number[classes.index(c)]), classes.count(c) / len(classes)) for c in set(classes))
        found = sorted(zip(own.number[nodes].tolist(), share[nodes].tolist(), strict=True))
        assert found == [(z, pytest.approx(share)) for z, share in expected]


def test_nothing_is_merged_where_no_two_distances_agree(structures):
    graphs = connect([displaced(s) for s in structures if len(s[2]) > 4])
    own, _, share = merged(graphs)
    assert np.array_equal(own.number, graphs.number) and np.array_equal(own.node_offset, graphs.node_offset)
    assert np.bincount(owners(own.edge_offset), share) == pytest.approx(1.0)


def test_crystals_without_edges_are_their_atoms():
    own, share, _ = merged(connect([FAR]))
    assert own.number.tolist() == [26, 8] and share.tolist() == [0.5, 0.5] and not len(own.sender) and not len(own.length)


def test_lengths_that_are_merged_differ_by_less_than_the_tolerance():
    generator = np.random.default_rng(0)
    crystal = np.sort(generator.integers(0, 3, 3000))
    length = np.where(
        crystal < 2, generator.uniform(2, 5, 3000), generator.choice([2.0, 3.5], 3000) + 1e-5 * generator.random(3000)
    )
    kind, means, owners = orbits._distinct(length, crystal)
    for k in range(len(means)):
        assert np.ptp(length[kind == k]) <= orbits.TOLERANCE and means[k] == pytest.approx(length[kind == k].mean())
        assert (crystal[kind == k] == owners[k]).all()
    assert (owners == 2).sum() == 2
