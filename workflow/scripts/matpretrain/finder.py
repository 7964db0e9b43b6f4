"""Finder (Ihalage and Hao, Adv. Sci. 9, 2200164 (2022)): one attention network on formula graphs with or without structure.

Its graphs are those of finder_graphs. In composition mode the edges are predicted, in structure mode they are Gaussians of the
distance.

Where the paper and its released code differ, this follows the code, which made the published numbers:
the update is ReLU(W v + b) + messages (eq. 7 is linear); messages are multiplied by MESSAGE_SCALE (a batch normalisation
with fixed mean 0 and variance 0.5); the input weights of query, key, value and gate layers are rescaled after every step to a largest norm (`Finder.constrain`).
"""

import itertools
import math

import torch
from torch import nn
from torch.nn import functional as F

from matpretrain.finder_graphs import GraphInputs

READS = {"composition": ("compositions", "elements"), "structure": ("graphs", "elements")}  # by mode, of Inputs and Model
STACKS = True  # networks can train as a cohort: Inputs has `stacked` and `reserve`
EDGE_HIDDEN, MESSAGE_HIDDEN, POOL_HIDDEN = (128, 64), (128, 64), 256
FILTERS, DENSE = 64, (512, 1024, 1024, 256)
CENTRES, SPACING, GAUSS_WIDTH = 20, 0.25, 0.5  # Gaussians at 0, 0.25, ..., 4.75 angstrom
MESSAGE_SCALE = 1 / math.sqrt(0.5 + 0.001)
EPSILON = 1e-9  # in the denominators of both softmax functions
L2_ATTENTION, L2 = 1e-8, 1e-6  # of query, key, value kernels; of hidden and dense kernels
ATTENTION = {"all": (True, True), "pooling": (False, True), "none": (False, False)}  # attention of (messages, pooling)


def dense(n_in, n_out):
    """A linear layer as Keras initialises it: Glorot uniform, zero bias."""
    layer = nn.Linear(n_in, n_out)
    nn.init.xavier_uniform_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def softmax_by(batch, index, n, logit, weight):
    """Softmax of P entries within each of n groups, for every channel by itself (Ihalage and Hao 2022, released code).

    Args:
        batch: finder_graphs.Batch, whose operations are taken.
        index: [P] int64 group of each entry.
        logit: [P, c].
        weight: [P] how often each entry counts; padding has zero.

    Returns:
        [P, c] with the weight included: it sums to one over a group, up to EPSILON, and is zero where the weight is.
    """
    logit = logit + weight.log()[:, None]
    least = logit.new_full((n, logit.shape[1]), torch.finfo(logit.dtype).min)
    share = torch.exp(logit - batch.take(batch.largest(least, index, logit.detach()), index))
    return share / batch.take(batch.add(torch.zeros_like(least), index, share) + EPSILON, index)


class MessageLayer(nn.Module):
    """One round of messages (method section, eqs. 1-7): node vectors [M, c] -> [M, c].

    Args:
        width: c.
        edges: length of the edge vectors; 1 where they are predicted (composition mode).
        predicted: whether they are.
        attention: False leaves out query and key: a neighbour sends its value.
    """

    def __init__(self, width, edges, predicted, attention):
        super().__init__()
        self.predicted, self.attention = predicted, attention
        if predicted:
            self.edge = nn.ModuleList(dense(a, b) for a, b in itertools.pairwise((2 * width, *EDGE_HIDDEN, edges)))
        if attention:
            self.query, self.key = dense(width, width), dense(width, width)
        self.value, self.update = dense(width, width), dense(width, width)
        self.message = nn.ModuleList(dense(a, b) for a, b in itertools.pairwise((width + edges, *MESSAGE_HIDDEN, width)))

    def predicted_edges(self, v, batch):
        """e_ij = MLP[m_ij || g_i] [P, 1]; m_ij is the mean of the two ends, g_i that of m over all neighbours of i."""
        width = v.shape[1]
        first, second, last = self.edge
        of_pair, of_mean = first.weight.split(width, 1)
        degree = batch.degree.clamp(min=1)[:, None]
        total = batch.add(torch.zeros_like(v), batch.receiver, batch.take(v, batch.sender) * batch.weight[:, None])
        half = F.linear(v, of_pair) / 2  # m is linear in its ends: the products are taken once per node
        at_receiver = half + F.linear((v + total / degree) / 2, of_mean, first.bias)
        hidden = F.relu(batch.take(at_receiver, batch.receiver) + batch.take(half, batch.sender))
        return last(F.relu(second(hidden)))

    def forward(self, v, batch, edge):
        """v [M, c] and, where they are given, edge vectors [P, n] -> [M, c]."""
        receiver, sender = batch.receiver, batch.sender
        if self.predicted:
            edge = self.predicted_edges(v, batch)
        first, second, last = self.message
        of_pair, of_edge = first.weight.split([v.shape[1], edge.shape[1]], 1)
        half = F.linear(v, of_pair) / 2
        hidden = F.relu(batch.take(half, receiver) + batch.take(half, sender) + F.linear(edge, of_edge, first.bias))
        message = last(F.relu(second(hidden))) * batch.take(self.value(v), sender)
        if self.attention:
            logit = batch.take(self.query(v), receiver) * batch.take(self.key(v), sender) / math.sqrt(v.shape[1])
            message = message * softmax_by(batch, receiver, len(v), logit, batch.weight)
        else:
            message = message * batch.weight[:, None]
        total = batch.add(torch.zeros_like(v), receiver, message)
        received = MESSAGE_SCALE * total / batch.degree.clamp(min=1)[:, None]  # the mean over neighbours
        return F.relu(self.update(v)) + received


