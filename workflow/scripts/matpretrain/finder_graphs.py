"""Graphs that Finder reads (Ihalage and Hao, Adv. Sci. 9, 2200164 (2022)).

Composition mode: the atoms of the integer formula, every one a neighbour of every other. Structure mode: the atoms of the cell,
neighbours below 4 angstrom (nearest image only). Atoms that share their state, in composition mode those of one element, in structure mode
those of an orbit (orbits.merge), are one node with their number, and a pair of nodes counts as often as pairs of their atoms occur: the same
function at the cost of the elements (a steel of 9,000 atoms has a dozen) or orbits, which an atom-by-atom oracle checks in the tests.
"""

import numpy as np
import torch

from matpretrain.composition import atom_counts
from matpretrain.crystal import owners
from matpretrain.graphs import open_graphs, separations
from matpretrain.orbits import merge
from matpretrain.packed import members

CUTOFF = 4.0  # angstrom
BLOCK = 2000  # structures whose pairs are looked at together


class Batch:
    """Packed graphs with M nodes and P directed pairs of neighbours in all.

    Attributes:
        element: [M] int64 row of the element table.
        atoms: [M] atoms that a node stands for.
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
    """Pairs of neighbours in the structures begin:end of Graphs, the nearest image of each, none of an atom with itself.

    Returns:
        Ends [P] and [P] as positions in their structure, distance [P] in angstrom, pairs of each structure.
    """
    stored = slice(graphs.pair_offset[begin], graphs.pair_offset[end])
    structure = begin + owners(graphs.pair_offset[begin : end + 1])
    first, second = (side[stored] + graphs.node_offset[structure] for side in (graphs.first, graphs.second))
    distance = separations(graphs, begin, end)
    near = np.flatnonzero((distance < CUTOFF) & (first != second))
    near = near[np.lexsort((distance[near], second[near], first[near]))]
    ends = np.stack([first[near], second[near]])
    near = near[np.r_[True, (np.diff(ends) != 0).any(0)][: len(near)]]  # the shortest of each pair of atoms
    start = graphs.node_offset[structure[near]]
    counts = np.bincount(structure[near] - begin, minlength=end - begin)
    return first[near] - start, second[near] - start, distance[near], counts


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
        first, second, length, count = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
        own = merge(graphs.number, graphs.node_offset, first, second, length, np.concatenate([[0], count.cumsum()]))
        length = own.length[own.length_offset[owners(own.edge_offset)] + own.kind]
        self = cls.__new__(cls)
        # an edge between classes is a pair for either of them: the one that it leaves receives
        self._store(
            device, own.number, own.atoms, own.node_offset, own.sender, own.receiver, own.edge_offset, own.count, length
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
        self.weight = numbers(weight)
        self.distance = None if distance is None else numbers(distance)

    def __len__(self):
        return len(self.node_offset) - 1

    def __getitem__(self, rows):
        node, node_row, first = members(self.node_offset, rows)
        pair, pair_row, _ = members(self.pair_offset, rows)
        start = first[pair_row]
        distance = None if self.distance is None else self.distance[pair]
        return Batch(
            self.element[node],
            self.atoms[node],
            node_row,
            len(rows),
            self.receiver[pair] + start,
            self.sender[pair] + start,
            self.weight[pair],
            distance,
        )
