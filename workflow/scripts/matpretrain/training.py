"""One training loop for every model."""

import copy
import math
import time
import warnings

import torch

from matpretrain.cohort import Cohort, clip_gradients, level
from matpretrain.files import DataError
from matpretrain.processes import Stopped, deferred, stop_reason
from matpretrain.replay import Replayed
from matpretrain.selection import Selection
from matpretrain.states import interval, load_state, save_state

# Subnormal numbers are zero on a CPU. The moments that AdamW keeps of units without gradients decay to them and stay, and each
# costs ten times the time of another number. A thread takes this over from the one that starts it: hence before any is started.
torch.set_flush_denormal(True)

# Rows at a time without gradients, unless the inputs say otherwise; more only take memory on a CPU.
CHUNK = {"cpu": 512, "cuda": 2048}


class Diverged(FloatingPointError):
    """The loss of a training is no longer finite.

    Attributes:
        member: which one it is of a cohort.
    """

    def __init__(self, message, member=0):
        super().__init__(message)
        self.member = member


def fit(
    model, loss, train, evaluate, recipe, *, seed, cost=None, reserve=None, weight=len, report=None, progress=None, state=None,
    sums=None
):  # fmt: skip
    """Train one network in place, as a cohort of one, and leave it with the selected weights.

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
        reserve: called with the rows [1, B] of every step before an epoch (Inputs.reserve): `loss` then makes arrays of sizes that do
            not depend on the rows, and steps on a GPU are replayed (replay.Replayed).
        weight: function (rows) -> weight of their loss in the mean of an epoch: their number, unless the loss is a mean over
            something else.
        report: called with the history row of each epoch.
        progress: called with (epoch, step of the epoch from 1, steps of the epoch) after each step.
        state: path at which a state is left every states.interval() seconds and when the job is asked to stop; training
            goes on from it where it exists, on a CPU to the same weights as without the interruption.
        sums: dictionary of numbers that `loss` adds up over an epoch: part of the state.

    Returns:
        History, a list of one dict per epoch: epoch, learning_rate, loss, gradient_norm (mean before clipping, where
        the recipe clips), the evaluated quantities, seconds.

    Raises:
        Diverged: the training loss is not finite.
        DataError: `state` is not the state of such a training; the device has not the memory for a step.
        Stopped: a signal asked for it; an evaluation is finished first.
    """
    (history,) = fit_cohort(
        Cohort([model]),
        lambda cohort, rows: loss(cohort.network, rows[0]).reshape(1),
        [train],
        lambda cohort: [evaluate(cohort.network)],
        recipe,
        seeds=[seed],
        cost=cost,
        reserve=reserve,
        weight=weight,
        report=report and (lambda rows: report(rows[0])),
        progress=progress,
        state=state,
        sums=sums,
    )
    return history


