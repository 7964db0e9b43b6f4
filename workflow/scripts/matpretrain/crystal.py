"""Crystal structures: reading, neighbours over periodic images, and the packed neighbour lists of CGCNN.

A structure is (id, lattice, number, frac): its name, [3, 3] lattice vectors as rows in angstrom, [n] atomic numbers and
[n, 3] fractional coordinates.
"""

import gzip
import json
import re
import warnings
import zlib
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from pathlib import Path

import numpy as np

from matpretrain.composition import N_ELEMENTS, Compositions
from matpretrain.files import DataError, unpacked

RADIUS = 8.0  # angstrom; neighbours further away do not count
N_NEIGHBOURS = 12
GROWTH = 1.5  # first guess of the search: the sphere that holds 1.5 times as many atoms
TIE = 1e-4  # angstrom; distances that round to the same multiple are equal
COINCIDENT = 1e-8  # angstrom; an atom this near to itself is itself
CLOSEST = 0.4  # angstrom; atoms this near are a mistake: in H2 they are 0.74 apart, and 4 angstrom are 0.4 nm
KEYS = ("id", "lattice", "species", "frac_coords")
DATA_BLOCK = re.compile(r"^\s*data_", re.MULTILINE)  # as pymatgen splits a CIF
ATOMS = re.compile(r"^\s*_atom_site_fract_x\s*$", re.MULTILINE | re.IGNORECASE)  # a column of the table of atoms


@dataclass(frozen=True)
class Crystals:
    """Neighbour lists of S structures with N atoms in all; structure s owns the atoms offset[s]:offset[s + 1].

    Attributes:
        number: [N] uint8 atomic number.
        offset: [S + 1] int64.
        neighbour: [N, 12] int32 position of the neighbour within its structure, nearest first to within TIE.
        distance: [N, 12] float32 in angstrom; free places hold neighbour 0 at RADIUS + 1, as in CGCNN.
        id: [S] str.
    """

    number: np.ndarray
    offset: np.ndarray
    neighbour: np.ndarray
    distance: np.ndarray
    id: np.ndarray

    def __len__(self):
        return len(self.offset) - 1

    def arrays(self):
        """The arrays to be saved, by name; `Crystals(**arrays)` restores them."""
        return dict(vars(self))


FLAT = 1e-9  # square of the volume of a cell with edges of 1 below which it is none


def lattice_matrix(parameters):
    """[3, 3] lattice vectors as rows, a along x and b in the xy plane, from a, b, c (angstrom), alpha, beta, gamma (degrees).

    Raises:
        ValueError: no cell has these lengths and angles.
    """
    from pymatgen.core import Lattice

    parameters = np.asarray(parameters, float)
    if parameters.shape != (6,):
        raise ValueError("lattice is not a list of six numbers")
    if not np.isfinite(parameters).all():
        raise ValueError("lattice holds a number that is not finite")
    lengths, cos = parameters[:3], np.cos(np.radians(parameters[3:]))
    if 0 < lengths.min() < CLOSEST:
        raise ValueError(f"a cell {lengths.min():g} angstrom long is shorter than any bond; lengths are in angstrom")
    if lengths.min() <= 0 or 1 + 2 * cos.prod() - (cos**2).sum() < FLAT:
        raise ValueError(f"no cell has the lattice {parameters.tolist()}")
    return np.array(Lattice.from_parameters(*parameters, vesta=True).matrix)


