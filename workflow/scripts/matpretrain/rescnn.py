"""ResCNN, the convolutional baseline of Ihalage and Hao (Adv. Sci. 9, 2200164 (2022)): element fractions -> properties.

The paper names four convolutions of 64, 128, 256 and 256 filters, global max pooling, and dense layers with skip links; its
table S2 with the rest is not public. Kernel 3, the same padding, ReLU and Finder's dense stack fill the gaps.

A composition fills few of the 103 places of the element axis, and four convolutions of kernel 3 see four places to each side.
Beyond that reach their response is that to an axis without any element, which is the same for all compositions: it is computed
once per step, and the convolutions themselves only at the places within reach (about 24 for three elements).
"""

import itertools
from typing import NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from matpretrain.composition import element_fractions
from matpretrain.finder import DenseStack, convolution
from matpretrain.packed import members

READS = ("compositions",)  # what Inputs and Model are made from
CHANNELS = (1, 64, 128, 256, 256)
ELEMENTS = 103  # H to Lr, those of matminer's ElementFraction
REACH = len(CHANNELS) - 1  # places to each side that a response depends on
# The response to an empty axis differs within reach of its ends; all places between have that of the first of them.
DISTINCT = [*range(REACH + 1), *range(ELEMENTS - REACH, ELEMENTS)]


class Batch(NamedTuple):
    """Places of the element axis within reach of an element: M places, one composition after another.

    Attributes:
        fraction: [M] atomic fraction of the element of each place.
        around: [M, 3] the place before, itself and the next: below M a place of the batch, M + p place p of an empty axis,
            M + 103 beyond an end.
        row: [M] int64 composition of each place, from 0.
        beyond: [B, 9] bool, whether some place with a DISTINCT response of an empty axis is out of reach of every element.
    """

    fraction: torch.Tensor
    around: torch.Tensor
    row: torch.Tensor
    beyond: torch.Tensor


class FractionInputs:
    """Element fractions of a dataset on one device; indexing with rows [B] (int64) returns their `Batch`."""

    CHUNK = 512  # compositions at a time where no gradients are needed

    def __init__(self, compositions, device="cpu"):
        fraction = element_fractions(compositions)[:, :ELEMENTS]
        padded = np.pad(fraction > 0, ((0, 0), (REACH, REACH)))
        near = np.lib.stride_tricks.sliding_window_view(padded, 2 * REACH + 1, axis=1).any(2)
        row, place = np.nonzero(near)
        beyond = ~near[:, DISTINCT]
        beyond[:, REACH] = ~near[:, REACH:-REACH].all(1)
        follows = np.pad((np.diff(row) == 0) & (np.diff(place) == 1), 1)  # a place of the same composition, next to it

        def put(array, dtype):
            return torch.as_tensor(np.ascontiguousarray(array), dtype=dtype, device=device)

        self.fraction, self.place = put(fraction[row, place], torch.float32), put(place, torch.int64)
        self.offset = put(np.concatenate([[0], near.sum(1).cumsum()]), torch.int64)
        self.before, self.after = put(follows[:-1], torch.bool), put(follows[1:], torch.bool)
        self.beyond = put(beyond, torch.bool)

    def __len__(self):
        return len(self.offset) - 1

    def __getitem__(self, rows):
        at, row, _ = members(self.offset, rows)
        own, place = torch.arange(len(at), device=at.device), self.place[at]
        before, after = ((place + step) % (ELEMENTS + 1) + len(at) for step in (-1, 1))
        before, after = torch.where(self.before[at], own - 1, before), torch.where(self.after[at], own + 1, after)
        return Batch(self.fraction[at], torch.stack([before, own, after], 1), row, self.beyond[rows])


class ResCNNEncoder(nn.Module):
    """Batch -> [B, 256]: convolutions along the atomic number and their largest values."""

    width = CHANNELS[-1]

    def __init__(self):
        super().__init__()
        self.convolutions = nn.ModuleList(convolution(a, b) for a, b in itertools.pairwise(CHANNELS))

    def forward(self, batch):
        """Batch of B compositions -> [B, 256]."""
        x, empty = batch.fraction[:, None], batch.fraction.new_zeros(1, 1, ELEMENTS)
        for layer in self.convolutions:
            known = torch.cat([x, F.pad(empty[0].T, (0, 0, 0, 1)).to(x.dtype)])
            x = F.relu(F.linear(known[batch.around].flatten(1), layer.weight.transpose(1, 2).flatten(1), layer.bias))
            empty = F.relu(layer(empty))
        # Not segment_reduce, whose backward pass gives every place of a tie for the maximum a negative gradient in full.
        near = x.new_full((len(batch.beyond), self.width), -torch.inf)
        near = near.scatter_reduce(0, batch.row[:, None].expand_as(x), x, "amax")
        distinct = empty[0].T[DISTINCT].to(near.dtype).masked_fill(~batch.beyond[:, :, None], -torch.inf)
        return torch.maximum(near, distinct.amax(1))


class ResCNN(nn.Module):
    """Encoder and dense stack: Batch of B compositions -> [B, n_outputs]."""

    def __init__(self, n_outputs=1):
        super().__init__()
        self.encoder = ResCNNEncoder()
        width = self.encoder.width
        self.stack = DenseStack(width, width, width, n_outputs)

    def forward(self, batch):
        """Batch of B compositions -> [B, n_outputs]."""
        x = self.encoder(batch)
        return self.stack(x, x, x)


# What the scripts build for `encoder: rescnn`.
Encoder, Model, Inputs = ResCNNEncoder, ResCNN, FractionInputs
