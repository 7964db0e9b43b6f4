"""The loops of `attention` as two Triton kernels for GPUs: nothing is stored per pair of elements.

A program takes one head of one composition of one network; its threads hold the hidden units. The forward kernel goes over the
senders of every receiver once, with a running maximum of the gate, and keeps that maximum and the sum of the coefficients. The
backward kernel computes the pairs again, first receiver by receiver, then sender by sender, so that every gradient is summed in
registers, in a fixed order. Networks that train as one (cohort.Cohort) are the first axis of every array.
"""

import torch
import triton
from triton import language as tl

OPTIONS = {"num_warps": 1}  # sums over the hidden units stay within a warp
SIZES = ["n_nodes", "n_rows", "n_receivers"]  # differ from batch to batch and must not compile anew


@triton.jit
def _place(n_rows, WIDTH: tl.constexpr):
    """Network, composition, its place among the offsets, head and hidden units [WIDTH] of a program."""
    c, b = (tl.program_id(0) // (n_rows + 1)).to(tl.int64), tl.program_id(0) % (n_rows + 1)
    return c, b, c * (n_rows + 1) + b, tl.program_id(1), tl.arange(0, WIDTH)


@triton.jit
def _layer(bias, gate, head, k, WIDTH: tl.constexpr):
    """Biases of gate and message and the last weights of the gate [WIDTH] of one head, counted over all networks."""
    own = bias + head * 2 * WIDTH + k
    to_gate, to_message = tl.load(own).to(tl.float32), tl.load(own + WIDTH).to(tl.float32)
    return to_gate, to_message, tl.load(gate + head * WIDTH + k).to(tl.float32)


@triton.jit(do_not_specialize=SIZES)
def _forward(
    u, v, bias, gate, prior, offset, message, total, top, norm, n_nodes, n_rows, n_receivers,
    SLOPE: tl.constexpr, EPSILON: tl.constexpr, POOLED: tl.constexpr, HEADS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Row n_rows of a network stands for the padding behind its last composition, whose messages become zero."""
    c, b, row, head, k = _place(n_rows, WIDTH)
    if b == n_rows:
        if not POOLED:
            for i in range(tl.load(offset + row).to(tl.int32), n_nodes):
                at = (c * n_receivers + i) * HEADS + head
                tl.store(message + at * WIDTH + k, tl.zeros([WIDTH], message.dtype.element_ty))
                tl.store(total + at, 0.0)
        return
    first, last = tl.load(offset + row).to(tl.int32), tl.load(offset + row + 1).to(tl.int32)
    to_gate, to_message, weight = _layer(bias, gate, c * HEADS + head, k, WIDTH)
    for r in range(0, 1 if POOLED else last - first):
        x, z, out = to_gate, to_message, c * n_receivers + b
        if not POOLED:
            own = ((c * n_nodes + first + r) * HEADS + head) * 2 * WIDTH + k
            x += tl.load(u + own).to(tl.float32)
            z += tl.load(u + own + WIDTH).to(tl.float32)
            out = c * n_receivers + first + r
        highest, summed, mixed = float("-inf"), 0.0, tl.zeros([WIDTH], tl.float32)
        for j in range(first, last):
            other = (c * n_nodes + j) * HEADS + head
            y = x + tl.load(v + other * 2 * WIDTH + k).to(tl.float32)
            e = tl.sum(weight * tl.maximum(y, SLOPE * y))
            higher = tl.maximum(highest, e)
            kept, new = tl.exp(highest - higher), tl.exp(e - higher + tl.load(prior + other).to(tl.float32))
            y = z + tl.load(v + other * 2 * WIDTH + WIDTH + k).to(tl.float32)
            mixed = mixed * kept + new * tl.maximum(y, SLOPE * y)
            summed = summed * kept + new
            highest = higher
        at = out * HEADS + head
        inverse = 1.0 / (summed + EPSILON)
        tl.store(message + at * WIDTH + k, (mixed * inverse).to(message.dtype.element_ty))
        tl.store(total + at, summed * inverse)
        tl.store(top + at, highest)
        tl.store(norm + at, summed)


@triton.jit
def _pair(x, z, y, w, weight, prior, highest, norm, mean, d_message, d_total, SLOPE: tl.constexpr, EPSILON: tl.constexpr):
    """Gradients that one pair gives: of the gate's input, of the message's, of the gate's weights, of the prior.

    x, z are the receiver's gate and message with their biases, y, w those of the sender.
    """
    y += x
    active = tl.maximum(y, SLOPE * y)
    coefficient = tl.exp(tl.sum(weight * active) - highest + prior) / (norm + EPSILON)
    w += z
    d_coefficient = d_total + tl.sum(d_message * tl.maximum(w, SLOPE * w))
    de = coefficient * (d_coefficient - mean)
    return (
        de * weight * tl.where(y > 0, 1.0, SLOPE),
        coefficient * d_message * tl.where(w > 0, 1.0, SLOPE),
        de * active,
        de,
    )


@triton.jit(do_not_specialize=SIZES)
def _backward(
    u, v, bias, gate, prior, offset, message, total, top, norm, d_message, d_total, du, dv, d_prior, d_bias, d_gate,
    n_nodes, n_rows, n_receivers,
    SLOPE: tl.constexpr, EPSILON: tl.constexpr, POOLED: tl.constexpr, HEADS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """d_bias and d_gate are written per composition; their sums are taken outside. Padding has gradients of zero."""
    c, b, row, head, k = _place(n_rows, WIDTH)
    if b == n_rows:
        for i in range(tl.load(offset + row).to(tl.int32), n_nodes):
            at = (c * n_nodes + i) * HEADS + head
            nothing = tl.zeros([WIDTH], dv.dtype.element_ty)
            tl.store(dv + at * 2 * WIDTH + k, nothing)
            tl.store(dv + at * 2 * WIDTH + WIDTH + k, nothing)
            tl.store(d_prior + at, 0.0)
            if not POOLED:
                tl.store(du + at * 2 * WIDTH + k, nothing)
                tl.store(du + at * 2 * WIDTH + WIDTH + k, nothing)
        return
    first, last = tl.load(offset + row).to(tl.int32), tl.load(offset + row + 1).to(tl.int32)
    to_gate, to_message, weight = _layer(bias, gate, c * HEADS + head, k, WIDTH)
    d_to_gate, d_to_message = tl.zeros([WIDTH], tl.float32), tl.zeros([WIDTH], tl.float32)
    d_weight = tl.zeros([WIDTH], tl.float32)
    n = 1 if POOLED else last - first

    for r in range(0, n):
        x, z, out = to_gate, to_message, c * n_receivers + b
        own = ((c * n_nodes + first + r) * HEADS + head) * 2 * WIDTH + k
        if not POOLED:
            x += tl.load(u + own).to(tl.float32)
            z += tl.load(u + own + WIDTH).to(tl.float32)
            out = c * n_receivers + first + r
        at = out * HEADS + head
        dm, dt = tl.load(d_message + at * WIDTH + k).to(tl.float32), tl.load(d_total + at).to(tl.float32)
        mean = tl.sum(dm * tl.load(message + at * WIDTH + k).to(tl.float32)) + dt * tl.load(total + at)
        highest, summed = tl.load(top + at), tl.load(norm + at)
        dx, dz = tl.zeros([WIDTH], tl.float32), tl.zeros([WIDTH], tl.float32)
        for j in range(first, last):
            other = (c * n_nodes + j) * HEADS + head
            y = tl.load(v + other * 2 * WIDTH + k).to(tl.float32)
            w = tl.load(v + other * 2 * WIDTH + WIDTH + k).to(tl.float32)
            p = tl.load(prior + other).to(tl.float32)
            dy, dw, dg, _ = _pair(x, z, y, w, weight, p, highest, summed, mean, dm, dt, SLOPE, EPSILON)
            dx += dy
            dz += dw
            d_weight += dg
        if not POOLED:
            tl.store(du + own, dx.to(du.dtype.element_ty))
            tl.store(du + own + WIDTH, dz.to(du.dtype.element_ty))
        d_to_gate += dx
        d_to_message += dz
    at = (c * n_rows + b) * HEADS + head
    tl.store(d_bias + at * 2 * WIDTH + k, d_to_gate)
    tl.store(d_bias + at * 2 * WIDTH + WIDTH + k, d_to_message)
    tl.store(d_gate + at * WIDTH + k, d_weight)

    for j in range(first, last):
        other = (c * n_nodes + j) * HEADS + head
        y = tl.load(v + other * 2 * WIDTH + k).to(tl.float32)
        w = tl.load(v + other * 2 * WIDTH + WIDTH + k).to(tl.float32)
        p = tl.load(prior + other).to(tl.float32)
        dx, dz, dp = tl.zeros([WIDTH], tl.float32), tl.zeros([WIDTH], tl.float32), 0.0
        for r in range(0, n):
            x, z, out = to_gate, to_message, c * n_receivers + b
            if not POOLED:
                own = ((c * n_nodes + first + r) * HEADS + head) * 2 * WIDTH + k
                x += tl.load(u + own).to(tl.float32)
                z += tl.load(u + own + WIDTH).to(tl.float32)
                out = c * n_receivers + first + r
            at = out * HEADS + head
            dm, dt = tl.load(d_message + at * WIDTH + k).to(tl.float32), tl.load(d_total + at).to(tl.float32)
            mean = tl.sum(dm * tl.load(message + at * WIDTH + k).to(tl.float32)) + dt * tl.load(total + at)
            highest, summed = tl.load(top + at), tl.load(norm + at)
            dy, dw, _, de = _pair(x, z, y, w, weight, p, highest, summed, mean, dm, dt, SLOPE, EPSILON)
            dx += dy
            dz += dw
            dp += de
        tl.store(dv + other * 2 * WIDTH + k, dx.to(dv.dtype.element_ty))
        tl.store(dv + other * 2 * WIDTH + WIDTH + k, dz.to(dv.dtype.element_ty))
        tl.store(d_prior + other, dp)


class StackedAttention(torch.autograd.Function):
    """What `attention.Packed.attend` does after the first layer's products, for C networks at once.

    forward(u, v, bias, gate, prior, offset, slope, epsilon): u [C, M, H 2 K] without its bias or None where it pools, v as u, bias
    [C, H 2 K], gate [C, H, K], prior [C, M, H], offset [C, B + 1] int64; returns message [C, R, H, K] and total [C, R, H].
    """

    @staticmethod
    def forward(ctx, u, v, bias, gate, prior, offset, slope, epsilon):
        n_networks, n_nodes = v.shape[:2]
        heads, width = gate.shape[1:]
        pooled, n_rows = u is None, offset.shape[1] - 1
        n_receivers = n_rows if pooled else n_nodes
        v, u = v.contiguous(), v.contiguous() if pooled else u.contiguous()
        arrays = [u, v, *(array.contiguous() for array in (bias, gate, prior, offset))]
        message = v.new_empty(n_networks, n_receivers, heads, width)
        total, top, norm = (prior.new_empty(n_networks, n_receivers, heads, dtype=torch.float32) for _ in range(3))
        arrays += [message, total, top, norm]
        ctx.sizes = (n_nodes, n_rows, n_receivers, slope, epsilon, pooled, heads, width)
        _forward[n_networks * (n_rows + 1), heads](*arrays, *ctx.sizes, **OPTIONS)
        ctx.save_for_backward(*arrays)
        return message, total

    @staticmethod
    def backward(ctx, d_message, d_total):
        u, v, bias, gate, prior, *_ = arrays = ctx.saved_tensors
        _, n_rows, *_, pooled, heads, width = ctx.sizes
        n_networks = len(v)
        dv = torch.empty_like(v)
        du = dv if pooled else torch.empty_like(u)
        d_prior = prior.new_empty(prior.shape, dtype=torch.float32)
        d_bias = prior.new_empty(n_networks, n_rows, 2 * heads * width, dtype=torch.float32)
        d_gate = prior.new_empty(n_networks, n_rows, heads, width, dtype=torch.float32)
        found = [d_message.contiguous(), d_total.contiguous(), du, dv, d_prior, d_bias, d_gate]
        _backward[n_networks * (n_rows + 1), heads](*arrays, *found, *ctx.sizes, **OPTIONS)
        d_bias, d_gate, d_prior = d_bias.sum(1).to(bias.dtype), d_gate.sum(1).to(gate.dtype), d_prior.to(prior.dtype)
        return None if pooled else du, dv, d_bias, d_gate, d_prior, None, None, None
