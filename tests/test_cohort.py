"""Networks that train as one, against the same networks trained one by one."""

import math
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
import torch
from small_problem import Line, recipe
from torch.func import vmap

from matpretrain import objectives, roost, states
from matpretrain.cohort import Cohort, clip_gradients, level
from matpretrain.composition import matscholar_vectors, parse_formulas
from matpretrain.run import Diverged
from matpretrain.sources import read_embedded
from matpretrain.training import fit, fit_cohort

ROWS = [torch.arange(64), torch.arange(20, 84), torch.arange(3, 66)]  # of the last one the last step has a row less
VALIDATION = torch.arange(84, 96)
SEEDS = [5, 6, 7]
VECTORS = np.nan_to_num(matscholar_vectors())  # as jobs get them


class Points(NamedTuple):
    x: torch.Tensor


class PointInputs:
    """Rows of x [n, 3] as Points."""

    def __init__(self, x):
        self.x = x

    def __getitem__(self, rows):
        return Points(self.x[rows])

    stacked = __getitem__


class OfPoints(Line):
    """A Line that reads a batch."""

    def forward(self, batch):
        return super().forward(batch.x)


def networks():
    return [OfPoints(seed).double() for seed in SEEDS]


def one_by_one(problem, settings):
    x, y = (tensor.double() for tensor in problem)
    models = networks()
    histories = [
        fit(
            model,
            lambda m, rows: objectives.l1(m(Points(x[rows])), y[rows]),
            rows,
            lambda m: mae(m, x, y),
            settings,
            seed=seed,
        )
        for model, rows, seed in zip(models, ROWS, SEEDS, strict=True)
    ]
    return models, histories


def as_one(problem, settings, state=None, stop=None):
    """Train the cohort, interrupted in the step after `stop`."""
    x, y = (tensor.double() for tensor in problem)
    cohort, steps = Cohort(networks()), iter(range(10_000))

    def loss(model, rows):
        if next(steps) == stop:
            raise KeyboardInterrupt
        rows, fills = level(rows)
        return vmap(objectives.l1)(model(PointInputs(x), rows), y[rows][..., None].masked_fill(fills[..., None], torch.nan))

    def evaluate(model):
        return [mae(model.member(k), x, y) for k in range(3)]

    return cohort, fit_cohort(cohort, loss, ROWS, evaluate, settings, seeds=SEEDS, state=state)


def mae(model, x, y):
    with torch.no_grad():
        return {"mae": objectives.l1(model(Points(x[VALIDATION])), y[VALIDATION]).item()}


def weights(model):
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


SETTINGS = {
    "best": {"epochs": 8},
    "last": {"epochs": 8, "select": "last", "warmup": 0.1},
    "clipped": {"clip": 0.05, "select": "last"},
    "averaged": {"average": 0.5, "select": "last"},
    "impatient, best": {"epochs": 60, "patience": 2, "learning_rate": 0.1},
    "impatient, last": {"epochs": 60, "patience": 2, "learning_rate": 0.1, "select": "last"},
}


@pytest.mark.parametrize("changes", SETTINGS)
def test_a_cohort_reaches_what_its_members_reach_alone(problem, changes):
    settings = recipe(**SETTINGS[changes])
    models, expected = one_by_one(problem, settings)
    cohort, histories = as_one(problem, settings)
    assert [len(history) for history in histories] == [len(history) for history in expected]
    if "impatient" in changes:
        assert len({len(history) for history in histories}) > 1
    for own, other in zip(histories, expected, strict=True):
        a, b = (pd.DataFrame(history).drop(columns="seconds") for history in (own, other))
        assert np.allclose(a, b, rtol=1e-6) and list(a) == list(b)
    for k, model in enumerate(models):
        found, wanted = weights(cohort.member(k)), weights(model)
        assert found.keys() == wanted.keys() and all(torch.allclose(found[name], wanted[name], atol=1e-8) for name in wanted)


