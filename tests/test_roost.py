import numpy as np
import pytest
import torch
from naive_roost import naive_roost
from small_problem import recipe

from matpretrain import attention, roost
from matpretrain.composition import matscholar_vectors, parse_formulas

STEEL = "Fe0.620C0.000953Mn0.000521Si0.00102Cr0.000110Ni0.192Mo0.0176V0.000112Nb0.0000616Co0.146Al0.00318Ti0.0185"
FORMULAS = ["Fe", "NaN", "Fe2O3", "BaTiO3", "K0.5Na0.5NbO3", "CaMgSi2O6", "La0.7Sr0.3Mn0.9Co0.1O3", STEEL, "H2O", "Si"]


@pytest.fixture(scope="module")
def vectors():
    return np.nan_to_num(matscholar_vectors())


@pytest.fixture(scope="module")
def compositions():
    parsed, problems = parse_formulas(FORMULAS)
    assert not problems
    return parsed


def split(c):
    bounds = zip(c.offset[:-1], c.offset[1:], strict=True)
    return [(c.number[a:b].tolist(), c.fraction[a:b].tolist()) for a, b in bounds]


def double_model(vectors, n_outputs=1, seed=0):
    torch.manual_seed(seed)
    return roost.Roost(vectors, n_outputs).double()


def gradients(output, model):
    model.zero_grad(set_to_none=True)
    (output * torch.linspace(1, 2, output.numel(), dtype=output.dtype).view_as(output)).sum().backward()
    return {n: torch.zeros_like(p) if p.grad is None else p.grad.clone() for n, p in model.named_parameters()}


def test_parameter_counts_are_the_published_ones(vectors):
    def count(m):
        return sum(p.numel() for p in m.parameters())

    model = roost.Roost(vectors)
    assert count(model) == 2_302_096
    assert count(roost.Roost(vectors, 2)) == 2_302_161
    assert count(model.encoder) == 2_219_919
    assert count(model.encoder.embedding) == 12_663
    assert count(model.encoder.layers) == 744_786
    assert count(model.encoder.pooling) == 149_958
    assert count(model.head) == 82_177


@pytest.mark.parametrize("implementation", ["fused", "padded"])
@pytest.mark.parametrize("threads", [1, 2])
def test_values_and_gradients_equal_the_naive_edge_list_form(vectors, compositions, implementation, threads, monkeypatch):
    if implementation == "padded":
        monkeypatch.setattr(attention, "numba", None)
    elif attention.numba is None:
        pytest.skip("numba is not installed: there is no fused form")
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    model = double_model(vectors, n_outputs=2)
    inputs = roost.CompositionInputs(compositions, dtype=torch.float64)
    ours = model(inputs[torch.arange(len(inputs))])
    naive = naive_roost(model, split(compositions))
    assert torch.allclose(ours, naive, rtol=0, atol=1e-10)
    expected = gradients(naive, model)
    for name, gradient in gradients(ours, model).items():
        assert torch.allclose(gradient, expected[name], rtol=1e-10, atol=1e-10), name
    assert all(g.abs().max() > 0 for n, g in expected.items() if "gate_bias" not in n)


def test_batches_pick_the_rows_asked_for(vectors, compositions):
    model = double_model(vectors)
    inputs = roost.CompositionInputs(compositions, dtype=torch.float64)
    rows = torch.tensor([7, 0, 7, 3])
    whole = model(inputs[torch.arange(len(inputs))])
    assert torch.allclose(model(inputs[rows]), whole[rows], rtol=0, atol=1e-12)


def test_order_of_elements_and_size_of_cell_do_not_matter(vectors):
    model = double_model(vectors)
    parsed, _ = parse_formulas(["BaTiO3", "O3TiBa", "Ba2Ti2O6"])
    output = model(roost.CompositionInputs(parsed, dtype=torch.float64)[torch.arange(3)])
    assert torch.allclose(output, output[:1].expand(3, -1), rtol=0, atol=1e-12)


def test_initial_weights_follow_torch_defaults(vectors):
    torch.manual_seed(1)
    layer = roost.WeightedAttention(pairwise=True)
    for parameter, fan_in in ((layer.sender, 128), (layer.receiver, 128), (layer.gate, 256), (layer.message, 256)):
        bound = fan_in**-0.5
        assert parameter.abs().max() <= bound
        assert abs(parameter.std().item() - bound / 3**0.5) < 0.05 * bound


def autocast():
    return torch.autocast("cpu", torch.bfloat16)


def rounded_products():
    return recipe(precision="bfloat16").products("cpu")


@pytest.mark.parametrize("rounded", [autocast, rounded_products])
def test_bfloat16_stays_close(vectors, compositions, rounded):
    torch.manual_seed(0)
    model = roost.Roost(vectors)
    batch = roost.CompositionInputs(compositions)[torch.arange(len(FORMULAS))]
    exact, gradient = model(batch), gradients(model(batch), model)
    with rounded():
        rough = model(batch)
        close = gradients(rough, model)
    assert (rough - exact).abs().max() < 0.05 * max(1.0, exact.abs().max().item())
    for name, whole in gradient.items():
        assert (close[name] - whole).norm() <= 0.1 * whole.norm() + 1e-6, name
