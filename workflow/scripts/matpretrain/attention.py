"""Weighted attention over the elements of a composition, the inner loop of Roost.

For a receiver i and its senders j (the elements of the same composition), head m computes

    e_ij = w_m . phi(u_im + v_jm)                          gate
    a_ij = exp(e_ij - max_j e_ij + l_jm) / (sum_j exp(e_ij - max_j e_ij + l_jm) + 1e-10)
    s_im = sum_j a_ij phi(u'_im + v'_jm)                    message

with phi = LeakyReLU(0.01) and l_jm = p_m log(w_j), the logarithm of the stoichiometric weight raised to a
learnable power. u, v are the receiver's and the sender's share of the first linear layer of the gate and message
networks on [h_i || h_j]; the last linear layer of the message network is applied to s_im outside, which is the same
function because it is linear (Goodall and Lee, Nat. Commun. 11, 6280 (2020), eqs. 3-6).

`attend_dense` is the definition in torch operations, on padded arrays, for any device and dtype. On a CPU with numba
installed the same function runs as two fused loops that never store a quantity per pair of elements, except the
attention coefficients. Tests compare both with a naive edge-list version.
"""

import math
from typing import NamedTuple

import torch
from torch.nn import functional as F

from matpretrain.loops import in_shares

try:
    import numba
    import numpy as np
except ImportError:  # a bare GPU node has torch and numpy only
    numba = None

SLOPE = 0.01
EPSILON = 1e-10


def attend(receiver, sender, gate, log_prior, receiver_offset, sender_offset):
    """Weighted attention from the senders of every composition to its receivers.

    Args:
        receiver: [R, H, 2, K] receivers' share of the hidden layer; [..., 0, :] gate, [..., 1, :] message.
        sender: [S, H, 2, K] senders' share.
        gate: [H, K] last layer of the gate network.
        log_prior: [S, H] logarithm of the prior weight of each sender.
        receiver_offset, sender_offset: [B + 1] int64; composition b owns rows offset[b]:offset[b + 1].

    Returns:
        message [R, H, K], the attention-weighted hidden message, and total [R, H], the sum of the coefficients
        (one up to EPSILON), which multiplies the bias of the layer that follows.
    """
    if numba is not None and receiver.device.type == "cpu":
        real = torch.promote_types(gate.dtype, receiver.dtype)  # float32 under bfloat16 autocast
        return _FusedAttention.apply(
            receiver.to(real), sender.to(real), gate, log_prior.to(real), receiver_offset, sender_offset
        )
    return attend_padded(receiver, sender, gate, log_prior, receiver_offset, sender_offset)


class Packed(NamedTuple):
    """Senders of every receiver, in flat arrays: composition b owns the rows offset[b]:offset[b + 1] of both.

    Attributes:
        offset: [B + 1] int64.
    """

    offset: torch.Tensor

    def messages(self, receiver, sender, gate, log_prior):
        """`attend` for receivers [M, H, 2, K], the senders' own."""
        return attend(receiver, sender, gate, log_prior, self.offset, self.offset)

    def pooled(self, receiver, sender, gate, log_prior):
        """`attend` for one receiver [H, 2, K], the same for all compositions: message [B, H, K] and total [B, H]."""
        own = torch.arange(len(self.offset), device=self.offset.device)
        return attend(receiver.expand(len(own) - 1, *receiver.shape), sender, gate, log_prior, own, self.offset)


class Padded(NamedTuple):
    """The same for compositions padded to equal numbers of senders, without a size that depends on them.

    Attributes:
        present: [B, s] bool, which senders are not padding.
    """

    present: torch.Tensor

    def messages(self, receiver, sender, gate, log_prior):
        """`attend_dense` for receivers [B, s, H, 2, K]."""
        return attend_dense(receiver, sender, gate, log_prior, self.present)

    def pooled(self, receiver, sender, gate, log_prior):
        """`attend_dense` for one receiver [H, 2, K]: message [B, H, K] and total [B, H]."""
        one_each = receiver.expand(len(self.present), 1, *receiver.shape)
        return tuple(found.squeeze(1) for found in attend_dense(one_each, sender, gate, log_prior, self.present))


