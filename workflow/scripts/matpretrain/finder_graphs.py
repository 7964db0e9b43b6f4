"""Graphs that Finder reads (Ihalage and Hao, Adv. Sci. 9, 2200164 (2022)).

Composition mode: the atoms of the integer formula, every one a neighbour of every other. Structure mode: the atoms of the cell,
neighbours below 4 angstrom (nearest image only). In composition mode atoms of one element share their state, so a node is a
distinct element with the number of its atoms, and a pair of elements counts as often as pairs of their atoms occur: the same
function at the cost of the elements (a steel of 9,000 atoms has a dozen), which an atom-by-atom oracle checks in the tests.
"""

import numpy as np
import torch

from matpretrain.composition import atom_counts
from matpretrain.graphs import open_graphs
from matpretrain.packed import members

CUTOFF = 4.0  # angstrom
BLOCK = 2000  # structures whose pairs are looked at together


class Batch:
    """Packed graphs with M nodes and P directed pairs of neighbours in all.

    Attributes:
        element: [M] int64 row of the element table.
        atoms: [M] atoms that a node stands for, 1 in structure mode.
        row: [M] int64 graph of each node; rows is their number, B.
        receiver, sender: [P] int64 nodes.
        weight: [P] atoms of the sender that neighbour one atom of the receiver.
        degree: [M] neighbours of one atom of each node.
        distance: [P] in angstrom, None in composition mode.
    """

    __slots__ = ("atoms", "degree", "distance", "element", "receiver", "row", "rows", "sender", "weight")

    def __init__(self, element, atoms, row, rows, receiver, sender, weight, distance):
        self.element, self.atoms, self.row, self.rows = element, atoms, row, rows
        self.receiver, self.sender, self.weight, self.distance = receiver, sender, weight, distance
        self.degree = atoms.new_zeros(len(atoms)).index_add(0, receiver, weight)


def _near_pairs(graphs, begin, end):
    """Directed pairs of neighbours in the structures begin:end of Graphs, the nearest image of each, none of an atom with itself.

    Returns:
        receiver and sender [P] int16 positions in their structure, distance [P] in angstrom, pairs of each structure.
    """
    stored = slice(graphs.pair_offset[begin], graphs.pair_offset[end])
    structure = np.repeat(np.arange(begin, end), np.diff(graphs.pair_offset[begin : end + 1]))
    first, second = (side[stored] + graphs.node_offset[structure] for side in (graphs.first, graphs.second))
    shift = np.einsum("pi,pij->pj", graphs.image[stored].astype(np.float32), graphs.lattice[structure])
    distance = np.linalg.norm(graphs.position[second] + shift - graphs.position[first], axis=1)
    near = np.flatnonzero((distance < CUTOFF) & (first != second))
    near = near[np.lexsort((distance[near], second[near], first[near]))]
    ends = np.stack([first[near], second[near]])
    near = near[np.r_[True, (np.diff(ends) != 0).any(0)][: len(near)]]  # the shortest of each pair of atoms
    receiver, sender = np.concatenate([first[near], second[near]]), np.concatenate([second[near], first[near]])
    owner, length = np.tile(structure[near], 2), np.tile(distance[near], 2)
    order = np.lexsort((sender, receiver))
    start = graphs.node_offset[owner[order]]
    receiver, sender = ((side[order] - start).astype(np.int16) for side in (receiver, sender))
    return receiver, sender, length[order], np.bincount(owner - begin, minlength=end - begin)


class GraphInputs:
    """All formula graphs of a dataset on one device; indexing with rows [B] (int64) returns their `Batch`.

    Args:
        compositions: `composition.Compositions`, for composition mode.
    """

    CHUNK = 256  # graphs at a time where no gradients are needed

    def __init__(self, compositions, device="cpu"):
        atoms = atom_counts(compositions)
        count = compositions.count
        pairs = np.repeat(np.cumsum(count**2) - count**2, count**2)
        row = np.repeat(np.arange(len(count)), count**2)
        within = np.arange(len(row)) - pairs
        receiver, sender = within // count[row], within % count[row]
        weight = atoms[compositions.offset[row] + sender] - (receiver == sender)
        kept = weight > 0  # a lone atom is no neighbour of itself
        pair_offset = np.concatenate([[0], np.bincount(row[kept], minlength=len(count)).cumsum()])
        self._store(
            device,
            compositions.number,
            atoms,
            compositions.offset,
            receiver[kept],
            sender[kept],
            pair_offset,
            weight[kept],
            None,
        )

    @classmethod
    def read(cls, path, device="cpu"):
        """Inputs of a file written by `graphs.save_graphs`, for structure mode.

        Only the nearest image of a neighbour counts, and an atom does not neighbour its own images (released code).
        """
        graphs = open_graphs(path)
        blocks = [_near_pairs(graphs, start, min(start + BLOCK, len(graphs))) for start in range(0, len(graphs), BLOCK)]
        receiver, sender, length, count = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
        self = cls.__new__(cls)
        self._store(
            device,
            graphs.number,
            np.ones(len(graphs.number)),
            graphs.node_offset,
            receiver,
            sender,
            np.concatenate([[0], count.cumsum()]),
            None,
            length,
        )
        return self

    def _store(self, device, number, atoms, node_offset, receiver, sender, pair_offset, weight, distance):
        def integers(array):
            return torch.as_tensor(np.asarray(array, np.int64), device=device)

        def numbers(array):
            return torch.as_tensor(np.asarray(array, np.float32), device=device)

        self.element, self.atoms, self.node_offset = integers(number), numbers(atoms), integers(node_offset)
        self.receiver, self.sender = (torch.as_tensor(side, dtype=torch.int16, device=device) for side in (receiver, sender))
        self.pair_offset = integers(pair_offset)
        self.weight = None if weight is None else numbers(weight)
        self.distance = None if distance is None else numbers(distance)

    def __len__(self):
        return len(self.node_offset) - 1

    def __getitem__(self, rows):
        node, node_row, first = members(self.node_offset, rows)
        pair, pair_row, _ = members(self.pair_offset, rows)
        start = first[pair_row]
        distance = None if self.distance is None else self.distance[pair]
        weight = self.atoms.new_ones(len(pair)) if self.weight is None else self.weight[pair]
        return Batch(
            self.element[node],
            self.atoms[node],
            node_row,
            len(rows),
            self.receiver[pair] + start,
            self.sender[pair] + start,
            weight,
            distance,
        )
