"""Finder written atom by atom as plain loops: the oracle for values and gradients."""

import math

import torch


def network(x, layers):
    """Dense layers with ReLU between them."""
    for k, layer in enumerate(layers):
        x = x @ layer.weight.T + layer.bias
        if k + 1 < len(layers):
            x = x.clamp(min=0)
    return x


def softmax(logits):
    """List of [c] -> list of [c]: exp(x - max) / (sum + 1e-9) for every channel."""
    top = torch.stack(logits).detach().max(0).values
    share = [torch.exp(x - top) for x in logits]
    return [s / (sum(share) + 1e-9) for s in share]


def message_layer(layer, v, neighbours, edges):
    """v: list of atoms [c]; neighbours: list of lists of atoms; edges: {(i, j): [n]}, None where they are predicted."""
    found = []
    for i, around in enumerate(neighbours):
        messages = []
        mean = sum((v[i] + v[k]) / 2 for k in around) / len(around) if around else None
        logits = []
        for j in around:
            if layer.attention:
                query = v[i] @ layer.query.weight.T + layer.query.bias
                key = v[j] @ layer.key.weight.T + layer.key.bias
                logits.append(query * key / math.sqrt(len(query)))
        share = softmax(logits) if logits else [1.0] * len(around)
        for j, a in zip(around, share, strict=True):
            middle = (v[i] + v[j]) / 2
            edge = network(torch.cat([middle, mean]), layer.edge) if layer.predicted else edges[i, j]
            value = v[j] @ layer.value.weight.T + layer.value.bias
            message = a * value * network(torch.cat([middle, edge]), layer.message)
            messages.append(message / math.sqrt(0.5 + 0.001))
        received = sum(messages) / len(messages) if messages else torch.zeros_like(v[i])
        found.append((v[i] @ layer.update.weight.T + layer.update.bias).clamp(min=0) + received)
    return found


def pooling(layer, v):
    """List of atoms [c] -> [c]."""
    messages = [network(x, layer.message) for x in v]
    if layer.gate is None:
        return sum(messages) / len(messages)
    return sum(s * m for s, m in zip(softmax([network(x, layer.gate) for x in v]), messages, strict=True))


def finder(model, element, neighbours, distance=None):
    """[n_outputs] of one graph: element [N] of its atoms, neighbours of each, {(i, j): angstrom} in structure mode."""
    encoder = model.encoder
    v = [encoder.element_vectors[z] for z in element]
    centres = torch.arange(20, dtype=torch.float64) * 0.25
    edges = distance and {pair: torch.exp(-((d - centres) ** 2) / 0.5**2) for pair, d in distance.items()}
    pooled = []
    for layer, pool in zip(encoder.layers, encoder.pooling, strict=True):
        v = message_layer(layer, v, neighbours, edges)
        pooled.append(pooling(pool, v))
    first, last = pooled[0], pooled[-1]
    readout = model.readout
    if not hasattr(readout, "convolution"):
        return network(last, [readout])
    padded = torch.cat([last.new_zeros(1), last, last.new_zeros(1)])
    rows = []
    for weight, bias in zip(readout.convolution.weight[:, 0], readout.convolution.bias, strict=True):
        rows += [(weight * padded[k : k + 3]).sum() + bias for k in range(len(last))]
    flat = torch.stack(rows).clamp(min=0)
    x = network(flat, readout.stack.dense[:1]).clamp(min=0)
    x = network(torch.cat([x, first]), readout.stack.dense[1:2]).clamp(min=0)
    x = network(torch.cat([x, last]), readout.stack.dense[2:3]).clamp(min=0)
    x = (network(x, [readout.stack.of_dense]) + flat @ readout.stack.of_flat.weight.T).clamp(min=0)
    return network(x, [readout.stack.output])
