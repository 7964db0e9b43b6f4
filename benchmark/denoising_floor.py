"""What denoising asks of a network of crystals: the error that edge lengths can be denoised to without any message passing.

Gradient-boosted trees predict the standardised clean length of an edge (New et al. 2024, eq. 1) from what the network is given
before its first message: the displaced length alone, then also mean and standard deviation of the displaced lengths of the
crystal, then also the two elements. A pretraining loss near these numbers comes from single edges, not from their surroundings.

denoising_floor.py GRAPHS.safetensors [--noise 0.5]
"""

import argparse

import numpy as np
import torch
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.metrics import mean_absolute_error, mean_squared_error

from matpretrain.megnet_graphs import CrystalInputs

EDGES = 400_000  # of the training and of the test crystals each


def edges(inputs, rows, noise):
    """Features [edges, 5] and standardised clean lengths [edges] of the crystals `rows`."""
    batch = inputs[rows]
    target, length = batch.standardised_distance(), batch.perturbed(noise).distance()
    row = batch.edge_row[: len(length)]
    count = torch.bincount(row, minlength=batch.rows).clamp(min=1)
    mean = torch.zeros(batch.rows).index_add(0, row, length) / count
    variance = torch.zeros(batch.rows).index_add(0, row, (length - mean[row]).square()) / count
    ends = batch.element[batch.edge[:, : len(length)]]
    features = [length, mean[row], variance[row].sqrt(), ends.min(0).values.float(), ends.max(0).values.float()]
    return torch.stack(features, 1).numpy(), target.numpy()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("graphs")
    parser.add_argument("--noise", type=float, default=0.5, help="standard deviation along each axis in angstrom")
    options = parser.parse_args()
    torch.manual_seed(0)
    inputs = CrystalInputs.read(options.graphs)
    shuffled = torch.randperm(len(inputs))
    half = min(1500, len(inputs) // 2)
    parts = [edges(inputs, rows, options.noise) for rows in (shuffled[:half], shuffled[half : 2 * half])]
    drawn = [np.random.default_rng(0).permutation(len(target))[:EDGES] for _, target in parts]
    (x, y), (x_test, y_test) = ((part[0][rows], part[1][rows]) for part, rows in zip(parts, drawn, strict=True))
    for name, columns in (("displaced length", 1), ("and its mean and spread in the crystal", 3), ("and the two elements", 5)):
        model = HistGradientBoostingRegressor(max_iter=300, random_state=0).fit(x[:, :columns], y)
        predicted = model.predict(x_test[:, :columns])
        print(
            f"{name}: {mean_squared_error(y_test, predicted):.4f}, MAE {mean_absolute_error(y_test, predicted):.4f}", flush=True
        )
