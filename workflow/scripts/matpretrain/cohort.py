"""Networks of one architecture that train as one, their weights stacked along a first axis.

Where a step is bound by the number of operations that are started, as that of one small network on a GPU is, C networks
take little longer than one. Each keeps its own rows, order of batches, gradient norm, and selected weights, and every step is
the one that it would take alone, up to rounding, which a long training amplifies as between two kinds of device.
"""

import copy

import torch
from torch import nn
from torch.func import functional_call, stack_module_state, vmap
from torch.nn import functional as F

FILL = -1  # no row


class Cohort(nn.Module):
    """C networks as one module with parameters [C, ...] under the names that they have in one network.

    Args:
        networks: list of C modules of the same architecture, on one device.

    Raises:
        ValueError: their buffers differ or change in training, or fit() would have to call a method of each.
    """

    def __init__(self, networks):
        super().__init__()
        _check(networks)
        self.network = copy.deepcopy(networks[0])
        self._shell = [copy.deepcopy(networks[0])]  # in a list: its parameters are not those of this module
        stacked, _ = stack_module_state(networks)
        for name, parameter in self.network.named_parameters():
            parameter.data = stacked[name].detach()

    def forward(self, batch):
        """Outputs [C, B, k] for a named tuple of tensors [C, B, ...]."""

        parameters = dict(self.network.named_parameters())
        device = next(iter(parameters.values())).device.type
        if torch.is_autocast_enabled(
            device
        ):  # vmap adds biases on its own, past autocast, which would make all results float32
            dtype = torch.get_autocast_dtype(device)
            parameters = {name: p.to(dtype) if name.endswith("bias") else p for name, p in parameters.items()}

        def call(own, *tensors):
            return functional_call(self.network, own, (type(batch)(*tensors),))

        return vmap(call)(parameters, *batch)

    def member(self, k):
        """Network k as a module of its own on the same memory, valid until the next call."""
        (shell,) = self._shell
        for own, whole in zip(shell.parameters(), self.network.parameters(), strict=True):
            own.data = whole.data[k]
        return shell.train(self.training)


def _check(networks):
    """Raise ValueError where one module with stacked weights cannot stand for networks."""
    first = networks[0]
    for method in ("penalised", "constrain"):
        if hasattr(first, method):
            raise ValueError(f"{type(first).__name__} has a method {method}, which is not defined for stacked weights")
    for name, module in first.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            raise ValueError(f"{name} of {type(first).__name__} changes its buffers in training, which would be shared")
    for name, buffer in first.named_buffers():
        if not all(torch.equal(buffer.nan_to_num(), dict(other.named_buffers())[name].nan_to_num()) for other in networks[1:]):
            raise ValueError(f"the buffer {name} differs between networks of a cohort")


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
