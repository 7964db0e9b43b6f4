"""Roost written plainly on an edge list, as the published description reads: the oracle for values and gradients."""

import torch
from torch.nn import functional as F


def segment_sum(values, index, n):
    """Sum rows of `values` that share an index."""
    return torch.zeros(n, *values.shape[1:], dtype=values.dtype).index_add(0, index, values)


def weighted_softmax(logit, weight, power, index, n):
    """w^p exp(e - max) / (sum + 1e-10) within each segment; the maximum is a constant."""
    top = torch.stack([logit[index == s].max() for s in range(n)]).detach()
    numerator = weight**power * torch.exp(logit - top[index])
    return numerator / (segment_sum(numerator, index, n)[index] + 1e-10)


def network(x, first, first_bias, last, last_bias):
    """One hidden layer of LeakyReLU(0.01) units."""
    return F.leaky_relu(x @ first.T + first_bias, 0.01) @ last.T + last_bias


def attention(module, x, weight, index, n):
    """Mean over heads of sum_j a_j g(x_j) within segments; x is [h_i || h_j] per edge or h_j per node."""
    parts = [p for p in (module.receiver, module.sender) if p is not None]
    first = torch.cat(parts, 1).reshape(3, 2, 256, -1)
    bias = module.bias.reshape(3, 2, 256)
    heads = []
    for m in range(3):
        logit = network(x, first[m, 0], bias[m, 0], module.gate[m][None], module.gate_bias[m][None])[:, 0]
        message = network(x, first[m, 1], bias[m, 1], module.message[:, m], module.message_bias[m])
        coefficient = weighted_softmax(logit, weight, module.power[m], index, n)
        heads.append(segment_sum(coefficient[:, None] * message, index, n))
    return sum(heads) / 3


def residual(x, block):
    """ReLU(W x + b) + R x."""
    return F.relu(x @ block.linear.weight.T + block.linear.bias) + x @ block.skip.weight.T


def naive_roost(model, compositions):
    """Output of `model` [B, n] for a list of compositions [(atomic numbers, fractions)], composition by composition."""
    encoder, outputs = model.encoder, []
    for numbers, fractions in compositions:
        w = torch.tensor(fractions, dtype=torch.float64)
        n = len(numbers)
        h = encoder.element_vectors[list(numbers)] @ encoder.embedding.weight.T + encoder.embedding.bias
        h = torch.cat([h, w[:, None]], 1)
        receiver = torch.arange(n).repeat_interleave(n)
        sender = torch.arange(n).repeat(n)
        for layer in encoder.layers:
            h = h + attention(layer, torch.cat([h[receiver], h[sender]], 1), w[sender], receiver, n)
        x = attention(encoder.pooling, h, w, torch.zeros(n, dtype=torch.int64), 1)
        x = residual(residual(x, encoder.trunk[0]), encoder.trunk[1])
        x = F.relu(x @ encoder.trunk[2].weight.T + encoder.trunk[2].bias)
        x = residual(residual(x, model.head[0]), model.head[1])
        outputs.append(x @ model.head[2].weight.T + model.head[2].bias)
    return torch.cat(outputs)
