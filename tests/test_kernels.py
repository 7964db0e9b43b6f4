"""The Triton kernels against the definition: on a GPU, elsewhere in Triton's interpreter (conftest.py) if Triton is installed."""

import pytest
import torch
from small_problem import far

from matpretrain import attention

kernels = pytest.importorskip(
    "matpretrain.attention_gpu", reason="no Triton: `pip install triton` lets its interpreter run them"
)
DEVICE = "cuda:0" if torch.cuda.is_available() else "cpu"


@pytest.mark.parametrize("pooled", [False, True])
@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [
        (torch.float32, 1e-5),
        pytest.param(
            torch.bfloat16, 4e-2, marks=pytest.mark.skipif(DEVICE == "cpu", reason="the interpreter cuts numbers off")
        ),
    ],
)
def test_kernels_equal_the_definition(pooled, dtype, tolerance):
    torch.manual_seed(0)
    count = torch.tensor([[1, 3, 2, 5, 13], [4, 1, 9, 2, 6]])
    offset = torch.nn.functional.pad(count.cumsum(1), (1, 0))
    shapes = [(2, 32, 64), (2, 1536, 64), (2, 1536, 64), (2, 1536), (2, 3, 256), (2, 32, 3)]
    drawn = [torch.randn(shape, dtype=torch.float64) / (8 if k in (1, 2, 3, 4) else 1) for k, shape in enumerate(shapes)]
    results = {}
    for what, device, kind in (("definition", "cpu", torch.float64), ("kernels", DEVICE, torch.float32)):
        h, receiver, sender, bias, gate, prior = leaves = [x.detach().to(device, kind).requires_grad_() for x in drawn]
        if what == "definition":
            pairs = [attention._attend_padded(h[c], None if pooled else receiver[c], sender[c], bias[c], gate[c], prior[c], offset[c])
                     for c in range(2)]  # fmt: skip
            message, total = (torch.stack(parts) for parts in zip(*pairs, strict=True))
        else:
            u, v = (None if pooled else (h @ receiver.mT).to(dtype)), (h @ sender.mT).to(dtype)
            options = (offset.to(DEVICE), attention.SLOPE, attention.EPSILON)
            message, total = kernels.StackedAttention.apply(u, v, bias, gate, prior, *options)
        weight = torch.linspace(1, 2, message.numel(), dtype=torch.float64).view(message.shape).to(device)
        ((message.double() * weight).sum() + (total.double() * weight.sum(-1)).sum()).backward()
        results[what] = [message, total, *(leaf.grad for leaf in leaves)]
    for found, expected in zip(results["kernels"], results["definition"], strict=True):
        assert (found is None) == (expected is None) and (found is None or far(found, expected) < tolerance)
