import itertools
import json
import re

import numpy as np
import pandas as pd
import pytest
import torch
from connect_structures import connect_structures
from small_problem import CUBE, FAR

from matpretrain import crystal, graphs
from matpretrain.sources import aflow_prototypes

FAULTS = "Graphs of structures"


@pytest.fixture(scope="module")
def prototypes():
    return list(itertools.islice(aflow_prototypes(), 0, 288, 24))


def test_pairs_in_both_directions_are_the_neighbours_of_pymatgen(prototypes):
    from pymatgen.core import Lattice, Structure

    packed = graphs.connect(prototypes)
    for k, (_, lattice, number, frac) in enumerate(prototypes):
        inside = Structure(Lattice(lattice), number, frac, to_unit_cell=True)
        centre, point, image, distance = inside.get_neighbor_list(graphs.CUTOFF)
        expected = sorted(zip(centre, point, map(tuple, image.astype(int)), strict=True))
        a, b = packed.pair_offset[k : k + 2]
        first, second, images = packed.first[a:b], packed.second[a:b], packed.image[a:b].astype(int)
        forward = zip(first, second, map(tuple, images), strict=True)
        assert sorted([*forward, *zip(second, first, map(tuple, -images), strict=True)]) == expected
        position = packed.position[packed.node_offset[k] : packed.node_offset[k + 1]]
        vector = position[second] + packed.image[a:b] @ packed.lattice[k] - position[first]
        assert np.sort(np.linalg.norm(vector, axis=1)) == pytest.approx(np.sort(distance)[::2], abs=1e-4)
    assert np.array_equal(packed.number, np.concatenate([number for _, _, number, _ in prototypes]))


def test_a_file_gives_back_the_graphs(prototypes, tmp_path, fault):
    packed = graphs.connect(prototypes)
    graphs.save_graphs(packed, tmp_path / "graphs.safetensors")
    arrays, tensors = (graphs.open_graphs(tmp_path / "graphs.safetensors", device) for device in (None, "cpu"))
    for name in graphs.NAMES:
        assert np.array_equal(getattr(arrays, name), getattr(packed, name))
        assert getattr(arrays, name).dtype == getattr(packed, name).dtype
        assert np.array_equal(getattr(tensors, name).numpy(), getattr(packed, name))
    assert len(tensors) == len(packed) == 12
    (tmp_path / "bad.safetensors").write_bytes(b"no graphs")
    with fault("A damaged file of graphs", "bad.safetensors: not a file of graphs"):
        graphs.open_graphs(tmp_path / "bad.safetensors")


def test_volumes_and_densities_are_those_of_pymatgen(prototypes):
    from pymatgen.core import Lattice, Structure

    packed = graphs.connect(prototypes)
    cells = [Structure(Lattice(lattice), number, frac) for _, lattice, number, frac in prototypes]
    assert graphs.volumes(packed) == pytest.approx([cell.volume for cell in cells], rel=1e-5)
    assert graphs.densities(packed) == pytest.approx([cell.density for cell in cells], rel=1e-4)


def test_atoms_outside_the_cell_are_those_inside(prototypes):
    structures = [(name, lattice, number, crystal.wrapped(frac).round(3)) for name, lattice, number, frac in prototypes]
    far = [(name, lattice, number, frac + np.array([200, -(2**20), 0])) for name, lattice, number, frac in structures]
    inside, outside = graphs.connect(structures), graphs.connect(far)
    for name in set(graphs.NAMES) - {"position"}:
        assert np.array_equal(getattr(inside, name), getattr(outside, name)), name
    assert outside.position == pytest.approx(inside.position, abs=1e-5)


def test_small_cells_isolated_atoms_and_large_cells(fault):
    packed = graphs.connect([CUBE, FAR])
    assert np.diff(packed.pair_offset).tolist() == [3, 0]
    grid = np.array(list(itertools.product(range(8), range(8), range(7))))  # 448 atoms
    cell = np.diag([8, 8, 7]) * 4.0
    large = graphs.connect([("large", cell, np.full(448, 26, np.uint8), grid / [8, 8, 7])])
    assert np.diff(large.pair_offset).tolist() == [3 * 448]
    with fault("A cell so thin that neighbours are hundreds of cells away", "structure thin: 1 atoms", "do not fit"):
        graphs.connect([("thin", np.diag([0.03, 9, 9]), np.array([1], np.uint8), np.zeros((1, 3)))])


