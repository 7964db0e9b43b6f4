"""MEGNet (Chen et al., Chem. Mater. 31, 3564 (2019)): matgl's own layers on packed batches of crystals.

The sizes are those of New, Le, Pekala and Stiles (2024), tables 2 to 5: "small" is the paper's network from scratch,
"large" the one it pretrains. The layers, their initial values and the Gaussian expansion (exp(-d^2 / 2) around 100 centres
from 0 to cutoff + 1 angstrom) are matgl's; tests compare the output with that of its model. They are the layers of PyG, or
of DGL where MATGL_BACKEND says so before this module is loaded (configuration key structure_backend).
"""

import torch
from matgl.config import BACKEND
from matgl.layers._activations import SoftPlus2
from matgl.models import MEGNet as MatglMEGNet
from matgl.utils.maths import scatter_mean
from torch import nn
from torch.nn import functional as F

from matpretrain.activation import ShiftedSoftplus, edge_activation
from matpretrain.files import DataError
from matpretrain.graphs import CUTOFF, KNOWN, open_graphs
from matpretrain.packed import members

SIZES = {  # hidden_layer_sizes of input, conv and output
    "small": ((64, 32), (64, 64, 32), (32, 16)),
    "large": ((128, 64), (128, 128, 64), (64, 32)),
}
READS = ("graphs",)  # what Inputs and Model are made from
TASKS = ("denoising",)  # what Encoder can be pretrained by
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
    """

    __slots__ = ("edge", "edge_row", "element", "node_row", "position", "rows", "shift")

    def __init__(self, element, position, edge, shift, node_row, edge_row, rows):
        self.element, self.position, self.edge, self.shift = element, position, edge, shift
        self.node_row, self.edge_row, self.rows = node_row, edge_row, rows

    def distance(self):
        """[P] lengths of the pairs in angstrom."""
        first, second = self.edge[:, : len(self.shift)]
        return (self.position[second] + self.shift - self.position[first]).norm(dim=1)

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
        self.row_of = element_rows().to(graphs.number.device)
        unknown = (self.row_of[graphs.number.long()] < 0).nonzero()
        if len(unknown):
            atom = int(unknown[0])
            row = int((graphs.node_offset <= atom).sum()) - 1
            raise DataError(
                f"structure {row + 1} holds an element of atomic number {int(graphs.number[atom])}, which MEGNet does not know; "
                "remove the structure or set unknown_elements: drop"
            )

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


def element_rows():
    """[119] int64 row of matgl's embedding table by atomic number, -1 without one."""
    known = torch.from_numpy(KNOWN)
    return torch.where(known, known.cumsum(0) - 1, -1)


def fuse_activations(network):
    """Replace every softplus2 of a network of matgl's layers by our own form, in place."""
    for module in list(network.modules()):
        for name, child in list(module._modules.items()):  # named_children would name a shared module once only
            if isinstance(child, SoftPlus2):
                setattr(module, name, ShiftedSoftplus())


def convolve(conv, batch, edge, node, state):
    """A graph convolution of matgl's PyG layers: (edge, node, state) vectors after it, the same function in fewer operations.

    The first layer of the edge update acts on [v_sender, v_receiver, e, u]. Its weight is split in four, and the shares
    of nodes and states are taken once per node instead of once per edge: a quarter of the products, and the
    concatenation of four vectors per edge is never stored.
    """
    first, _, *rest = conv.edge_func.layers
    of_sender, of_receiver, of_edge, of_state = first.weight.chunk(4, 1)
    sender, receiver = batch.edge
    fixed = F.linear(node, of_sender, first.bias) + F.linear(state, of_state)[batch.node_row]
    hidden = edge_activation(F.linear(edge, of_edge), fixed, F.linear(node, of_receiver), sender, receiver)
    for layer in rest:
        hidden = layer(hidden)
    of_atom = scatter_mean(hidden, sender, dim_size=len(node), dim=0)  # matgl averages the edges that leave an atom
    node = conv.node_func(torch.cat([node, of_atom, state[batch.node_row]], 1))
    means = (
        scatter_mean(vector, row, dim_size=batch.rows, dim=0)
        for vector, row in ((hidden, batch.edge_row), (node, batch.node_row))
    )
    return hidden, node, conv.state_func(torch.cat([state, *means], 1))


