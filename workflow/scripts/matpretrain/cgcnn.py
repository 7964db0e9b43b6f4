"""CGCNN (Xie and Grossman, Phys. Rev. Lett. 120, 145301 (2018)): crystal -> embedding, of the teacher or of a trained network.

The names of the parameters are those of the weights released with Crystal Twins (Magar, Wang and Barati Farimani 2022).
"""

from types import SimpleNamespace

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from matpretrain.files import DataError
from matpretrain.packed import members

WIDTH, LAYERS, EMBEDDING = 64, 3, 256
SUPERVISED_EMBEDDING = 128  # of the published supervised network
READS = ("neighbours", "elements")  # what Inputs and Model are made from
CENTRES, SPACING = 41, 0.2  # Gaussian basis: centres 0, 0.2, ..., 8 angstrom, exp(-(d - centre)^2 / 0.2^2)
LARGEST = 60.0  # exponents end here (1e-26): numbers below the normal range of float32 would slow products tenfold
BATCH_ATOMS = {"cpu": 1024, "cuda": 32768}  # at most; bounds the memory (about 50 kB per atom)
HEAD = "fc_head."  # of the contrastive training; it is not part of the embedding


def gaussian_basis(distance):
    """[...] distances in angstrom -> [..., 41]."""
    centres = SPACING * torch.arange(CENTRES, dtype=distance.dtype, device=distance.device)
    square = ((distance[..., None] - centres) / SPACING).square_()
    return square.clamp_(max=LARGEST).neg_().exp_()


class Batch:
    """Packed crystals with N atoms: number [N], neighbour [N, 12] among the N atoms, distance [N, 12] in angstrom, count [B]."""

    __slots__ = ("count", "distance", "neighbour", "number")

    def __init__(self, number, neighbour, distance, count):
        self.number, self.neighbour, self.distance, self.count = number, neighbour, distance, count


class CrystalInputs:
    """All crystals of a dataset on one device; indexing with rows [B] (int64) returns their `Batch`.

    Args:
        crystals: `crystal.Crystals`, or anything with its number, offset, neighbour and distance.
    """

    CHUNK = 64  # crystals at a time where no gradients are needed

    def __init__(self, crystals, device="cpu"):
        self.number, self.offset, self.neighbour = (
            torch.as_tensor(getattr(crystals, name), dtype=torch.int64, device=device)
            for name in ("number", "offset", "neighbour")
        )
        self.distance = torch.as_tensor(crystals.distance, device=device)

    @classmethod
    def read(cls, path, device="cpu"):
        """Inputs of a file with the arrays of `crystal.Crystals`."""
        with np.load(path) as arrays:
            return cls(
                SimpleNamespace(**{name: arrays[name] for name in ("number", "offset", "neighbour", "distance")}), device
            )

    def __len__(self):
        return len(self.offset) - 1

    @property
    def cost(self):
        """[rows] int64 number of atoms of each crystal: what a step costs."""
        return self.offset.diff()

    def __getitem__(self, rows):
        atom, row, first = members(self.offset, rows)
        return Batch(self.number[atom], self.neighbour[atom] + first[row, None], self.distance[atom], first.diff())


def normalised(norm, x):
    """x [n, c] through a batch normalisation; one row, which has no spread, with the running statistics."""
    if norm.training and len(x) == 1:
        return F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)
    return norm(x)


class Convolution(nn.Module):
    """h_i <- softplus(h_i + norm(sum_j sigmoid(gate_ij) softplus(core_ij))), (gate, core) = norm(W [h_i, h_j, edge_ij] + b)."""

    def __init__(self, width=WIDTH):
        super().__init__()
        self.fc_full = nn.Linear(2 * width + CENTRES, 2 * width)
        self.bn1 = nn.BatchNorm1d(2 * width)
        self.bn2 = nn.BatchNorm1d(width)

    def forward(self, h, neighbour, basis):
        """h [N, width], neighbour [N, 12] int64, basis [N, 12, 41] -> [N, width]."""
        width = h.shape[1]
        own, other, edge = self.fc_full.weight.split([width, width, CENTRES], 1)
        z = (basis @ edge.T).add_(F.linear(h, own, self.fc_full.bias)[:, None]).add_(F.linear(h, other)[neighbour])
        gate, core = self.bn1(z.flatten(0, 1)).view_as(z).chunk(2, -1)
        return F.softplus(h + normalised(self.bn2, (torch.sigmoid(gate) * F.softplus(core)).sum(1)))


