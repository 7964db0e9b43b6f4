"""A teacher that knows nothing: the CGCNN of Crystal Twins with random weights (huang2024.md, "MML with whitened targets").

    python untrained_teacher.py NEIGHBOURS.npz ATOMS.npy OUTPUT.pth   # PYTHONPATH=workflow/scripts

The first two are results/structures/materials_project/neighbours.npz and results/data/elements/cgcnn.npy. Means and variances of the
batch normalisations are those of 2,560 of the structures, as a trained network has them.
"""

import sys

import numpy as np
import torch

from matpretrain.cgcnn import CGCNN, CrystalInputs

if __name__ == "__main__":
    neighbours, atoms, output = sys.argv[1:]
    inputs = CrystalInputs.read(neighbours)
    torch.manual_seed(0)
    model = CGCNN(np.load(atoms)).train()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm1d):
            module.momentum = None  # the mean over all batches
    with torch.no_grad():
        for rows in torch.randperm(len(inputs))[:2560].split(64):
            model(inputs[rows])
    torch.save(model.state_dict(), output)
