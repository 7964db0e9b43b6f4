"""The training loop, against a plain one."""

import math

import pytest
import torch
from small_problem import Line, recipe

from matpretrain import objectives
from matpretrain.training import fit

PENALTY, LARGEST, SEED = 0.02, 0.5, 3
ROWS = torch.arange(10, 80)
COSTS = torch.randint(1, 9, (96,), generator=torch.Generator().manual_seed(1))


class Held(Line):
    """A Line with a penalty on the weights of its first layer, whose units have a largest norm."""

    def penalised(self):
        return {PENALTY: [self.layers[0].weight]}

    @torch.no_grad()
    def constrain(self):
        self.layers[0].weight.renorm_(2, 0, LARGEST)


def batches(rows, size, cost):
    """Rows in their order, `size` to a batch, or until a batch costs what `size` rows cost on average."""
    if cost is None:
        return [rows[start : start + size] for start in range(0, len(rows), size)]
    limit, spent, found = size * cost[rows].sum().item() / len(rows), 0, [[]]
    for row in rows.tolist():
        if spent >= limit * len(found):
            found.append([])
        found[-1].append(row)
        spent += cost[row].item()
    return [torch.tensor(batch) for batch in found]


def plain_loop(model, x, y, settings, cost):
    """Averaged weights, and rates and norms by step, of a recipe with everything; the penalty is not part of what is clipped."""
    first = model.layers[0].weight
    others = [p for p in model.parameters() if p is not first]
    groups = [{"params": others, "weight_decay": settings.weight_decay}, {"params": [first], "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups)
    order, per_epoch = torch.Generator().manual_seed(SEED), math.ceil(len(ROWS) / settings.batch_size)
    n_steps = settings.epochs * per_epoch
    warmup, horizon = settings.warmup * n_steps, settings.average * n_steps
    step, rates, norms, average = 0, [], [], None
    for _ in range(settings.epochs):
        for rows in batches(ROWS[torch.randperm(len(ROWS), generator=order)], settings.batch_size, cost):
            ramp, fall = (step + 1) / (warmup + 1), (1 + math.cos(math.pi * (step - warmup) / (n_steps - warmup))) / 2
            rates.append(settings.learning_rate * (ramp if step < warmup else fall))
            for group in optimiser.param_groups:
                group["lr"] = rates[-1]
            optimiser.zero_grad()
            (model(x[rows])[:, 0] - y[rows]).abs().mean().backward()
            norms.append(torch.nn.utils.clip_grad_norm_(model.parameters(), settings.clip).item())
            (PENALTY * first.square().sum()).backward()
            optimiser.step()
            with torch.no_grad():
                first.mul_((LARGEST / first.norm(dim=1, keepdim=True)).clamp(max=1))
            step += 1
            current = [p.detach().clone() for p in model.parameters()]
            share = 1 / min(step, horizon)
            average = [(1 - share) * a + share * c for a, c in zip(average or current, current, strict=True)]
    return average, rates, norms


@pytest.mark.parametrize("cost", [None, COSTS], ids=["batches of rows", "batches by cost"])
def test_the_loop_takes_the_steps_of_a_plain_one(problem, cost):
    settings = recipe(epochs=3, learning_rate=0.03, weight_decay=0.1, warmup=0.2, clip=1.1, average=0.3, select="last")
    x, y = (tensor.double() for tensor in problem)
    model = Held().double()
    history = fit(
        model,
        lambda m, rows: objectives.l1(m(x[rows]), y[rows]),
        ROWS,
        lambda m: {"mae": 0.0},
        settings,
        seed=SEED,
        cost=cost,
    )
    average, rates, norms = plain_loop(Held().double(), x, y, settings, cost)
    assert len(rates) == 15 and min(norms) < settings.clip < max(norms)
    assert [row["learning_rate"] for row in history] == pytest.approx(rates[4::5])
    assert [row["gradient_norm"] for row in history] == pytest.approx(torch.tensor(norms).view(3, 5).mean(1).tolist())
    assert all(
        torch.allclose(own, expected, rtol=0, atol=1e-6) for own, expected in zip(model.parameters(), average, strict=True)
    )
