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
attention coefficients; on a GPU with Triton as two kernels (attention_gpu), for one network or the networks of a cohort. Tests
compare the first two with a naive edge-list version and the kernels with the definition.
"""

import math

import torch
from torch.nn import functional as F

from matpretrain.loops import in_shares
from matpretrain.stacking import Product, for_members

try:
    import numba
    import numpy as np
except ImportError:  # a bare GPU node has torch and numpy only
    numba = None
try:
    from matpretrain import attention_gpu as kernels
except ImportError:  # torch for CPUs comes without Triton
    kernels = None

SLOPE = 0.01
EPSILON = 1e-10


class Packed:
    """Elements of every composition in flat arrays: composition b owns the rows offset[b]:offset[b + 1]; further rows are padding.

    Args:
        offset: [B + 1] int64.
    """

    def __init__(self, offset):
        self.offset, self._layouts = offset, {}

    def attend(self, h, receiver, sender, bias, gate, log_prior):
        """Weighted attention within compositions: from their elements to each of them, or to one vector of each composition.

        Args:
            h: [M, W] vectors of the elements.
            receiver: [H * 2 * K, W] receivers' weights of the first layer, laid out as [head, gate | message, unit]; None pools.
            sender: [H * 2 * K, W] senders' weights.
            bias: [H * 2 * K].
            gate: [H, K] last layer of the gate networks.
            log_prior: [M, H] logarithm of the prior weight of each sender.

        Returns:
            message [R, H, K], the attention-weighted hidden message, and total [R, H], the sum of the coefficients
            (one up to EPSILON), which multiplies the bias of the layer that follows; R is M, or B where pooled. Padding has zeros.
        """
        if numba is not None and h.device.type == "cpu":
            return _FusedAttention.apply(h, receiver, sender, bias, gate, log_prior, self)
        if kernels is not None and h.is_cuda:
            arrays = (h, receiver, sender, bias, gate, log_prior, self.offset)
            message, total = attend_stacked(*(None if array is None else array[None] for array in arrays))
            return message[0], total[0]
        return _attend_padded(h, receiver, sender, bias, gate, log_prior, self.offset)

    def layout(self, pooled):
        """What the compiled loops read, made once per batch: bounds of the compositions of each thread, and (pooled, offset, first of
        the coefficients of each composition [B + 1])."""
        if pooled not in self._layouts:
            offset = self.offset.numpy()
            count = np.diff(offset)
            pairs = np.zeros(len(offset), np.int64)
            np.cumsum(count if pooled else count**2, out=pairs[1:])
            bounds = np.searchsorted(pairs, np.linspace(0, pairs[-1], torch.get_num_threads() + 1))
            self._layouts[pooled] = bounds, (pooled, offset, pairs)
        return self._layouts[pooled]


class PackedMember(Packed):
    """The same for one of several networks under `torch.func.vmap`, each with its own weights, elements and offsets."""

    def attend(self, *arrays):
        """As `Packed.attend`; all networks are computed at once (`attend_stacked`)."""
        return _attend_members(*arrays, self.offset)


def attend_stacked(h, receiver, sender, bias, gate, log_prior, offset):
    """`Packed.attend` of C networks: every array has a first axis [C]. On a GPU no size is read from it, so a graph can hold it."""
    if kernels is not None and h.is_cuda:
        u, v = (None if weight is None else Product.apply(h, weight, None) for weight in (receiver, sender))
        return kernels.StackedAttention.apply(u, v, bias, gate, log_prior, offset, SLOPE, EPSILON)
    arrays = (h, receiver, sender, bias, gate, log_prior)
    members = zip(*([None] * len(h) if array is None else array for array in arrays), offset, strict=True)
    message, total = zip(*(Packed(own).attend(*arrays) for *arrays, own in members), strict=True)
    return torch.stack(message), torch.stack(total)


_attend_members = for_members(attend_stacked)


def _attend_padded(h, receiver, sender, bias, gate, log_prior, offset):
    """`Packed.attend` in torch operations, with compositions padded to equal numbers of elements."""
    rows, present = _pad_index(offset)
    h, padding = h[rows], len(h) - int(offset[-1])
    shape = (len(gate), 2, gate.shape[1])
    senders = F.linear(h, sender).unflatten(-1, shape)
    if receiver is None:
        one_each = bias.to(senders.dtype).view(shape).expand(len(h), 1, *shape)
        return tuple(found.squeeze(1) for found in attend_dense(one_each, senders, gate, log_prior[rows], present))
    receivers = F.linear(h, receiver, bias).unflatten(-1, shape)
    message, total = attend_dense(receivers, senders, gate, log_prior[rows], present)
    return F.pad(message[present], (0, 0, 0, 0, 0, padding)), F.pad(total[present], (0, 0, 0, padding))


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
    def _forward(begin, end, share, pooled, offset, pairs, u, v, bias, gate, prior, message, total, coefficient):
        """Compositions begin:end of the batch; writes message, total and coefficient [pairs, H], and adds the bias [H, 2, K] to
        u, here, where it is in the cache. Where pooled, u is the bias, one row."""
        real = v.dtype.type
        slope, epsilon = real(SLOPE), real(EPSILON)
        n_heads, width = gate.shape
        if share == 0 and not pooled:
            message[offset[-1] :], total[offset[-1] :] = 0, 0
        for b in range(begin, end):
            first, last = offset[b], offset[b + 1]
            pair = pairs[b]
            for i in range(b, b + 1) if pooled else range(first, last):
                r = 0 if pooled else i
                for m in range(n_heads):
                    if not pooled:
                        for part in range(2):
                            for k in range(width):
                                u[r, m, part, k] += bias[m, part, k]
                    top = real(-np.inf)
                    for j in range(first, last):
                        e = real(0)
                        for k in range(width):
                            x = u[r, m, 0, k] + v[j, m, 0, k]
                            e += gate[m, k] * max(x, slope * x)
                        coefficient[pair + j - first, m] = e
                        top = max(top, e)
                    norm = real(0)
                    for j in range(first, last):
                        t = np.exp(coefficient[pair + j - first, m] - top + prior[j, m])
                        coefficient[pair + j - first, m] = t
                        norm += t
                    inverse = real(1) / (norm + epsilon)  # 1 / float32 would be float64, and all that follows
                    total[i, m] = norm * inverse
                    for k in range(width):
                        message[i, m, k] = 0
                    for j in range(first, last):
                        a = coefficient[pair + j - first, m] * inverse
                        coefficient[pair + j - first, m] = a
                        for k in range(width):
                            x = u[r, m, 1, k] + v[j, m, 1, k]
                            message[i, m, k] += a * max(x, slope * x)
                pair += last - first

    @numba.njit(**_options)
    def _backward(
        begin, end, share, pooled, offset, pairs, u, v, gate, coefficient, d_message, d_total, du, dv, d_gate, d_prior,
    ):  # fmt: skip
        """Compositions begin:end of the batch; writes du (where pooled, adds to du[share]) and dv, adds to d_gate[share] and
        d_prior."""
        real = v.dtype.type
        slope = real(SLOPE)
        n_heads, width = gate.shape
        d_coefficient = np.empty(np.max(np.diff(offset)), v.dtype)
        if share == 0:
            dv[offset[-1] :] = 0
            if not pooled:
                du[offset[-1] :] = 0
        for b in range(begin, end):
            first, last = offset[b], offset[b + 1]
            pair = pairs[b]
            dv[first:last] = 0  # here, where they stay in the cache
            if not pooled:
                du[first:last] = 0
            for i in range(b, b + 1) if pooled else range(first, last):
                r, s = (0, share) if pooled else (i, i)
                for m in range(n_heads):
                    mean = real(0)
                    for j in range(first, last):
                        a = coefficient[pair + j - first, m]
                        da = d_total[i, m]
                        for k in range(width):
                            x = u[r, m, 1, k] + v[j, m, 1, k]
                            g = d_message[i, m, k]
                            g = g if x > 0 else slope * g
                            da += g * x
                            g *= a
                            du[s, m, 1, k] += g
                            dv[j, m, 1, k] += g
                        d_coefficient[j - first] = da
                        mean += a * da
                    for j in range(first, last):
                        de = coefficient[pair + j - first, m] * (d_coefficient[j - first] - mean)
                        d_prior[j, m] += de
                        sloped = slope * de
                        for k in range(width):
                            x = u[r, m, 0, k] + v[j, m, 0, k]
                            g = de if x > 0 else sloped
                            d_gate[share, m, k] += g * x
                            g *= gate[m, k]
                            du[s, m, 0, k] += g
                            dv[j, m, 0, k] += g
                pair += last - first


class _FusedAttention(torch.autograd.Function):
    """`Packed.attend` in two compiled loops; of every pair of elements only the coefficients are stored."""

    @staticmethod
    @torch.amp.custom_fwd(device_type="cpu", cast_inputs=torch.float32)
    def forward(ctx, h, receiver, sender, bias, gate, log_prior, groups):
        pooled, shape = receiver is None, (-1, len(gate), 2, gate.shape[1])
        ctx.layout = groups.layout(pooled)
        bounds, (_, offset, pairs) = ctx.layout
        v = h @ sender.T
        u = bias[None] if pooled else h @ receiver.T
        n_receivers = len(offset) - 1 if pooled else len(h)
        message, total = v.new_empty(n_receivers, *gate.shape), v.new_empty(n_receivers, len(gate))
        coefficient = v.new_empty(int(pairs[-1]), len(gate))
        u, v, bias = (array.view(shape) for array in (u, v, bias))
        arrays = (u, v, bias[0], gate, log_prior, message, total, coefficient)
        arrays = (array.detach().contiguous().numpy() for array in arrays)
        in_shares(_forward, bounds, pooled, offset, pairs, *arrays)
        ctx.save_for_backward(h, receiver, sender, gate, u, v, coefficient)
        return message, total

    @staticmethod
    @torch.amp.custom_bwd(device_type="cpu")
    def backward(ctx, d_message, d_total):
        h, receiver, sender, gate, u, v, coefficient = ctx.saved_tensors
        bounds, (pooled, offset, pairs) = ctx.layout
        n_shares = len(bounds) - 1
        du, dv = u.new_zeros(n_shares, *u.shape[1:]) if pooled else torch.empty_like(u), torch.empty_like(v)
        d_gate, d_prior = gate.new_zeros(n_shares, *gate.shape), gate.new_zeros(len(h), len(gate))
        arrays = (t.contiguous().numpy() for t in (u, v, gate, coefficient, d_message, d_total, du, dv, d_gate, d_prior))
        in_shares(_backward, bounds, pooled, offset, pairs, *arrays)
        dv = dv.flatten(1)
        d_h, d_receiver = dv @ sender, None
        if not pooled:
            d_receiver = du.flatten(1).T @ h
            d_h.addmm_(du.flatten(1), receiver)
        return d_h, d_receiver, dv.T @ h, du.flatten(1).sum(0), d_gate.sum(0), d_prior, None
