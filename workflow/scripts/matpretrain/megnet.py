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
from torch_geometric.utils import softmax

from matpretrain.activation import ShiftedSoftplus, edge_activation
from matpretrain.graphs import CUTOFF
from matpretrain.megnet_graphs import CrystalInputs, OrbitInputs

SIZES = {  # hidden_layer_sizes of input, conv and output
    "small": ((64, 32), (64, 64, 32), (32, 16)),
    "large": ((128, 64), (128, 128, 64), (64, 32)),
}
READS = ("graphs",)  # what Inputs and Model are made from
TASKS = ("denoising",)  # what Encoder can be pretrained by


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
    of_atom = mean(hidden, sender, batch.sender_share, len(node))  # matgl averages the edges that leave an atom
    node = conv.node_func(torch.cat([node, of_atom, state[batch.node_row]], 1))
    return hidden, node, conv.state_func(torch.cat([state, *means(hidden, node, batch)], 1))


def means(edge, node, batch):
    """Mean vectors [B, n] of the edges and of the atoms of every crystal."""
    of_edges = mean(edge, batch.edge_row, batch.edge_share, batch.rows)
    return of_edges, mean(node, batch.node_row, batch.node_share, batch.rows)


def mean(vector, row, share, size):
    """Means [size, n] of vectors [N, n] over those with the same row, each with its share of that mean; None where all count the same."""
    if share is None:
        return scatter_mean(vector, row, dim_size=size, dim=0)
    return vector.new_zeros(size, vector.shape[1]).index_add(0, row, vector * share.unsqueeze(1))


def set2set(readout, vector, row, share, size):
    """matgl's Set2Set [size, 2 n] of vectors [N, n], each counted as often as its share of a crystal says; None where all count the same.

    A share multiplies the weight that a vector has in the softmax, as so many equal vectors would.
    """
    log_share = 0.0 if share is None else share.log()
    hidden = tuple(vector.new_zeros(readout.n_layers, size, vector.shape[1]) for _ in range(2))
    found = vector.new_zeros(size, 2 * vector.shape[1])
    for _ in range(readout.n_iters):
        query, hidden = readout.lstm(found.unsqueeze(0), hidden)
        query = query[0]
        weight = softmax((vector * query[row]).sum(1) + log_share, row, num_nodes=size)
        found = torch.cat([query, query.new_zeros(query.shape).index_add(0, row, weight.unsqueeze(1) * vector)], 1)
    return found


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
        edge = batch.of_edges(self.edge_encoder(edge))  # so far the same for all edges of one length
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
        of_edges, of_nodes = means(edge, node, batch)
        return torch.cat([of_nodes, of_edges, state], 1)


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
            node = set2set(self.node_s2s, node, batch.node_row, batch.node_share, batch.rows)
            edge = set2set(self.edge_s2s, edge, batch.edge_row, batch.edge_share, batch.rows)
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


# What the scripts build for `encoder: megnet`. The pretext task displaces single atoms; layers of DGL know no shares.
Encoder, Model, CorpusInputs = MEGNetEncoder, MEGNet, CrystalInputs
Inputs = CrystalInputs if BACKEND == "DGL" else OrbitInputs
