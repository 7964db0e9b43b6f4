"""What a job hands to its training: seeds, scaling, weights to start from, the recipe for its number of rows."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from small_problem import finetuning, formation_energies, recipe
from snakemake.iocontainers import Namedlist

from matpretrain import supervised
from matpretrain.composition import parse_formulas
from matpretrain.folds import of_job
from matpretrain.members import save_members
from matpretrain.processes import Stopped
from matpretrain.splits import inner_split

VECTORS = torch.randn(119, 6, generator=torch.Generator().manual_seed(1)).numpy()


@pytest.fixture(scope="module")
def table():
    return formation_energies(60)


def training(table, **changes):
    """That of a Finder with few weights."""
    few = {"element_vectors": VECTORS, "layers": 1, "readout": False}
    own = {"encoder": "finder", "arguments": few, "loss": "l1", "recipe": recipe(epochs=2, select="last")}
    return finetuning(table, **own | changes)


def train(own, folds, said):
    """What is kept of each fold."""
    return [kept for _, _, kept in supervised.train_members([(own, fold) for fold in folds], said.append)]


def test_every_fold_starts_from_the_same_fold_of_another_network(table, tmp_path):
    said, source = [], training(table)
    before = train(source, (0, 3), said)
    save_members(before, source.arguments, source.examples, source.record(), tmp_path)
    path, still = str(tmp_path / "weights.safetensors"), recipe(epochs=1, select="last", learning_rate=1e-12)
    after = train(training(table, initial=path, seed=1, recipe=still), (0, 3), said)
    n_weights = sum(weight.size for weight in before[0]["weights"].values())
    assert [line for line in said if path in line] == [f"took over {n_weights:,} of {n_weights:,} numbers from {path}"]
    for own, other in zip(after, before, strict=True):
        assert own["fold"] == other["fold"] and own["weights"].keys() == other["weights"].keys()
        assert all(np.allclose(weight, other["weights"][name], rtol=0, atol=1e-6) for name, weight in own["weights"].items())
    assert np.abs(before[0]["weights"]["readout.weight"] - before[1]["weights"]["readout.weight"]).max() > 0.1


def test_targets_are_scaled_by_the_rows_that_train(table):
    own = training(table)
    target = table["target"].to_numpy()
    for fold, kept in zip((1, 2), train(own, (1, 2), []), strict=True):
        known = target[own.split(fold)[0]]
        assert (kept["mean"], kept["std"]) == pytest.approx((known.mean(), known.std(ddof=1)), rel=1e-12)


def test_every_seed_and_fold_has_weights_and_batches_and_validation_rows_of_its_own(table, monkeypatch):
    members, seeds = [(training(table, seed=seed), fold) for seed in (0, 1) for fold in (0, 1)], []

    def stop(*arguments, **options):
        seeds.extend(options["seeds"])
        raise Stopped("SIGTERM", [])

    monkeypatch.setattr(supervised, "fit_cohort", stop)
    with pytest.raises(Stopped):
        supervised.train_members(members, lambda text: None)
    networks = [supervised.initial_network(own, fold, print) for own, fold in members]
    first = [network.readout.weight.detach().numpy().tobytes() for network in networks]
    held_out = [inner_split(np.arange(60), 0.2, seed, fold)[1].tobytes() for seed in (0, 1) for fold in (0, 1)]
    assert len(set(seeds)) == len(set(first)) == len(set(held_out)) == 4


@pytest.mark.parametrize(("size", "epochs"), [(None, 2), ("30", 2), ("29", 5)])
def test_a_job_takes_the_recipe_for_as_many_rows_as_train(table, tmp_path, size, epochs):
    np.savez(tmp_path / "compositions.npz", **parse_formulas(table["formula"].tolist())[0].arrays())
    files = {"table": str(tmp_path / "table.csv"), "compositions": str(tmp_path / "compositions.npz")}
    table.to_csv(files["table"], index=False)
    settings = {**vars(recipe()), "loss": "l1", "target_scale": "linear", "large": {"rows": 30, "epochs": 2}}
    params = {"arguments": {}, "recipe": settings, "encoder": "finder", "inner_fraction": 0.1, "size": size}
    job = SimpleNamespace(params=Namedlist(fromdict=params), input=Namedlist(fromdict=files))
    assert of_job(job, "cpu", seed=0, weights=None).recipe == recipe(epochs=epochs)