class MEGNetEncoder(nn.Module):
    """Crystals -> node, edge and state vectors after three blocks (610,960 parameters when large).

    Args:
        size: key of SIZES.
        whole: a matgl MEGNet of that size, whose layers are taken; by default a new one.

    Attributes:
        width: length of the representation, edge_width that of an edge vector.
    """

    def __init__(self, size="large", whole=None):
        super().__init__()
        whole = whole or matgl_megnet(size)
        self.size, self.edge_width = size, SIZES[size][1][-1]
        self.width = 3 * self.edge_width
        self.bond_expansion, self.embedding = whole.bond_expansion, whole.embedding
        self.edge_encoder, self.node_encoder, self.state_encoder = whole.edge_encoder, whole.node_encoder, whole.state_encoder
        self.blocks = whole.blocks
        fuse_activations(self)

    def states(self, batch):
        """Batch -> node [N, d], edge [E, d] and state [B, d] vectors after the last block."""
        basis = self.bond_expansion(batch.distance())
        zero = torch.zeros(batch.rows, 2, dtype=basis.dtype, device=basis.device)  # matgl's default state
        node, edge, state = self.embedding(batch.element, basis, zero)
        edge = self.edge_encoder(edge).repeat(2, 1)  # so far the same in both directions
        node, state = self.node_encoder(node), self.state_encoder(state)
        if BACKEND == "DGL":
            graph, order = batch.dgl_graph()
            edge = edge[order]
            for block in self.blocks:
                edge, node, state = block(graph, edge, node, state)
                state = state.view(batch.rows, -1)
            return node, torch.empty_like(edge).index_copy(0, order, edge), state
        for block in self.blocks:
            before = block.edge_func(edge), block.node_func(node), block.state_func(state)
            after = convolve(block.conv, batch, *before)
            edge, node, state = (old.add(new) for old, new in zip((edge, node, state), after, strict=True))
        return node, edge, state

    def forward(self, batch):
        """Batch of B crystals -> [B, width]: mean node vector, mean edge vector, state (New et al. 2024, linear probe)."""
        node, edge, state = self.states(batch)
        means = (
            scatter_mean(vector, row, dim_size=batch.rows, dim=0)
            for vector, row in ((node, batch.node_row), (edge, batch.edge_row))
        )
        return torch.cat([*means, state], 1)


class MEGNet(nn.Module):
    """Encoder, Set2Set readout and output layers: Batch -> [B, n_outputs] (732,945 parameters when large, one output).

    Raises:
        ValueError: unknown size.
    """

    def __init__(self, n_outputs=1, size="large"):
        super().__init__()
        whole = matgl_megnet(size)
        self.encoder = MEGNetEncoder(size, whole)
        self.edge_s2s, self.node_s2s, self.output_proj = whole.edge_s2s, whole.node_s2s, whole.output_proj
        if n_outputs != 1:
            last = self.output_proj.layers[-1]
            self.output_proj.layers[-1] = nn.Linear(last.in_features, n_outputs)
        fuse_activations(self)

    def forward(self, batch):
        """Batch of B crystals -> [B, n_outputs]."""
        node, edge, state = self.encoder.states(batch)
        if BACKEND == "DGL":
            graph, order = batch.dgl_graph()
            node, edge = self.node_s2s(graph, node), self.edge_s2s(graph, edge[order])
        else:
            node = self.node_s2s(node, batch.node_row, dim_size=batch.rows)
            edge = self.edge_s2s(edge, batch.edge_row, num_graphs=batch.rows)
        return self.output_proj(torch.cat([node, edge.view(batch.rows, -1), state], 1)).view(batch.rows, -1)


def matgl_megnet(size):
    """matgl's MEGNet in one of the paper's two sizes.

    Raises:
        ValueError: unknown size.
    """
    if size not in SIZES:
        raise ValueError(f"MEGNet has no size {size!r}: choose from {', '.join(SIZES)}")
    inputs, conv, output = SIZES[size]
    return MatglMEGNet(
        hidden_layer_sizes_input=inputs,
        hidden_layer_sizes_conv=conv,
        hidden_layer_sizes_output=output,
        cutoff=CUTOFF,
        gauss_width=0.5,
    )


# What the scripts build for `encoder: megnet`.
Encoder, Model, Inputs = MEGNetEncoder, MEGNet, CrystalInputs
