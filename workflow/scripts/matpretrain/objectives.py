"""Training objectives: supervised losses, and pretext tasks with the projector that each of them needs.

A supervised loss is a function (output [B, T] or [B, 2 T], target [B, T], or [B] for T = 1) -> scalar tensor; targets are standardised with
the mean and standard deviation of the training rows before they come here, and NaN where they are unknown. A pretext task is a module that maps the views of a
batch and its target to a scalar loss; tasks are summed with the weights of the registry (config/pretraining.yaml).
"""

import itertools
import math
from functools import cached_property

import torch
from torch import nn
from torch.nn import functional as F

SQRT2 = math.sqrt(2)


def l1(output, target):
    """Mean absolute error."""
    return _mean(lambda t: (output - t).abs(), output, target)


def mse(output, target):
    """Mean squared error."""
    return _mean(lambda t: (output - t).square(), output, target)


def robust_l1(output, target):
    """Negative log likelihood of a Laplace distribution, sqrt(2) |mu - y| exp(-s) + s, up to a constant.

    The second half of the outputs is s, the logarithm of the predicted standard deviation (Goodall and Lee 2020, eq. 8).
    """
    mean, log_std = output.chunk(2, 1)
    return _mean(lambda t: SQRT2 * (mean - t).abs() * (-log_std).exp() + log_std, mean, target)


def _mean(loss, prediction, target):
    """Mean of loss(target) [B, T] over the known entries of the target; the others give neither an error nor a gradient."""
    target = target.view_as(prediction)
    known = target.isfinite()
    return (loss(torch.where(known, target, prediction.detach())) * known).sum() / known.sum()


SUPERVISED = {"l1": (l1, 1), "mse": (mse, 1), "robust_l1": (robust_l1, 2)}  # name -> function, model outputs per target


class Views:
    """What pretext tasks see of a batch: ReLU of the encoder's representation [B, d], computed when asked for.

    Args:
        encoder: module (batch, messages=True) -> [B, d].
        batch: batch with a method masked().
    """

    def __init__(self, encoder, batch):
        self.encoder, self.batch = encoder, batch

    @cached_property
    def clean(self):
        """[B, d] of the batch as it is; tasks share it."""
        return F.relu(self.encoder(self.batch))

    def masked(self, messages=True):
        """[B, d] of a newly masked copy of the batch."""
        return F.relu(self.encoder(self.batch.masked(), messages=messages))


def standardised(z, epsilon=1e-5):
    """z [n, d] with its columns brought to zero mean and unit (population) variance; epsilon is added to their variance."""
    z = z - z.mean(0)
    return z * torch.rsqrt(z.square().mean(0) + epsilon)


def barlow_twins(a, b, off_diagonal):
    """sum_i (1 - C_ii)^2 + off_diagonal * sum_{i != j} C_ij^2 (Zbontar et al. 2021, eq. 1; Huang et al. 2024, eq. 5).

    C = X^T Y / n is the cross-correlation over the n rows of the batch, X and Y the standardised projections, as in Zbontar et
    al. and in the released code of Huang et al. Eq. 4 of the latter is misprinted: it omits the centring and squares the sum
    where it means the sum of squares.

    C [d, d] is never formed: the sum of its squares is the sum over (X X^T)_ij (Y Y^T)_ij / n^2, products of [n, n].

    Args:
        a, b: [n, d] projections of the two views.
        off_diagonal: lambda.

    Returns:
        Scalar tensor.
    """
    x, y, n = standardised(a), standardised(b), len(a)
    diagonal = (x * y).sum(0) / n
    squares = ((x @ x.T) * (y @ y.T)).sum() / n**2
    return (1 - diagonal).square().sum() + off_diagonal * (squares - diagonal.square().sum())


def projector(*widths, normalised=False):
    """Module [B, first width] -> [B, last width]: linear layers, with ReLU and, if `normalised`, batch normalisation before it between
    them (Zbontar et al. 2021, section 2.2)."""
    layers = []
    for a, b in itertools.pairwise(widths[:-1]):
        layers += [nn.Linear(a, b), Standardised(b), nn.ReLU()] if normalised else [nn.Linear(a, b), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(*widths[-2:]))


class Standardised(nn.Module):
    """Batch normalisation of [n, d] by the batch at hand, training or not; a single row becomes the bias."""

    def __init__(self, width):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))

    def forward(self, z):
        return standardised(z) * self.weight + self.bias


