"""ResCNN at the places within reach of an element, against convolutions of the whole axis."""

import pytest
import torch
from small_problem import recipe
from torch.nn import functional as F

from matpretrain.composition import element_fractions, parse_formulas
from matpretrain.members import keep, load_members, save_members
from matpretrain.rescnn import FractionInputs, ResCNN

# Both ends of the axis, neighbours, elements whose reaches touch or overlap, one that leaves no place beyond reach
FORMULAS = ["SrTiO3", "LrH3", "BCNOF", "HHe", "LiAlSiScNi", "NoLrFmMd", "U"]
FORMULAS.append("".join(["Be", "K", "Co", "Br", "Tc", "Te", "Pm", "Er", "Ir", "At", "Bk", "Lr", "Ni", "Ru", "Gd", "U"]))


def whole_axis(model, fraction):
    """The same network as loops over the filters and places of the whole axis [B, 103]."""
    x = fraction[:, None]
    for layer in model.encoder.convolutions:
        filters = [
            (F.pad(x, (1, 1)).unfold(2, 3, 1) * w[None, :, None]).sum((1, 3)) + b
            for w, b in zip(layer.weight, layer.bias, strict=True)
        ]
        x = torch.stack(filters, 1).clamp(min=0)
    pooled = x.amax(2)
    first, second, third = model.stack.dense
    y = F.relu(first(pooled))
    y = F.relu(second(torch.cat([y, pooled], 1)))
    y = F.relu(third(torch.cat([y, pooled], 1)))
    return model.stack.output(F.relu(model.stack.of_dense(y) + model.stack.of_flat(pooled)))


def network():
    torch.manual_seed(0)
    model = ResCNN(2).double()
    for layer in model.encoder.convolutions:  # biases are zero at first, so that an empty axis would be without a response
        torch.nn.init.normal_(layer.bias, std=0.3)
    return model


@pytest.mark.parametrize("rows", [range(len(FORMULAS)), [1], [6, 0, 0]])
def test_values_and_gradients_are_those_of_the_whole_axis(rows):
    model, compositions = network(), parse_formulas(FORMULAS)[0]
    inputs, rows = FractionInputs(compositions), torch.tensor(list(rows))
    inputs.fraction = inputs.fraction.double()
    assert len(inputs) == len(FORMULAS)
    fraction = torch.as_tensor(element_fractions(compositions)[:, :103]).float().double()[rows]
    found, upstream = [], torch.randn(len(rows), 2, dtype=torch.float64)  # of both signs, as many places tie
    for output in (model(inputs[rows]), whole_axis(model, fraction)):
        model.zero_grad()
        (output * upstream).sum().backward()
        found.append((output.detach(), [parameter.grad.clone() for parameter in model.parameters()]))
    (values, gradients), (expected, expected_gradients) = found
    torch.testing.assert_close(values, expected, rtol=1e-10, atol=1e-12)
    for own, other in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-8, atol=1e-12)


def test_the_places_within_reach_are_few():
    batch = FractionInputs(parse_formulas(["SrTiO3", "HHe"])[0])[torch.arange(2)]
    assert batch.row.bincount().tolist() == [27, 6]
    assert batch.fraction.sum().item() == pytest.approx(2)
    assert batch.beyond.tolist() == [[True] * 3 + [False] + [True] * 5, [False] * 4 + [True] * 5]


def test_members_without_element_vectors_know_the_elements_of_tables(tmp_path):
    compositions, _ = parse_formulas(["NaCl", "Fe"])
    record = {"encoder": "rescnn", "n_outputs": 1, "loss": "l1", "target_scale": "linear", "recipe": vars(recipe())}
    record |= {"dataset": "mine", "unit": "eV", "seed": 0}
    save_members([keep(ResCNN(1), 0, 0.0, 1.0)], {}, compositions, record, tmp_path)
    known = load_members([tmp_path]).known
    assert known[[1, 84, 103]].all() and not known[104:].any()


def test_bfloat16_stays_close():
    model, inputs = network().float(), FractionInputs(parse_formulas(FORMULAS)[0])
    rows = torch.arange(len(FORMULAS))
    with torch.autocast("cpu", torch.bfloat16):
        rounded = model(inputs[rows])
    torch.testing.assert_close(rounded.float(), model(inputs[rows]), rtol=0.1, atol=0.1)