def read_structures(path):
    """Yield the structures of a .jsonl or .jsonl.gz file, of a folder of .cif files (their id is the file stem), or of a .csv
    or .csv.gz file, or a folder of .csv files, with columns id (or ID) and cif. Capitals in .CIF and .CSV are the same.

    A line of a .jsonl file is an object with id, lattice (a, b, c, alpha, beta, gamma), species and frac_coords. Blanks around
    ids are taken off, as around those of tables.

    Raises:
        DataError: unreadable or empty file or folder, or a bad entry, named by its line and id.
    """
    path = Path(path)
    if not path.exists():
        raise DataError(f"{path}: no such file or folder; correct the path")
    inside = {end: sorted(file for file in path.glob("*") if file.name.lower().endswith(end)) for end in (".cif", ".csv")}
    if inside[".cif"]:
        entries = _parse_cifs((str(file), file.stem, file) for file in inside[".cif"])
    elif inside[".csv"] or path.name.lower().endswith((".csv", ".csv.gz")):
        entries = _parse_cifs(entry for table in inside[".csv"] or [path] for entry in _cif_column(table))
    else:
        entries = [] if path.is_dir() else _json_lines(path)
    places = {}
    for place, (identity, *structure) in entries:
        identity = identity.strip()
        if not identity:
            raise DataError(f"{place}: the id is empty; fill it in")
        if identity in places:
            raise DataError(f"{place}: this id is also at {places[identity]}; make ids unique")
        places[identity] = place
        yield identity, *structure
    if not places:
        raise DataError(f"{path}: no structures; it needs one object per line, files ending in .cif, or a column cif")


def _json_lines(path):
    """Yield (place, structure) of every line that is not blank."""
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rt", encoding="utf-8-sig") as handle:
            for number, line in enumerate(handle, 1):
                if not line.strip():
                    continue
                place = f"{path}: line {number}"
                try:
                    entry = json.loads(line)
                except json.JSONDecodeError as error:
                    raise DataError(f"{place}: not JSON ({error.msg}); correct or remove the line") from None
                if isinstance(entry, dict) and "id" in entry:
                    place += f" (id {entry['id']})"
                try:
                    yield place, _structure(entry)
                except (ValueError, TypeError) as error:
                    raise DataError(f"{place}: {error}; correct or remove the line") from None
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not a readable file of structures ({error}); correct or replace it") from None


def _structure(entry):
    """The structure of one decoded line. Raises ValueError or TypeError saying what is wrong."""
    if not isinstance(entry, dict):
        raise ValueError("not a JSON object")
    missing = [key for key in KEYS if key not in entry]
    if missing:
        raise ValueError(f"no key {missing[0]!r}")
    species, table = entry["species"], _atomic_numbers()
    if not isinstance(species, list) or not species:
        raise ValueError("species is not a list of element symbols")
    unknown = [s for s in species if s not in table]
    if unknown:
        raise ValueError(f"{unknown[0]!r} is not an element")
    frac = np.array(entry["frac_coords"], float)
    if frac.shape != (len(species), 3):
        raise ValueError(f"{len(species)} species, but frac_coords has the shape {list(frac.shape)}")
    if not np.isfinite(frac).all():
        raise ValueError("frac_coords holds a number that is not finite")
    return str(entry["id"]), lattice_matrix(entry["lattice"]), np.array([table[s] for s in species], np.uint8), frac


def _cif_column(path):
    """Yield (place, id, CIF text) of every row of a CSV."""
    import pandas as pd

    try:
        names = {"id", "ID", "cif"}
        table = pd.read_csv(BytesIO(unpacked(path)), dtype=str, keep_default_na=False, usecols=names.__contains__)
        ids = table["id" if "id" in table else "ID"]
        yield from ((f"{path}: id {i}", i, text) for i, text in zip(ids, table["cif"], strict=True))
    except DataError:
        raise
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not a readable CSV ({str(error).strip()}); correct or replace the file") from None
    except KeyError as error:
        raise DataError(f"{path}: no column {error}; structures of a CSV are in its columns id (or ID) and cif") from None


def _cif_text(place, cif):
    """Text of a CIF file, or the text itself.

    Raises:
        DataError: a file that cannot be read, or more than one data block with atoms, of which one would be taken.
    """
    try:
        text = cif.read_text(encoding="utf-8-sig", errors="replace") if isinstance(cif, Path) else cif
    except OSError as error:
        raise DataError(f"{place}: not a readable CIF ({error.strerror}); correct or remove it") from None
    blocks = sum(bool(ATOMS.search(block)) for block in DATA_BLOCK.split(text)[1:])
    if blocks > 1:
        raise DataError(f"{place}: {blocks} data blocks with atoms; give each structure a file, or row, of its own")
    return text


