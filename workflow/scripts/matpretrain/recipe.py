"""How a network is trained, as the configuration says: steps, learning rate, precision."""

import contextlib
import functools
import math
from dataclasses import dataclass

import torch

from matpretrain.provenance import processor


@dataclass(frozen=True)
class Recipe:
    """How a model is trained: one recipe for all models of a dataset, up to keys of their encoder.

    The values live in config/config.yaml, the keys are explained in config/README.md.
    """

    epochs: int
    batch_size: int
    min_steps: int
    learning_rate: float
    weight_decay: float
    schedule: str
    warmup: float
    clip: float
    average: float
    select: str
    patience: int
    precision: str

    def batch_for(self, n_rows):
        """Rows per step: batch_size, halved until an epoch over n_rows takes at least min_steps steps."""
        size = self.batch_size
        while size > 1 and math.ceil(n_rows / size) < self.min_steps:
            size //= 2
        return size

    def batches_for(self, trains):
        """Rows per step and steps per epoch of one or several sets of rows [n]; ValueError where they differ in either."""
        counts = {(size, math.ceil(len(rows) / size)) for rows in trains for size in [self.batch_for(len(rows))]}
        if len(counts) > 1:
            raise ValueError(f"rows per step and steps per epoch differ within a cohort: {sorted(counts)}")
        return counts.pop()

    def learning_rate_at(self, step, n_steps):
        """Learning rate of optimiser step `step` (from 0) of `n_steps`: linear warm-up, then constant or half a cosine."""
        warmup = self.warmup * n_steps
        if step < warmup:
            return self.learning_rate * (step + 1) / (warmup + 1)
        if self.schedule == "constant":
            return self.learning_rate
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (n_steps - warmup)))

    def factors(self, device):
        """What matrix products on a device round what they multiply to: "ieee" (float32), "tf32" or "bf16"."""
        return rounding(self.precision, torch.device(device).type)

    @contextlib.contextmanager
    def products(self, device):
        """Context of matrix products, forward and backward, in the recipe's precision; on a GPU bfloat16 needs `autocast` as well."""
        kind, form = torch.device(device).type, self.factors(device)
        with rounded(kind, "ieee" if kind == "cuda" and form == "bf16" else form):
            yield

    @contextlib.contextmanager
    def autocast(self, device):
        """Context of a forward pass in the recipe's precision: `products`, and for bfloat16 on a GPU torch's autocast."""
        kind = torch.device(device).type
        cast = kind == "cuda" and self.factors(device) == "bf16"
        with self.products(device), torch.autocast("cuda", torch.bfloat16) if cast else contextlib.nullcontext():
            yield


def rounding(precision, kind):
    """What matrix products on a kind of device, "cpu" or "cuda", round what they multiply to: "ieee" (float32), "tf32" or "bf16".

    Args:
        precision: that of a recipe; "auto" is the fastest that the device has matrix units for.
    """
    if precision == "auto":
        return "tf32" if kind == "cuda" else "bf16" if multiplies_bfloat16() else "ieee"
    if precision == "bfloat16":
        return "bf16"
    return "tf32" if precision == "tfloat32" and kind == "cuda" else "ieee"


def multiplies_bfloat16():
    """Whether the processor has matrix units for bfloat16 (AMX)."""
    return torch.cpu._is_amx_tile_supported()


@contextlib.contextmanager
def rounded(kind, form):
    """Context in which the factors of float32 matrix products on a kind of device are rounded to "bf16" or "tf32", or are not ("ieee").

    They are on the way into the matrix units, where there are some (AMX, tensor cores); sums and results stay float32. What is not
    rounded is multiplied by the faster of torch's two libraries on a CPU (`multiplies_in_onednn`).

    Args:
        kind: "cpu" ("ieee" or "bf16") or "cuda" ("ieee" or "tf32").
    """
    matmul = torch.backends.mkldnn.matmul if kind == "cpu" else torch.backends.cuda.matmul
    if kind == "cpu" and form == "ieee" and multiplies_in_onednn():
        form = "bf16"  # allows rounding, which needs units that are not there; torch asks oneDNN only where this is allowed
    before, matmul.fp32_precision = matmul.fp32_precision, form
    try:
        yield
    finally:
        matmul.fp32_precision = before


@functools.cache
def multiplies_in_onednn():
    """Whether oneDNN multiplies float32 matrices faster than MKL, which torch takes unless told otherwise, and rounds no factors.

    So it is on processors of AMD with AVX-512, where MKL uses half its width (benchmark/README.md). That nothing is rounded is tried.
    """
    if not processor().startswith("AMD") or torch.backends.cpu.get_cpu_capability() != "AVX512" or multiplies_bfloat16():
        return False
    exact = torch.full((256, 256), 1 + 2.0**-12)
    with rounded("cpu", "bf16"):
        return bool((exact @ exact > len(exact)).all())
