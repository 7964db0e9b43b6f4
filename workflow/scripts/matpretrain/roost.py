"""Roost: representation learning from stoichiometry (Goodall and Lee, Nat. Commun. 11, 6280 (2020)).

The sizes are those of Huang, Magar and Barati Farimani (2024): width 64, three message-passing layers of three heads,
three pooling heads, a residual trunk 64 -> 1024 -> 512 -> 256 and a residual output head 256 -> 128 -> 64 -> n.
"""

import itertools
import math
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from matpretrain.attention import Packed, PackedMember, kernels
from matpretrain.composition import Compositions
from matpretrain.packed import MULTIPLE, Padded, members

WIDTH, HEADS, HIDDEN = 64, 3, 256
TRUNK, HEAD = (1024, 512), (128, 64)
REPRESENTATION = 256
READS = ("compositions", "elements")  # what Inputs and Model are made from
STACKS = True  # networks can train as a cohort: Inputs has `stacked` and `reserve`
TASKS = ("barlow_twins", "magpie", "structure")  # what Encoder can be pretrained by
HIDDEN_SHARE = 0.1  # of the elements of a composition, in a masked view
MASKED = -1  # an element hidden from the encoder: its vector is zero, its weight and its edges stay


class Batch(NamedTuple):
    """Packed compositions: node arrays of length M, composition b owns nodes offset[b]:offset[b + 1]; further nodes are padding.

    Attributes:
        element: [M] int64 row of the element table, or MASKED.
        fraction: [M] atomic fraction of each node.
        offset: [B + 1] int64.
    """

    element: torch.Tensor
    fraction: torch.Tensor
    offset: torch.Tensor

    @property
    def groups(self):
        """Which elements belong together."""
        return Packed(self.offset)

    def masked(self):
        """A copy in which max(1, floor(HIDDEN_SHARE n)) of the n elements of every composition are MASKED.

        They are drawn without replacement from torch's random state (Huang et al. 2024, section on SSL).
        """
        node = torch.arange(len(self.element), device=self.offset.device)
        row = torch.searchsorted(self.offset[1:], node, right=True)  # that of padding is the number of rows
        order = torch.argsort(row + torch.rand(len(row), dtype=torch.float64, device=row.device))  # shuffled within rows
        n_hidden = (HIDDEN_SHARE * self.offset.diff()).long().clamp(min=1)
        hidden = node - self.offset[row] < F.pad(n_hidden, (0, 1))[row]
        return Batch(self.element.masked_fill(torch.empty_like(hidden).scatter_(0, order, hidden), MASKED), *self[1:])


class MemberBatch(Batch):
    """The Batches of the networks of a cohort, [C, M] and [C, B + 1], and the own one of each of them under `torch.func.vmap`."""

    @property
    def groups(self):
        """Which elements belong together."""
        return PackedMember(self.offset)


class CompositionInputs:
    """All compositions of a dataset on one device; indexing with rows [B] (int64) returns their `Batch`.

    Args:
        compositions: `composition.Compositions`, or anything with its number, fraction and offset.
    """

    def __init__(self, compositions, device="cpu", dtype=torch.float32):
        self.element = torch.as_tensor(compositions.number, dtype=torch.int64, device=device)
        self.fraction = torch.as_tensor(compositions.fraction, dtype=dtype, device=device)
        self.offset = torch.as_tensor(compositions.offset, dtype=torch.int64, device=device)
        self.padded = Padded(self.offset)
        # without the kernels attention on a GPU reads sizes from its arrays, which no graph can hold
        self.reserve = self.padded.reserve if kernels else None

    @classmethod
    def read(cls, path, device="cpu"):
        """Inputs of a file with the arrays of `composition.Compositions`."""
        return cls(Compositions.read(path), device)

    def __len__(self):
        return len(self.offset) - 1

    def __getitem__(self, rows):
        if rows.is_cuda:
            return Batch(*(of_members[0] for of_members in self.stacked(rows[None])))
        node, _, offset = members(self.offset, rows)
        return Batch(self.element[node], self.fraction[node], offset)

    def stacked(self, rows):
        """MemberBatch of the rows [C, B] of C networks (packed.Padded)."""
        source, _, offset, padding = self.padded.members(rows)
        return MemberBatch(
            self.element[source].masked_fill(padding, MASKED), self.fraction[source].masked_fill(padding, 1.0), offset
        )


def _uniform(*shape, fan_in):
    """The default initialisation of a torch linear layer: U(-1/sqrt(fan_in), 1/sqrt(fan_in))."""
    bound = 1 / math.sqrt(fan_in)
    return nn.Parameter(torch.empty(*shape).uniform_(-bound, bound))


