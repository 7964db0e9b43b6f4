"""What only a CUDA device shows, against the same on the CPU. Needs torch, numpy, pandas and safetensors of the project:

PYTHONPATH=workflow/scripts:tests python -m pytest -c /dev/null --noconftest tests/test_gpu.py tests/test_kernels.py
"""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
import torch
from small_problem import far, recipe

from matpretrain import finder, objectives, packed, replay, roost, states, supervised
from matpretrain.cohort import Cohort
from matpretrain.composition import Compositions
from matpretrain.training import fit, predict, predict_members

if not torch.cuda.is_available():
    pytest.skip("no CUDA device", allow_module_level=True)

N_ROWS, SEEDS = 180, (5, 6, 7)
CPU, GPU = "cpu", "cuda:0"
SETTINGS = recipe(epochs=4, batch_size=16, clip=1.0, select="last", learning_rate=1e-3, warmup=0.1)


@pytest.fixture(scope="module")
def compositions():
    random = np.random.default_rng(0)
    count = random.integers(1, 9, N_ROWS)
    number = np.concatenate([random.choice(np.arange(1, 95), n, replace=False) for n in count]).astype(np.uint8)
    return Compositions(number, random.integers(1, 9, len(number)).astype(float), np.r_[0, count.cumsum()])


@pytest.fixture(scope="module")
def vectors():
    return np.random.default_rng(1).normal(size=(119, 200)).astype(np.float32) / 14


def networks(vectors, device, network=roost):
    made = []
    for seed in SEEDS:
        torch.manual_seed(seed)
        made.append(network.Model(vectors, 2).to(device))
    return made


@pytest.mark.parametrize("network", [roost, finder])
def test_a_network_on_the_gpu_equals_itself_on_the_cpu(compositions, vectors, network):
    rows, results = torch.arange(100), {}
    for device in (CPU, GPU):
        model = networks(vectors, device, network)[0]
        output = model(network.Inputs(compositions, device)[rows.to(device)])
        output.square().sum().backward()
        results[device] = [output, *(p.grad for p in model.parameters() if p.grad is not None)]
    least = (
        1e-4 * torch.cat([array.detach().flatten() for array in results[CPU]]).norm()
    )  # biases that a softmax cancels have none
    assert all(far(a, b, least) < 1e-4 for a, b in zip(results[GPU], results[CPU], strict=True))


@pytest.mark.parametrize("network", [roost, finder])
@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-4), ("tfloat32", 5e-3), ("bfloat16", 3e-2)])
def test_stacked_networks_equal_single_ones(compositions, vectors, precision, tolerance, network):
    inputs, settings = network.Inputs(compositions, GPU), recipe(precision=precision)
    models = networks(vectors, GPU, network)
    rows = [torch.arange(0, 60, device=GPU), torch.arange(30, 90, device=GPU), torch.arange(50, 109, device=GPU)]
    alone = [predict(model, inputs, own, recipe()) for model, own in zip(models, rows, strict=True)]
    together = predict_members(Cohort(models), inputs, rows, settings)
    for a, b in zip(together, alone, strict=True):
        assert a.shape == b.shape and far(torch.tensor(a), torch.tensor(b)) < tolerance


def training(compositions, vectors, seed=0, **changes):
    random = np.random.default_rng(2)
    fold = random.permutation(np.arange(N_ROWS) % 5)
    target = np.add.reduceat(compositions.fraction * np.cos(compositions.number), compositions.offset[:-1])
    table = pd.DataFrame({"id": [f"r{k}" for k in range(N_ROWS)], "target": target, "fold": fold})
    values = {
        "table": table, "examples": compositions, "encoder": "roost", "arguments": {"element_vectors": vectors}, "weights": None,
        "loss": "robust_l1", "recipe": SETTINGS, "inner_fraction": 0.1, "size": None, "seed": seed, "device": GPU,
    }  # fmt: skip
    return supervised.Training(**values | changes)


def members(compositions, vectors, **changes):
    trainings = [training(compositions, vectors, seed, **changes) for seed in (0, 1)]
    return [(own, fold) for own in trainings for fold in range(5)]


@pytest.mark.parametrize("encoder", ["roost", "finder"])
def test_replayed_steps_train_as_steps_given_one_by_one_and_as_on_the_cpu(compositions, vectors, monkeypatch, encoder):
    """After four epochs: rounding grows with every step."""
    replays = []
    replayed = replay.Replayed.__call__

    def count(self, rows, sizes):
        replays.append(len(self._captured))
        return replayed(self, rows, sizes)

    monkeypatch.setattr(replay.Replayed, "__call__", count)
    graph = supervised.train_members(members(compositions, vectors, encoder=encoder), lambda text: None)
    assert max(replays) == 2  # whole steps and the last one
    monkeypatch.setattr(replay.Replayed, "__call__", lambda self, rows, sizes: self.step(rows))
    eager = supervised.train_members(members(compositions, vectors, encoder=encoder), lambda text: None)
    cpu = supervised.train_members(members(compositions, vectors, encoder=encoder, device=CPU)[:1], lambda text: None)
    for (_, a, _), (_, b, _) in zip(graph, eager, strict=True):
        assert np.allclose(a[["loss", "gradient_norm", "mae"]], b[["loss", "gradient_norm", "mae"]], rtol=2e-2)
        assert a["loss"].iloc[-1] < a["loss"].iloc[0]
    assert np.allclose(graph[0][1]["loss"], cpu[0][1]["loss"], rtol=2e-2)
    assert len({round(history["loss"].iloc[0], 9) for _, history, _ in graph}) == len(graph)


