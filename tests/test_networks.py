"""Entries of models and strategies that do not fit their modules, or what they start from, are refused before anything is planned."""

import pytest
from conftest import PROJECT, overlaid
from entries import SSL, model, strategy

from matpretrain import networks
from matpretrain.configuration import check
from matpretrain.networks import all_arguments, first_alike
from matpretrain.provenance import parameters, pretext_tasks

FAULTS = "Registries: networks and what they start from"

NETWORKS = [
    (
        "A baseline that does not exist",
        model(estimator="forest", features="magpie"),
        "models.mine.estimator: matpretrain/estimators.py has no function forest; name another or write it",
    ),
    (
        "An argument that a baseline does not have",
        model(estimator="random_forest", features="magpie", arguments={"tres": 5}),
        "models.mine.arguments.tres: random_forest has no such argument, it has trees, prediction, max_features; remove it",
    ),
    (
        "An argument that a network does not have",
        model(encoder="roost", arguments={"size": "small"}),
        "models.mine.arguments.size: roost has no such argument, it has none; remove it",
    ),
    (
        "An argument of another network",
        model(encoder="finder", arguments={"size": "small"}),
        "models.mine.arguments.size: finder has no such argument, it has mode, layers, attention, readout; remove it",
    ),
    (
        "An argument that an encoder does not have",
        strategy(arguments={"size": "small"}),
        "pretraining.mine.arguments.size: roost has no such argument",
    ),
    (
        "A module that is no network",
        model(encoder="statistics"),
        "models.mine.encoder: statistics is no network: its module has no Inputs; name another or add it",
    ),
    (
        "A module that has nothing to pretrain",
        strategy(encoder="statistics"),
        "pretraining.mine.encoder: statistics cannot be pretrained: its module names no TASKS",
    ),
    (
        "A network that cannot be pretrained",
        strategy(encoder="finder"),
        "pretraining.mine.encoder: finder cannot be pretrained",
    ),
    (
        "Element vectors for a network that takes none",
        model(encoder="megnet", elements="onehot"),
        "models.mine.elements: megnet takes no element vectors; remove it",
    ),
    (
        "Features for a network",
        model(encoder="roost", features="magpie"),
        "models.mine.features: a network has none; remove it",
    ),
    (
        "A pretrained encoder for a baseline, in the key of networks",
        model(estimator="mean", features="none", pretraining="ssl"),
        "models.mine.pretraining: a baseline has none; remove it",
    ),
]
STARTS = [
    (
        "A network that starts from the encoder of another one",
        model(encoder="roost", pretraining="cdssl"),
        "models.mine.pretraining: cdssl pretrains megnet, not roost; name another",
    ),
    (
        "A network of another size than its encoder",
        model(encoder="megnet", pretraining="cdssl", arguments={"size": "small"}),
        "models.mine.arguments.size: small, but large in pretraining.cdssl, from whose weights it starts; give both the same",
    ),
    (
        "Other element vectors than those of the encoder",
        model(encoder="roost", pretraining="ssl", elements="onehot"),
        "models.mine.elements: onehot, but matscholar in pretraining.ssl, from whose weights it starts; give both the same",
    ),
    (
        "A second encoder with other element vectors than the first",
        model(encoder="roost", pretraining=["ssl", "untrained-onehot"]),
        "models.mine.pretraining: ssl and untrained-onehot have other elements; name strategies that have the same",
    ),
    (
        "A second encoder that is the first again",
        strategy(tasks={}, seed=0) | model(encoder="roost", pretraining=["untrained", "mine"]),
        "models.mine.pretraining: mine is untrained again; give it a seed of its own",
    ),
    (
        "An encoder that no seed starts from",
        {"benchmark": {"models": ["mine"], "seeds": [0, 2]}, "pretraining": {"again": SSL | {"seed": 1}}}
        | model(encoder="roost", pretraining=["ssl", "again"]),
        "models.mine.pretraining: no seed of the benchmark starts from again: seed 0 takes the first, and so on, round; add seeds",
    ),
    (
        "A network that starts from one with other arguments",
        model(encoder="finder", initial="finder-structure", arguments={"layers": 3}),
        "models.mine.arguments.layers: 3, but 2 in models.finder-structure",
    ),
    (
        "A network that starts from one of another kind",
        model(encoder="roost", initial="finder"),
        "models.mine.initial: finder is no roost, whose weights it could start from",
    ),
    (
        "A network that starts from another, which it cannot",
        model(encoder="roost", initial="roost"),
        "models.mine.initial: Model of roost cannot take weights over, it has no adopt(); remove it",
    ),
    (
        "A loss for pretraining",
        {"pretraining_recipe": {"loss": "l1"}},
        "pretraining_recipe.loss: pretraining has the losses and targets of its",
    ),
    (
        "A loss for a strategy",
        strategy(recipe={"loss": "mse"}),
        "pretraining.mine.recipe.loss: pretraining has the losses and targets of its",
    ),
    (
        "A scale for pretraining",
        {"pretraining_recipe": {"target_scale": "log"}},
        "pretraining_recipe.target_scale: pretraining has the losses and targets of its",
    ),
    (
        "A recipe for large corpora",
        strategy(recipe={"large": {"rows": 9, "epochs": 1}}),
        "pretraining.mine.recipe.large: corpora of every size are pretrained on by one recipe",
    ),
]


@pytest.mark.parametrize(("what", "changes", "line"), [*NETWORKS, *STARTS])
def test_networks_that_do_not_fit_are_refused(fault, what, changes, line, shipped):
    with fault(what, f"config key {line}"):
        check(overlaid(shipped, changes), PROJECT)


def test_strategies_of_one_network_share_untrained_encoders(shipped):
    names = ["ssl", "untrained-onehot", "cdssl", "fl"]
    alike = {name: first_alike(shipped, names, name) for name in names}
    assert alike == {"ssl": "ssl", "untrained-onehot": "untrained-onehot", "cdssl": "cdssl", "fl": "ssl"}


def test_an_argument_may_be_written_or_left_to_its_default(shipped):
    strategies = {"again": shipped["pretraining"]["cdssl"] | {"arguments": {}, "seed": 1}}
    models = {"mine": {"encoder": "megnet", "pretraining": ["cdssl", "again"], "label": "mine"}}
    changed = overlaid(shipped, {"models": models, "pretraining": strategies})
    check(changed, PROJECT)
    assert all_arguments(models["mine"], "Model") == all_arguments(shipped["models"]["megnet"], "Model") == {"size": "large"}
    assert first_alike(changed, ["cdssl", "again"], "again") == "cdssl"


def test_what_a_network_is_made_from_is_read_off_its_module():
    import importlib
    import inspect

    for name in ("roost", "finder", "megnet", "rescnn", "cgcnn"):
        network = importlib.import_module(f"matpretrain.{name}")
        for role in ("Model", "Encoder"):
            assert list(parameters(name, role)) == list(inspect.signature(getattr(network, role)).parameters)
        assert pretext_tasks(name) == getattr(network, "TASKS", ())
    assert parameters("finder", "Model")["layers"] == 2 and parameters("finder", "Model")["readout"] is True
    with pytest.raises(KeyError):
        parameters("statistics", "Model")


def test_arguments_of_a_baseline_with_keywords_are_its_own_matter(monkeypatch):
    monkeypatch.setattr(networks, "parameters", lambda module, name: None)
    networks._check_baseline("models.mine", {"estimator": "boosting", "arguments": {"rounds": 5}})
