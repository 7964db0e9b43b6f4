"""Which weights a training ends with, and when it stops early."""

import math

from matpretrain.states import check_history

# Times its lowest value from which on a validation MAE has risen too far: 1.13 at most on datasets that are well trained, 1.6 on
# perovskites with 300 epochs (docs/reproduction/recipe.md).
RISE = 1.25


def overtrained(history):
    """What to do where training to the last epoch went on for too long, in a line; None where it did not.

    Args:
        history: data frame fold, epoch and mae.
    """
    # a fold that stopped early counts with its last score
    curve = history.pivot(index="epoch", columns="fold", values="mae").ffill().mean(axis=1)
    lowest, end = curve.min(), curve.iloc[-1]
    if not end > RISE * lowest:
        return None
    return (
        f"validation MAE {lowest:.4g} after epoch {curve.idxmin()}, {end:.4g} at the end: trained for too long; give the dataset "
        "recipe: {epochs: ...} of its own, or select: best"
    )


class Selection:
    """Histories of the members of a cohort, and their weights set aside: those of the best epoch, or with which one stopped early.

    Args:
        recipe: recipe.Recipe; `select` and `patience` of it.
        size: members.

    Attributes:
        histories: list of rows of every member.
        best: {name: tensor} as in the cohort's state_dict, None before weights of some member are set aside.
        best_score, best_epoch: of every member, infinite and 0 before it has a finite score.
    """

    def __init__(self, recipe, size):
        self.recipe, self.members = recipe, range(size)
        self.histories = [[] for _ in self.members]
        self.best, self.best_score, self.best_epoch = None, [math.inf] * size, [0] * size

    def running(self):
        """Members that have not stopped early."""
        patience = self.recipe.patience
        return [k for k in self.members if not patience or len(self.histories[k]) - self.best_epoch[k] < patience]

    def add(self, rows, scores, cohort):
        """Take in an epoch.

        Args:
            rows: {member: history row} of those that were running.
            scores: {member: what selects, lower is better}.
            cohort: Cohort with the weights after the epoch.
        """
        for k, row in rows.items():
            self.histories[k].append(row)
            if scores[k] < self.best_score[k]:
                self.best_score[k], self.best_epoch[k] = scores[k], len(self.histories[k])
        running = self.running()
        better = [k for k in rows if self._selects_best(k) and self.best_epoch[k] == len(self.histories[k])]
        self._set_aside(cohort, better + [k for k in rows if k not in running and not self._selects_best(k)])

    def final(self, cohort):
        """{name: tensor}: the weights set aside, and of the other members those that they have."""
        self._set_aside(cohort, [k for k in self.running() if not self._selects_best(k)])
        return self.best

    def _selects_best(self, k):
        return self.recipe.select == "best" and self.best_epoch[k] > 0

    def _set_aside(self, cohort, chosen):
        now = cohort.state_dict()
        if chosen and (self.best is None or cohort.size == 1):
            self.best = {name: value.clone() for name, value in now.items()}
        elif chosen:
            for name, _ in cohort.named_parameters():
                self.best[name][chosen] = now[name][chosen]

    def record(self):
        """What a state keeps of it."""
        return {name: getattr(self, name) for name in ("histories", "best", "best_score", "best_epoch")}

    def take_over(self, saved, device):
        """Go on from what `record` returned, on a device; ValueError where that makes no sense."""
        for history, best_epoch, _ in zip(saved["histories"], saved["best_epoch"], self.members, strict=True):
            check_history(history, self.recipe.epochs)
            if not 0 <= best_epoch <= len(history):
                raise ValueError(f"best epoch {best_epoch} of {len(history)}")
        self.histories, self.best_score, self.best_epoch = saved["histories"], saved["best_score"], saved["best_epoch"]
        self.best = saved["best"] and {name: value.to(device) for name, value in saved["best"].items()}
