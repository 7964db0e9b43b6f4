"""One training loop for every model."""

import contextlib
import math
import time
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Recipe:
    """How a model is trained. The same for every model and dataset of a benchmark (see config/config.yaml)."""

    loss: str = "l1"
    epochs: int = 300
    batch_size: int = 128
    learning_rate: float = 5e-4
    weight_decay: float = 1e-6
    schedule: str = "cosine"
    warmup: float = 0.0
    clip: float = 0.0
    average: float = 0.0
    select: str = "best"
    patience: int = 0
    precision: str = "float32"


def learning_rate(step, n_steps, recipe):
    """Learning rate before optimiser step `step` of `n_steps`: linear warm-up, then constant or half a cosine."""
    warmup = recipe.warmup * n_steps
    if step < warmup:
        return recipe.learning_rate * (step + 1) / (warmup + 1)
    if recipe.schedule == "constant":
        return recipe.learning_rate
    return recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (n_steps - warmup)))


def autocast(device, precision):
    """Context in which matrix products run in `precision` (float32 or bfloat16)."""
    if precision == "float32":
        return contextlib.nullcontext()
    return torch.autocast(torch.device(device).type, dtype=torch.bfloat16)


def fit(model, loss, train, evaluate, recipe, *, seed, report=None):
    """Train `model` in place and leave it with the selected weights.

    Args:
        model: torch module on its device.
        loss: function (model, rows) -> scalar tensor; rows is an int64 tensor [B] drawn from `train`.
        train: int64 tensor [n] of training rows, on the model's device.
        evaluate: function (model) -> dict of floats; "mae" selects the weights and stops early.
        recipe: Recipe.
        seed: seeds the order of the batches; the caller seeds the initial weights.
        report: called with the history row of each epoch.

    Returns:
        History, a list of one dict per epoch: epoch, learning_rate, loss, the evaluated quantities, seconds.

    Raises:
        FloatingPointError: the training loss is not finite.
    """
    device = train.device
    order = torch.Generator().manual_seed(seed)
    batches = math.ceil(len(train) / recipe.batch_size)
    n_steps = recipe.epochs * batches
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(parameters, lr=0.0, weight_decay=recipe.weight_decay, fused=True)
    average = _Average(model, recipe.average * n_steps) if recipe.average else None
    best, best_mae, best_epoch = None, math.inf, 0
    history, started, step = [], time.perf_counter(), 0
    for epoch in range(1, recipe.epochs + 1):
        model.train()
        total = torch.zeros((), device=device)
        shuffled = train[torch.randperm(len(train), generator=order).to(device)]
        for rows in shuffled.split(recipe.batch_size):
            optimiser.param_groups[0]["lr"] = learning_rate(step, n_steps, recipe)
            with autocast(device, recipe.precision):
                value = loss(model, rows)
            optimiser.zero_grad(set_to_none=True)
            value.backward()
            if recipe.clip:
                torch.nn.utils.clip_grad_norm_(parameters, recipe.clip)
            optimiser.step()
            if average:
                average.update(model)
            total += value.detach() * len(rows)
            step += 1
        mean_loss = (total / len(train)).item()
        if not math.isfinite(mean_loss):
            raise FloatingPointError(f"training loss became {mean_loss} in epoch {epoch}; lower learning_rate")
        candidate = average.model if average else model
        metrics = evaluate(candidate)
        row = {"epoch": epoch, "learning_rate": optimiser.param_groups[0]["lr"], "loss": mean_loss, **metrics}
        history.append(row | {"seconds": time.perf_counter() - started})
        if report:
            report(history[-1])
        if recipe.select == "best" and metrics["mae"] < best_mae:
            best_mae, best_epoch = metrics["mae"], epoch
            best = {k: v.clone() for k, v in candidate.state_dict().items()}
        if recipe.patience and epoch - best_epoch >= recipe.patience:
            break
    if best is not None:
        model.load_state_dict(best)
    elif average:
        model.load_state_dict(average.model.state_dict())
    return history


def predict(model, inputs, rows, recipe):
    """Outputs [n, k] of the model for int64 rows [n], as a float64 numpy array."""
    model.eval()
    with torch.inference_mode(), autocast(rows.device, recipe.precision):
        parts = [model(inputs[part]) for part in rows.split(16 * recipe.batch_size)]
    return torch.cat(parts).double().cpu().numpy()


class _Average:
    """Exponential moving average of the weights over the last `horizon` steps (bias-corrected at the start)."""

    def __init__(self, model, horizon):
        import copy

        self.model = copy.deepcopy(model).requires_grad_(False)
        self.horizon, self.steps = max(horizon, 1.0), 0
        self.pairs = None

    @torch.no_grad()
    def update(self, model):
        self.steps += 1
        if self.pairs is None:
            self.pairs = list(self.model.parameters()), list(model.parameters())
        torch._foreach_lerp_(*self.pairs, max(1 / self.steps, 1 / self.horizon))