@pytest.mark.parametrize("changes", [{}, {"patience": 2, "learning_rate": 0.1, "select": "last"}, {"average": 0.5}])
def test_an_interrupted_cohort_goes_on_to_the_same_weights(problem, tmp_path, monkeypatch, changes):
    monkeypatch.setenv(states.MINUTES, "0")
    settings = recipe(epochs=8, **changes)
    whole, _ = as_one(problem, settings)
    state = tmp_path / "training.pt"
    for stop in (0, 3, 2, 9, 6):
        with pytest.raises(KeyboardInterrupt):
            as_one(problem, settings, state, stop)
    resumed, _ = as_one(problem, settings, state)
    assert all(torch.equal(value, weights(whole)[name]) for name, value in weights(resumed).items())


def test_a_member_that_has_stopped_learns_nothing_more(problem, tmp_path, monkeypatch):
    """One that would diverge later neither stops the others nor makes their state unreadable."""
    monkeypatch.setenv(states.MINUTES, "0")
    x, y = problem
    scores = [[3.0, 3.0, 3.0, 3.0, 3.0, 3.0], [6.0, 5.0, 4.0, 3.0, 2.0, 1.0]]
    settings, state, steps = recipe(epochs=6, patience=2, clip=1.0), tmp_path / "training.pt", iter(range(1000))

    def train(stop=None):
        cohort, seen = Cohort(networks()[:2]).float(), {}

        def loss(model, rows):
            if next(steps) == stop:
                raise KeyboardInterrupt
            rows, _ = level(rows)
            blows_up = torch.tensor([math.inf if max(seen, default=0) >= 3 else 1.0, 1.0])
            return vmap(objectives.l1)(model(PointInputs(x), rows), y[rows][..., None]) * blows_up

        def evaluate(model):
            epoch = max(seen, default=start) + 1
            seen[epoch] = weights(model)
            return [{"mae": own[epoch - 1]} for own in scores]

        start = len(torch.load(state, weights_only=True)["histories"][1]) if state.exists() else 0
        return cohort, seen, fit_cohort(cohort, loss, ROWS[:2], evaluate, settings, seeds=SEEDS[:2], state=state)

    with pytest.raises(KeyboardInterrupt):
        train(stop=18)  # in the fifth epoch
    cohort, seen, (first, second) = train()
    assert [len(first), len(second)] == [3, 6] and math.isfinite(second[-1]["gradient_norm"])
    assert all(torch.equal(weights(cohort)[name][1], seen[6][name][1]) for name in weights(cohort))
    assert all(value.isfinite().all() for value in weights(cohort).values())


def test_a_member_without_a_finite_score_keeps_the_weights_with_which_it_stops(problem):
    x, y = problem
    seen = []

    def loss(model, rows):
        rows, _ = level(rows)
        return vmap(objectives.l1)(model(PointInputs(x), rows), y[rows][..., None])

    def evaluate(model):
        seen.append(weights(model))
        return [{"mae": math.nan}, {"mae": 1.0 / len(seen)}]

    cohort = Cohort(networks()[:2]).float()
    histories = fit_cohort(cohort, loss, ROWS[:2], evaluate, recipe(epochs=6, patience=2), seeds=SEEDS[:2])
    assert [len(history) for history in histories] == [2, 6]
    for name, value in weights(cohort).items():
        assert torch.equal(value[0], seen[1][name][0]) and torch.equal(value[1], seen[5][name][1])


def test_networks_that_cannot_be_stacked_are_refused():
    class Normed(Line):
        def __init__(self, seed):
            super().__init__(seed)
            self.norm = torch.nn.BatchNorm1d(3)

    class Buffered(Line):
        def __init__(self, seed):
            super().__init__(seed)
            self.register_buffer("shift", torch.tensor(float(seed)))

    for network, line in {
        Normed: "norm of Normed changes its buffers",
        Buffered: "the buffer shift differs",
    }.items():
        with pytest.raises(ValueError, match=line):
            Cohort([network(0), network(1)])