def _parse_cifs(entries):
    """Yield (place, structure) of entries (place, id, CIF file or text)."""
    from pymatgen.io.cif import CifParser

    table = _atomic_numbers()
    for place, identity, cif in entries:
        text = _cif_text(place, cif)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # rounding of coordinates, missing labels
                structure = CifParser.from_str(text).parse_structures(primitive=False)[0]
            if not structure.is_ordered:
                raise ValueError("sites with partial occupancy")
            symbols = [getattr(site.specie, "element", site.specie).symbol for site in structure]  # without charges
            unknown = [s for s in symbols if s not in table]
            if unknown:
                raise ValueError(f"{unknown[0]!r} is not an element")
        except Exception as error:  # pymatgen raises many types for bad files
            reason = " ".join(str(error).split())
            raise DataError(f"{place}: not a readable CIF ({reason}); correct or remove it") from None
        number = np.array([table[s] for s in symbols], np.uint8)
        yield place, (identity, structure.lattice.matrix, number, structure.frac_coords)


@cache
def _atomic_numbers():
    """{symbol: atomic number}, deuterium and tritium as hydrogen."""
    from pymatgen.core import Element

    return {element.symbol: element.Z for element in Element}


def check_elements(structures, path, unknown_elements, dropped, known, network):
    """Yield the structures whose elements all are known to a network.

    Args:
        structures: iterable of structures.
        path: where they came from, for messages.
        unknown_elements: "error" or "drop" for the others.
        dropped: list that receives "id (elements)" of each dropped structure.
        known: [119] bool, by atomic number.
        network: its name, for messages.

    Raises:
        DataError: an unknown element with unknown_elements="error", or no structure is left.
    """
    from pymatgen.core import Element

    kept = 0
    for structure in structures:
        identity, _, number, _ = structure
        if known[number].all():
            kept += 1
            yield structure
            continue
        symbols = ", ".join(Element.from_Z(int(z)).symbol for z in np.unique(number[~known[number]]))
        if unknown_elements != "drop":
            raise DataError(
                f"{path}: id {identity}: {network} does not know {symbols}; remove the structure or set unknown_elements: drop"
            )
        dropped.append(f"{identity} ({symbols})")
    if not kept:
        raise DataError(f"{path}: no structure has only elements that {network} knows; choose other structures")


def owners(offset):
    """[N] row of each member of rows with offsets [R + 1]."""
    return np.repeat(np.arange(len(offset) - 1), np.diff(offset))


def wrapped(frac):
    """Fractional coordinates [n, 3] of the same atoms in the cell at the origin, from 0 to 1."""
    return frac - np.floor(frac)


def pairs_within(lattice, frac, cutoff, centres=None):
    """All pairs of atoms at most `cutoff` angstrom apart, over all periodic images, an atom's own images included.

    Args:
        lattice: [3, 3] lattice vectors as rows.
        frac: [n, 3] fractional coordinates.
        centres: positions of the atoms whose neighbours are wanted; by default all.

    Returns:
        centre [P], neighbour [P], image [P, 3] (cell of the neighbour) and distance [P], in no particular order.
    """
    from pymatgen.optimization.neighbors import find_points_in_spheres

    lattice = np.ascontiguousarray(lattice, float)
    points = np.ascontiguousarray(frac @ lattice)
    centres = np.arange(len(points)) if centres is None else np.asarray(centres)
    periodic = np.ones(3, np.int64)
    centre, neighbour, image, distance = find_points_in_spheres(points, points[centres], cutoff, periodic, lattice)
    centre = centres[centre]
    other = (centre != neighbour) | (distance > COINCIDENT)
    return centre[other], neighbour[other], image[other].astype(np.int64), distance[other]