def fit_cohort(
    cohort, loss, trains, evaluate, recipe, *, seeds, cost=None, reserve=None, weight=len, report=None, progress=None, state=None,
    sums=None
):  # fmt: skip
    """The training loop: `fit` for the C networks of a Cohort, each with its own rows, their order and selected weights.

    A member that stops early learns nothing more while the others go on.

    Args:
        cohort: Cohort on its device.
        loss: function (cohort, list of C int64 tensors of rows) -> [C].
        trains: C int64 tensors of training rows, which make steps of the same size and number.
        evaluate: function (cohort) -> list of C dicts of floats.
        seeds: C seeds.
        reserve: called with the rows [C, B] of every step. Steps are not replayed where members have stopped early.
        report: called with the list of C history rows of each epoch, None for members that had stopped before.
        recipe, cost, weight, progress, state, sums: as of `fit`.

    Returns:
        List of C histories.

    Raises:
        ValueError: the rows of the members do not make steps of the same size and number.
        Diverged, DataError, Stopped: as `fit`.
    """
    device = trains[0].device
    if device.type == "cpu":  # several threads add gradients of indexed rows in any order otherwise
        torch.utils.deterministic.fill_uninitialized_memory = False
        torch.use_deterministic_algorithms(True, warn_only=True)
    orders = [torch.Generator().manual_seed(seed) for seed in seeds]
    batch, n_batches = recipe.batches_for(trains)
    n_steps = recipe.epochs * n_batches
    parameters = [p for p in cohort.parameters() if p.requires_grad]
    on_gpu = device.type == "cuda"
    replays = on_gpu and reserve is not None
    learning_rate = torch.zeros((), device=device) if replays else 0.0  # at one place, where a graph can read it
    optimiser = torch.optim.AdamW(_groups(cohort, parameters, recipe), lr=learning_rate, fused=True, capturable=replays)
    average = WeightAverage(cohort, recipe.average * n_steps) if recipe.average else None
    tested = average.model if average else cohort
    selection = Selection(recipe, cohort.size)
    done, before, started = 0, 0.0, time.perf_counter()
    total, norms = torch.zeros(cohort.size, device=device), torch.zeros(cohort.size, device=device)
    of = {"rows": [len(own) for own in trains], "seed": list(seeds), "recipe": vars(recipe), "cost": cost is not None}

    def weights(steps):
        """Weights [n, C] of the losses of every member's rows in n steps: one transfer, where they are numbers."""
        of_rows = [weight(own) for rows in steps for own in rows]
        as_one = torch.stack(of_rows) if isinstance(of_rows[0], torch.Tensor) else torch.tensor(of_rows, device=device)
        return as_one.view(-1, cohort.size)

    whole = weights([trains])[0]
    if state and state.exists():

        def put_back(saved):
            _put_back(saved, cohort, optimiser, average, orders, selection, device, n_batches)

        saved = load_state(state, of, put_back)
        done, before = saved["step"], saved["seconds"]
        total, norms = saved["total"].to(device), saved["norms"].to(device)
        if sums is not None:
            sums.update({name: value.to(device) for name, value in saved["sums"].items()})

    def keep(drawn, step):
        """Leave the state after `step` steps of an epoch whose rows were drawn from the orders' states `drawn`."""
        _finite(total / whole, epoch)
        save_state(
            {
                "of": of,
                "model": cohort.state_dict(),
                "optimiser": optimiser.state_dict(),
                "average": average and {"model": average.model.state_dict(), "steps": average.steps},
                "orders": drawn,
                "step": step,
                "random": torch.get_rng_state(),
                "random_device": torch.cuda.get_rng_state(device) if on_gpu else None,
                "total": total,
                "norms": norms,
                "sums": {name: torch.as_tensor(value) for name, value in (sums or {}).items()},
                "seconds": before + time.perf_counter() - started,
                **selection.record(),
            },
            state,
        )

    def train(rows):
        """A step on C tensors of rows: their losses [C] and the norms of the gradients [C]."""
        with recipe.autocast(device):
            values = loss(cohort, rows)
        optimiser.zero_grad(set_to_none=True)
        values.sum().backward()
        values = _silenced(values.detach(), parameters, stopped)
        found = clip_gradients(cohort, recipe.clip) if recipe.clip else torch.zeros_like(values)
        optimiser.step()
        return values, found

    replayed = Replayed(train) if replays else None
    pause, kept = interval(), started
    with deferred(), recipe.products(device):
        for epoch in range(max(map(len, selection.histories)) + 1, recipe.epochs + 1):
            running = selection.running()
            if not running:
                break
            stopped = torch.tensor([k for k in range(cohort.size) if k not in running], dtype=torch.int64, device=device)
            cohort.train()
            drawn = [order.get_state() for order in orders]
            batches = []
            for own, order in zip(trains, orders, strict=True):
                shuffled = own[torch.randperm(len(own), generator=order).to(device)]
                batches.append(split(shuffled, batch, None if cost is None else cost[shuffled]))
            steps = list(zip(*batches, strict=True))
            shares = weights(steps)
            sizes = reserve([level(rows)[0] for rows in steps]) if replayed else None
            for step, rows in enumerate(steps[done:], done + 1):
                rate = recipe.learning_rate_at((epoch - 1) * n_batches + step - 1, n_steps)
                learning_rate = learning_rate.fill_(rate) if replays else rate
                for group in optimiser.param_groups:
                    group["lr"] = learning_rate
                try:
                    values, found = replayed(rows, sizes) if replayed and not len(stopped) else train(rows)
                except torch.OutOfMemoryError:
                    raise DataError(
                        f"no memory left on {device} for a training step of {sum(map(len, rows))} rows; lower batch_size of the "
                        f"recipe (now {recipe.batch_size}){' or cohort' if cohort.size > 1 else ''}, or train on a device with "
                        "more memory"
                    ) from None
                cohort.constrain()
                if average:
                    average.update(cohort)
                total += values * shares[step - 1]
                norms += found
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
            seconds, found = before + time.perf_counter() - started, {}
            for k in running:
                row = {"epoch": epoch, "learning_rate": rate, "loss": means[k]}
                if recipe.clip:
                    row["gradient_norm"] = norms[k].item() / len(steps)
                found[k] = {**row, **metrics[k], "seconds": seconds}
            selection.add(found, {k: next(iter(metrics[k].values())) for k in running}, tested)
            done, total, norms = 0, torch.zeros_like(total), torch.zeros_like(norms)
            if report:
                report([found.get(k) for k in range(cohort.size)])
    cohort.load_state_dict(selection.final(tested))
    return selection.histories