def test_one_member_that_diverges_stops_the_cohort_with_its_epoch(problem):
    x, y = problem

    def loss(model, rows):
        return torch.stack([objectives.l1(model.member(0)(Points(x[rows[0]])), y[rows[0]]) * v for v in (1.0, torch.nan)])

    with pytest.raises(Diverged, match="training loss became nan in epoch 1") as diverged:
        fit_cohort(Cohort(networks()[:2]).float(), loss, ROWS[:2], None, recipe(), seeds=[0, 1])
    assert diverged.value.member == 1


def test_members_with_other_numbers_of_steps_are_no_cohort(problem):
    with pytest.raises(ValueError, match=r"differ within a cohort: \[\(16, 2\), \(16, 4\)\]"):
        fit_cohort(Cohort(networks()[:2]), None, [torch.arange(64), torch.arange(20)], None, recipe(), seeds=[0, 1])


def test_the_gradient_of_each_member_is_clipped_by_its_own_norm():
    models = networks()
    for scale, model in zip((1e-3, 1.0, 50.0), models, strict=True):
        for parameter in model.parameters():
            parameter.grad = torch.full_like(parameter, scale)
    cohort = Cohort(models)
    for k, parameter in enumerate(cohort.parameters()):
        parameter.grad = torch.stack([list(model.parameters())[k].grad for model in models])
    norms = clip_gradients(cohort, 0.5)
    for k, model in enumerate(models):
        parameters = list(model.parameters())
        assert norms[k] == pytest.approx(torch.nn.utils.clip_grad_norm_(parameters, 0.5).item())
        stacked = [parameter.grad[k] for parameter in cohort.parameters()]
        assert all(torch.allclose(a, b.grad, atol=1e-12) for a, b in zip(stacked, parameters, strict=True))


def test_filling_rows_up():
    rows, fills = level([torch.tensor([4, 5, 6]), torch.tensor([7])])
    assert rows.tolist() == [[4, 5, 6], [7, 7, 7]] and fills.tolist() == [[False] * 3, [False, True, True]]


@pytest.fixture(scope="module")
def compositions():
    rows = read_embedded("pymatgen_exp_formation_energy").sample(62, random_state=1)
    return parse_formulas(rows["formula"].tolist())[0]


def test_stacked_roosts_equal_single_ones_in_values_and_gradients(compositions):
    inputs = roost.Inputs(compositions, dtype=torch.float64)
    models = []
    for seed in SEEDS:
        torch.manual_seed(seed)
        models.append(roost.Roost(VECTORS, 2).double())
    cohort = Cohort(models)
    rows = [torch.arange(30), torch.arange(10, 40), torch.arange(33, 62)]
    filled, fills = level(rows)
    stacked = cohort(inputs, filled)
    stacked.square().masked_fill(fills[..., None], 0).sum().backward()
    for k, model in enumerate(models):
        output = model(inputs[rows[k]])
        output.square().sum().backward()
        assert torch.allclose(stacked[k, : len(rows[k])], output, atol=1e-10)
        for own, whole in zip(model.parameters(), cohort.parameters(), strict=True):
            assert (own.grad is None and whole.grad is None) or torch.allclose(own.grad, whole.grad[k], atol=1e-10)


def test_under_autocast_a_cohort_computes_in_the_same_precision_as_a_network_alone(compositions):
    inputs, dtypes = roost.Inputs(compositions), {"alone": [], "together": []}
    models = [roost.Roost(VECTORS, 2) for _ in range(2)]
    cohort, rows = Cohort(models), torch.arange(40)
    for whose, model in (("alone", models[0]), ("together", cohort.network)):
        for module in model.modules():
            if isinstance(module, torch.nn.Linear):
                module.register_forward_hook(lambda module, args, output, seen=dtypes[whose]: seen.append(output.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        alone, together = models[0](inputs[rows]), cohort(inputs, torch.stack([rows, rows]))[0]
    assert alone.dtype == together.dtype == torch.bfloat16
    assert set(dtypes["alone"]) == set(dtypes["together"]) == {torch.bfloat16}
    exact = models[0](inputs[rows])
    assert (together.float() - exact).abs().max() < 2 * (alone.float() - exact).abs().max() + 1e-3
