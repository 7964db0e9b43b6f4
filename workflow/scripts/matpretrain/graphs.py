"""Periodic graphs of crystals: every pair of atoms within a cutoff, as flat arrays that are read by memory map.

Of the two directed edges between neighbours one is stored. Its ends count within their structure and fit two bytes
each, its image fits three: seven bytes for two edges. The positions are Cartesian, so that a perturbation needs no lattice.
"""

from dataclasses import dataclass, fields

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from matpretrain.crystal import check_apart, owners, pairs_within, wrapped
from matpretrain.files import DataError, atomic_path

CUTOFF = 5.0  # angstrom (New et al. 2024, table 5)
KNOWN = np.isin(np.arange(119), [*range(1, 84), *range(89, 95)])  # the 89 elements of matgl's embedding table
LARGEST = np.iinfo(np.int16).max  # atoms of a cell
FURTHEST = np.iinfo(np.int8).max  # cells between an atom and its neighbour


@dataclass(frozen=True)
class Graphs:
    """S structures with N atoms and P pairs of neighbours in all; numpy arrays, or torch tensors on a device.

    Structure s owns the atoms node_offset[s]:node_offset[s + 1] and the pairs pair_offset[s]:pair_offset[s + 1].

    Attributes:
        number: [N] uint8 atomic number.
        position: [N, 3] float32 Cartesian coordinates in angstrom.
        lattice: [S, 3, 3] float32 lattice vectors as rows in angstrom.
        node_offset, pair_offset: [S + 1] int64.
        first, second: [P] int16 positions within the structure, first <= second; an atom may neighbour its own images.
        image: [P, 3] int8 cell of the second atom, relative to that of the first.
    """

    number: np.ndarray
    position: np.ndarray
    lattice: np.ndarray
    node_offset: np.ndarray
    pair_offset: np.ndarray
    first: np.ndarray
    second: np.ndarray
    image: np.ndarray

    def __len__(self):
        return len(self.node_offset) - 1


NAMES = tuple(field.name for field in fields(Graphs))


def connect(structures):
    """Graphs of an iterable of structures (id, lattice, number, frac): neighbours within CUTOFF.

    An atom's own images are neighbours too; an atom without neighbours there is in no pair. Atoms outside the cell are wrapped
    into it.

    Raises:
        DataError: a cell so large or so flat that it does not fit the arrays, or with atoms as near as none are, by its id.
    """
    parts = {name: [] for name in ("number", "position", "lattice", "first", "second", "image")}
    for identity, lattice, number, frac in structures:
        frac = wrapped(frac)
        first, second, image, distance = pairs_within(lattice, frac, CUTOFF)
        x, y, z = image.T
        ahead = (x > 0) | ((x == 0) & ((y > 0) | ((y == 0) & (z > 0))))  # one of each image and its opposite
        once = np.flatnonzero((first < second) | ((first == second) & ahead))
        once = once[np.argsort(first[once] * len(number) + second[once], kind="stable")]
        furthest = np.abs(image).max(initial=0)
        if len(number) > LARGEST or furthest > FURTHEST:
            raise DataError(
                f"structure {identity}: {len(number)} atoms with neighbours {furthest} cells away do not fit a graph; "
                "reduce the cell or remove the structure"
            )
        check_apart(identity, distance)
        parts["number"].append(number.astype(np.uint8))
        parts["position"].append((frac @ lattice).astype(np.float32))
        parts["lattice"].append(np.asarray(lattice, np.float32)[None])
        parts["first"].append(first[once].astype(np.int16))
        parts["second"].append(second[once].astype(np.int16))
        parts["image"].append(image[once].astype(np.int8))
    offsets = {
        f"{kind}_offset": np.cumsum([0, *map(len, parts[name])], dtype=np.int64)
        for kind, name in (("node", "number"), ("pair", "first"))
    }
    arrays = {}
    for name in list(parts):
        arrays[name] = np.concatenate(parts.pop(name))  # one at a time: half the memory
    return Graphs(**offsets, **arrays)


def separations(graphs, begin=0, end=None):
    """[P] distances between the ends of the pairs of structures begin:end in angstrom, float64."""
    offset = graphs.pair_offset[begin : None if end is None else end + 1]
    crystal, pairs = begin + owners(offset), slice(offset[0], offset[-1])
    start = graphs.node_offset[crystal]
    first, second = (graphs.position[start + ends[pairs]].astype(float) for ends in (graphs.first, graphs.second))
    shift = np.einsum("pi,pij->pj", graphs.image[pairs].astype(float), graphs.lattice[crystal].astype(float))
    return np.linalg.norm(second + shift - first, axis=1)


def volumes(graphs):
    """[S] volume of the cells in cubic angstrom."""
    return np.abs(np.linalg.det(graphs.lattice.astype(float)))


def densities(graphs):
    """[S] density of the crystals in g/cm3."""
    from pymatgen.core import Element

    mass = np.array([0.0, *(Element.from_Z(z).atomic_mass for z in range(1, 119))])  # atomic mass constants
    total = np.add.reduceat(mass[graphs.number], graphs.node_offset[:-1])
    return total / volumes(graphs) * 1.66053906660


def save_graphs(graphs, path):
    """Write Graphs to one file, atomically."""
    arrays = {name: np.ascontiguousarray(getattr(graphs, name)) for name in NAMES}
    with atomic_path(path, size=sum(array.nbytes for array in arrays.values())) as temporary:
        temporary.write_bytes(save(arrays))  # as in weights.save_weights


def open_graphs(path, device=None):
    """Graphs of a file written by `save_graphs`.

    Args:
        device: torch device for tensors, which on "cpu" stay in the file until they are read; None for numpy arrays.

    Raises:
        DataError: the file does not hold graphs.
    """
    try:
        with safe_open(path, "np" if device is None else "pt", device=device or "cpu") as handle:
            return Graphs(**{name: handle.get_tensor(name) for name in NAMES})
    except (OSError, SafetensorError) as error:
        raise DataError(f"{path}: not a file of graphs ({error}); delete it and run again") from None
