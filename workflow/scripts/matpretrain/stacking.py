"""Operations of C networks at once, for `torch.func.vmap` over their weights."""

import torch
from torch import nn


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


_product = for_members(Product.apply)


class MemberLinear(nn.Linear):
    """A torch linear layer of one of several networks under vmap."""

    def forward(self, x):
        """[B, n_in] -> [B, n_out]."""
        return _product(x, self.weight, self.bias)
