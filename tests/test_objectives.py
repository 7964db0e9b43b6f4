import math
import re

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from matpretrain import objectives, roost
from matpretrain.attention import Packed
from matpretrain.composition import matscholar_vectors, parse_formulas

FORMULAS = ["Fe", "NaCl", "Fe2O3", "BaTiO3", "K0.5Na0.5NbO3", "CaMgSi2O6", "La0.7Sr0.3Mn0.9Co0.1O3", "H2O", "LiFePO4"]
MANY = "LiBeBCNOFNaMgAlSiPSClKCaScTiVCr"  # 20 elements: two are masked


@pytest.fixture(scope="module")
def vectors():
    return np.nan_to_num(matscholar_vectors())


def inputs(formulas, dtype=torch.float32):
    parsed, problems = parse_formulas(formulas)
    assert not problems
    return roost.CompositionInputs(parsed, dtype=dtype)


def numpy_barlow(a, b, off_diagonal, epsilon=1e-5):
    """Loop over the columns, as eq. 4 of Huang et al. should read."""
    a, b = ((z - z.mean(0)) / np.sqrt(z.var(0) + epsilon) for z in (a, b))
    loss = 0.0
    for i in range(a.shape[1]):
        for j in range(b.shape[1]):
            c = sum(x * y for x, y in zip(a[:, i], b[:, j], strict=True)) / len(a)
            loss += (1 - c) ** 2 if i == j else off_diagonal * c**2
    return loss


def test_losses_equal_their_formulas():
    rng = np.random.default_rng(0)
    output, target = rng.normal(size=(50, 2)), rng.normal(size=50)
    tensors = torch.tensor(output), torch.tensor(target)
    assert objectives.l1(tensors[0][:, :1], tensors[1]).item() == pytest.approx(np.abs(output[:, 0] - target).mean())
    expected = np.mean(np.sqrt(2) * np.abs(output[:, 0] - target) * np.exp(-output[:, 1]) + output[:, 1])
    assert objectives.robust_l1(*tensors).item() == pytest.approx(expected)


def test_robust_loss_is_smallest_at_the_standard_deviation_of_laplace_errors():
    errors = torch.tensor(np.random.default_rng(1).laplace(scale=0.7, size=20_000))
    log_std = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([log_std])

    def closure():
        optimiser.zero_grad()
        output = torch.stack([torch.zeros_like(errors), log_std.expand(len(errors))], 1)
        value = objectives.robust_l1(output, errors)
        value.backward()
        return value

    for _ in range(5):
        optimiser.step(closure)
    assert math.exp(log_std.item()) == pytest.approx(0.7 * math.sqrt(2), rel=0.02)


@pytest.mark.parametrize("rows", [16, 5])
def test_barlow_twins_equals_numpy(rows):
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(rows, 7, generator=generator, dtype=torch.float64) * 3 + 5
    b = a + torch.randn(rows, 7, generator=generator, dtype=torch.float64)
    ours = objectives.barlow_twins(a, b, 0.0051).item()
    assert ours == pytest.approx(numpy_barlow(a.numpy(), b.numpy(), 0.0051), rel=1e-12)


def test_correlation_is_pearsons_and_does_not_depend_on_scale_or_shift():
    generator = torch.Generator().manual_seed(1)
    a, b = (torch.randn(64, 5, generator=generator, dtype=torch.float64) for _ in range(2))

    def correlation(a, b):
        return (objectives.standardised(a, epsilon=0.0).T @ objectives.standardised(b, epsilon=0.0)).numpy() / len(a)

    ours = correlation(a, b)
    assert np.allclose(ours, np.corrcoef(a.numpy().T, b.numpy().T)[:5, 5:], atol=1e-12)
    assert np.allclose(correlation(7 * a - 3, 0.1 * b + 9), ours, atol=1e-12)