def attend_padded(receiver, sender, gate, log_prior, receiver_offset, sender_offset):
    """`attend` in torch operations: compositions padded to the largest of the batch."""
    receivers, is_receiver = _pad_index(receiver_offset)
    senders, present = _pad_index(sender_offset)
    message, total = attend_dense(receiver[receivers], sender[senders], gate, log_prior[senders], present)
    return message[is_receiver].view(len(receiver), *message.shape[2:]), total[is_receiver]


def attend_dense(receiver, sender, gate, log_prior, present):
    """The definition, for compositions that are padded to equal numbers of receivers r and senders s.

    Args:
        receiver: [B, r, H, 2, K].
        sender: [B, s, H, 2, K].
        gate: [H, K].
        log_prior: [B, s, H].
        present: [B, s] bool, which senders are not padding.

    Returns:
        message [B, r, H, K] and total [B, r, H].
    """
    hidden = F.leaky_relu(receiver.unsqueeze(2) + sender.unsqueeze(1), SLOPE)  # [B, r, s, H, 2, K]
    logit = (hidden[..., 0, :] * gate).sum(-1)  # [B, r, s, H]
    logit = logit.masked_fill(~present[:, None, :, None], -math.inf)
    shifted = logit - logit.amax(2, keepdim=True).detach()
    weight = torch.exp(shifted + log_prior.unsqueeze(1))
    coefficient = weight / (weight.sum(2, keepdim=True) + EPSILON)
    message = (coefficient.unsqueeze(-1) * hidden[..., 1, :]).sum(2)  # [B, r, H, K]
    return message, coefficient.sum(2)


def _pad_index(offset):
    """Row indices [B, n_max] of each composition, padded with its first row, and which entries are real."""
    start, count = offset[:-1, None], (offset[1:] - offset[:-1])[:, None]
    column = torch.arange(int(count.max()), device=offset.device)
    present = column < count
    return start + column * present, present


