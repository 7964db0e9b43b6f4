"""Roost: representation learning from stoichiometry (Goodall and Lee, Nat. Commun. 11, 6280 (2020)).

The sizes are those of Huang, Magar and Barati Farimani (2024): width 64, three message-passing layers of three heads,
three pooling heads, a residual trunk 64 -> 1024 -> 512 -> 256 and a residual output head 256 -> 128 -> 64 -> n.
"""

import itertools
import math
from functools import cached_property
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from matpretrain.attention import ROWS, Packed, Padded
from matpretrain.composition import Compositions
from matpretrain.packed import members

WIDTH, HEADS, HIDDEN = 64, 3, 256
TRUNK, HEAD = (1024, 512), (128, 64)
REPRESENTATION = 256
READS = ("compositions", "elements")  # what Inputs and Model are made from
STACKS = True  # networks can train as a cohort: Inputs has `padded`
TASKS = ("barlow_twins", "magpie", "structure")  # what Encoder can be pretrained by
HIDDEN_SHARE = 0.1  # of the elements of a composition, in a masked view
MASKED = -1  # an element hidden from the encoder: its vector is zero, its weight and its edges stay


class Batch:
    """Packed compositions: node arrays of length M, composition b owns nodes offset[b]:offset[b + 1].

    Attributes:
        element: [M] int64 row of the element table, or MASKED.
        fraction: [M] atomic fraction of each node.
        offset: [B + 1] int64.
    """

    __slots__ = ("element", "fraction", "offset")

    def __init__(self, element, fraction, offset):
        self.element, self.fraction, self.offset = element, fraction, offset

    @property
    def groups(self):
        """Which elements belong together."""
        return Packed(self.offset)

    def masked(self):
        """A copy in which max(1, floor(HIDDEN_SHARE n)) of the n elements of every composition are MASKED.

        They are drawn without replacement from torch's random state (Huang et al. 2024, section on SSL).
        """
        count = self.offset[1:] - self.offset[:-1]
        row = torch.repeat_interleave(torch.arange(len(count), device=count.device), count)
        order = torch.argsort(row + torch.rand(len(row), dtype=torch.float64, device=row.device))  # shuffled within rows
        rank = torch.arange(len(row), device=row.device) - self.offset[row]
        hidden = order[rank < (HIDDEN_SHARE * count).long().clamp(min=1)[row]]
        return Batch(self.element.index_fill(0, hidden, MASKED), self.fraction, self.offset)


class PaddedBatch(NamedTuple):
    """Compositions padded to the same number N of elements: what a cohort reads, since its members share every shape.

    Attributes:
        element: [..., B, N] int64 row of the element table, MASKED where there is padding.
        fraction: [..., B, N] atomic fraction, 1 where there is padding.
        present: [..., B, N] bool, False where there is padding.
    """

    element: torch.Tensor
    fraction: torch.Tensor
    present: torch.Tensor

    @property
    def groups(self):
        """Which elements belong together."""
        return Padded(self.present)


class CompositionInputs:
    """All compositions of a dataset on one device; indexing with rows [B] (int64) returns their `Batch`.

    Args:
        compositions: `composition.Compositions`, or anything with its number, fraction and offset.
    """

    def __init__(self, compositions, device="cpu", dtype=torch.float32):
        self.element = torch.as_tensor(compositions.number, dtype=torch.int64, device=device)
        self.fraction = torch.as_tensor(compositions.fraction, dtype=dtype, device=device)
        self.offset = torch.as_tensor(compositions.offset, dtype=torch.int64, device=device)

    @classmethod
    def read(cls, path, device="cpu"):
        """Inputs of a file with the arrays of `composition.Compositions`."""
        return cls(Compositions.read(path), device)

    def __len__(self):
        return len(self.offset) - 1

    def __getitem__(self, rows):
        node, _, offset = members(self.offset, rows)
        return Batch(self.element[node], self.fraction[node], offset)

    @cached_property
    def _padded(self):
        """All compositions as one PaddedBatch."""
        count = self.offset.diff()
        present = torch.arange(int(count.max()), device=count.device) < count[:, None]
        element, fraction = self.element.new_full(present.shape, MASKED), self.fraction.new_ones(present.shape)
        element[present], fraction[present] = self.element, self.fraction
        return PaddedBatch(element, fraction, present)

    def padded(self, rows):
        """PaddedBatch of rows [..., B]; nothing in it depends on which rows they are but the numbers."""
        return PaddedBatch(*(whole[rows] for whole in self._padded))


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
            h: [M, 64] of a Batch, [B, N, 64] of a PaddedBatch.
            log_fraction: [M] or [B, N].
            groups: Packed or Padded, who belongs together.
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
        """Batch or PaddedBatch of B compositions -> [B, 256]. Without messages every element of a Batch sees only itself
        until the pooling."""
        element, fraction = batch.element, batch.fraction
        if isinstance(batch, Batch):
            padding = (0, -len(element) % ROWS)
            element, fraction = F.pad(element, padding, value=MASKED), F.pad(fraction, padding, value=1.0)
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
