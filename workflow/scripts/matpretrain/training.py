"""One training loop for every model."""

import time
import warnings

import torch

from matpretrain.cohort import Cohort, level
from matpretrain.files import DataError
from matpretrain.processes import Stopped, deferred, stop_reason
from matpretrain.run import Run
from matpretrain.states import interval, load_state, save_state

# Subnormal numbers are zero on a CPU. The moments that AdamW keeps of units without gradients decay to them and stay, and each
# costs ten times the time of another number. A thread takes this over from the one that starts it: hence before any is started.
torch.set_flush_denormal(True)

# Rows at a time without gradients, unless the inputs say otherwise; more only take memory on a CPU.
CHUNK = {"cpu": 512, "cuda": 2048}


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
    if trains[0].device.type == "cpu":  # several threads add gradients of indexed rows in any order otherwise
        torch.utils.deterministic.fill_uninitialized_memory = False
        torch.use_deterministic_algorithms(True, warn_only=True)
    run = Run(cohort, loss, trains, recipe, seeds=seeds, reserve=reserve, weight=weight, sums=sums)
    of = {"rows": [len(own) for own in trains], "seed": list(seeds), "recipe": vars(recipe), "cost": cost is not None}
    if state and state.exists():
        load_state(state, of, run.take_over)
    pause = interval()
    with deferred(), recipe.products(run.device):
        while run.epoch <= recipe.epochs and run.selection.running():
            for rows in run.draw(cost):
                try:
                    run.step(rows)
                except torch.OutOfMemoryError:
                    raise DataError(
                        f"no memory left on {run.device} for a training step of {sum(map(len, rows))} rows; lower batch_size of "
                        f"the recipe (now {recipe.batch_size}){' or cohort' if cohort.size > 1 else ''}, or train on a device "
                        "with more memory"
                    ) from None
                if progress:
                    progress(run.epoch, run.done, run.n_batches)
                reason = stop_reason()
                if state and (reason or time.perf_counter() - run.kept >= pause):
                    save_state({"of": of, **run.record()}, state)
                    run.kept = time.perf_counter()
                if reason:
                    raise Stopped(reason, [f"after epoch {run.epoch - 1}, step {run.done} of {run.n_batches}"] if state else [])
            rows = run.finish(evaluate)
            if report:
                report(rows)
    cohort.load_state_dict(run.selection.final(run.tested))
    return run.selection.histories


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
