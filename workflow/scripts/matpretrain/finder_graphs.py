"""Graphs that Finder reads (Ihalage and Hao, Adv. Sci. 9, 2200164 (2022)).

Composition mode: the atoms of the integer formula, every one a neighbour of every other. Structure mode: the atoms of the cell,
neighbours below 4 angstrom (nearest image only). Atoms that share their state, in composition mode those of one element, in structure mode
those of an orbit (orbits.merge), are one node with their number, and a pair of nodes counts as often as pairs of their atoms occur: the same
function at the cost of the elements (a steel of 9,000 atoms has a dozen) or orbits, which an atom-by-atom oracle checks in the tests.
"""

from typing import NamedTuple

import numpy as np
import torch

from matpretrain import stacking
from matpretrain.composition import atom_counts
from matpretrain.crystal import owners
from matpretrain.graphs import open_graphs, separations
from matpretrain.orbits import merge
from matpretrain.packed import Padded

CUTOFF = 4.0  # angstrom
BLOCK = 2000  # structures whose pairs are looked at together


class Batch(NamedTuple):
    """Packed graphs with M nodes and P directed pairs of neighbours in all. Nodes without atoms and pairs without weight are padding.

    Attributes:
        element: [M] int64 row of the element table.
        atoms: [M] atoms that a node stands for.
        degree: [M] neighbours of one atom of each node.
        row: [M] int64 graph of each node.
        size: [B] atoms of each graph.
        receiver, sender: [P] int64 nodes.
        weight: [P] atoms of the sender that neighbour one atom of the receiver.
        distance: [P] in angstrom, [0] in composition mode.
    """

    element: torch.Tensor
    atoms: torch.Tensor
    degree: torch.Tensor
    row: torch.Tensor
    size: torch.Tensor
    receiver: torch.Tensor
    sender: torch.Tensor
    weight: torch.Tensor
    distance: torch.Tensor

    @staticmethod
    def take(x, index):
        """Rows of x [n, k] at index [P]: [P, k]."""
        return x.index_select(0, index)

    @staticmethod
    def add(total, index, x):
        """Rows of x [P, k] added to those of total [n, k] at index [P]."""
        return total.index_add(0, index, x)

    @staticmethod
    def largest(least, index, x):
        """The largest of `least` [n, k] and of the rows of x [P, k] at index [P]; without gradients."""
        return least.scatter_reduce(0, index[:, None].expand_as(x), x, "amax")


class MemberBatch(Batch):
    """The Batches of the networks of a cohort, arrays [C, ...], and the own one of each of them under `torch.func.vmap`."""

    take, add, largest = map(staticmethod, (stacking.take, stacking.add, stacking.largest))


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
            [],
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
        def integers(array, dtype=torch.int64):
            return torch.as_tensor(np.asarray(array), dtype=dtype, device=device)

        def numbers(array):
            return torch.as_tensor(np.asarray(array, np.float32), device=device)

        graph_of_pair = owners(pair_offset)
        self.element, self.atoms, self.weight, self.distance = integers(number), *map(numbers, (atoms, weight, distance))
        self.degree = numbers(np.bincount(node_offset[graph_of_pair] + receiver, weight, len(number)))
        self.size = numbers(np.bincount(owners(node_offset), atoms, len(node_offset) - 1))
        self.receiver, self.sender = integers(receiver, torch.int16), integers(sender, torch.int16)
        self.node_offset, self.pair_offset = integers(node_offset), integers(pair_offset)
        self.padded = Padded(self.node_offset), Padded(self.pair_offset)

    def __len__(self):
        return len(self.size)

    def __getitem__(self, rows):
        return Batch(*(of_members[0] for of_members in self.stacked(rows[None])))

    def stacked(self, rows):
        """MemberBatch of the rows [C, B] of C networks (packed.Padded)."""
        nodes, pairs = self.padded
        node, row, first, no_node = nodes.members(rows)
        pair, pair_row, _, no_pair = pairs.members(rows)
        batch = MemberBatch(*self._arrays(rows, node, row, pair, first.gather(1, pair_row)))
        of_pairs = {name: getattr(batch, name).masked_fill(no_pair, 0) for name in ("receiver", "sender", "weight")}
        return batch._replace(atoms=batch.atoms.masked_fill(no_node, 0), **of_pairs)

    def _arrays(self, rows, node, row, pair, first):
        """What a Batch holds, in its order; of C networks every array has a first axis [C].

        Args:
            rows: [B] int64.
            node, row: [M] int64 positions of the nodes in the flat arrays, and which of the rows each belongs to.
            pair, first: [P] int64 positions of the pairs, and the first node in the batch of the graph of each.
        """
        distance = self.distance[pair] if len(self.distance) else self.weight[pair[..., :0]]
        return (
            self.element[node],
            self.atoms[node],
            self.degree[node],
            row,
            self.size[rows],
            self.receiver[pair] + first,
            self.sender[pair] + first,
            self.weight[pair],
            distance,
        )

    def reserve(self, steps):
        """Fix the sizes of the batches of steps: [those of nodes, those of pairs], each as of packed.Padded.reserve."""
        return [padded.reserve(steps) for padded in self.padded]
