"""How a network is trained, as the configuration says: steps, learning rate, precision."""

import contextlib
import math
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Recipe:
    """How a model is trained: one recipe for every model and dataset of a benchmark.

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

    def rounds(self, device):
        """Whether matrix products on a device round what they multiply to bfloat16."""
        kind = torch.device(device).type
        return self.precision == "bfloat16" or (self.precision == "auto" and multiplies_bfloat16(kind))

    def products(self, device):
        """Context in which matrix products on a CPU, forward and backward, run in the recipe's precision."""
        return cpu_products(self.rounds(device)) if torch.device(device).type == "cpu" else contextlib.nullcontext()

    def autocast(self, device):
        """Context of a forward pass in the recipe's precision: on a CPU `products`, on a GPU torch's autocast."""
        if torch.device(device).type == "cpu":
            return self.products(device)
        return torch.autocast("cuda", torch.bfloat16, enabled=self.rounds(device))


def multiplies_bfloat16(kind):
    """Whether a kind of device ("cpu", "cuda") has matrix units for bfloat16."""
    if kind == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_amx_tile_supported()


@contextlib.contextmanager
def cpu_products(rounded):
    """Context in which the factors of float32 matrix products on a CPU are rounded to bfloat16, or are not.

    oneDNN rounds them on the way into the processor's matrix units (AMX), where it has some; sums and results stay float32.
    """
    matmul = torch.backends.mkldnn.matmul
    before, matmul.fp32_precision = matmul.fp32_precision, "bf16" if rounded else "ieee"
    try:
        yield
    finally:
        matmul.fp32_precision = before
