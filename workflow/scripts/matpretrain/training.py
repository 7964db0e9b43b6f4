"""One training loop for every model."""

import contextlib
import copy
import math
import pickle
import time
from dataclasses import dataclass

import torch

from matpretrain.files import DataError, atomic_path

CHUNK = 2048  # rows at a time without gradients, unless the inputs say otherwise


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

    def learning_rate_at(self, step, n_steps):
        """Learning rate of optimiser step `step` (from 0) of `n_steps`: linear warm-up, then constant or half a cosine."""
        warmup = self.warmup * n_steps
        if step < warmup:
            return self.learning_rate * (step + 1) / (warmup + 1)
        if self.schedule == "constant":
            return self.learning_rate
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (n_steps - warmup)))

    def autocast(self, device):
        """Context in which matrix products run in the recipe's precision on a device."""
        kind = torch.device(device).type
        if self.precision == "float32" or (self.precision == "auto" and not multiplies_bfloat16(kind)):
            return contextlib.nullcontext()
        return torch.autocast(kind, dtype=torch.bfloat16)


def multiplies_bfloat16(kind):
    """Whether a kind of device ("cpu", "cuda") multiplies bfloat16 in hardware."""
    if kind == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def fit(model, loss, train, evaluate, recipe, *, seed, cost=None, report=None, progress=None, state=None):
    """Train `model` in place and leave it with the selected weights.

    Args:
        model: torch module on its device. Two methods are optional: penalised(), {c: parameters} whose sum of squares,
            times c, is part of the loss, and constrain(), called after every step.
        loss: function (model, rows) -> scalar tensor; rows is an int64 tensor [B] drawn from `train`.
        train: int64 tensor [n] of training rows, on the model's device.
        evaluate: function (model) -> dict of floats; the first one, lower is better, selects the weights and stops early.
        recipe: Recipe.
        seed: seeds the order of the batches; the caller seeds the initial weights and torch's random state.
        cost: int64 tensor [rows] by row, what a row costs (its edges); a step then takes as many rows as cost what batch_size
            rows cost on average, so that no step is much larger than the others. By default batch_size rows.
        report: called with the history row of each epoch.
        progress: called with (epoch, step of the epoch from 1, steps of the epoch) after each step.
        state: path at which every epoch leaves all that a restart needs; training goes on from it where it exists, to
            the same weights as without the interruption.

    Returns:
        History, a list of one dict per epoch: epoch, learning_rate, loss, gradient_norm (mean before clipping, where
        the recipe clips), the evaluated quantities, seconds.

    Raises:
        FloatingPointError: the training loss is not finite.
        DataError: `state` is not the state of such a training.
    """
    device = train.device
    order = torch.Generator().manual_seed(seed)
    batch = recipe.batch_for(len(train))
    n_batches = math.ceil(len(train) / batch)
    n_steps = recipe.epochs * n_batches
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(_groups(model, parameters, recipe), lr=0.0, fused=True)
    average = WeightAverage(model, recipe.average * n_steps) if recipe.average else None
    tested = average.model if average else model
    best, best_score, best_epoch = None, math.inf, 0
    history, before, started = [], 0.0, time.perf_counter()
    if state and state.exists():
        history, best, best_score, best_epoch = _resume(state, model, optimiser, average, order, device)
        before = history[-1]["seconds"]
    for epoch in range(len(history) + 1, recipe.epochs + 1):
        if recipe.patience and epoch - 1 - best_epoch >= recipe.patience:
            break
        model.train()
        total, norms = torch.zeros((), device=device), torch.zeros((), device=device)
        shuffled = train[torch.randperm(len(train), generator=order).to(device)]
        for k, rows in enumerate(split(shuffled, batch, None if cost is None else cost[shuffled])):
            rate = recipe.learning_rate_at((epoch - 1) * n_batches + k, n_steps)
            for group in optimiser.param_groups:
                group["lr"] = rate
            with recipe.autocast(device):
                value = loss(model, rows)
            optimiser.zero_grad(set_to_none=True)
            value.backward()
            if recipe.clip:
                norms += torch.nn.utils.clip_grad_norm_(parameters, recipe.clip)
            optimiser.step()
            if hasattr(model, "constrain"):
                model.constrain()
            if average:
                average.update(model)
            total += value.detach() * len(rows)
            if progress:
                progress(epoch, k + 1, n_batches)
        mean_loss = (total / len(train)).item()
        if not math.isfinite(mean_loss):
            raise FloatingPointError(f"training loss became {mean_loss} in epoch {epoch}; lower learning_rate")
        metrics = evaluate(tested)
        row = {"epoch": epoch, "learning_rate": rate, "loss": mean_loss}
        if recipe.clip:
            row["gradient_norm"] = norms.item() / (k + 1)
        history.append({**row, **metrics, "seconds": before + time.perf_counter() - started})
        score = next(iter(metrics.values()))
        if score < best_score:
            best_score, best_epoch = score, epoch
            if recipe.select == "best":
                best = {k: v.clone() for k, v in tested.state_dict().items()}
        if report:
            report(history[-1])
        if state:
            _save_state(state, model, optimiser, average, order, device, history, best, best_score, best_epoch)
    model.load_state_dict(tested.state_dict() if best is None else best)
    return history


