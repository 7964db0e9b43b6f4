"""The Magpie fingerprint: 145 attributes of a composition (Ward et al., npj Comput. Mater. 2, 16028 (2016)).

Six stoichiometric norms, 132 statistics of 22 elemental properties, four mean valence-electron counts and three ionic
attributes, in the order of matminer's Stoichiometry, ElementProperty ("magpie"), ValenceOrbital ("avg") and
IonProperty (fast) featurisers, computed for all compositions at once from matminer's element tables. Missing element
data are imputed by the mean of the table, as matminer does by default.
"""

import itertools
import math
from functools import cache

import numpy as np

from matpretrain.composition import take
from matpretrain.elements import ORBITALS, PROPERTIES, element_tables

NORMS = (0, 2, 3, 5, 7, 10)
STATISTICS = ("minimum", "maximum", "range", "mean", "avg_dev", "mode")
CHUNK = 20_000  # compositions at a time, so that memory stays flat
MANY_STATES = 100_000  # combinations of oxidation states above which the two halves are searched separately


def feature_names():
    """The 145 names, as matminer labels them."""
    return [
        *(f"{p}-norm" for p in NORMS),
        *(f"MagpieData {s} {p}" for p in PROPERTIES for s in STATISTICS),
        *(f"avg {o} valence electrons" for o in ORBITALS),
        "compound possible",
        "max ionic char",
        "avg ionic char",
    ]


def magpie_features(compositions):
    """Magpie fingerprint [B, 145] float64 of B compositions, columns as in `feature_names`."""
    features = np.empty((len(compositions), len(feature_names())))
    for start in range(0, len(compositions), CHUNK):
        rows = slice(start, start + CHUNK)
        features[rows] = _features(take(compositions, rows))
    return features


def _features(c):
    properties, valence, electronegativity, states = element_tables()
    first, row, number = c.offset[:-1], c.row, c.number.astype(int)
    fraction = c.fraction[:, None]

    norms = [c.count.astype(float)]
    norms += [np.add.reduceat(c.fraction**p, first) ** (1 / p) for p in NORMS[1:]]

    value = properties[number]  # [M, 22]
    low, high = np.minimum.reduceat(value, first), np.maximum.reduceat(value, first)
    mean = np.add.reduceat(fraction * value, first)
    deviation = np.add.reduceat(fraction * np.abs(value - mean[row]), first)
    most = np.maximum.reduceat(c.amount, first)[row]
    is_mode = np.isclose(c.amount, most)[:, None]
    mode = np.minimum.reduceat(np.where(is_mode, value, np.inf), first)
    statistics = np.stack([low, high, high - low, mean, deviation, mode], axis=2).reshape(len(c), -1)

    electrons = np.add.reduceat(fraction * valence[number], first)
    ionic = _ionic_character(c, electronegativity[number])
    possible = _compound_possible(c, states).astype(float)
    return np.column_stack([*norms, statistics, electrons, possible, *ionic])


def _ionic_character(c, electronegativity):
    """Largest and mean ionic character 1 - exp(-(X_a - X_b)^2 / 4) over unordered pairs; zero for single elements."""
    largest, mean = np.zeros(len(c)), np.zeros(len(c))
    for n in np.unique(c.count[c.count > 1]):
        rows = np.flatnonzero(c.count == n)
        node = c.offset[rows, None] + np.arange(n)
        a, b = np.triu_indices(n, 1)
        x, fraction = electronegativity[node], c.fraction[node]
        character = 1 - np.exp(-0.25 * (x[:, a] - x[:, b]) ** 2)
        largest[rows] = character.max(1)
        mean[rows] = (fraction[:, a] * fraction[:, b] * character).sum(1)
    return largest, mean


def _compound_possible(c, states):
    """Whether one oxidation state per element can make each composition neutral (within 1e-8, as numpy.isclose).

    Compositions whose elements have the same lists of states, of which there are few, are looked at together.
    """
    lists = list(dict.fromkeys(states))
    kind = np.array([lists.index(own) for own in states])
    possible = np.zeros(len(c), bool)
    possible[c.count == 1] = True
    for n in np.unique(c.count[c.count > 1]):
        rows = np.flatnonzero(c.count == n)
        node = c.offset[rows, None] + np.arange(n)
        amount = c.amount[node]
        systems, system_of = np.unique(kind[c.number[node]], axis=0, return_inverse=True)
        order = np.argsort(system_of.ravel(), kind="stable")
        starts = np.searchsorted(system_of.ravel()[order], np.arange(len(systems) + 1))
        for system, start, stop in zip(systems.tolist(), starts[:-1], starts[1:], strict=True):
            members = order[start:stop]
            possible[rows[members]] = _neutral(tuple(lists[k] for k in system), amount[members])
    return possible


def _neutral(states, amount):
    """[G] whether any choice of one of states[k] for each of n elements balances amount [G, n]."""
    half = len(states) // 2
    if math.prod(map(len, states)) <= MANY_STATES:
        charge = amount @ _combinations(states).T
        return (np.abs(charge) <= 1e-8).any(1)
    left = amount[:, :half] @ _combinations(states[:half]).T
    right = np.sort(-(amount[:, half:] @ _combinations(states[half:]).T), axis=1)
    found = np.zeros(len(amount), bool)
    for g in range(len(amount)):
        nearest = np.searchsorted(right[g], left[g] - 1e-8)
        inside = nearest < right.shape[1]
        found[g] = (right[g][nearest[inside]] <= left[g][inside] + 1e-8).any()
    return found


@cache
def _combinations(states):
    return np.array(list(itertools.product(*states))).reshape(-1, len(states))