class AttentionPooling(nn.Module):
    """Node vectors [M, c] -> graph vectors [B, c], weighted by a softmax over the atoms for every channel (eq. 8)."""

    def __init__(self, width, attention):
        super().__init__()
        self.gate = nn.ModuleList((dense(width, POOL_HIDDEN), dense(POOL_HIDDEN, width))) if attention else None
        self.message = nn.ModuleList((dense(width, POOL_HIDDEN), dense(POOL_HIDDEN, width)))

    def forward(self, v, batch):
        """v [M, c] -> [B, c]; without attention the mean over the atoms."""
        first, last = self.message
        message = last(F.relu(first(v)))
        if self.gate is not None:
            logit = self.gate[1](F.relu(self.gate[0](v)))
            share = softmax_by(batch, batch.row, len(batch.size), logit, batch.atoms)
        else:
            share = (batch.atoms / batch.size[batch.row])[:, None]
        weighted = message * share  # in float32 also where the message is not
        return batch.add(weighted.new_zeros(len(batch.size), v.shape[1]), batch.row, weighted)


class DenseStack(nn.Module):
    """Four dense layers with concatenated skip links (released code; the paper calls them residual) and the output.

    Args:
        flat: length of the vector that enters the first and the last layer.
        first, second: lengths of those that join at the second and third layer.
    """

    def __init__(self, flat, first, second, n_outputs):
        super().__init__()
        a, b, c, d = DENSE
        self.dense = nn.ModuleList((dense(flat, a), dense(a + first, b), dense(b + second, c)))
        self.of_dense, self.of_flat = nn.Linear(c, d), nn.Linear(flat, d, bias=False)  # the last one, without a concatenation
        for part, weight in zip((self.of_dense, self.of_flat), dense(c + flat, d).weight.split([c, flat], 1), strict=True):
            part.weight = nn.Parameter(weight.detach().contiguous())
        nn.init.zeros_(self.of_dense.bias)
        self.output = dense(d, n_outputs)

    def forward(self, flat, first, second):
        """[B, flat], [B, first], [B, second] -> [B, n_outputs]."""
        x = F.relu(self.dense[0](flat))
        x = F.relu(self.dense[1](torch.cat([x, first], 1)))
        x = F.relu(self.dense[2](torch.cat([x, second], 1)))
        return self.output(F.relu(self.of_dense(x) + self.of_flat(flat)))

    def kernels(self):
        """The weights of the four dense layers."""
        return [*(layer.weight for layer in self.dense), self.of_dense.weight, self.of_flat.weight]


def convolution(n_in, n_out):
    """A convolution of kernel 3 that keeps the length, initialised as in Keras."""
    layer = nn.Conv1d(n_in, n_out, 3, padding="same")
    nn.init.xavier_uniform_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


class Readout(nn.Module):
    """First and last pooled vectors [B, c] -> [B, n_outputs]: a convolution along the channels and the dense stack."""

    def __init__(self, width, n_outputs):
        super().__init__()
        self.convolution = convolution(1, FILTERS)
        self.stack = DenseStack(FILTERS * width, width, width, n_outputs)

    def forward(self, first, last):
        """[B, c], [B, c] -> [B, n_outputs]."""
        return self.stack(F.relu(self.convolution(last[:, None])).flatten(1), first, last)