def test_barlow_twins_does_not_depend_on_scale_or_shift_and_is_zero_for_independent_columns():
    a, b = (torch.randn(64, 5, generator=torch.Generator().manual_seed(k), dtype=torch.float64) for k in range(2))
    moved = objectives.barlow_twins(7e3 * a - 3, 1e3 * b + 9, 0.0051).item()
    assert moved == pytest.approx(objectives.barlow_twins(1e3 * a, 1e3 * b, 0.0051).item(), rel=1e-9)
    independent = torch.linalg.qr(a - a.mean(0))[0] * 1e6
    assert objectives.barlow_twins(independent, independent, 0.0051).item() == pytest.approx(0, abs=1e-9)


def test_masks_hide_one_in_ten_elements_but_at_least_one_uniformly():
    formulas = ["Fe", "NaCl", "CaMgSi2O6", MANY]
    count = [1, 2, 4, 20]
    torch.manual_seed(0)
    rows = torch.arange(4).repeat(5000)
    batch = inputs(formulas)[rows]
    masked = batch.masked()
    draws = 5  # 4 x 5,000 compositions, five times: 10^5 draws
    hits = torch.zeros(len(batch.element) // 5000)
    for _ in range(draws):
        masked = batch.masked()
        hidden = masked.element == roost.MASKED
        per_composition = torch.zeros(len(rows)).index_add(
            0, torch.repeat_interleave(torch.arange(len(rows)), batch.offset[1:] - batch.offset[:-1]), hidden.float()
        )
        assert per_composition.view(-1, 4).unique(dim=0).tolist() == [[1, 1, 1, 2]]
        assert torch.equal(masked.element[~hidden], batch.element[~hidden])
        assert masked.fraction is batch.fraction and masked.offset is batch.offset
        hits += hidden.view(5000, -1).sum(0)
    share = (hits / (5000 * draws)).split(count)
    for n, hidden, seen in zip(count, (1, 1, 1, 2), share, strict=True):
        spread = (hidden / n * (1 - hidden / n) / (5000 * draws)) ** 0.5
        assert (seen - hidden / n).abs().max() <= 4.5 * spread
    assert (batch.element >= 0).all()  # the original is untouched


def test_the_tenth_that_masks_hide_is_rounded_down():
    symbols = re.findall("[A-Z][a-z]?", MANY)
    batch = inputs(["".join(symbols[:n]) for n in range(1, 21)])[torch.arange(20)]
    hidden = (batch.masked().element == roost.MASKED).split(batch.offset.diff().tolist())
    assert [own.sum().item() for own in hidden] == [1] * 19 + [2]


def test_a_masked_element_enters_as_a_zero_vector_with_its_weight(vectors):
    torch.manual_seed(0)
    encoder = roost.Encoder(vectors).double()
    batch = inputs(["Fe2O3"], torch.float64)[torch.tensor([0])]
    hidden = roost.Batch(torch.tensor([roost.MASKED, 8]), batch.fraction, batch.offset)
    zeroed = roost.Encoder(np.where(np.arange(119)[:, None] == 26, 0, vectors)).double()
    zeroed.load_state_dict(encoder.state_dict() | {"element_vectors": zeroed.element_vectors})
    assert torch.allclose(encoder(hidden), zeroed(batch), atol=1e-12)
    assert not torch.allclose(encoder(hidden), encoder(batch), atol=1e-3)


def test_without_messages_elements_see_only_themselves(vectors):
    """As in the released code, whose masked graph repeats the self edge (i, i) once per element."""
    torch.manual_seed(0)
    layer = roost.WeightedAttention(pairwise=True).double()
    h, log_fraction = torch.randn(5, 64, dtype=torch.float64), torch.rand(5, dtype=torch.float64).log()
    alone = layer(h, log_fraction, Packed(torch.arange(6)))
    # five copies of the same self edge under one softmax
    for i in range(5):
        repeated = layer(h[i].repeat(4, 1), log_fraction[i].repeat(4), Packed(torch.tensor([0, 4])))
        assert torch.allclose(repeated[0], alone[i], atol=1e-9)
    encoder = roost.Encoder(vectors).double()
    batch = inputs(["BaTiO3", "Fe"], torch.float64)[torch.arange(2)]
    apart = encoder(batch, messages=False)
    assert torch.allclose(apart[1], encoder(batch)[1], atol=1e-12)  # one element has only itself anyway
    assert not torch.allclose(apart[0], encoder(batch)[0], atol=1e-4)


def pretext(vectors, tasks, targets=None):
    torch.manual_seed(0)
    return objectives.Pretext(roost.Encoder(vectors), tasks, targets or {})


def test_tasks_are_summed_with_their_weights_and_share_the_clean_view(vectors, monkeypatch):
    target = {"magpie": torch.rand(9, 145)}
    model = pretext(vectors, {"barlow_twins": {"width": 32}, "magpie": {"weight": 10.0, "scale": "minmax"}}, target)
    calls = []
    forward = roost.Encoder.forward
    monkeypatch.setattr(roost.Encoder, "forward", lambda self, *a, **k: calls.append(k) or forward(self, *a, **k))
    rows, x = torch.arange(9), inputs(FORMULAS)
    torch.manual_seed(3)
    total = model(x, rows)
    assert len(calls) == 2  # one clean, one masked
    torch.manual_seed(3)
    parts = model.losses(x, rows)
    assert total.item() == pytest.approx((parts["barlow_twins"] + 10 * parts["magpie"]).item(), rel=1e-6)
    clean = F.relu(model.encoder(x[rows]))
    expected = (model.tasks["magpie"].projector(clean) - target["magpie"]).square().mean()
    assert parts["magpie"].item() == pytest.approx(expected.item(), rel=1e-5)


def test_barlow_twins_compares_the_clean_view_with_a_masked_one_by_its_own_weight_of_redundancy(vectors):
    model, x = pretext(vectors, {"barlow_twins": {"width": 8, "off_diagonal": 0.5}}), inputs(FORMULAS)
    batch, project = x[torch.arange(9)], model.tasks["barlow_twins"].projector
    torch.manual_seed(3)
    loss = model(x, torch.arange(9)).item()
    torch.manual_seed(3)
    clean, masked = (project(F.relu(model.encoder(view))).detach().double().numpy() for view in (batch, batch.masked()))
    assert loss == pytest.approx(numpy_barlow(clean, masked, 0.5), rel=1e-4)


def test_switches_choose_the_views(vectors, monkeypatch):
    seen = []
    forward = roost.Encoder.forward

    def watch(self, batch, messages=True):
        seen.append(((batch.element == roost.MASKED).any().item(), messages))
        return forward(self, batch, messages)

    monkeypatch.setattr(roost.Encoder, "forward", watch)
    for options, expected in (
        ({}, {(True, True), (False, True)}),
        ({"both_masked": True}, {(True, True)}),
        ({"masked_view_messages": False}, {(True, False), (False, True)}),
    ):
        seen.clear()
        pretext(vectors, {"barlow_twins": {"width": 8, **options}})(inputs(FORMULAS), torch.arange(9))
        assert len(seen) == 2 and set(seen) == expected


def test_projectors_are_linear_unless_asked(vectors):
    def count(module):
        return sum(p.numel() for p in module.parameters())

    target = {"magpie": torch.rand(9, 145), "structure": torch.rand(9, 256)}
    model = pretext(vectors, {"barlow_twins": {}, "magpie": {}, "structure": {"hidden": [1024, 512, 256]}}, target)
    assert count(model.tasks["barlow_twins"]) == 256 * 1024 + 1024
    assert count(model.tasks["magpie"]) == 256 * 145 + 145
    assert [layer.out_features for layer in model.tasks["structure"].projector[::2]] == [1024, 512, 256, 256]
    deep = pretext(vectors, {"barlow_twins": {"hidden": [512], "width": 8}}, {}).tasks["barlow_twins"].projector
    assert [type(layer).__name__ for layer in deep] == ["Linear", "Standardised", "ReLU", "Linear"]
    assert [(layer.in_features, layer.out_features) for layer in deep[::3]] == [(256, 512), (512, 8)]
    z = torch.randn(7, 512)
    assert torch.allclose(deep[1](z), torch.nn.BatchNorm1d(512)(z), atol=1e-5)
    assert torch.equal(deep[1](z[:1]), torch.zeros(1, 512))  # the last batch of an epoch may have one row
