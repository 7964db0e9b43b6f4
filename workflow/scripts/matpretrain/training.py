"""One training loop for every model."""

import contextlib
import copy
import math
import time
import warnings
from dataclasses import dataclass

import torch

from matpretrain.cohort import Cohort
from matpretrain.files import DataError
from matpretrain.processes import Stopped, deferred, stop_reason
from matpretrain.states import check_history, interval, load_state, save_state


class Diverged(FloatingPointError):
    """The loss of a training is no longer finite.

    Attributes:
        member: which one it is of a cohort.
    """

    def __init__(self, message, member=0):
        super().__init__(message)
        self.member = member


# Rows at a time without gradients, unless the inputs say otherwise; more only take memory on a CPU.
CHUNK = {"cpu": 512, "cuda": 2048}


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


def fit(
    model, loss, train, evaluate, recipe, *, seed, cost=None, weight=len, report=None, progress=None, state=None, sums=None
):  # fmt: skip
    """Train `model` in place and leave it with the selected weights.

    Of a Cohort of C networks each learns from its own rows, in its own order, and keeps its own selected weights. What is said
    below of one network is then a list of C: train, seed, the rows of a step, what evaluate returns, the history; the loss is [C].
    A member that stops early learns nothing more while the others go on.

    Args:
        model: torch module on its device. Two methods are optional: penalised(), {c: parameters} whose sum of squares,
            times c, is part of the loss, and constrain(), called after every step.
        loss: function (model, rows) -> scalar tensor; rows is an int64 tensor [B] drawn from `train`.
        train: int64 tensor [n] of training rows, on the model's device. All of a cohort make the same number of batches.
        evaluate: function (model) -> dict of floats; the first one, lower is better, selects the weights and stops early.
        recipe: Recipe.
        seed: seeds the order of the batches; the caller seeds the initial weights and torch's random state.
        cost: int64 tensor [rows] by row, what a row costs (its edges); a step then takes as many rows as cost what batch_size
            rows cost on average, so that no step is much larger than the others. By default batch_size rows.
        weight: function (rows of one network) -> weight of their loss in the mean of an epoch: their number, unless the loss is
            a mean over something else.
        report: called with the history row of each epoch; of a cohort with a list, None for members that have stopped early.
        progress: called with (epoch, step of the epoch from 1, steps of the epoch) after each step.
        state: path at which a state is left every states.interval() seconds and when the job is asked to stop; training
            goes on from it where it exists, on a CPU to the same weights as without the interruption.
        sums: dictionary of numbers that `loss` adds up over an epoch: part of the state.

    Returns:
        History, a list of one dict per epoch: epoch, learning_rate, loss, gradient_norm (mean before clipping, where
        the recipe clips), the evaluated quantities, seconds.

    Raises:
        Diverged: the training loss is not finite.
        ValueError: the rows of a cohort do not make the same number of batches.
        DataError: `state` is not the state of such a training; the device has not the memory for a step.
        Stopped: a signal asked for it; an evaluation is finished first.
    """
    cohort = isinstance(model, Cohort)
    trains, seeds = (train, seed) if cohort else ([train], [seed])
    device, members = trains[0].device, range(len(trains))
    if device.type == "cpu":  # several threads add gradients of indexed rows in any order otherwise
        torch.utils.deterministic.fill_uninitialized_memory = False
        torch.use_deterministic_algorithms(True, warn_only=True)
    orders = [torch.Generator().manual_seed(own) for own in seeds]
    batch, n_batches = recipe.batches_for(trains)
    n_steps = recipe.epochs * n_batches
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(_groups(model, parameters, recipe), lr=0.0, fused=True)
    average = WeightAverage(model, recipe.average * n_steps) if recipe.average else None
    tested = average.model if average else model
    best, best_score, best_epoch = None, [math.inf for _ in members], [0 for _ in members]
    histories, done, before, started = [[] for _ in members], 0, 0.0, time.perf_counter()
    total, norms = torch.zeros(len(members), device=device), torch.zeros(len(members), device=device)
    of = {"rows": [len(own) for own in trains], "seed": list(seeds), "recipe": vars(recipe), "cost": cost is not None}

    def weights(steps):
        """Weights [n, C] of the losses of every member's rows in n steps: one transfer, where they are numbers."""
        of_rows = [weight(own) for rows in steps for own in rows]
        as_one = torch.stack(of_rows) if isinstance(of_rows[0], torch.Tensor) else torch.tensor(of_rows, device=device)
        return as_one.view(-1, len(members))

    whole = weights([trains])[0]
    if state and state.exists():
        saved = load_state(
            state, of, lambda saved: _put_back(saved, model, optimiser, average, orders, device, n_batches, recipe)
        )
        histories, done, before = saved["histories"], saved["step"], saved["seconds"]
        total, norms = saved["total"].to(device), saved["norms"].to(device)
        best, best_score, best_epoch = saved["best"], saved["best_score"], saved["best_epoch"]
        best = best and {name: value.to(device) for name, value in best.items()}
        if sums is not None:
            sums.update({name: value.to(device) for name, value in saved["sums"].items()})

    def keep(drawn, step):
        """Leave the state after `step` steps of an epoch whose rows were drawn from the orders' states `drawn`."""
        _finite(total / whole, epoch)
        save_state(
            {
                "of": of,
                "model": model.state_dict(),
                "optimiser": optimiser.state_dict(),
                "average": average and {"model": average.model.state_dict(), "steps": average.steps},
                "orders": drawn,
                "step": step,
                "random": torch.get_rng_state(),
                "random_device": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
                "total": total,
                "norms": norms,
                "sums": {name: torch.as_tensor(value) for name, value in (sums or {}).items()},
                "histories": histories,
                "seconds": before + time.perf_counter() - started,
                "best": best,
                "best_score": best_score,
                "best_epoch": best_epoch,
            },
            state,
        )

    def goes_on(k):
        """Whether member k, as after its last epoch, has not stopped early."""
        return not recipe.patience or len(histories[k]) - best_epoch[k] < recipe.patience

    def selected(k):
        """Whether the weights of member k are those of its best epoch so far."""
        return recipe.select == "best" and best_epoch[k] > 0

    pause, kept = interval(), started
    with deferred():
        for epoch in range(max(map(len, histories)) + 1, recipe.epochs + 1):
            running = [k for k in members if goes_on(k)]
            if not running:
                break
            model.train()
            drawn = [order.get_state() for order in orders]
            batches = []
            for own, order in zip(trains, orders, strict=True):
                shuffled = own[torch.randperm(len(own), generator=order).to(device)]
                batches.append(split(shuffled, batch, None if cost is None else cost[shuffled]))
            steps = list(zip(*batches, strict=True))
            of_steps = weights(steps)
            stopped = [k for k in members if k not in running]
            stopped = torch.tensor(stopped, device=device) if stopped else None
            for step, rows in enumerate(steps[done:], done + 1):
                rate = recipe.learning_rate_at((epoch - 1) * n_batches + step - 1, n_steps)
                for group in optimiser.param_groups:
                    group["lr"] = rate
                try:
                    with recipe.autocast(device):
                        values = loss(model, rows if cohort else rows[0]).reshape(-1)
                    if stopped is not None:
                        values = values.index_fill(0, stopped, 0.0)
                    optimiser.zero_grad(set_to_none=True)
                    values.sum().backward()
                    if stopped is not None:
                        for p in parameters:
                            p.grad is None or p.grad.index_fill_(0, stopped, 0.0)
                    if recipe.clip:
                        norms += clip_gradients(model, parameters, recipe.clip)
                    optimiser.step()
                except torch.OutOfMemoryError:
                    raise DataError(
                        f"no memory left on {device} for a training step of {sum(map(len, rows))} rows; lower batch_size of the "
                        f"recipe (now {recipe.batch_size}){' or cohort' if cohort else ''}, or train on a device with more memory"
                    ) from None
                if hasattr(model, "constrain"):
                    model.constrain()
                if average:
                    average.update(model)
                total += values.detach() * of_steps[step - 1]
                if progress:
                    progress(epoch, step, n_batches)
                reason = stop_reason()
                if state and (reason or time.perf_counter() - kept >= pause):
                    keep(drawn, step)
                    kept = time.perf_counter()
                if reason:
                    raise Stopped(reason, [f"after epoch {epoch - 1}, step {step} of {len(steps)}"] if state else [])
            means = _finite(total / whole, epoch)
            metrics = evaluate(tested)
            rate = recipe.learning_rate_at((epoch - 1) * n_batches + len(steps) - 1, n_steps)  # of its last step
            set_aside = []
            for k in running:
                row = {"epoch": epoch, "learning_rate": rate, "loss": means[k]}
                if recipe.clip:
                    row["gradient_norm"] = norms[k].item() / len(steps)
                own = metrics[k] if cohort else metrics
                histories[k].append({**row, **own, "seconds": before + time.perf_counter() - started})
                score = next(iter(own.values()))
                if score < best_score[k]:
                    best_score[k], best_epoch[k] = score, epoch
                if (recipe.select == "best" and best_epoch[k] == epoch) or (not goes_on(k) and not selected(k)):
                    set_aside.append(k)
            done, total, norms = 0, torch.zeros_like(total), torch.zeros_like(norms)
            if set_aside:
                best = _set_aside(best, tested, set_aside)
            if report:
                rows = [histories[k][-1] if k in running else None for k in members]
                report(rows if cohort else rows[0])
    last = [k for k in members if goes_on(k) and not selected(k)]
    model.load_state_dict(_set_aside(best, tested, last) if last else best)
    return histories if cohort else histories[0]


