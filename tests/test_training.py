import math
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import PROJECT
from small_problem import RECIPE, Line, recipe

from matpretrain import objectives
from matpretrain.run import split
from matpretrain.selection import overtrained
from matpretrain.supervised import crowded
from matpretrain.training import fit, predict


def run(problem, recipe, seed=0, evaluate=None):
    x, y = problem
    model = Line(seed)
    train, validation = torch.arange(64), torch.arange(64, 96)
    seen = []

    def mae(model):
        error = predict(model, x, validation, recipe)[:, 0] - y[validation].numpy()
        seen.append({k: v.clone() for k, v in model.state_dict().items()})
        return {"mae": float(np.abs(error).mean())}

    history = fit(
        model,
        lambda m, rows: objectives.l1(m(x[rows]), y[rows]),
        train,
        evaluate or mae,
        recipe,
        seed=seed,
    )
    return model, history, seen


def test_training_learns(problem):
    _model, history, _ = run(problem, recipe(epochs=200))
    assert history[0]["loss"] > 1 and history[-1]["loss"] < 0.1
    assert [row["epoch"] for row in history] == list(range(1, 201))


def test_same_seed_gives_the_same_bits_and_another_seed_does_not(problem):
    first, again, other = (run(problem, RECIPE, seed)[1] for seed in (1, 1, 2))

    def drop(history):
        return [{k: v for k, v in row.items() if k != "seconds"} for row in history]

    assert drop(first) == drop(again) != drop(other)


def test_averaged_weights_have_the_statistics_of_the_network(problem):
    x, y = problem
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.BatchNorm1d(8), torch.nn.Linear(8, 1))
    settings = recipe(epochs=50, average=0.2)

    def mae(model):
        return {"mae": float(np.abs(predict(model, x, torch.arange(64, 96), settings)[:, 0] - y[64:].numpy()).mean())}

    history = fit(model, lambda m, rows: objectives.l1(m(x[rows]), y[rows, None]), torch.arange(64), mae, settings, seed=0)
    assert model[1].num_batches_tracked == 50 * 4 and mae(model)["mae"] == history[-1]["mae"]
    assert history[-1]["mae"] < 0.5 * history[0]["mae"]


