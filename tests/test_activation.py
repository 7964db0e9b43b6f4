import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from matpretrain import activation


@pytest.fixture(params=["fused", "plain"])
def form(request, monkeypatch):
    if request.param == "plain":
        monkeypatch.setattr(activation, "numba", None)
    return activation.ShiftedSoftplus()


@pytest.mark.parametrize("threads", [1, 2])
def test_values_and_slopes_are_those_of_softplus(form, threads):
    x = torch.cat([torch.linspace(-60, 60, 100_001), torch.tensor([0.0, -0.0, 1e-8, -1e-8, 88.0, -104.0])]).requires_grad_()
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        y = form(x)
    finally:
        torch.set_num_threads(before)
    y.backward(torch.linspace(1, 2, len(x)))
    exact = x.detach().double()
    expected = F.softplus(exact) - math.log(2)
    assert (y.detach().double() - expected).abs().max() < 3e-7 * 60
    near = exact.abs() < 1
    assert (y.detach().double() - expected)[near].abs().max() < 3e-7
    slope = x.grad.double() / torch.linspace(1, 2, len(x)).double()
    assert (slope - torch.sigmoid(exact)).abs().max() < 4e-7


def test_any_shape_layout_and_dtype(form):
    x = torch.randn(6, 4, 2)
    for view in (x, x.transpose(0, 1), x[:, :0], x.double()):
        expected = (F.softplus(view.double()) - math.log(2)).to(view.dtype)
        assert form(view).dtype == view.dtype and torch.allclose(form(view), expected, atol=1e-6)
    numbers = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(form, numbers)
    assert np.isnan(form(torch.tensor([float("nan")])).item())
