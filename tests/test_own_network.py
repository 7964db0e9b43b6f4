"""The network of docs/own_model.md: its entries fit, it is pretrained, saved, taken over, and learns."""

import re
import sys
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from conftest import PROJECT, overlaid
from small_problem import recipe

from matpretrain import roost
from matpretrain.composition import matscholar_vectors, parse_formulas
from matpretrain.configuration import check
from matpretrain.objectives import Pretext
from matpretrain.supervised import Training, train_members
from matpretrain.weights import load_encoder, save_encoder

FAULTS = "A network of one's own"
PAGE = (PROJECT / "docs/own_model.md").read_text()
CODE, ENTRIES = (re.search(rf"```{kind}\n(.*?)```", PAGE, re.DOTALL)[1] for kind in ("python", "yaml"))
VECTORS = np.nan_to_num(matscholar_vectors())


@pytest.fixture
def module(own_package, monkeypatch):
    """The module, in a package for what reads its text."""
    (own_package / "mean_vector.py").write_text(CODE)
    own = ModuleType("matpretrain.mean_vector")
    exec(CODE, vars(own))
    monkeypatch.setitem(sys.modules, "matpretrain.mean_vector", own)
    return own


def test_its_entries_are_accepted(shipped, module, tmp_path):
    check(overlaid(shipped, yaml.safe_load(ENTRIES)), tmp_path)


def test_a_network_without_an_encoder_has_no_representations(module, fault):
    from embed_test_rows import encoder_of

    model = module.Model(VECTORS, 2)
    assert encoder_of(model, "mean_vector") is model.encoder
    with fault(
        "Representations of a network of one's own without an encoder", "Model of matpretrain/mean_vector.py has no encoder"
    ):
        encoder_of(torch.nn.Linear(2, 2), "mean_vector")


def test_it_is_pretrained_and_learns_from_there(module, tmp_path):
    compositions, _ = parse_formulas([f"Fe{k}O{60 - k}" for k in range(1, 60)])
    torch.manual_seed(0)
    pretext = Pretext(module.Encoder(VECTORS), {"magpie": {}}, {"magpie": torch.zeros(59, 3)})
    pretext(module.Inputs(compositions), torch.arange(59)).backward()
    assert all(weight.grad.abs().sum() > 0 for weight in pretext.encoder.parameters())
    save_encoder(pretext.encoder, "mean_vector", tmp_path, {"corpus": "none"})
    assert load_encoder(tmp_path)[0](module.Inputs(compositions)[torch.arange(2)]).shape == (2, 128)
    target = np.arange(1.0, 60)
    training = Training(
        table=pd.DataFrame({"id": target.astype(str), "fold": np.arange(59) % 5, "target": target}), examples=compositions,
        encoder="mean_vector", arguments={"element_vectors": VECTORS, "hidden": 32}, weights=str(tmp_path / "encoder.safetensors"),
        loss="robust_l1", recipe=recipe(epochs=60, learning_rate=3e-3), inner_fraction=0.1, size=None, seed=0, device="cpu",
    )  # fmt: skip
    said = []
    rows, _, kept = train_members([(training, 0)], said.append)[0]
    assert any("loaded all 5 tensors" in line for line in said)
    error = (rows["prediction"] - rows["target"]).abs()[rows["part"] == "test"]
    assert error.mean() < 0.2 * np.abs(target - target.mean()).mean() and rows["aleatoric_std"].gt(0).all()
    assert (
        module.Inputs is roost.CompositionInputs
        and kept["weights"].keys() == dict(module.Model(VECTORS, 2, 32).named_parameters()).keys()
    )