class BarlowTwins(nn.Module):
    """SSL: the representations of a composition and of its masked copy should agree, their components be independent.

    Args:
        encoder: module whose `width` is that of the representation.
        n_targets: unused, there is no target.
        width: width of the projections.
        hidden: widths of hidden ReLU layers of the projector, with batch normalisation; none in the paper, two as wide as the
            projections in Zbontar et al.
        off_diagonal: weight of the redundancy term (lambda).
        both_masked: mask both views, instead of one.
        masked_view_messages: False repeats a defect of the released code, whose masked graph has only self edges.

    Attributes:
        least_rows: rows of a batch below which correlations over it say nothing: one or two, standardised, are always the same.
    """

    least_rows = 4

    def __init__(
        self, encoder, n_targets=0, width=1024, hidden=(), off_diagonal=0.0051, both_masked=False, masked_view_messages=True
    ):
        super().__init__()
        self.projector = projector(encoder.width, *hidden, width, normalised=True)
        self.off_diagonal, self.both_masked, self.masked_view_messages = off_diagonal, both_masked, masked_view_messages

    def forward(self, views, target=None):
        """Scalar loss, summed over the components of the projection."""
        other = views.masked(self.masked_view_messages)
        first = views.masked(self.masked_view_messages) if self.both_masked else views.clean
        return barlow_twins(self.projector(first).float(), self.projector(other).float(), self.off_diagonal)


class Regression(nn.Module):
    """FL and MML: predict a vector of each composition, its fingerprint or the embedding of its structures.

    Args:
        encoder: module whose `width` is that of the representation.
        n_targets: length of the vector.
        hidden: widths of hidden ReLU layers of the projector; none in the paper, (1024, 512, 256) in the released code.
    """

    def __init__(self, encoder, n_targets, hidden=()):
        super().__init__()
        self.projector = projector(encoder.width, *hidden, n_targets)

    def forward(self, views, target):
        """Squared error averaged over batch and components (Huang et al. 2024, eq. 6, up to the number of components)."""
        return F.mse_loss(self.projector(views.clean).float(), target)


class Denoising(nn.Module):
    """CDSSL: predict the edge lengths of a crystal from a copy whose atoms are displaced (New et al. 2024, eq. 1).

    Edges keep their ends; displacements are drawn anew at every visit. The lengths are standardised within each crystal.

    Args:
        encoder: module with `states(batch)` -> (node, edge, state) vectors, the edge vectors `edge_width` long.
        n_targets: unused, the target is made from the batch.
        noise: standard deviation of the displacements along each axis in angstrom.

    Attributes:
        error: mean absolute error over the edges of the last batch, in standard deviations.
    """

    def __init__(self, encoder, n_targets=0, noise=0.5):
        super().__init__()
        self.projector = nn.Linear(encoder.edge_width, 1)
        self.noise, self.error = noise, None

    def forward(self, views, target=None):
        """Squared error averaged over the edges of the batch: eq. 1 up to the number of edges."""
        clean = views.batch.standardised_distance().repeat(2)  # both directions of a pair
        _, edge, _ = views.encoder.states(views.batch.perturbed(self.noise))
        residual = self.projector(edge).squeeze(1).float() - clean
        n_edges = max(1, len(residual))  # a batch of isolated atoms has none
        self.error = residual.detach().abs().sum() / n_edges
        return residual.square().sum() / n_edges


PRETEXT = {  # name -> module
    "barlow_twins": BarlowTwins,
    "magpie": Regression,
    "structure": Regression,
    "denoising": Denoising,
}


class Pretext(nn.Module):
    """An encoder and the weighted sum of its pretext tasks.

    Args:
        encoder: module that maps a batch to [B, width].
        tasks: {name of PRETEXT: options}, of which `weight` (default 1) multiplies the loss.
        targets: {name: [rows, n_targets] tensor} for the tasks that have a target.
    """

    def __init__(self, encoder, tasks, targets):
        super().__init__()
        self.encoder, self.targets = encoder, targets
        self.weights = {name: options.get("weight", 1.0) for name, options in tasks.items()}
        self.tasks = nn.ModuleDict(
            {
                name: PRETEXT[name](
                    encoder,
                    targets[name].shape[1] if name in targets else 0,
                    **{k: v for k, v in options.items() if k not in ("weight", "scale")},
                )
                for name, options in tasks.items()
            }
        )

    def losses(self, inputs, rows):
        """{task: unweighted loss} of the rows [B] of inputs."""
        views = Views(self.encoder, inputs[rows])
        return {
            name: task(views, self.targets[name][rows] if name in self.targets else None) for name, task in self.tasks.items()
        }

    def forward(self, inputs, rows):
        """Weighted sum of the losses."""
        return sum(self.weights[name] * value for name, value in self.losses(inputs, rows).items())
