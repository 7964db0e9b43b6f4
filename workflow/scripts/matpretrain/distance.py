"""How far a composition lies from a set of training compositions.

The distance of two compositions is half the L1 distance of their atomic fractions f and g, which equals
1 - sum_e min(f_e, g_e): the share of atoms to be exchanged, from 0 (the same) to 1 (no element in common).
"""

import itertools

import numpy as np

from matpretrain.composition import N_ELEMENTS, formula_keys, take

QUANTILE = 0.99
SAMPLE = 2000  # training compositions from which the quantile is taken, drawn with SEED where there are more
SEED = 0
DIGITS = 6  # of distances, as for fractions in composition.formula_keys


class TrainingSet:
    """Distinct compositions of a training set: T of them take 476 T bytes.

    Attributes:
        occurs: [119] bool, which atomic numbers occur.
        limit: 99th percentile of the distances of SAMPLE training compositions to the nearest different one.

    Args:
        compositions: Compositions of the training set, repeated ones count once.
    """

    def __init__(self, compositions):
        rows = sorted({key: row for row, key in enumerate(formula_keys(compositions))}.values())
        distinct = take(compositions, rows)
        self._share = np.zeros((N_ELEMENTS + 1, len(distinct)), np.float32)
        self._share[distinct.number, distinct.row] = distinct.fraction
        self.occurs = np.bincount(distinct.number, minlength=N_ELEMENTS + 1) > 0
        sample = np.arange(len(distinct))
        if len(sample) > SAMPLE:
            sample = np.random.default_rng(SEED).choice(sample, SAMPLE, replace=False)
        self.limit = round(float(np.quantile(self.nearest(take(distinct, sample), sample), QUANTILE)), DIGITS)

    def nearest(self, compositions, leave_out=None):
        """[B] distance of each composition to the nearest of the set, rounded to six digits.

        Args:
            leave_out: [B] position in the set that does not count for each composition.
        """
        distance = np.empty(len(compositions))
        fraction = compositions.fraction.astype(np.float32)
        shared, part = np.empty((2, self._share.shape[1]), np.float32)
        for b, (start, stop) in enumerate(itertools.pairwise(compositions.offset)):
            shared.fill(0)
            for z, f in zip(compositions.number[start:stop], fraction[start:stop], strict=True):
                if self.occurs[z]:
                    shared += np.minimum(self._share[z], f, out=part)
            if leave_out is not None:
                shared[leave_out[b]] = 0
            distance[b] = 1 - shared.max()
        return np.round(distance.clip(min=0), DIGITS)

    def far(self, compositions, distance):
        """[B] bool: an element occurs nowhere in the set, or the distance [B] to the nearest exceeds the limit."""
        unseen = np.logical_or.reduceat(~self.occurs[compositions.number], compositions.offset[:-1])
        return unseen | (distance > self.limit)