def test_steps_are_captured_anew_when_one_needs_larger_arrays(compositions, vectors, monkeypatch):
    """As sizes grow in the second and the third epoch."""
    expected = supervised.train_members(members(compositions, vectors), lambda text: None)
    reserve, calls, captured = packed.Padded.reserve, itertools.count(), []

    def growing(self, steps):
        for size, nodes in reserve(self, steps).items():
            self._reserved[size] = nodes + 64 * min(next(calls) // 2, 2)
        return dict(self._reserved)

    graph = torch.cuda.CUDAGraph
    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: captured.append(0) or graph())
    monkeypatch.setattr(packed.Padded, "reserve", growing)
    found = supervised.train_members(members(compositions, vectors), lambda text: None)
    assert len(captured) >= 6  # two steps, three sizes
    for (_, a, _), (_, b, _) in zip(found, expected, strict=True):
        assert np.allclose(a["loss"], b["loss"], rtol=2e-2)


def test_pretraining_with_a_target_is_replayed_and_learns_as_on_the_cpu(compositions, vectors):
    losses = {}
    for device in (CPU, GPU):
        torch.manual_seed(0)
        inputs, target = roost.Inputs(compositions, device), torch.randn(N_ROWS, 5).to(device)
        model = objectives.Pretext(roost.Encoder(vectors), {"magpie": {}}, {"magpie": target}).to(device)
        rows, options = torch.arange(N_ROWS, device=device), {"seed": 0, "reserve": inputs.reserve}
        settings = recipe(epochs=60, batch_size=64, learning_rate=1e-3, precision="tfloat32")
        history = fit(model, lambda m, rows, inputs=inputs: m(inputs, rows), rows, lambda m: {"mae": 0.0}, settings, **options)
        losses[device] = [row["loss"] for row in history]
    assert np.allclose(losses[GPU][:8], losses[CPU][:8], rtol=2e-2)
    assert all(found[-1] < 0.5 * found[0] for found in losses.values())


def test_an_interrupted_replayed_training_goes_on(compositions, vectors, tmp_path, monkeypatch):
    def train(*state):
        own = members(compositions, vectors)[:2]  # a state of them is written after every step
        return supervised.train_members(own, lambda text: None, *state)

    monkeypatch.setenv(states.MINUTES, "0")
    whole = train()
    state, step, calls = tmp_path / "training.pt", replay.Replayed.__call__, iter(range(10_000))
    stops = {13, 30}

    def stopped(self, rows, sizes):
        if next(calls) in stops:
            raise KeyboardInterrupt
        return step(self, rows, sizes)

    monkeypatch.setattr(replay.Replayed, "__call__", stopped)
    for _ in stops:
        with pytest.raises(KeyboardInterrupt):
            train(state)
    resumed = train(state)
    for (_, a, _), (_, b, _) in zip(resumed, whole, strict=True):
        assert len(a) == len(b) == 4 and np.allclose(a["loss"], b["loss"], rtol=2e-2)


def test_folds_that_stop_early_stop_within_a_replayed_cohort(compositions, vectors):
    settings = recipe(epochs=30, patience=2, learning_rate=3e-3, clip=1.0, batch_size=16)
    histories = [
        found[1] for found in supervised.train_members(members(compositions, vectors, recipe=settings), lambda text: None)
    ]
    lengths = {len(history) for history in histories}
    assert len(lengths) > 1 and all(np.isfinite(history["loss"]).all() for history in histories)


def test_masks_differ_between_replayed_steps_of_pretraining(compositions, vectors):
    """With a learning rate of zero only the masks change the loss of the same rows."""
    torch.manual_seed(0)
    inputs = roost.Inputs(compositions, GPU)
    model = objectives.Pretext(roost.Encoder(vectors), {"barlow_twins": {}}, {}).to(GPU)
    frozen = recipe(epochs=6, batch_size=N_ROWS, learning_rate=0.0, schedule="constant")
    rows = torch.arange(N_ROWS, device=GPU)
    options = {"seed": 0, "reserve": inputs.reserve}
    history = fit(model, lambda m, rows: m(inputs, rows), rows, lambda m: {"mae": 0.0}, frozen, **options)
    losses = [row["loss"] for row in history]
    assert len(set(losses)) == 6 and max(losses) < 1.2 * min(losses) and all(map(math.isfinite, losses))


def test_what_is_masked_on_the_gpu(compositions):
    inputs = roost.Inputs(compositions, GPU)
    batch = inputs[torch.arange(N_ROWS, device=GPU)]
    hidden = (batch.masked().element == roost.MASKED).cpu()
    offset = batch.offset.cpu()
    of_rows = [int(hidden[a:b].sum()) for a, b in itertools.pairwise(offset)]
    assert of_rows == [max(1, int(0.1 * n)) for n in compositions.count.tolist()]
    assert hidden[offset[-1] :].all()
