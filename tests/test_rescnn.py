import pytest
import torch
from torch.nn import functional as F

from matpretrain.composition import parse_formulas
from matpretrain.rescnn import FractionInputs, ResCNN


def test_fractions_pass_convolutions_and_the_stack():
    torch.manual_seed(0)
    inputs = FractionInputs(parse_formulas(["SrTiO3", "LrH3"])[0])
    batch = inputs[torch.tensor([1, 0])]
    assert batch.shape == (2, 103)
    assert batch[0, 102].item() == pytest.approx(0.25) and batch[1, [7, 21, 37]].tolist() == pytest.approx([0.6, 0.2, 0.2])
    model = ResCNN(2)
    x = batch[:, None]
    for layer in model.encoder.convolutions:
        x = torch.stack(
            [
                (F.pad(x, (1, 1)).unfold(2, 3, 1) * w[None, :, None]).sum((1, 3)) + b
                for w, b in zip(layer.weight, layer.bias, strict=True)
            ],
            1,
        )
        x = x.clamp(min=0)
    pooled = x.max(2).values
    first, second, third = model.stack.dense
    y = F.relu(first(pooled))
    y = F.relu(second(torch.cat([y, pooled], 1)))
    y = F.relu(third(torch.cat([y, pooled], 1)))
    y = F.relu(model.stack.of_dense(y) + model.stack.of_flat(pooled))
    torch.testing.assert_close(model(batch), model.stack.output(y), rtol=1e-4, atol=1e-5)
