"""ResCNN, the convolutional baseline of Ihalage and Hao (Adv. Sci. 9, 2200164 (2022)): element fractions -> properties.

The paper names four convolutions of 64, 128, 256 and 256 filters, global max pooling, and dense layers with skip links; its
table S2 with the rest is not public. Kernel 3, the same padding, ReLU and Finder's dense stack fill the gaps.
"""

import itertools

import torch
from torch import nn
from torch.nn import functional as F

from matpretrain.composition import element_fractions
from matpretrain.finder import DenseStack, convolution

READS = ("compositions",)  # what Inputs and Model are made from
CHANNELS = (1, 64, 128, 256, 256)
ELEMENTS = 103  # H to Lr, those of matminer's ElementFraction


class FractionInputs:
    """Element fractions of a dataset on one device; indexing with rows [B] (int64) returns [B, 103]."""

    CHUNK = 512  # compositions at a time where no gradients are needed

    def __init__(self, compositions, device="cpu"):
        self.fraction = torch.as_tensor(element_fractions(compositions)[:, :ELEMENTS], dtype=torch.float32, device=device)

    def __len__(self):
        return len(self.fraction)

    def __getitem__(self, rows):
        return self.fraction[rows]


class ResCNNEncoder(nn.Module):
    """Element fractions [B, 103] -> [B, 256]: convolutions along the atomic number and their largest values."""

    width = CHANNELS[-1]

    def __init__(self):
        super().__init__()
        self.convolutions = nn.ModuleList(convolution(a, b) for a, b in itertools.pairwise(CHANNELS))

    def forward(self, fraction):
        """[B, 103] -> [B, 256]."""
        x = fraction[:, None]
        for layer in self.convolutions:
            x = F.relu(layer(x))
        return x.amax(2)


class ResCNN(nn.Module):
    """Encoder and dense stack: [B, 103] -> [B, n_outputs]."""

    def __init__(self, n_outputs=1):
        super().__init__()
        self.encoder = ResCNNEncoder()
        width = self.encoder.width
        self.stack = DenseStack(width, width, width, n_outputs)

    def forward(self, fraction):
        """[B, 103] -> [B, n_outputs]."""
        x = self.encoder(fraction)
        return self.stack(x, x, x)


# What the scripts build for `encoder: rescnn`.
Encoder, Model, Inputs = ResCNNEncoder, ResCNN, FractionInputs
