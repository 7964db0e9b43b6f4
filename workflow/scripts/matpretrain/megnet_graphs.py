"""Crystals as MEGNet reads them: packed batches of all atoms, or of their orbits."""

from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from matgl.utils.maths import scatter_mean

from matpretrain.crystal import owners
from matpretrain.files import DataError
from matpretrain.graphs import KNOWN, open_graphs, separations
from matpretrain.orbits import merge
from matpretrain.packed import Padded, members

EQUAL = 1e-4  # angstrom; a graph whose edge lengths vary less than this has one edge length


class Batch:
    """Packed crystals with N atoms and P pairs of neighbours in all.

    Each pair is two directed edges of the same length: E = 2 P edges, the second half the reverse of the first.

    Attributes:
        element: [N] int64 row of the embedding table.
        position: [N, 3] Cartesian coordinates in angstrom.
        edge: [2, E] int64 sender and receiver.
        shift: [P, 3] translation of the second atom's cell in angstrom.
        node_row, edge_row: [N], [E] int64 crystal of an atom or edge.
        rows: number of crystals, B.
        node_share, edge_share, sender_share: as of MergedBatch; None, since all count the same.
    """

    __slots__ = ("edge", "edge_row", "element", "node_row", "position", "rows", "shift")
    node_share = edge_share = sender_share = None

    def __init__(self, element, position, edge, shift, node_row, edge_row, rows):
        self.element, self.position, self.edge, self.shift = element, position, edge, shift
        self.node_row, self.edge_row, self.rows = node_row, edge_row, rows

    def distance(self):
        """[P] lengths of the pairs in angstrom."""
        first, second = self.edge[:, : len(self.shift)]
        return (self.position[second] + self.shift - self.position[first]).norm(dim=1)

    def of_edges(self, of_lengths):
        """[E, n] from [P, n]: both directions of a pair have what its length has."""
        return of_lengths.repeat(2, 1)

    def dgl_graph(self):
        """The edges as one batched graph of DGL, and their order there: crystal by crystal."""
        import dgl

        order = torch.argsort(self.edge_row, stable=True)
        graph = dgl.graph(tuple(self.edge[:, order]), num_nodes=len(self.element))
        graph.set_batch_num_nodes(torch.bincount(self.node_row, minlength=self.rows))
        graph.set_batch_num_edges(torch.bincount(self.edge_row, minlength=self.rows))
        return graph, order

    def perturbed(self, scale):
        """A copy with the same edges whose atoms are displaced by N(0, scale^2) angstrom along each axis."""
        position = self.position + scale * torch.randn_like(self.position)
        return Batch(self.element, position, self.edge, self.shift, self.node_row, self.edge_row, self.rows)

    def standardised_distance(self):
        """[P] lengths with zero mean and unit (population) variance within each crystal; zero where all are equal."""
        distance = self.distance()
        row = self.edge_row[: len(distance)]
        centred = distance - scatter_mean(distance, row, dim_size=self.rows)[row]
        std = scatter_mean(centred.square(), row, dim_size=self.rows).sqrt()
        return centred * torch.where(std > EQUAL, 1 / std, 0)[row]


@dataclass(frozen=True)
class MergedBatch:
    """Packed crystals with N classes of atoms, E of directed edges and L lengths in all (orbits.Orbits).

    Classes and edges without a share, and the last lengths, are padding (packed.Padded).

    Attributes:
        element: [N] int64 row of the embedding table.
        edge: [2, E] int64 sender and receiver.
        length: [L] in angstrom.
        kind: [E] int64 which of them an edge has.
        node_row, edge_row: [N], [E] int64 crystal of a class.
        rows: number of crystals, B.
        node_share, edge_share: [N], [E] share of the atoms and edges of the crystal.
        sender_share: [E] share of the edges that leave an atom of the class.
    """

    element: torch.Tensor
    edge: torch.Tensor
    length: torch.Tensor
    kind: torch.Tensor
    node_row: torch.Tensor
    edge_row: torch.Tensor
    rows: int
    node_share: torch.Tensor
    edge_share: torch.Tensor
    sender_share: torch.Tensor

    def distance(self):
        """[L] lengths in angstrom."""
        return self.length

    def of_edges(self, of_lengths):
        """[E, n] from [L, n]."""
        return of_lengths.index_select(0, self.kind)


