"""A training under way: what changes from step to step, and what of it a state keeps."""

import copy
import math
import time

import torch

from matpretrain.cohort import clip_gradients, level
from matpretrain.replay import Replayed
from matpretrain.selection import Selection


class Diverged(FloatingPointError):
    """The loss of a training is no longer finite.

    Attributes:
        member: which one it is of a cohort.
    """

    def __init__(self, message, member=0):
        super().__init__(message)
        self.member = member


class Run:
    """The training of a Cohort with C members between two of its steps.

    Args:
        cohort, loss, trains, recipe, seeds, reserve, weight, sums: as of `training.fit_cohort`.

    Attributes:
        n_batches: steps of an epoch.
        done: steps of the epoch that were taken.
        tested: the Cohort, or the averaged weights, that are evaluated and selected.
        selection: Selection with the histories.
        kept: when the last state was left, or the run began (time.perf_counter).
    """

    def __init__(self, cohort, loss, trains, recipe, *, seeds, reserve, weight, sums):
        self.cohort, self.loss, self.recipe, self.sums = cohort, loss, recipe, sums
        self.trains, self.weight, self.device = trains, weight, trains[0].device
        self.batch, self.n_batches = recipe.batches_for(trains)
        self.n_steps = recipe.epochs * self.n_batches
        self.reserve = reserve if self.device.type == "cuda" else None
        self._rate = torch.zeros((), device=self.device) if self.reserve else 0.0  # at one place, where a graph can read it
        self.parameters = [p for p in cohort.parameters() if p.requires_grad]
        groups = _groups(cohort, self.parameters, recipe)
        self.optimiser = torch.optim.AdamW(groups, lr=self._rate, fused=True, capturable=self.reserve is not None)
        self.average = WeightAverage(cohort, recipe.average * self.n_steps) if recipe.average else None
        self.tested = self.average.model if self.average else cohort
        self.selection = Selection(recipe, cohort.size)
        self.orders = [torch.Generator().manual_seed(seed) for seed in seeds]
        self.total, self.norms = torch.zeros(2, cohort.size, device=self.device)  # summed over the epoch
        self.whole = self._weights([trains])[0]
        self.done, self.before = 0, 0.0
        self.kept = self.started = time.perf_counter()
        self._replayed = self.reserve and Replayed(self._train)

    @property
    def epoch(self):
        """Number of the epoch under way, from 1."""
        return max(map(len, self.selection.histories)) + 1

    def seconds(self):
        """Seconds since the training began, those before interruptions with them."""
        return self.before + time.perf_counter() - self.started

    def draw(self, cost):
        """Begin an epoch, or go on with one. Returns its steps that are left, each a tuple of C int64 tensors of rows.

        Args:
            cost: int64 tensor [rows] by row, or None, as of `training.fit`.
        """
        running, device = self.selection.running(), self.device
        self._stopped = torch.tensor([k for k in range(self.cohort.size) if k not in running], dtype=torch.int64, device=device)
        self.cohort.train()
        self._drawn = [order.get_state() for order in self.orders]
        batches = []
        for own, order in zip(self.trains, self.orders, strict=True):
            shuffled = own[torch.randperm(len(own), generator=order).to(device)]
            batches.append(split(shuffled, self.batch, None if cost is None else cost[shuffled]))
        steps = list(zip(*batches, strict=True))
        self._shares, self._taken = self._weights(steps), len(steps)
        self._sizes = self.reserve([level(rows)[0] for rows in steps]) if self.reserve else None
        return steps[self.done :]

    def step(self, rows):
        """Take a step on C int64 tensors of rows."""
        rate = self.recipe.learning_rate_at((self.epoch - 1) * self.n_batches + self.done, self.n_steps)
        self._rate = self._rate.fill_(rate) if self.reserve else rate
        for group in self.optimiser.param_groups:
            group["lr"] = self._rate
        replays = self._replayed and not len(self._stopped)
        values, found = self._replayed(rows, self._sizes) if replays else self._train(rows)
        self.cohort.constrain()
        if self.average:
            self.average.update(self.cohort)
        self.total += values * self._shares[self.done]
        self.norms += found
        self.done += 1

    def _train(self, rows):
        """A step on C tensors of rows: their losses [C] and the norms of the gradients [C]."""
        with self.recipe.autocast(self.device):
            values = self.loss(self.cohort, rows)
        self.optimiser.zero_grad(set_to_none=True)
        values.sum().backward()
        values = _silenced(values.detach(), self.parameters, self._stopped)
        found = clip_gradients(self.cohort, self.recipe.clip) if self.recipe.clip else torch.zeros_like(values)
        self.optimiser.step()
        return values, found

    def finish(self, evaluate):
        """End an epoch. Returns its history rows, one per member, None for those that had stopped before.

        Args:
            evaluate: as of `training.fit_cohort`; it sees the weights `tested`.

        Raises:
            Diverged: a mean loss is not finite; nothing is evaluated then.
        """
        means, epoch = self.means(), self.epoch
        metrics = evaluate(self.tested)
        rate = self.recipe.learning_rate_at((epoch - 1) * self.n_batches + self._taken - 1, self.n_steps)  # of its last step
        seconds, found = self.seconds(), {}
        for k in self.selection.running():
            row = {"epoch": epoch, "learning_rate": rate, "loss": means[k]}
            if self.recipe.clip:
                row["gradient_norm"] = self.norms[k].item() / self._taken
            found[k] = {**row, **metrics[k], "seconds": seconds}
        self.selection.add(found, {k: next(iter(metrics[k].values())) for k in found}, self.tested)
        self.done, self.total, self.norms = 0, torch.zeros_like(self.total), torch.zeros_like(self.norms)
        return [found.get(k) for k in range(self.cohort.size)]

    def means(self):
        """Mean loss of each member, a list of C floats: what was summed over the epoch, over the weight of all of its rows.

        Raises:
            Diverged: one of them is not finite.
        """
        values = (self.total / self.whole).tolist()
        for k, value in enumerate(values):
            if not math.isfinite(value):
                raise Diverged(f"training loss became {value} in epoch {self.epoch}; lower learning_rate", k)
        return values

    def _weights(self, steps):
        """Weights [n, C] of the losses of every member's rows in n steps: one transfer, where they are numbers."""
        of_rows = [self.weight(own) for rows in steps for own in rows]
        as_one = torch.stack(of_rows) if isinstance(of_rows[0], torch.Tensor) else torch.tensor(of_rows, device=self.device)
        return as_one.view(-1, self.cohort.size)

    def record(self):
        """What a state keeps, to be taken over by a run of the same training."""
        self.means()
        on_gpu = self.device.type == "cuda"
        return {
            "model": self.cohort.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "average": self.average and {"model": self.average.model.state_dict(), "steps": self.average.steps},
            "orders": self._drawn,  # before the rows of the epoch were drawn
            "step": self.done,
            "random": torch.get_rng_state(),
            "random_device": torch.cuda.get_rng_state(self.device) if on_gpu else None,
            "total": self.total,
            "norms": self.norms,
            "sums": {name: torch.as_tensor(value) for name, value in (self.sums or {}).items()},
            "seconds": self.seconds(),
            **self.selection.record(),
        }

    def take_over(self, saved):
        """Go on from what `record` returned; ValueError, or an error of access, where no run of this training left that."""
        if not (isinstance(saved["step"], int) and 0 < saved["step"] <= self.n_batches):
            raise ValueError(f"step {saved['step']} of {self.n_batches}")
        self.selection.take_over(saved, self.device)
        self.cohort.load_state_dict(saved["model"])
        self.optimiser.load_state_dict(saved["optimiser"])
        if self.average:
            self.average.model.load_state_dict(saved["average"]["model"])
            self.average.steps = saved["average"]["steps"]
        for order, own in zip(self.orders, saved["orders"], strict=True):
            order.set_state(own)
        torch.set_rng_state(saved["random"])
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(saved["random_device"], self.device)
        self.done, self.before = saved["step"], saved["seconds"]
        self.total, self.norms = saved["total"].to(self.device), saved["norms"].to(self.device)
        if self.sums is not None:
            self.sums.update({name: value.to(self.device) for name, value in saved["sums"].items()})


