"""The shifted softplus of MEGNet, alone and with the sum before it, in one pass over the memory."""

import math

import torch
from torch import nn
from torch.nn import functional as F

from matpretrain.loops import in_shares

try:
    import numba
    import numpy as np
except ImportError:  # a bare GPU node has torch and numpy only
    numba = None

LOG2 = math.log(2)
NEGLIGIBLE = -20.0  # exp of less than this is no part of a float32 next to 1


class ShiftedSoftplus(nn.Module):
    """log(1 + exp(x)) - log 2 (softplus2 of matgl), element by element.

    float32 on a CPU with numba takes one fused loop, which writes the derivative beside the value, so that the backward
    pass is one product; otherwise torch's operations.
    """

    def forward(self, x):
        """Any shape -> the same shape."""
        if fuses(x):
            return _Fused.apply(x)
        return F.softplus(x).sub(LOG2)


def edge_activation(edge, first, second, sender, receiver):
    """ShiftedSoftplus of edge + first[sender] + second[receiver].

    Args:
        edge: [E, n] share of the edges.
        first, second: [N, n] shares of the nodes.
        sender, receiver: [E] int64.
    """
    if fuses(edge):
        return _FusedEdge.apply(edge, first, second, sender, receiver)
    return ShiftedSoftplus()(edge + first[sender] + second[receiver])


def fuses(x):
    """Whether the compiled loops apply to a tensor."""
    return numba is not None and x.device.type == "cpu" and x.dtype == torch.float32


if numba is not None:
    # exp(t / 8) for t in [NEGLIGIBLE, 0], interpolated at Chebyshev nodes: relative error 2e-9, after three squarings 2e-8.
    _EXP = np.polynomial.Chebyshev.interpolate(np.exp, 10, [NEGLIGIBLE / 8, 0]).convert(kind=np.polynomial.Polynomial)
    _E0, _E1, _E2, _E3, _E4, _E5, _E6, _E7, _E8, _E9, _E10 = (np.float32(c) for c in _EXP.coef)
    _ONE, _TWO, _EIGHTH, _LOWEST, _LOG2 = (np.float32(v) for v in (1, 2, 1 / 8, NEGLIGIBLE, LOG2))
    _L3, _L5, _L7, _L9, _L11, _L13 = (np.float32(1 / k) for k in (3, 5, 7, 9, 11, 13))

    @numba.njit(cache=True, nogil=True, fastmath={"contract", "nsz", "arcp"}, error_model="numpy")
    def _softplus(begin, end, share, x, value, slope):
        """value = log(1 + exp(x)) - log 2 and slope = 1 / (1 + exp(-x)) of the elements begin:end.

        log(1 + exp(x)) = max(x, 0) + log(1 + e) with e = exp(-|x|) in (0, 1], and log(1 + e) = 2 artanh(e / (2 + e)).
        """
        x, value, slope = x[begin:end], value[begin:end], slope[begin:end]  # indices from 0 let the loop be vectorised
        for i in range(len(x)):
            a = x[i]
            t = max(-abs(a), _LOWEST) * _EIGHTH
            e = _E0 + t * (
                _E1 + t * (_E2 + t * (_E3 + t * (_E4 + t * (_E5 + t * (_E6 + t * (_E7 + t * (_E8 + t * (_E9 + t * _E10))))))))
            )
            e *= e
            e *= e
            e *= e
            s = e / (_TWO + e)
            q = s * s
            log = _TWO * s * (_ONE + q * (_L3 + q * (_L5 + q * (_L7 + q * (_L9 + q * (_L11 + q * _L13))))))
            value[i] = max(a, np.float32(0)) + log - _LOG2
            inverse = _ONE / (_ONE + e)
            slope[i] = inverse if a >= 0 else e * inverse

    @numba.njit(cache=True, nogil=True)
    def _sum_of_shares(begin, end, share, edge, first, second, sender, receiver, total):
        """total = edge + first[sender] + second[receiver] for the edges begin:end."""
        for e in range(begin, end):
            of_edge, out = edge[e], total[e]
            a, b = first[sender[e]], second[receiver[e]]
            for k in range(len(out)):
                out[k] = of_edge[k] + a[k] + b[k]

    @numba.njit(cache=True, nogil=True)
    def _backward(begin, end, share, gradient, slope, sender, receiver, d_edge, d_first, d_second):
        """d_edge = gradient * slope of the edges begin:end, and its sums over senders and receivers."""
        for e in range(begin, end):
            g, s, out = gradient[e], slope[e], d_edge[e]
            a, b = d_first[share, sender[e]], d_second[share, receiver[e]]
            for k in range(len(out)):
                d = g[k] * s[k]
                out[k] = d
                a[k] += d
            for k in range(len(out)):
                b[k] += out[k]


def _shares(n):
    return np.linspace(0, n, torch.get_num_threads() + 1).astype(np.int64)


class _FusedEdge(torch.autograd.Function):
    @staticmethod
    def forward(ctx, edge, first, second, sender, receiver):
        arrays = [tensor.detach().contiguous().numpy() for tensor in (edge, first, second, sender, receiver)]
        total, value, slope = (edge.new_empty(edge.shape) for _ in range(3))
        in_shares(_sum_of_shares, _shares(len(edge)), *arrays, total.numpy())
        in_shares(_softplus, _shares(edge.numel()), *(tensor.view(-1).numpy() for tensor in (total, value, slope)))
        ctx.save_for_backward(slope, sender, receiver)
        ctx.n_nodes = len(first), len(second)
        return value

    @staticmethod
    def backward(ctx, gradient):
        slope, sender, receiver = ctx.saved_tensors
        gradient = gradient.contiguous()
        bounds = _shares(len(gradient))
        d_edge = torch.empty_like(gradient)
        d_first, d_second = (gradient.new_zeros(len(bounds) - 1, n, gradient.shape[1]) for n in ctx.n_nodes)
        arrays = (t.numpy() for t in (gradient, slope, sender.contiguous(), receiver.contiguous(), d_edge, d_first, d_second))
        in_shares(_backward, bounds, *arrays)
        return d_edge, d_first.sum(0), d_second.sum(0), None, None


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        x = x.contiguous()
        value, slope = torch.empty_like(x), torch.empty_like(x)
        arrays = (tensor.view(-1).numpy() for tensor in (x.detach(), value, slope))
        in_shares(_softplus, _shares(x.numel()), *arrays)
        ctx.save_for_backward(slope)
        return value

    @staticmethod
    def backward(ctx, gradient):
        return gradient * ctx.saved_tensors[0]
