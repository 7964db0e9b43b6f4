"""Trainings that are interrupted, and states that are not what fit() leaves."""

import itertools
import math

import pytest
import torch
from small_problem import RECIPE, Line, recipe

from matpretrain import objectives, states, training
from matpretrain.training import fit

FAULTS = "Training"


class Interrupted(Exception):
    """A job that is killed."""


def noisy(problem, settings, state=None, stop=None):
    """Train with random noise until the job is interrupted in the step after `stop`. Returns model, history and sums."""
    x, y = problem
    model, steps, sums = Line(), itertools.count(), {"error": 0.0}
    torch.manual_seed(5)

    def loss(model, rows):
        if next(steps) == stop:
            raise Interrupted
        value = objectives.l1(model(x[rows] + 0.1 * torch.randn(len(rows), 3)), y[rows])
        sums["error"] += value.detach() * len(rows)
        return value

    def evaluate(model):
        row = {"mae": objectives.l1(model(x[64:]), y[64:]).item(), "training_mae": float(sums["error"]) / 64}
        sums["error"] = 0.0
        return row

    return model, fit(model, loss, torch.arange(64), evaluate, settings, seed=3, state=state, sums=sums)


def same_but_for_time(history, other):
    return [{**row, "seconds": 0} for row in history] == [{**row, "seconds": 0} for row in other]


@pytest.mark.parametrize("changes", [{}, {"average": 0.5}, {"select": "last", "clip": 0.1}, {"patience": 4}])
def test_an_interrupted_training_goes_on_to_the_same_weights(problem, tmp_path, monkeypatch, changes):
    monkeypatch.setenv(states.MINUTES, "0")
    settings = recipe(epochs=6, **changes)
    whole, expected = noisy(problem, settings)
    state = tmp_path / "state" / "training.pt"
    for stop in (0, 1, 3, 2, 8):  # steps of an interrupted run; the third is the last of an epoch
        with pytest.raises(Interrupted):
            noisy(problem, settings, state, stop)
    assert torch.load(state, weights_only=True)["step"] == 2 and not list(tmp_path.rglob("*.tmp*"))
    resumed, history = noisy(problem, settings, state)
    assert same_but_for_time(history, expected) and len(history) == 6
    assert all(torch.equal(v, whole.state_dict()[k]) for k, v in resumed.state_dict().items())


def test_states_are_written_on_a_clock(problem, tmp_path, monkeypatch):
    written, now = [], itertools.count(step=30.0)  # seconds between two looks at the clock
    monkeypatch.setattr(
        training, "save_state", lambda record, path: written.append((len(record["histories"][0]), record["step"]))
    )
    monkeypatch.setattr(training.time, "perf_counter", lambda: next(now))
    monkeypatch.setenv(states.MINUTES, "2")
    fit(
        Line(), lambda m, rows: m(problem[0][rows]).square().mean(), torch.arange(64), lambda m: {"mae": 0.0},
        recipe(epochs=2), seed=0, state=tmp_path / "training.pt",
    )  # fmt: skip
    assert written == [(0, 4), (1, 3)]


@pytest.fixture
def interrupted(problem, tmp_path, monkeypatch):
    """(file, content) of the state of a training that was interrupted in its third epoch."""
    monkeypatch.setenv(states.MINUTES, "0")
    with pytest.raises(Interrupted):
        noisy(problem, RECIPE, tmp_path / "training.pt", 10)
    return tmp_path / "training.pt", torch.load(tmp_path / "training.pt", weights_only=True)


def set_in(record, *keys, value):
    for key in keys[:-1]:
        record = record[key]
    record[keys[-1]] = value


POISON = {
    "A training state that holds a loss that is no number": (
        ("histories", 0, 0, "loss"),
        math.nan,
        "loss of epoch 1 in its history is nan",
    ),
    "A training state that holds epochs out of order": (
        ("histories", 0, 1, "epoch"),
        5,
        "record 2 of its history is not that of epoch 2",
    ),
    "A training state that holds text for a number": (
        ("histories", 0, 1, "mae"),
        "0.1",
        "mae of epoch 2 in its history is no number",
    ),
    "A training state that holds a history of another type": (("histories", 0), {"epoch": 1}, "its history is no list"),
    "A training state that holds a later epoch than there is": (("best_epoch", 0), 7, "best epoch 7 of 2"),
    "A training state that holds more steps than there are": (("step",), 400, "step 400 of 4"),
    "A training state that holds another network": (("model",), {"w": torch.zeros(2)}, "Error(s) in loading state_dict"),
    "A training state that holds weights that are no numbers": (
        ("model", "network.layers.0.bias"),
        torch.full((32,), math.nan),
        "not finite",
    ),
    "A training state that holds another recipe": (("of", "recipe", "epochs"), 9, "of another training: recipe differs"),
    "A training state that holds nothing of the optimiser": (("optimiser",), {}, "KeyError"),
}


@pytest.mark.parametrize("poison", POISON)
def test_a_poisoned_state_is_refused_with_one_line(problem, interrupted, poison, fault):
    path, content = interrupted
    keys, value, reason = POISON[poison]
    set_in(content, *keys, value=value)
    torch.save(content, path)
    refused = f"{path}: not a state this training can go on from ("
    with fault(poison, refused, reason, "delete it to start again", kept=[path]):
        noisy(problem, RECIPE, path)


DAMAGE = {
    "A training state that is empty": lambda content: b"",
    "A training state that is no state at all": lambda content: b"nonsense",
    "A training state that is cut off": lambda content: content[: len(content) // 2],
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_state_is_refused_with_one_line(problem, interrupted, damage, fault):
    path, _ = interrupted
    path.write_bytes(DAMAGE[damage](path.read_bytes()))
    with fault(damage, "training.pt: ", "; delete it to start again", kept=[path]):
        noisy(problem, RECIPE, path)