class FinderEncoder(nn.Module):
    """Formula graphs -> pooled vectors after every message layer.

    Args:
        element_vectors: [Z, c] fixed element vectors, one row per value of `finder_graphs.Batch.element`.
        mode: composition or structure.
        layers: message layers, each followed by its own pooling.
        attention: key of ATTENTION.

    Raises:
        ValueError: unknown mode or attention.
    """

    def __init__(self, element_vectors, mode="composition", layers=2, attention="all"):
        super().__init__()
        if mode not in READS or attention not in ATTENTION:
            raise ValueError(f"Finder has the modes {', '.join(READS)} and the attentions {', '.join(ATTENTION)}")
        self.register_buffer("element_vectors", torch.as_tensor(element_vectors, dtype=torch.float32))
        self.width = self.element_vectors.shape[1]
        self.predicted = predicted = mode == "composition"
        of_messages, of_pooling = ATTENTION[attention]
        edges = 1 if predicted else CENTRES
        self.layers = nn.ModuleList(MessageLayer(self.width, edges, predicted, of_messages) for _ in range(layers))
        self.pooling = nn.ModuleList(AttentionPooling(self.width, of_pooling) for _ in range(layers))
        self.register_buffer("centres", SPACING * torch.arange(CENTRES), persistent=False)

    def pooled(self, batch):
        """Batch of B graphs -> list of [B, c], one per layer."""
        v, edge, found = self.element_vectors[batch.element], None, []
        if not self.predicted:
            edge = torch.exp(-((batch.distance[:, None] - self.centres) / GAUSS_WIDTH).square())
        for layer, pooling in zip(self.layers, self.pooling, strict=True):
            v = layer(v, batch, edge)
            found.append(pooling(v, batch))
        return found

    def forward(self, batch):
        """Batch of B graphs -> [B, c], pooled after the last layer."""
        return self.pooled(batch)[-1]


class Finder(nn.Module):
    """Encoder and readout: Batch -> [B, n_outputs] (13,025,140 parameters with two outputs, 12,910,706 in structure mode).

    Args:
        readout: False replaces the readout by one linear layer (table 3 of the paper).
    """

    def __init__(self, element_vectors, n_outputs=1, mode="composition", layers=2, attention="all", readout=True):
        super().__init__()
        self.encoder = FinderEncoder(element_vectors, mode, layers, attention)
        width = self.encoder.width
        self.readout = Readout(width, n_outputs) if readout else dense(width, n_outputs)

    def forward(self, batch):
        """Batch of B graphs -> [B, n_outputs]."""
        pooled = self.encoder.pooled(batch)
        return self.readout(pooled[0], pooled[-1]) if isinstance(self.readout, Readout) else self.readout(pooled[-1])

    @torch.no_grad()
    def adopt(self, state):
        """Take over the weights of a network of the other mode, {name: tensor}: all but those that act on edges.

        Returns:
            How many numbers were taken over.
        """
        own, width, taken = {name: p.detach() for name, p in self.named_parameters()}, self.encoder.width, 0
        for name in own.keys() & state.keys():
            mine, theirs = own[name], state[name]
            if mine.shape != theirs.shape:  # the message networks: the first columns act on nodes, the others on edges
                mine, theirs = mine[:, :width], theirs[:, :width]
            mine.copy_(theirs)
            taken += mine.numel()
        return taken

    def penalised(self):
        """{coefficient of the sum of squares in the loss: parameters} (released code; the paper says 1e-6 on all weights)."""
        light, full = [], []
        for layer, pooling in zip(self.encoder.layers, self.encoder.pooling, strict=True):
            light += [layer.value.weight, *((layer.query.weight, layer.key.weight) if layer.attention else ())]
            full += [hidden.weight for hidden in layer.message[:-1]]
            full += [hidden.weight for hidden in layer.edge[:-1]] if layer.predicted else []
            full += [pooling.message[0].weight, *((pooling.gate[0].weight,) if pooling.gate is not None else ())]
        if isinstance(self.readout, Readout):
            full += self.readout.stack.kernels()
        return {L2_ATTENTION: light, L2: full}

    @torch.no_grad()
    def constrain(self):
        """Rescale the input weights of every unit to a largest norm: 1 for query, key and gate, 2 for value (released code)."""
        for layer, pooling in zip(self.encoder.layers, self.encoder.pooling, strict=True):
            limits = [(layer.value, 2.0)]
            limits += [(layer.query, 1.0), (layer.key, 1.0)] if layer.attention else []
            limits += [(gate, 1.0) for gate in pooling.gate] if pooling.gate is not None else []
            for linear, largest in limits:  # the units of several networks are one below another
                linear.weight.view(-1, linear.weight.shape[-1]).renorm_(2, 0, largest)


# What the scripts build for `encoder: finder`.
Encoder, Model, Inputs = FinderEncoder, Finder, GraphInputs
