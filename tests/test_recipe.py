import pytest
import torch
from small_problem import Line, recipe

from matpretrain.recipe import multiplies_bfloat16, multiplies_in_onednn
from matpretrain.training import fit


@pytest.mark.parametrize("schedule", ["cosine", "constant"])
def test_learning_rate_follows_its_schedule(schedule):
    settings = recipe(schedule=schedule, warmup=0.1)
    rates = [settings.learning_rate_at(step, 100) for step in range(100)]
    assert rates[0] == pytest.approx(settings.learning_rate / 11) and rates[10] == settings.learning_rate
    if schedule == "cosine":
        assert rates[55] == pytest.approx(settings.learning_rate / 2) and rates[-1] < 1e-3 * settings.learning_rate
    else:
        assert set(rates[10:]) == {settings.learning_rate}


@pytest.mark.parametrize(("rows", "batch"), [(100_000, 128), (1500, 128), (911, 64), (458, 32), (225, 16), (3, 1)])
def test_small_datasets_get_smaller_batches(rows, batch):
    assert recipe(batch_size=128, min_steps=12).batch_for(rows) == batch


def rounding():
    """The largest error of a product of 256 x 256 numbers, in units of their float32 rounding."""
    a, b = torch.randn(2, 256, 256, generator=torch.Generator().manual_seed(0)).unbind()
    exact = a.double() @ b.double()
    return ((a @ b - exact).abs().max() / exact.abs().max() / torch.finfo(torch.float32).eps).item()


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_products_round_only_where_asked_for(problem, precision):
    errors = {"forward": [], "backward": [], "evaluation": []}

    def note(when):
        errors[when].append(rounding())

    def loss(m, rows):
        output = m(problem[0][rows])
        output.register_hook(lambda gradient: note("backward"))
        note("forward")
        return output.abs().mean()

    def evaluate(m):
        note("evaluation")
        return {"mae": 0.0}

    fit(Line(), loss, torch.arange(16), evaluate, recipe(precision=precision, epochs=1), seed=0)
    assert all(errors.values())
    found = [error for when in errors.values() for error in when]
    if precision == "float32":
        assert max(found) < 100
    elif multiplies_bfloat16():
        assert min(found) > 1000
    assert rounding() < 100 and torch.backends.mkldnn.matmul.fp32_precision == "none"


@pytest.mark.parametrize("native", [True, False])
def test_auto_precision_follows_the_hardware(native, monkeypatch):
    monkeypatch.setattr("matpretrain.recipe.multiplies_bfloat16", lambda: native)
    monkeypatch.setattr("matpretrain.recipe.multiplies_in_onednn", lambda: False)
    with recipe(precision="auto").autocast("cpu"):
        assert torch.backends.mkldnn.matmul.fp32_precision == ("bf16" if native else "ieee")


@pytest.mark.parametrize(
    ("name", "instructions", "units", "asked"),
    [("AMD EPYC 9B45", "AVX512", False, True), ("AMD EPYC 7B13", "AVX2", False, False),
     ("Intel(R) Xeon(R)", "AVX512", False, False), ("AMD EPYC", "AVX512", True, False)],
)  # fmt: skip
def test_float32_is_multiplied_in_onednn_where_that_is_faster_and_rounds_nothing(name, instructions, units, asked, monkeypatch):
    here = multiplies_bfloat16()
    monkeypatch.setattr("matpretrain.recipe.processor", lambda: name)
    monkeypatch.setattr("matpretrain.recipe.multiplies_bfloat16", lambda: units)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: instructions)
    # a processor with units for bfloat16 rounds, whatever its name says
    assert multiplies_in_onednn.__wrapped__() == (asked and not here)
    monkeypatch.setattr("matpretrain.recipe.multiplies_in_onednn", lambda: asked)
    with recipe(precision="float32").products("cpu"):
        assert torch.backends.mkldnn.matmul.fp32_precision == ("bf16" if asked else "ieee")


@pytest.mark.parametrize(
    ("precision", "device", "form"),
    [("auto", "cuda:0", "tf32"), ("bfloat16", "cuda:0", "bf16"), ("tfloat32", "cuda:0", "tf32"), ("float32", "cuda:0", "ieee"),
     ("tfloat32", "cpu", "ieee"), ("bfloat16", "cpu", "bf16")],
)  # fmt: skip
def test_what_factors_are_rounded_to(precision, device, form):
    settings, matmul = recipe(precision=precision), torch.backends.cuda.matmul
    assert settings.factors(device) == form
    if device != "cpu":
        before = matmul.fp32_precision
        with settings.products(device):
            assert matmul.fp32_precision == ("tf32" if form == "tf32" else "ieee")
        assert matmul.fp32_precision == before
