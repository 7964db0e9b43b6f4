"""Crystals with atoms and edges merged that message passing cannot tell apart.

Two atoms of a crystal have the same vector in every layer where they have the same element and as many neighbours with
the same vectors at the same distances, which atoms of one orbit of the space group have. So a network that takes sums or means
over neighbours, and of distances the lengths only, finds on the classes of the coarsest such partition (colour refinement, Weisfeiler
and Leman 1968), each counted as often as it has members, what it finds on the atoms: its cost is that of the orbits.
"""

from dataclasses import dataclass

import numpy as np

from matpretrain.crystal import owners

TOLERANCE = 1e-3  # angstrom; lengths of a crystal that are closer than this are one


@dataclass(frozen=True)
class Orbits:
    """S crystals with C classes of atoms, E classes of directed edges and L distinct lengths in all; numpy arrays.

    Crystal s owns the atoms node_offset[s]:node_offset[s + 1], the edges edge_offset[s]:edge_offset[s + 1] and the lengths
    length_offset[s]:length_offset[s + 1].

    Attributes:
        number: [C] uint8 atomic number.
        atoms: [C] int64 members of the class.
        sender, receiver, kind: [E] int32 classes of the ends and length, as positions within the crystal.
        count: [E] int64 edges of that kind between one atom of the sender's class and those of the receiver's.
        length: [L] float32 in angstrom.
        node_offset, edge_offset, length_offset: [S + 1] int64.
    """

    number: np.ndarray
    atoms: np.ndarray
    sender: np.ndarray
    receiver: np.ndarray
    kind: np.ndarray
    count: np.ndarray
    length: np.ndarray
    node_offset: np.ndarray
    edge_offset: np.ndarray
    length_offset: np.ndarray


def merge(number, node_offset, first, second, length, pair_offset):
    """The Orbits of S crystals with N atoms and P pairs of neighbours, each two directed edges.

    Args:
        number: [N] uint8 atomic number.
        first, second: [P] ends of the pairs, as positions within the crystal.
        length: [P] in angstrom.
        node_offset, pair_offset: [S + 1] int64.
    """
    crystal_of_atom, crystal_of_pair = owners(node_offset), owners(pair_offset)
    first, second = (node_offset[crystal_of_pair] + ends for ends in (first, second))
    kind, length, crystal_of_length = _distinct(length, crystal_of_pair)
    sender, receiver, kind = np.concatenate([first, second]), np.concatenate([second, first]), np.tile(kind, 2)
    order = np.argsort(sender, kind="stable")
    sender, receiver, kind = sender[order], receiver[order], kind[order]

    colour = _refined(number + 256 * crystal_of_atom, sender, receiver, kind)
    _, example, of_atom, atoms = np.unique(colour, return_index=True, return_inverse=True, return_counts=True)
    order = np.argsort(example)  # classes in the order of their first atoms, and so of the crystals
    example, atoms = example[order], atoms[order]
    of_atom = np.argsort(order)[of_atom]

    leaves_example = example[of_atom[sender]] == sender  # the other members of a class have the same edges
    ends = np.stack([of_atom[sender], of_atom[receiver], kind])[:, leaves_example]
    ends = ends[:, np.lexsort(ends[::-1])]
    new = np.diff(ends, axis=1, prepend=-1).any(0)
    count = np.diff(np.flatnonzero(np.append(new, True)))
    sender, receiver, kind = ends[:, new]

    crystal_of_class = crystal_of_atom[example]
    crystal_of_edge = crystal_of_class[sender]
    rows = (crystal_of_class, crystal_of_edge, crystal_of_length)
    offsets = [np.concatenate([[0], np.cumsum(np.bincount(own, minlength=len(node_offset) - 1))]) for own in rows]
    first_class, _, first_length = (offset[crystal_of_edge] for offset in offsets)
    places = (sender - first_class, receiver - first_class, kind - first_length)
    places = (place.astype(np.int32) for place in places)
    return Orbits(number[example], atoms, *places, count, length.astype(np.float32), *offsets)


def _distinct(length, crystal):
    """Lengths [P] of which those of a crystal that are closer than TOLERANCE are one: which one [P], means [L] and crystals [L]."""
    order = np.lexsort((length, crystal))
    ordered, owner = length[order], crystal[order]
    position = np.arange(len(order))
    apart = (np.diff(ordered, prepend=-np.inf) > TOLERANCE) | (np.diff(owner, prepend=-1) != 0)
    start = np.maximum.accumulate(np.where(apart, position, 0))
    bins = ((ordered - ordered[start]) / TOLERANCE).astype(np.int64)  # where neighbours are dense, pieces of that width
    new = apart | (np.diff(bins, prepend=0) != 0)
    kind = np.empty(len(order), np.int64)
    kind[order] = np.cumsum(new) - 1
    return kind, np.bincount(kind, length) / np.bincount(kind), owner[new]


def _refined(colour, sender, receiver, kind):
    """Colours [N] uint64 that differ where elements, neighbours or their distances do, to any depth.

    The multiset of an atom's neighbours is a sum of hashes, equal for two that differ with a probability of 2^-64 each.

    Args:
        colour: [N] those that atoms begin with.
        sender, receiver, kind: [E] edges in the order of their senders.
    """
    colour, length = _mixed(colour.astype(np.uint64)), _mixed(kind.astype(np.uint64))
    bounds, n_colours = np.searchsorted(sender, np.arange(len(colour) + 1)), 0
    while (n_now := len(np.unique(colour))) > n_colours:
        n_colours = n_now
        sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(_mixed(colour[receiver] ^ length))])
        colour = _mixed(colour + _mixed(sums[bounds[1:]] - sums[bounds[:-1]]))
    return colour


def _mixed(x):
    """A permutation of the 64-bit numbers [N] that scatters them (splitmix64: Steele, Lea and Flood, OOPSLA 2014)."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