def _silenced(values, parameters, stopped):
    """Losses [C] with zeros for the members [n] that have stopped, whose gradients become zero as well."""
    if not len(stopped):
        return values
    for parameter in parameters:
        if parameter.grad is not None:
            parameter.grad.index_fill_(0, stopped, 0.0)
    return values.index_fill(0, stopped, 0.0)


def _finite(losses, epoch):
    """The losses [C] of an epoch as numbers."""
    values = losses.tolist()
    for k, value in enumerate(values):
        if not math.isfinite(value):
            raise Diverged(f"training loss became {value} in epoch {epoch}; lower learning_rate", k)
    return values


def _put_back(saved, cohort, optimiser, average, orders, selection, device, n_batches):
    """Take over what a state holds of a training under way; ValueError where that is not what `fit_cohort` leaves."""
    if not (isinstance(saved["step"], int) and 0 < saved["step"] <= n_batches):
        raise ValueError(f"step {saved['step']} of {n_batches}")
    selection.take_over(saved, device)
    cohort.load_state_dict(saved["model"])
    optimiser.load_state_dict(saved["optimiser"])
    if average:
        average.model.load_state_dict(saved["average"]["model"])
        average.steps = saved["average"]["steps"]
    for order, own in zip(orders, saved["orders"], strict=True):
        order.set_state(own)
    torch.set_rng_state(saved["random"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(saved["random_device"], device)


def _groups(cohort, parameters, recipe):
    """Parameter groups of the optimiser: the recipe's decoupled decay, or the gradient of what the network penalises."""
    penalised = cohort.penalised()
    own = {id(parameter) for group in penalised.values() for parameter in group}
    groups = [{"params": [p for p in parameters if id(p) not in own], "weight_decay": recipe.weight_decay}]
    for coefficient, group in penalised.items():
        groups.append({"params": group, "weight_decay": 2 * coefficient, "decoupled_weight_decay": False})
    return groups


def split(rows, batch, cost=None):
    """Batches of int64 rows [n] in their order: of `batch` rows each, or of the same summed cost.

    With a cost [n] a batch ends where the sum reaches `batch` times the mean, so there are as many batches as without
    (or fewer, where one row costs more than that) and a batch costs at most one row more. Rows that cost nothing go with others.
    """
    if cost is None or not cost.sum():
        return rows.split(batch)
    before = cost.cumsum(0) - cost
    group = (before * len(rows) // (batch * cost.sum())).clamp(max=-(-len(rows) // batch) - 1)
    return rows.split(torch.unique_consecutive(group, return_counts=True)[1].tolist())


def in_parts(network, inputs, rows):
    """Outputs of a network for as many rows [..., n] at a time as its inputs say, without gradients: a list in their order.

    Args:
        network: function (inputs, rows) of which rows [..., n] are given in parts.

    Where the device has not the memory, half as many are taken, from then on.

    Raises:
        DataError: it has not the memory for one row.
    """
    outputs, start, n_rows = [], 0, rows.shape[-1]
    while start < n_rows or not outputs:
        size = min(getattr(inputs, "CHUNK", CHUNK[rows.device.type]), max(1, n_rows))
        try:
            outputs.append(network(inputs, rows[..., start : start + size]))
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
    return predict_members(Cohort([model]), inputs, [rows], recipe)[0]


def predict_members(cohort, inputs, rows, recipe):
    """Outputs [n_c, k] of every member for its own rows, a list of C float64 numpy arrays.

    Args:
        rows: C int64 tensors [n_c].
    """
    cohort.eval()
    filled, _ = level(rows)
    with torch.inference_mode(), recipe.autocast(filled.device):
        outputs = torch.cat(in_parts(cohort, inputs, filled), 1).double().cpu().numpy()
    return [own[: len(asked)] for own, asked in zip(outputs, rows, strict=True)]


class WeightAverage:
    """Running mean of the weights that turns into an exponential moving average over the last `horizon` steps.

    Attributes:
        model: a copy of the model that holds the average, with the buffers that the model has.
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
        for own, current in zip(
            self.model.buffers(), model.buffers(), strict=True
        ):  # running statistics of a batch normalisation
            own.copy_(current)