def _set_aside(best, tested, chosen):
    """{name: tensor} of the networks as they were selected: those of the chosen members are now copied from `tested`."""
    now = tested.state_dict()
    if best is None or not isinstance(tested, Cohort):
        return {name: value.clone() for name, value in now.items()}
    for name, _ in tested.named_parameters():
        best[name][chosen] = now[name][chosen]
    return best


def clip_gradients(model, parameters, limit):
    """Scale gradients so that their norm, of each member of a Cohort its own, is at most `limit`. Returns the norms before, [C]."""
    if not isinstance(model, Cohort):
        return torch.nn.utils.clip_grad_norm_(parameters, limit).reshape(1)
    gradients = [p.grad for p in parameters if p.grad is not None]
    norms = torch.stack([g.reshape(len(g), -1).norm(dim=1) for g in gradients]).norm(dim=0)
    scale = (limit / (norms + 1e-6)).clamp(max=1)
    torch._foreach_mul_(gradients, [scale.view(-1, *[1] * (g.dim() - 1)) for g in gradients])
    return norms


def _finite(losses, epoch):
    """The losses [C] of an epoch as numbers."""
    values = losses.tolist()
    for k, value in enumerate(values):
        if not math.isfinite(value):
            raise Diverged(f"training loss became {value} in epoch {epoch}; lower learning_rate", k)
    return values