@pytest.mark.parametrize("make", [graphs.connect, crystal.pack])
def test_atoms_as_near_as_none_are_end_with_the_structure(make, fault):
    iron, close = np.array([26, 26], np.uint8), np.array([[0, 0, 0], [0.1, 0, 0]])
    for what, cell, frac, distance in (
        ("Two atoms at one place", np.eye(3) * 4, np.zeros((2, 3)), "0 angstrom"),
        ("Lengths in nanometres", np.eye(3) * 0.4, np.array([[0, 0, 0], [0.5, 0.5, 0.5]]), "0.35 angstrom"),
        ("Two atoms at one place across the edge of the cell", np.eye(3) * 4, close * -9.999, "0.0004 angstrom"),
    ):
        with fault(what, "structure b: two atoms", distance, "in angstrom", "correct or remove"):
            make([CUBE, ("b", cell, iron, frac)])
    assert len(make([("b", np.eye(3) * 7.4, iron, close)])) == 1


def without_times(line):
    return re.sub(r"\d+ s \(\d+", "0 s (0", line)


def test_counts_before_and_after_are_told_and_nothing_is_dropped_silently(tmp_path, fault):
    def line(name, species, frac, lattice=(4, 4, 4, 90, 90, 90)):
        return json.dumps({"id": name, "lattice": lattice, "species": species, "frac_coords": frac})

    path = tmp_path / "mine.jsonl"
    lines = [line("a", ["Fe"], [[0, 0, 0]]), line("b", ["Po"], [[0, 0, 0]])]
    path.write_text("\n".join([*lines, line("c", ["Fe", "O"], [[0, 0, 0], [0.5, 0, 0]], (20, 20, 20, 90, 90, 90))]))
    said, outputs = [], (tmp_path / "graphs.safetensors", tmp_path / "graphs.csv")
    with fault("A structure with an element that MEGNet does not know", "mine.jsonl: id b", "Po; remove the structure or set"):
        connect_structures(path, None, None, None, "error", *outputs, said.append)
    assert not outputs[0].exists()
    connect_structures(path, None, None, None, "drop", *outputs, said.append)
    fault.told("A structure with an unknown element, with unknown_elements: drop", said[0])
    assert said[0] == "dropped: b (Po)"
    assert (
        "3 structures read, 1 dropped, 2 of the 2 others taken" in said[1]
        and "3 atoms, 2 of them without a neighbour" in said[1]
    )
    fault.told("Isolated atoms", without_times(said[1]))
    table = pd.read_csv(outputs[1])
    assert table.values.tolist() == [["a", 1, 3, 0], ["c", 2, 0, 2]]
    connect_structures(None, "aflow_prototypes", 30, None, "drop", *outputs, said.append)
    assert "288 structures read, 4 dropped, 30 of the 284 others taken" in said[-1] and len(pd.read_csv(outputs[1])) == 30
    sampled = pd.read_csv(outputs[1])["id"]
    connect_structures(None, "aflow_prototypes", 30, None, "drop", *outputs, said.append, left_out=100)
    others = pd.read_csv(outputs[1])["id"]
    assert len(set(others)) == 100 and not set(others) & set(sampled) and not others.is_monotonic_increasing
    with fault("A sample of all structures, whose encoder is probed", "takes all 284 structures and leaves none for a probe"):
        connect_structures(None, "aflow_prototypes", 284, None, "drop", *outputs, said.append, left_out=100)
    grid = np.array(list(itertools.product(range(8), range(8), range(7)))) / [8, 8, 7]
    big = tmp_path / "big.jsonl"
    big.write_text(line("big", ["Fe"] * 448, grid.tolist(), (32, 32, 28, 90, 90, 90)))
    connect_structures(big, None, None, None, "error", *outputs, said.append)
    assert "448 atoms, 0 of them without a neighbour" in said[-1] and f"{3 * 448} pairs" in said[-1]
    fault.told("A cell of 448 atoms", without_times(said[-1]))
    connect_structures(path, None, 2, None, "drop", *outputs, said.append)
    assert torch.equal(graphs.open_graphs(outputs[0], "cpu").pair_offset, torch.tensor([0, 3, 3]))