class CrystalInputs:
    """All crystals of a dataset; indexing with rows [B] (int64) returns their `Batch`.

    Args:
        graphs: `graphs.Graphs` of tensors on one device; on the CPU they may lie in a file.

    Raises:
        DataError: an element that the embedding table lacks.
    """

    CHUNK = 64  # crystals at a time where no gradients are needed

    def __init__(self, graphs):
        self.graphs = graphs
        self.row_of = embedding_rows(graphs)

    @classmethod
    def read(cls, path, device="cpu"):
        """Inputs of a file written by `graphs.save_graphs`."""
        return cls(open_graphs(path, str(device)))

    def __len__(self):
        return len(self.graphs.node_offset) - 1

    @property
    def cost(self):
        """[rows] int64 number of edges of each crystal: what a step costs."""
        return 2 * self.graphs.pair_offset.diff()

    def __getitem__(self, rows):
        graphs = self.graphs
        node, node_row, first_node = members(graphs.node_offset, rows)
        pair, pair_row, _ = members(graphs.pair_offset, rows)
        ends = torch.stack([graphs.first[pair], graphs.second[pair]]).long() + first_node[pair_row]
        edge = torch.cat([ends, ends.flip(0)], 1)
        shift = torch.bmm(graphs.image[pair].float().unsqueeze(1), graphs.lattice[rows][pair_row]).squeeze(1)
        element = self.row_of[graphs.number[node].long()]
        return Batch(element, graphs.position[node], edge, shift, node_row, pair_row.repeat(2), len(rows))


class OrbitInputs:
    """The same crystals with what message passing cannot tell apart merged; indexing with rows [B] returns their `MergedBatch`.

    Args:
        graphs: `graphs.Graphs` of numpy arrays.
        device: where batches are made.

    Raises:
        DataError: an element that the embedding table lacks.
    """

    CHUNK = 256

    def __init__(self, graphs, device="cpu"):
        own = merge(graphs.number, graphs.node_offset, graphs.first, graphs.second, separations(graphs), graphs.pair_offset)
        crystal = owners(own.edge_offset)
        sender = own.node_offset[crystal] + own.sender
        self.node_share = _shares(own.atoms, owners(own.node_offset), device)
        self.edge_share = _shares(own.count * own.atoms[sender], crystal, device)
        self.sender_share = _shares(own.count, sender, device)
        arrays = {f.name: torch.from_numpy(getattr(own, f.name)).to(device) for f in fields(own)}
        self.orbits = replace(own, **arrays)
        self.row_of = embedding_rows(self.orbits)
        self.padded = [Padded(of) for of in (self.orbits.node_offset, self.orbits.edge_offset, self.orbits.length_offset)]

    @classmethod
    def read(cls, path, device="cpu"):
        """Inputs of a file written by `graphs.save_graphs`."""
        return cls(open_graphs(path), device)

    def __len__(self):
        return len(self.orbits.node_offset) - 1

    @property
    def cost(self):
        """[rows] int64 number of classes of edges of each crystal: what a step costs."""
        return self.orbits.edge_offset.diff()

    def __getitem__(self, rows):
        orbits = self.orbits
        (node, node_row, first_node, no_node), (edge, edge_row, _, no_edge), (length, _, first_length, _) = (
            [of_rows[0] for of_rows in padded.members(rows[None])] for padded in self.padded
        )
        ends = torch.stack([orbits.sender[edge], orbits.receiver[edge]]).long() + first_node[edge_row]
        return MergedBatch(
            self.row_of[orbits.number[node].long()],
            ends.masked_fill(no_edge, 0),
            orbits.length[length],
            (orbits.kind[edge].long() + first_length[edge_row]).masked_fill(no_edge, 0),
            node_row,
            edge_row,
            len(rows),
            self.node_share[node].masked_fill(no_node, 0),
            self.edge_share[edge].masked_fill(no_edge, 0),
            self.sender_share[edge].masked_fill(no_edge, 0),
        )


def _shares(counts, rows, device):
    """Counts [N] over their sum within each row, float32."""
    return torch.as_tensor(counts / np.bincount(rows, counts)[rows], dtype=torch.float32, device=device)


def embedding_rows(crystals):
    """`element_rows` on the device of crystals (graphs.Graphs or orbits.Orbits of tensors).

    Raises:
        DataError: a crystal holds an element that the embedding table lacks.
    """
    row_of = element_rows().to(crystals.number.device)
    unknown = (row_of[crystals.number.long()] < 0).nonzero()
    if len(unknown):
        atom = int(unknown[0])
        row = int((crystals.node_offset <= atom).sum()) - 1
        raise DataError(
            f"structure {row + 1} holds an element of atomic number {int(crystals.number[atom])}, which MEGNet does not know; "
            "remove the structure or set unknown_elements: drop"
        )
    return row_of


def element_rows():
    """[119] int64 row of matgl's embedding table by atomic number, -1 without one."""
    known = torch.from_numpy(KNOWN)
    return torch.where(known, known.cumsum(0) - 1, -1)