def test_weights_of_the_best_validation_epoch_are_kept(problem):
    scores = iter([3.0, 1.0, 2.0, 0.5, 4.0])
    kept = []

    def evaluate(model):
        kept.append({k: v.clone() for k, v in model.state_dict().items()})
        return {"mae": next(scores)}

    model, _, _ = run(problem, RECIPE, evaluate=evaluate)
    assert all(torch.equal(v, kept[3][k]) for k, v in model.state_dict().items())
    scores = iter([3.0, 1.0, 2.0, 0.5, 4.0])
    model, _, _ = run(problem, recipe(select="last"), evaluate=evaluate)
    assert all(torch.equal(v, kept[-1][k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize(
    ("curves", "advice"),
    [
        ([[0.9, 0.5, 0.4, 0.41], [0.9, 0.6, 0.4, 0.45]], None),
        ([[0.9, 0.5, 0.6, 0.65], [0.9, 0.3, 0.4, 0.65]], "validation MAE 0.4 after epoch 2, 0.65 at the end"),
        ([[0.9, 0.2, 0.4, 0.4], [0.9, 0.5, 0.4, 0.1]], None),  # the mean over folds still falls
        ([[0.5]], None),
        ([[0.3, 0.2], [1.0, 0.9, 0.8]], None),  # a fold that stopped early counts to the end
        ([[9.0, 1.0, 6.0], [3.0]], "validation MAE 2 after epoch 2, 4.5 at the end"),
    ],
)
def test_training_for_too_long_is_told(curves, advice):
    rows = [(fold, epoch, mae) for fold, curve in enumerate(curves) for epoch, mae in enumerate(curve, 1)]
    told = overtrained(pd.DataFrame(rows, columns=["fold", "epoch", "mae"]))
    assert told is None if advice is None else told.startswith(advice)


@pytest.mark.parametrize(
    ("target", "loss", "advice"),
    [
        ([0] * 10 + list(range(1, 21)) + [math.nan], "robust_l1", "33% of the targets are 0: "),
        ([0] * 10 + list(range(1, 21)) + [math.nan], "l1", None),
        ([0] * 9 + list(range(1, 19)), "robust_l1", None),  # too few to tell
        ([math.nan], "robust_l1", None),
        ([0] * 10 + list(range(1, 95)), "robust_l1", None),
    ],
)
def test_many_equal_targets_are_told(target, loss, advice):
    told = crowded(np.array(target, float)[:, None], loss)
    assert told is None if advice is None else told.startswith(advice)


def test_patience_stops_early(problem):
    scores = iter([3.0, 1.0, 2.0, 2.0, 2.0, 2.0])
    _, history, _ = run(problem, recipe(epochs=50, patience=3), evaluate=lambda m: {"mae": next(scores)})
    assert len(history) == 5


def test_average_is_the_mean_of_all_steps_where_the_horizon_is_the_whole_run(problem):
    x, y = problem
    visited = []
    model = Line()

    def loss(m, rows):
        visited.append(m.layers[0].weight.detach().clone())
        return objectives.l1(m(x[rows]), y[rows])

    settings = recipe(average=1.0, select="last", epochs=3)
    visited_after = []

    def evaluate(averaged):
        visited_after.append(averaged.layers[0].weight.detach().clone())
        return {"mae": 0.0}

    fit(model, loss, torch.arange(64), evaluate, settings, seed=0)
    # the weights before steps 2..12 are those after steps 1..11; the average after epoch 2 covers steps 1..8
    assert torch.allclose(visited_after[1], torch.stack(visited[1:9]).mean(0), atol=1e-6)


def test_the_norm_of_the_gradient_is_clipped(problem):
    x, y = problem
    norms = []

    def loss(m, rows):
        norms.append([p.grad.norm() for p in m.parameters() if p.grad is not None])
        return 1e4 * objectives.l1(m(x[rows]), y[rows])

    fit(Line(), loss, torch.arange(64), lambda m: {"mae": 0.0}, recipe(clip=0.5, epochs=2), seed=0)
    assert all(torch.stack(n).norm() == pytest.approx(0.5, rel=1e-3) for n in norms[1:])


def test_the_mean_norm_before_clipping_is_told(problem):
    x, y = problem
    model, clipped = Line(), recipe(epochs=1, clip=0.05, batch_size=32, learning_rate=1e-9)
    _, history, _ = run(problem, clipped)
    norms = []
    for rows in torch.randperm(64, generator=torch.Generator().manual_seed(0)).split(32):
        gradients = torch.autograd.grad(objectives.l1(model(x[rows]), y[rows]), model.parameters())
        norms.append(torch.cat([g.flatten() for g in gradients]).norm().item())
    assert history[0]["gradient_norm"] == pytest.approx(np.mean(norms), rel=1e-4)
    assert "gradient_norm" not in run(problem, recipe(epochs=1))[1][0]


def test_batches_of_equal_cost():
    rows = torch.randperm(1000, generator=torch.Generator().manual_seed(0))
    cost = torch.randint(1, 200, (1000,), generator=torch.Generator().manual_seed(1))
    cost[7] = 5000
    batches = split(rows, 32, cost[rows])
    assert torch.equal(torch.cat(batches), rows)
    limit = 32 * cost.float().mean()
    costs = torch.tensor([cost[part].sum() for part in batches])
    assert (costs - torch.stack([cost[part].max() for part in batches]) < limit).all()
    assert len(batches) <= math.ceil(1000 / 32) and max(map(len, batches)) < 64
    for cost in (3, 0):
        same = split(rows, 32, torch.full((1000,), cost))
        assert all(torch.equal(a, b) for a, b in zip(same, split(rows, 32), strict=True))


def test_the_loss_of_an_epoch_is_a_mean_over_rows_or_what_they_weigh(problem):
    x, y = problem
    rows, still = torch.arange(10), recipe(epochs=2, batch_size=4, learning_rate=1e-12, schedule="constant")
    error = (Line(0)(x[rows])[:, 0] - y[rows]).abs().detach()

    def weighted(model, part):
        return ((model(x[part])[:, 0] - y[part]).abs() * part).sum() / part.sum()

    for loss, weight, expected in (
        (lambda model, part: objectives.l1(model(x[part]), y[part]), len, error.mean()),
        (weighted, torch.sum, (error * rows).sum() / rows.sum()),
    ):
        history = fit(Line(0), loss, rows, lambda model: {"mae": 0.0}, still, seed=0, weight=weight)
        assert [row["loss"] for row in history] == pytest.approx([expected.item()] * 2, rel=1e-5)


def test_rows_that_cost_nothing_add_no_batch():
    for cost, lengths in (([1, 1, 1, 0], [2, 2]), ([0, 1, 1, 0], [2, 2]), ([2, 0, 0, 0], [1, 3])):
        assert [len(part) for part in split(torch.arange(4), 2, torch.tensor(cost))] == lengths


SUBNORMAL = """
import torch
{}
torch.set_num_threads(2)
least = torch.ones(1 << 22, dtype=torch.int32).view(torch.float32)
print(*((part * 1.0).view(torch.int32).count_nonzero().item() for part in (least, least[:8])))
"""


@pytest.mark.parametrize(("imported", "left"), [("import matpretrain.training", "0 0"), ("", f"{1 << 22} 8")])
def test_subnormal_numbers_are_zero_in_all_threads(imported, left):
    done = subprocess.run(
        [sys.executable, "-c", SUBNORMAL.format(imported)],
        env=os.environ | {"PYTHONPATH": str(PROJECT / "workflow/scripts")}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.split() == left.split()


def test_a_loss_that_is_not_finite_stops_the_job(problem, fault):
    with fault("A training that diverges", "epoch 1; lower learning_rate", error=FloatingPointError):
        fit(
            Line(),
            lambda m, rows: m(problem[0][rows]).sum() * math.nan,
            torch.arange(64),
            lambda m: {"mae": 0.0},
            RECIPE,
            seed=0,
        )


FAULTS = "Training"


class Hungry(Line):
    """A network that has the memory for `rows` rows at a time."""

    def __init__(self, rows):
        super().__init__()
        self.rows, self.seen = rows, []

    def forward(self, x):
        self.seen.append(len(x))
        if len(x) > self.rows:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return super().forward(x)


class Rows:
    """Inputs that are rows of a table."""

    def __init__(self, x):
        self.x = x

    def __getitem__(self, rows):
        return self.x[rows]


def test_without_memory_fewer_rows_are_predicted_at_a_time(problem, fault):
    model, inputs, rows = Hungry(20), Rows(problem[0]), torch.arange(96)
    expected = predict(Line(), inputs, rows, RECIPE)
    with pytest.warns(UserWarning, match="no memory left to predict 96 rows at a time: going on with 48"):
        found = predict(model, inputs, rows, RECIPE)
    assert model.seen == [96, 48, 24] + [12] * 8 and found == pytest.approx(expected, abs=1e-6)
    model.seen.clear()
    assert predict(model, inputs, rows, RECIPE) == pytest.approx(expected, abs=1e-6)
    assert model.seen == [12] * 8  # it is not tried again
    assert predict(Line(), inputs, rows[:0], RECIPE).shape == (0, 1)
    with fault("No memory to predict a single row", "no memory left on cpu to predict one row"), pytest.warns(UserWarning):
        predict(Hungry(0), Rows(problem[0]), rows, RECIPE)


def test_a_training_batch_is_never_cut(problem, fault):
    model = Hungry(10)
    with fault("No memory for a training step", "step of 16 rows; lower batch_size of the recipe (now 16)"):
        fit(model, lambda m, rows: m(problem[0][rows]).mean(), torch.arange(64), None, RECIPE, seed=0)
    assert model.seen == [16]


def test_progress_counts_the_steps(problem):
    x, y = problem
    seen = []
    fit(
        Line(), lambda m, rows: objectives.l1(m(x[rows]), y[rows]), torch.arange(64), lambda m: {"mae": 0.0},
        recipe(epochs=2), seed=0, progress=lambda *step: seen.append(step),
    )  # fmt: skip
    assert seen == [(epoch, step, 4) for epoch in (1, 2) for step in (1, 2, 3, 4)]