def _put_back(saved, model, optimiser, average, orders, device, n_batches, recipe):
    """Take over what a state holds of a training under way; ValueError where that is not what `fit` leaves."""
    if not (isinstance(saved["step"], int) and 0 < saved["step"] <= n_batches):
        raise ValueError(f"step {saved['step']} of {n_batches}")
    for history, best_epoch, _ in zip(saved["histories"], saved["best_epoch"], orders, strict=True):
        check_history(history, recipe.epochs)
        if not 0 <= best_epoch <= len(history):
            raise ValueError(f"best epoch {best_epoch} of {len(history)}")
    model.load_state_dict(saved["model"])
    optimiser.load_state_dict(saved["optimiser"])
    if average:
        average.model.load_state_dict(saved["average"]["model"])
        average.steps = saved["average"]["steps"]
    for order, own in zip(orders, saved["orders"], strict=True):
        order.set_state(own)
    torch.set_rng_state(saved["random"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(saved["random_device"], device)


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


def in_parts(network, inputs, rows):
    """Outputs of a network, without gradients, for as many rows [n] at a time as its inputs say: a list in their order.

    Where the device has not the memory, half as many are taken, from then on.

    Raises:
        DataError: it has not the memory for one row.
    """
    outputs, start = [], 0
    while start < len(rows) or not outputs:
        size = min(getattr(inputs, "CHUNK", CHUNK[rows.device.type]), max(1, len(rows)))
        try:
            outputs.append(network(inputs[rows[start : start + size]]))
            start += size
            continue
        except torch.OutOfMemoryError:
            pass  # handled below, where the exception no longer holds what filled the memory
        if size == 1:
            raise DataError(f"no memory left on {rows.device} to predict one row; take a device with more memory")
        inputs.CHUNK = size // 2
        if rows.device.type == "cuda":
            torch.cuda.empty_cache()
        warnings.warn(f"no memory left to predict {size} rows at a time: going on with {size // 2}", stacklevel=2)
    return outputs


def predict(model, inputs, rows, recipe):
    """Outputs [n, k] of the model for int64 rows [n], as a float64 numpy array."""
    model.eval()
    with torch.inference_mode(), recipe.autocast(rows.device):
        return torch.cat(in_parts(model, inputs, rows)).double().cpu().numpy()


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