def _silenced(values, parameters, stopped):
    """Losses [C] with zeros for the members [n] that have stopped, whose gradients become zero as well."""
    if not len(stopped):
        return values
    for parameter in parameters:
        if parameter.grad is not None:
            parameter.grad.index_fill_(0, stopped, 0.0)
    return values.index_fill(0, stopped, 0.0)


def _groups(cohort, parameters, recipe):
    """Parameter groups of the optimiser: the recipe's decoupled decay, or the gradient of what the network penalises."""
    penalised = cohort.penalised()
    own = {id(parameter) for group in penalised.values() for parameter in group}
    groups = [{"params": [p for p in parameters if id(p) not in own], "weight_decay": recipe.weight_decay}]
    for coefficient, group in penalised.items():
        groups.append({"params": group, "weight_decay": 2 * coefficient, "decoupled_weight_decay": False})
    return groups


def split(rows, batch, cost=None):
    """Batches of int64 rows [n] in their order: of `batch` rows each, or of the same summed cost.

    With a cost [n] a batch ends where the sum reaches `batch` times the mean, so there are as many batches as without
    (or fewer, where one row costs more than that) and a batch costs at most one row more. Rows that cost nothing go with others.
    """
    if cost is None or not cost.sum():
        return rows.split(batch)
    before = cost.cumsum(0) - cost
    group = (before * len(rows) // (batch * cost.sum())).clamp(max=-(-len(rows) // batch) - 1)
    return rows.split(torch.unique_consecutive(group, return_counts=True)[1].tolist())


class WeightAverage:
    """Running mean of the weights that turns into an exponential moving average over the last `horizon` steps.

    Attributes:
        model: a copy of the model that holds the average, with the buffers that the model has.
    """

    def __init__(self, model, horizon):
        self.model = copy.deepcopy(model).requires_grad_(False)
        self.horizon, self.steps = max(horizon, 1.0), 0
        self.averaged = list(self.model.parameters())

    @torch.no_grad()
    def update(self, model):
        """Take in the weights after a step."""
        self.steps += 1
        torch._foreach_lerp_(self.averaged, list(model.parameters()), max(1 / self.steps, 1 / self.horizon))
        for own, current in zip(
            self.model.buffers(), model.buffers(), strict=True
        ):  # running statistics of a batch normalisation
            own.copy_(current)