class WeightedAttention(nn.Module):
    """Multi-head soft attention weighted by stoichiometry, averaged over heads.

    Gate (in -> 256 -> 1) and message (in -> 256 -> 64) networks of all heads are stored as one block each. With
    `pairwise` the networks see [h_i || h_j] (message passing), else h_j alone (pooling into one vector).
    """

    def __init__(self, pairwise):
        super().__init__()
        fan_in = 2 * WIDTH if pairwise else WIDTH
        hidden = HEADS * 2 * HIDDEN  # laid out as [head, gate | message, unit]
        self.receiver = _uniform(hidden, WIDTH, fan_in=fan_in) if pairwise else None
        self.sender = _uniform(hidden, WIDTH, fan_in=fan_in)
        self.bias = _uniform(hidden, fan_in=fan_in)
        self.gate = _uniform(HEADS, HIDDEN, fan_in=HIDDEN)
        # The gate's bias cancels in the softmax; it is kept because the published model counts it.
        self.gate_bias = _uniform(HEADS, fan_in=HIDDEN)
        self.message = _uniform(WIDTH, HEADS, HIDDEN, fan_in=HIDDEN)
        self.message_bias = _uniform(HEADS, WIDTH, fan_in=HIDDEN)
        self.power = nn.Parameter(torch.randn(HEADS))

    def forward(self, h, log_fraction, groups):
        """Messages have the shape of h, pooled vectors are [B, 64].

        Args:
            h: [M, 64].
            log_fraction: [M].
            groups: Packed, who belongs together.
        """
        log_prior = log_fraction.unsqueeze(-1) * self.power
        message, total = groups.attend(h, self.receiver, self.sender, self.bias, self.gate, log_prior)
        return (F.linear(message.flatten(-2), self.message.flatten(1)) + total @ self.message_bias) / HEADS


class ResidualBlock(nn.Module):
    """y = ReLU(W x + b) + R x, with R the identity where the widths agree."""

    def __init__(self, n_in, n_out):
        super().__init__()
        self.linear = nn.Linear(n_in, n_out)
        self.skip = nn.Linear(n_in, n_out, bias=False) if n_in != n_out else nn.Identity()

    def forward(self, x):
        return F.relu(self.linear(x)) + self.skip(x)


class RoostEncoder(nn.Module):
    """Composition -> 256-dimensional representation (before its ReLU).

    Args:
        element_vectors: [Z, 200] fixed element vectors, one row per value of `Batch.element`.

    Attributes:
        width: length of the representation.
    """

    width = REPRESENTATION

    def __init__(self, element_vectors):
        super().__init__()
        self.register_buffer("element_vectors", torch.as_tensor(element_vectors, dtype=torch.float32))
        self.embedding = nn.Linear(self.element_vectors.shape[1], WIDTH - 1)
        self.layers = nn.ModuleList(WeightedAttention(pairwise=True) for _ in range(3))
        self.pooling = WeightedAttention(pairwise=False)
        widths = (WIDTH, *TRUNK)
        self.trunk = nn.Sequential(
            *(ResidualBlock(a, b) for a, b in itertools.pairwise(widths)),
            nn.Linear(widths[-1], REPRESENTATION),
        )

    def forward(self, batch, messages=True):
        """Batch of B compositions -> [B, 256]. Without messages every element sees only itself until the pooling."""
        padding = (0, -len(batch.element) % MULTIPLE)
        element, fraction = F.pad(batch.element, padding, value=MASKED), F.pad(batch.fraction, padding, value=1.0)
        # All elements are embedded, whichever are present: so the shapes of products stay the same. The last row is MASKED.
        table = self.embedding(F.pad(self.element_vectors, (0, 0, 0, 1)))
        h, log_fraction = torch.cat([table[element], fraction.unsqueeze(-1)], -1), fraction.log()
        groups = batch.groups
        neighbours = groups if messages else Packed(torch.arange(len(h) + 1, device=h.device))
        for layer in self.layers:
            h = h + layer(h, log_fraction, neighbours)
        return self.trunk(self.pooling(h, log_fraction, groups))


class Roost(nn.Module):
    """Encoder and output head: Batch -> [B, n_outputs] (2,302,096 parameters with one output)."""

    def __init__(self, element_vectors, n_outputs=1):
        super().__init__()
        self.encoder = RoostEncoder(element_vectors)
        widths = (REPRESENTATION, *HEAD)
        self.head = nn.Sequential(
            *(ResidualBlock(a, b) for a, b in itertools.pairwise(widths)),
            nn.Linear(widths[-1], n_outputs),
        )

    def forward(self, batch):
        return self.head(F.relu(self.encoder(batch)))


# What the scripts build for `encoder: roost`.
Encoder, Model, Inputs = RoostEncoder, Roost, CompositionInputs
