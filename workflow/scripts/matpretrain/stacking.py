"""Operations of C networks at once, for `torch.func.vmap` over their weights."""

import torch
from torch import nn
from torch.nn import functional as F


def for_members(stacked):
    """A function of the arrays of one network, under vmap, that is computed for all of them by `stacked`.

    Args:
        stacked: function of arrays with a first axis [C] (or None) -> tensors with that axis; autograd goes through it.
    """

    class ForMembers(torch.autograd.Function):
        @staticmethod
        def setup_context(ctx, inputs, output):
            """Nothing is kept: under vmap torch calls `vmap` in place of a forward pass."""

        @staticmethod
        def vmap(info, in_dims, *arrays):
            together = []
            for array, dim in zip(arrays, in_dims, strict=True):
                if array is not None:
                    array = array.expand(info.batch_size, *array.shape) if dim is None else array.movedim(dim, 0)
                together.append(array)
            found = stacked(*together)
            return found, (0,) * len(found) if isinstance(found, tuple) else 0

    return ForMembers.apply


class Product(torch.autograd.Function):
    """x W^T + b of C networks: x [C, B, i], W [C, o, i], b [C, o] or None -> [C, B, o].

    The derivative of W has the layout of W; autograd's own comes transposed, and a copy of all weights would follow.
    """

    @staticmethod
    def forward(ctx, x, weight, bias):
        kind = x.device.type
        if torch.is_autocast_enabled(kind):
            x, weight, bias = (a if a is None else a.to(torch.get_autocast_dtype(kind)) for a in (x, weight, bias))
        ctx.save_for_backward(x, weight)
        return x @ weight.mT if bias is None else torch.baddbmm(bias.unsqueeze(1), x, weight.mT)

    @staticmethod
    def backward(ctx, dy):
        x, weight = ctx.saved_tensors
        of_x, _, of_bias = ctx.needs_input_grad
        return dy @ weight if of_x else None, dy.mT @ x, dy.sum(1) if of_bias else None


def _convolution(x, weight, bias):
    """x [C, B, i, L], weight [C, o, i, k] with odd k, bias [C, o] -> [C, B, o, L], zeros beyond the ends: one product per network."""
    reach = weight.shape[-1] // 2
    windows = F.pad(x, (reach, reach)).unfold(-1, weight.shape[-1], 1)  # [C, B, i, L, k]
    columns = windows.permute(0, 2, 4, 1, 3).flatten(3).flatten(1, 2)  # [C, i * k, B * L]
    found = torch.baddbmm(bias.unsqueeze(-1), weight.flatten(2), columns)
    return found.unflatten(-1, (x.shape[1], x.shape[3])).transpose(1, 2)


def _of_member(index, n):
    """Indices [C, P] below n of C networks -> [C * P] into their rows one below another."""
    return (index + n * torch.arange(len(index), device=index.device)[:, None]).flatten()


def _take(x, index):
    """x [C, n, k], index [C, P] -> [C, P, k]."""
    return x.flatten(0, 1).index_select(0, _of_member(index, x.shape[1])).unflatten(0, index.shape)


def _add(total, index, x):
    """total [C, n, k], index [C, P], x [C, P, k] -> [C, n, k]."""
    return total.flatten(0, 1).index_add(0, _of_member(index, total.shape[1]), x.flatten(0, 1)).view_as(total)


def _largest(least, index, x):
    """least [C, n, k], index [C, P], x [C, P, k] -> [C, n, k]."""
    wide = _of_member(index, least.shape[1])[:, None].expand(-1, x.shape[-1])
    return least.flatten(0, 1).scatter_reduce(0, wide, x.flatten(0, 1), "amax").view_as(least)


_product, _convolved = for_members(Product.apply), for_members(_convolution)
take, add, largest = for_members(_take), for_members(_add), for_members(_largest)


class MemberLinear(nn.Linear):
    """A torch linear layer of one of several networks under vmap."""

    def forward(self, x):
        """[B, n_in] -> [B, n_out]."""
        return _product(x, self.weight, self.bias)


class MemberConvolution(nn.Conv1d):
    """A torch convolution of one of several networks under vmap: odd kernel, steps of one, zeros beyond the ends."""

    def forward(self, x):
        """[B, n_in, L] -> [B, n_out, L]."""
        return _convolved(x, self.weight, self.bias)


def member_class(layer):
    """The class of what stands for a layer of several networks: for most layers their own."""
    if type(layer) is nn.Linear:
        return MemberLinear
    if type(layer) is nn.Conv1d and layer.bias is not None and layer.padding_mode == "zeros":
        (length,) = layer.kernel_size
        keeps = length % 2 and layer.padding in ("same", (length // 2,))  # the length of the signal
        if keeps and layer.stride == layer.dilation == (1,) and layer.groups == 1:
            return MemberConvolution
    return type(layer)