if numba is not None:
    _options = {"cache": True, "fastmath": {"reassoc", "contract", "nsz", "arcp"}, "error_model": "numpy", "nogil": True}

    @numba.njit(**_options)
    def _forward(begin, end, share, u, v, gate, prior, r_offset, s_offset, pair_offset, message, total, coefficient):
        """Compositions begin:end of the batch; writes message, total and coefficient [pairs, H]."""
        real = u.dtype.type
        slope, epsilon = real(SLOPE), real(EPSILON)
        n_heads, width = gate.shape
        for b in range(begin, end):
            first, last = s_offset[b], s_offset[b + 1]
            pair = pair_offset[b]
            for i in range(r_offset[b], r_offset[b + 1]):
                for m in range(n_heads):
                    top = real(-np.inf)
                    for j in range(first, last):
                        e = real(0)
                        for k in range(width):
                            x = u[i, m, 0, k] + v[j, m, 0, k]
                            e += gate[m, k] * max(x, slope * x)
                        coefficient[pair + j - first, m] = e
                        top = max(top, e)
                    norm = real(0)
                    for j in range(first, last):
                        t = np.exp(coefficient[pair + j - first, m] - top + prior[j, m])
                        coefficient[pair + j - first, m] = t
                        norm += t
                    inverse = 1 / (norm + epsilon)
                    total[i, m] = norm * inverse
                    for k in range(width):
                        message[i, m, k] = 0
                    for j in range(first, last):
                        a = coefficient[pair + j - first, m] * inverse
                        coefficient[pair + j - first, m] = a
                        for k in range(width):
                            x = u[i, m, 1, k] + v[j, m, 1, k]
                            message[i, m, k] += a * max(x, slope * x)
                pair += last - first

    @numba.njit(**_options)
    def _backward(
        begin, end, share, u, v, gate, coefficient, r_offset, s_offset, pair_offset,
        d_message, d_total, du, dv, d_gate, d_prior,
    ):  # fmt: skip
        """Compositions begin:end of the batch; adds to du, dv, d_gate[share] and d_prior."""
        real = u.dtype.type
        slope, one = real(SLOPE), real(1)
        n_heads, width = gate.shape
        d_coefficient = np.empty(np.max(np.diff(s_offset)), u.dtype)
        for b in range(begin, end):
            first, last = s_offset[b], s_offset[b + 1]
            pair = pair_offset[b]
            for i in range(r_offset[b], r_offset[b + 1]):
                for m in range(n_heads):
                    mean = real(0)
                    for j in range(first, last):
                        a = coefficient[pair + j - first, m]
                        da = d_total[i, m]
                        for k in range(width):
                            x = u[i, m, 1, k] + v[j, m, 1, k]
                            g = d_message[i, m, k]
                            da += g * max(x, slope * x)
                            g *= a * (one if x > 0 else slope)
                            du[i, m, 1, k] += g
                            dv[j, m, 1, k] += g
                        d_coefficient[j - first] = da
                        mean += a * da
                    for j in range(first, last):
                        de = coefficient[pair + j - first, m] * (d_coefficient[j - first] - mean)
                        d_prior[j, m] += de
                        for k in range(width):
                            x = u[i, m, 0, k] + v[j, m, 0, k]
                            g = de * (one if x > 0 else slope)
                            d_gate[share, m, k] += g * x
                            g *= gate[m, k]
                            du[i, m, 0, k] += g
                            dv[j, m, 0, k] += g
                pair += last - first


class _FusedAttention(torch.autograd.Function):
    """`attend` as two numba loops; O(pairs * heads) memory instead of O(pairs * heads * K)."""

    @staticmethod
    def forward(ctx, receiver, sender, gate, log_prior, receiver_offset, sender_offset):
        u, v, w, prior = (t.detach().contiguous().numpy() for t in (receiver, sender, gate, log_prior))
        r_offset, s_offset = receiver_offset.numpy(), sender_offset.numpy()
        pair_offset = np.zeros(len(r_offset), np.int64)
        np.cumsum(np.diff(r_offset) * np.diff(s_offset), out=pair_offset[1:])
        bounds = np.searchsorted(pair_offset, np.linspace(0, pair_offset[-1], torch.get_num_threads() + 1))
        message = receiver.new_empty(len(u), *w.shape)
        total = receiver.new_empty(len(u), len(w))
        coefficient = receiver.new_empty(int(pair_offset[-1]), len(w))
        arrays = u, v, w, prior, r_offset, s_offset, pair_offset, message.numpy(), total.numpy(), coefficient.numpy()
        in_shares(_forward, bounds, *arrays)
        ctx.save_for_backward(receiver, sender, gate, coefficient)
        ctx.layout = bounds, (r_offset, s_offset, pair_offset)
        return message, total

    @staticmethod
    def backward(ctx, d_message, d_total):
        receiver, sender, gate, coefficient = ctx.saved_tensors
        bounds, offsets = ctx.layout
        du, dv = torch.zeros_like(receiver), torch.zeros_like(sender)
        d_gate = gate.new_zeros(len(bounds) - 1, *gate.shape)
        d_prior = gate.new_zeros(len(sender), len(gate))
        u, v, w, a = (t.detach().contiguous().numpy() for t in (receiver, sender, gate, coefficient))
        d_out = d_message.contiguous().numpy(), d_total.contiguous().numpy()
        gradients = du.numpy(), dv.numpy(), d_gate.numpy(), d_prior.numpy()
        in_shares(_backward, bounds, u, v, w, a, *offsets, *d_out, *gradients)
        return du, dv, d_gate.sum(0), d_prior, None, None
