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

from matpretrain.stacking import member_class

FILL = -1  # no row


class Cohort(nn.Module):
    """C networks as one module. One is itself; several have parameters [C, ...] under the names that they have in one network.

    Args:
        networks: list of C modules of the same architecture, on one device.

    Attributes:
        size: C.
        network: the one network, or the module with the stacked parameters.

    Raises:
        ValueError: several cannot be stacked: their buffers differ or change in training.
    """

    def __init__(self, networks):
        super().__init__()
        self.size, self.network = len(networks), networks[0]
        if self.size > 1:
            _check(networks)
            self._shell = [copy.deepcopy(networks[0])]  # in a list: its parameters are not those of this module
            self.network = copy.deepcopy(networks[0])
            stacked, _ = stack_module_state(networks)
            for name, parameter in self.network.named_parameters():
                parameter.data = stacked[name].detach()
            for module in self.network.modules():
                module.__class__ = member_class(module)

    def forward(self, inputs, rows):
        """Outputs [C, B, k] of every member for its own rows.

        Args:
            inputs: Inputs of the networks; of several a method stacked(rows) returns a named tuple of tensors [C, ...].
            rows: [C, B] int64.
        """
        if self.size == 1:
            return self.network(inputs[rows[0]])[None]
        batch, parameters = inputs.stacked(rows), dict(self.network.named_parameters())

        def call(own, *tensors):
            return functional_call(self.network, own, (type(batch)(*tensors),))

        return vmap(call)(parameters, *batch)

    def member(self, k):
        """Network k as a module of its own on the same memory, valid until the next call."""
        if self.size == 1:
            return self.network
        (shell,) = self._shell
        for own, whole in zip(shell.parameters(), self.network.parameters(), strict=True):
            own.data = whole.data[k]
        return shell.train(self.training)

    def penalised(self):
        """{c: parameters} whose sum of squares, times c, is part of the loss: those of the network, if it has some."""
        return self.network.penalised() if hasattr(self.network, "penalised") else {}

    def constrain(self):
        """What the network does to its weights after every step, if anything; they may have a first axis [C]."""
        if hasattr(self.network, "constrain"):
            self.network.constrain()


def _check(networks):
    """Raise ValueError where one module with stacked weights cannot stand for networks."""
    first = networks[0]
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


def clip_gradients(cohort, limit):
    """Scale the gradients of every member so that their norm is at most `limit`. Returns the norms before, [C]."""
    if cohort.size == 1:
        return torch.nn.utils.clip_grad_norm_(cohort.parameters(), limit).reshape(1)
    gradients = [p.grad for p in cohort.parameters() if p.grad is not None]
    norms = torch.stack([g.reshape(len(g), -1).norm(dim=1) for g in gradients]).norm(dim=0)
    scale = (limit / (norms + 1e-6)).clamp(max=1)
    torch._foreach_mul_(gradients, [scale.view(-1, *[1] * (g.dim() - 1)) for g in gradients])
    return norms