def neighbours(lattice, frac, cutoff, centres=None):
    """`pairs_within`, ordered by centre, distance rounded to TIE, neighbour and image, so that equal distances always come in
    the same order."""
    centre, neighbour, image, distance = pairs_within(lattice, frac, cutoff, centres)
    step = np.rint(distance / TIE).astype(np.int64)
    order = np.lexsort((*image.T[::-1], neighbour, step, centre))
    return centre[order], neighbour[order], image[order], distance[order]


def nearest(lattice, frac, k=N_NEIGHBOURS):
    """The k nearest neighbours of every atom within RADIUS, ordered as in `neighbours`.

    The search starts from a sphere that holds somewhat more than k atoms at the mean density and grows it for the atoms
    that still lack some: the k nearest are certain once k neighbours lie inside the sphere.

    Returns:
        neighbour [n, k] int32 and distance [n, k] float32; free places hold neighbour 0 at RADIUS + 1.
    """
    n, frac = len(frac), wrapped(frac)
    neighbour = np.zeros((n, k), np.int32)
    distance = np.full((n, k), RADIUS + 1, np.float32)
    volume = abs(np.linalg.det(lattice))
    reach = min(RADIUS, (GROWTH * k * volume / n * 3 / (4 * np.pi)) ** (1 / 3))
    open_atoms = np.arange(n)
    while len(open_atoms):
        i, j, _, d = neighbours(lattice, frac, reach, open_atoms)
        inside = np.bincount(i[d < reach - 2 * TIE], minlength=n)
        done = (inside >= k) | (reach >= RADIUS)
        rank = np.arange(len(i)) - np.searchsorted(i, i)
        keep = (rank < k) & done[i]
        neighbour[i[keep], rank[keep]] = j[keep]
        distance[i[keep], rank[keep]] = d[keep]
        open_atoms = open_atoms[~done[open_atoms]]
        reach = min(RADIUS, 1.3 * reach)
    return neighbour, distance


def check_apart(identity, distance):
    """Raise DataError where atoms of a structure, whose distances [P] in angstrom are given, are as near as none are."""
    if distance.min(initial=np.inf) < CLOSEST:
        raise DataError(
            f"structure {identity}: two atoms are {distance.min():.2g} angstrom apart; lengths are in angstrom and every atom is there "
            "once: correct or remove the structure"
        )


def pack(structures):
    """Crystals of an iterable of structures."""
    ids, numbers, tables, offset = [], [], [], [0]
    for identity, lattice, number, frac in structures:
        ids.append(identity)
        numbers.append(number)
        tables.append(nearest(lattice, frac))
        check_apart(identity, tables[-1][1])
        offset.append(offset[-1] + len(number))
    neighbour, distance = (np.concatenate(parts) for parts in zip(*tables, strict=True))
    return Crystals(np.concatenate(numbers), np.array(offset, np.int64), neighbour, distance, np.array(ids))


def compositions_of(number, offset):
    """Compositions of structures, elements by atomic number; amounts count the atoms of the cell.

    Args:
        number: [N] atomic numbers; structure s owns the atoms offset[s]:offset[s + 1].
        offset: [S + 1].
    """
    structure = owners(offset)
    node, amount = np.unique(structure * 256 + number, return_counts=True)
    offset = np.searchsorted(node, np.arange(len(offset)) * 256)
    return Compositions((node % 256).astype(np.uint8), amount.astype(float), offset)


def cgcnn_vectors():
    """[119, 92] float32 atom features of CGCNN, row Z for atomic number Z; NaN rows where there is none.

    100 elements, H to Fm, binned properties as zeros and ones (Xie and Grossman, Phys. Rev. Lett. 120, 145301 (2018)), as
    packaged in matminer.
    """
    from importlib.resources import files

    table = json.loads((files("matminer.utils.data_files") / "cgcnn_atom_feature.json").read_text())
    vectors = np.full((N_ELEMENTS + 1, len(next(iter(table.values())))), np.nan, np.float32)
    for number, vector in table.items():
        vectors[int(number)] = vector
    return vectors