class CGCNN(nn.Module):
    """Crystals -> embeddings.

    Args:
        atom_features: [Z, 92] fixed features, one row per value of `number`.
        embedding: length of the result.
    """

    def __init__(self, atom_features, width=WIDTH, layers=LAYERS, embedding=EMBEDDING):
        super().__init__()
        self.register_buffer("atom_features", torch.as_tensor(atom_features, dtype=torch.float32), persistent=False)
        self.embedding = nn.Linear(self.atom_features.shape[1], width)
        self.convs = nn.ModuleList(Convolution(width) for _ in range(layers))
        self.conv_to_fc = nn.Linear(width, embedding)

    def forward(self, batch):
        """Batch of B crystals -> [B, embedding]."""
        h = self.embedding(self.atom_features)[batch.number]
        basis = gaussian_basis(batch.distance)
        for convolution in self.convs:
            h = convolution(h, batch.neighbour, basis)
        mean = torch.segment_reduce(h, "mean", lengths=batch.count)
        return F.softplus(self.conv_to_fc(F.softplus(mean)))


class SupervisedCGCNN(nn.Module):
    """Encoder and linear output: Batch -> [B, n_outputs] (80,833 parameters with one output).

    Args:
        element_vectors: [Z, 92] atom features of CGCNN.
    """

    def __init__(self, element_vectors, n_outputs=1):
        super().__init__()
        self.encoder = CGCNN(element_vectors, embedding=SUPERVISED_EMBEDDING)
        self.fc_out = nn.Linear(SUPERVISED_EMBEDDING, n_outputs)

    def forward(self, batch):
        """Batch of B crystals -> [B, n_outputs]."""
        return self.fc_out(self.encoder(batch))


def load_teacher(path, atom_features):
    """CGCNN in evaluation mode from a saved state dict; sizes come from its shapes, keys under HEAD are left out.

    Raises:
        DataError: missing or unreadable file, not a state dict, or not the weights of this network.
    """
    remedy = "give the state dict of a CGCNN encoder"
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; correct the path of the teacher") from None
    except Exception as error:  # torch raises many types for other files
        raise DataError(f"{path}: not weights that torch can load ({type(error).__name__}); {remedy}") from None
    if not isinstance(state, dict) or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise DataError(f"{path}: not a state dict; {remedy}")
    state = {name: value for name, value in state.items() if not name.startswith(HEAD)}
    shape = {name: tuple(value.shape) for name, value in state.items()}
    layers = len({name.split(".")[1] for name in shape if name.startswith("convs.")})
    width, embedding = (shape.get(name, (0,))[0] for name in ("embedding.weight", "conv_to_fc.weight"))
    if not (layers and width and embedding):
        raise DataError(f"{path}: no CGCNN (it needs embedding, convs.0, ... and conv_to_fc); {remedy}")
    with torch.device("meta"):
        expected = {
            name: tuple(value.shape) for name, value in CGCNN(atom_features, width, layers, embedding).state_dict().items()
        }
    for name in sorted(shape.keys() | expected.keys()):
        if shape.get(name) != expected.get(name):
            found, wanted = (list(s[name]) if name in s else "absent" for s in (shape, expected))
            raise DataError(f"{path}: {name} has the shape {found}, CGCNN {wanted}; {remedy}")
    bad = [name for name, value in state.items() if not value.isfinite().all()]
    if bad:
        raise DataError(f"{path}: {bad[0]} holds numbers that are not finite; {remedy}")
    model = CGCNN(atom_features, width, layers, embedding)
    model.load_state_dict(state)
    return model.eval()


@torch.inference_mode()
def embed(model, crystals, device="cpu", report=lambda n: None):
    """[S, embedding] of all crystals (`crystal.Crystals`), in the precision of the model, in batches of whole structures.

    `report` is called with the number of structures done after every batch.
    """
    limit = BATCH_ATOMS[torch.device(device).type]
    inputs, offset = CrystalInputs(crystals, device), crystals.offset
    inputs.distance = inputs.distance.to(model.conv_to_fc.weight.dtype)
    parts, start = [], 0
    while start < len(crystals):
        stop = max(start + 1, int(np.searchsorted(offset, offset[start] + limit, "right")) - 1)
        parts.append(model(inputs[torch.arange(start, stop, device=device)]).cpu())
        report(start := stop)
    return torch.cat(parts).numpy()


# What the scripts build for `encoder: cgcnn`.
Encoder, Model, Inputs = CGCNN, SupervisedCGCNN, CrystalInputs