def _groups(model, parameters, recipe):
    """Parameter groups of the optimiser: the recipe's decoupled decay, or the gradient of what the model penalises."""
    penalised = model.penalised() if hasattr(model, "penalised") else {}
    own = {id(parameter) for group in penalised.values() for parameter in group}
    groups = [{"params": [p for p in parameters if id(p) not in own], "weight_decay": recipe.weight_decay}]
    for coefficient, group in penalised.items():
        groups.append({"params": group, "weight_decay": 2 * coefficient, "decoupled_weight_decay": False})
    return groups


def split(rows, batch, cost=None):
    """Batches of int64 rows [n] in their order: of `batch` rows each, or of the same summed cost.

    With a cost [n] a batch ends where the sum reaches `batch` times the mean, so there are as many batches as without
    (or fewer, where one row costs more than that) and a batch costs at most one row more.
    """
    if cost is None:
        return rows.split(batch)
    before = cost.cumsum(0) - cost
    group = before * len(rows) // (batch * cost.sum())
    return rows.split(torch.unique_consecutive(group, return_counts=True)[1].tolist())


def _save_state(path, model, optimiser, average, order, device, history, best, best_score, best_epoch):
    with atomic_path(path) as temporary:
        torch.save(
            {
                "model": model.state_dict(),
                "optimiser": optimiser.state_dict(),
                "average": average and {"model": average.model.state_dict(), "steps": average.steps},
                "order": order.get_state(),
                "random": torch.get_rng_state(),
                "random_device": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
                "history": history,
                "best": best,
                "best_score": best_score,
                "best_epoch": best_epoch,
            },
            temporary,
        )


def _resume(path, model, optimiser, average, order, device):
    """Put back what _save_state wrote. Returns history, best weights, their score and epoch."""
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
        model.load_state_dict(saved["model"])
        optimiser.load_state_dict(saved["optimiser"])
        if average:
            average.model.load_state_dict(saved["average"]["model"])
            average.steps = saved["average"]["steps"]
    except (OSError, EOFError, RuntimeError, KeyError, TypeError, ValueError, pickle.UnpicklingError) as error:
        reason = f"{type(error).__name__} {error}".splitlines()[0]
        raise DataError(f"{path}: not a state this training can go on from ({reason}); delete it to start again") from None
    order.set_state(saved["order"])
    torch.set_rng_state(saved["random"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(saved["random_device"], device)
    return saved["history"], saved["best"], saved["best_score"], saved["best_epoch"]


def chunks(inputs, rows):
    """Parts of int64 rows [n] that a network takes at a time where no gradients are needed."""
    return rows.split(getattr(inputs, "CHUNK", CHUNK))


def predict(model, inputs, rows, recipe):
    """Outputs [n, k] of the model for int64 rows [n], as a float64 numpy array."""
    model.eval()
    with torch.inference_mode(), recipe.autocast(rows.device):
        parts = [model(inputs[part]) for part in chunks(inputs, rows)]
    return torch.cat(parts).double().cpu().numpy()


class WeightAverage:
    """Running mean of the weights that turns into an exponential moving average over the last `horizon` steps.

    Attributes:
        model: a copy of the model that holds the average.
    """

    def __init__(self, model, horizon):
        self.model = copy.deepcopy(model).requires_grad_(False)
        self.horizon, self.steps = max(horizon, 1.0), 0
        self.averaged = list(self.model.parameters())

    @torch.no_grad()
    def update(self, model):
        """Take in the weights after a step."""
        self.steps += 1
        torch._foreach_lerp_(self.averaged, list(model.parameters()), max(1 / self.steps, 1 / self.horizon))
