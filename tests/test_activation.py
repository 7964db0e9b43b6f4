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


@pytest.mark.parametrize("threads", [1, 2])
def test_sum_of_shares_and_activation_have_the_values_and_gradients_of_the_plain_form(threads):
    torch.manual_seed(0)
    sender, receiver = torch.randint(40, (2, 301))
    tensors = [torch.randn(n, 7) for n in (301, 40, 40)]
    weight = torch.randn(301, 7)
    results = []
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for double in (False, True):  # float64 takes torch's operations
            leaves = [(t.double() if double else t.clone()).requires_grad_() for t in tensors]
            value = activation.edge_activation(*leaves, sender, receiver)
            (value * weight).sum().backward()
            results.append([value.detach().double(), *(leaf.grad.double() for leaf in leaves)])
    finally:
        torch.set_num_threads(before)
    for fused, plain in zip(*results, strict=True):
        assert torch.allclose(fused, plain, atol=2e-5)
    empty = activation.edge_activation(torch.zeros(0, 7), *tensors[1:], sender[:0], receiver[:0])
    assert empty.shape == (0, 7)
