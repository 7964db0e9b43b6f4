"""Networks of one architecture that train as one, their weights stacked along a first axis.

Where a step is bound by the number of operations that are started, as that of one small network on a GPU is, C networks
take little longer than one. Each keeps its own rows, order of batches, gradient norm, and selected weights, and reaches
those it would reach alone, up to rounding (tests/test_cohort.py).
"""

import copy

import torch
from torch import nn
from torch.func import functional_call, stack_module_state, vmap
from torch.nn import functional as F

FILL = -1  # no row


class Cohort(nn.Module):
    """C networks as one module with parameters [C, ...] under the names that they have in one network.

    Buffers are those of the first network: such as do not change, equal in all.

    Args:
        networks: list of C modules of the same architecture, on one device.

    Attributes:
        size: C.
    """

    def __init__(self, networks):
        super().__init__()
        self.size = len(networks)
        self.network = copy.deepcopy(networks[0])
        self._shell = [copy.deepcopy(networks[0])]  # in a list: its parameters are not those of this module
        stacked, _ = stack_module_state(networks)
        for name, parameter in self.network.named_parameters():
            parameter.data = stacked[name].detach()

    def forward(self, batch):
        """Outputs [C, B, k] for a named tuple of tensors [C, B, ...]."""

        def call(parameters, *tensors):
            return functional_call(self.network, parameters, (type(batch)(*tensors),))

        return vmap(call)(dict(self.network.named_parameters()), *batch)

    def member(self, k):
        """Network k as a module of its own on the same memory, valid until the next call."""
        (shell,) = self._shell
        for own, whole in zip(shell.parameters(), self.network.parameters(), strict=True):
            own.data = whole.data[k]
        return shell.train(self.training)


def level(rows):
    """Rows of C members as one tensor: the shorter ones are filled up with their first row.

    Args:
        rows: C int64 tensors [B_c].

    Returns:
        [C, B] int64 with B the largest of B_c, and [C, B] bool, True where a row fills up.
    """
    width = max(map(len, rows))
    filled = torch.stack([own if len(own) == width else F.pad(own, (0, width - len(own)), value=FILL) for own in rows])
    fills = filled == FILL
    return torch.where(fills, filled[:, :1], filled), fills
