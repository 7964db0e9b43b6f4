import json

import numpy as np
import pytest
import torch

from matpretrain import roost
from matpretrain.composition import matscholar_vectors, parse_formulas
from matpretrain.weights import embed, load_encoder, load_weights, save_encoder, save_weights

FAULTS = "Pretrained encoders"


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    return roost.Encoder(np.nan_to_num(matscholar_vectors()))


@pytest.fixture
def saved(encoder, tmp_path):
    save_encoder(encoder, "roost", tmp_path, {"corpus": "some"})
    return tmp_path


def test_an_encoder_comes_back_bit_by_bit(encoder, saved):
    loaded, record = load_encoder(saved)
    assert record["corpus"] == "some" and not loaded.training
    parsed, _ = parse_formulas(["Fe2O3", "BaTiO3", "NaN"])
    inputs = roost.CompositionInputs(parsed)
    features = embed(loaded, inputs)
    assert features.shape == (3, 256) and features.dtype == np.float32
    assert np.array_equal(features, embed(encoder, inputs))


def test_loading_says_what_it_loaded(encoder, saved):
    lines = []
    load_weights(roost.Encoder(encoder.element_vectors), saved / "encoder.safetensors", lines.append)
    assert lines == [
        f"loaded all {len(encoder.state_dict())} tensors ({2_219_919 + 119 * 200:,} numbers) of {saved / 'encoder.safetensors'}"
    ]


@pytest.mark.parametrize(
    ("what", "change", "word"),
    [
        ("An encoder without a layer", lambda t: {k: v for k, v in t.items() if k != "embedding.bias"}, "lacks embedding.bias"),
        ("An encoder with a layer more", lambda t: {**t, "head": torch.zeros(1)}, "has in addition head"),
        (
            "An encoder on other element vectors",
            lambda t: {**t, "embedding.weight": torch.zeros(63, 118)},
            "has another shape of embedding.weight",
        ),
    ],
)
def test_other_weights_are_refused_and_nothing_is_loaded(encoder, tmp_path, fault, what, change, word):
    save_weights(change(encoder.state_dict()), tmp_path / "w.safetensors")
    torch.manual_seed(1)
    module = roost.Encoder(encoder.element_vectors)
    before = {k: v.clone() for k, v in module.state_dict().items()}
    with fault(what, "w.safetensors", word, kept=[tmp_path / "w.safetensors"]):
        load_weights(module, tmp_path / "w.safetensors")
    assert all(torch.equal(v, before[k]) for k, v in module.state_dict().items())


def test_damaged_files_give_one_line(saved, fault):
    weights, record = saved / "encoder.safetensors", saved / "encoder.json"
    weights.write_bytes(weights.read_bytes()[:1000])
    with fault("Weights of an encoder that are cut off", "not a readable safetensors file"):
        load_encoder(saved)
    record.write_text(json.dumps({"encoder": "nothing", "element_vectors": [119, 200]}))
    with fault("An encoder made by a module that is not there", "no record of an encoder"):
        load_encoder(saved)
    record.unlink()
    with fault("Weights of an encoder without their record", "no record of an encoder"):
        load_encoder(saved)
