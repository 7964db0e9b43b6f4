"""Where tables come from: Matbench through matminer, and the data that pymatgen and matminer carry with them."""

import gzip
import json
import tarfile
import time
import zlib
from importlib.resources import files
from pathlib import Path

import numpy as np
import pandas as pd
import requests

from matpretrain.composition import element_fractions, parse_formulas
from matpretrain.crystal import compositions_of, read_structures
from matpretrain.files import DataError, HashError, absent, atomic_path, check_hash
from matpretrain.graphs import KNOWN
from matpretrain.spectra import GAP

SAME = 0.01  # atomic fractions of a formula and of its structure that differ by less are equal: formulas are rounded
TRIES = 4
EV_MICROMETRE = 1.239841984  # photon energy in eV times wavelength in micrometres
OPTICAL_RANGE, OPTICAL_LEAST = (0.5, 12.4), 1.0  # eV
WAIT = 2.0  # seconds before the second try, doubled each time
TIMEOUT = (10, 60)  # seconds to connect, and between two blocks


def matbench_row_ids(name, n_rows):
    """Official Matbench ids: mb-steels-001, counted from one, zero-padded to the number of digits of n_rows."""
    prefix = name.replace("matbench", "mb").replace("_", "-")
    return [f"{prefix}-{i:0{len(str(n_rows))}d}" for i in range(1, n_rows + 1)]


def fetch(path, say, dataset=None, sha256=None, instead=""):
    """See that a raw file is there and the right one: what is missing or damaged is downloaded where a loader offers it.

    Args:
        path: the file.
        dataset: name of the matminer dataset whose file it is, with its address and hash; None where no loader offers it.
        sha256: hash that the file of no loader must have, or None.
        instead: what the user may do instead of providing the file of no loader.

    Raises:
        DataError: the file is missing or damaged and cannot be downloaded.
    """
    expected = registered(dataset)["hash"] if dataset else sha256
    if Path(path).is_file():
        try:
            if expected:
                check_hash(path, expected)
            say(f"{path}: {'verified' if expected else 'there; no hash is known'}")
            return
        except HashError:
            if not dataset:
                raise
    if not dataset:
        raise DataError(absent(path, sha256, instead))
    say(f"downloading {dataset}")
    download(dataset, path)


def registered(name):
    """Address (url) and hash of a dataset in matminer's registry.

    Raises:
        DataError: it is not there.
    """
    from matminer.datasets.utils import _load_dataset_dict

    registry = _load_dataset_dict()
    if name not in registry:
        raise DataError(f"{name}: not a matminer dataset; see matminer.datasets.get_available_datasets()")
    return registry[name]


def download(name, path):
    """Download a matminer dataset: address and hash from matminer's registry, retried, checked, renamed into place.

    Raises:
        DataError: unknown dataset, host unreachable or silent, or wrong hash after all tries.
    """
    url, expected = registered(name)["url"], registered(name)["hash"]
    for attempt in range(1, TRIES + 1):
        try:
            with atomic_path(path) as temporary:
                _fetch(url, temporary)
                check_hash(temporary, expected)
            return
        except (requests.RequestException, HashError) as error:
            if attempt == TRIES:
                another = isinstance(error, HashError)
                reason = "what came is cut off or another file: its hash is wrong" if another else str(error)[:160]
                raise DataError(
                    f"{name}: {url} could not be downloaded in {TRIES} tries ({reason}); "
                    "check the network or proxy, or fill a folder elsewhere (make mirror DIR=...) and set mirror: DIR"
                ) from None
            time.sleep(WAIT * 2 ** (attempt - 1))


def _fetch(url, path):
    with requests.get(url, stream=True, timeout=TIMEOUT) as response, open(path, "wb") as handle:
        response.raise_for_status()
        for block in response.iter_content(1 << 20):
            handle.write(block)


def read_download(name, path, target):
    """Table (id, formula, target) of a downloaded matminer file; of a Matbench task in official order with official ids.

    The composition of a structure is summed from its sites without building pymatgen structures, which keeps
    matbench_mp_e_form (132,752 structures) within memory.

    Raises:
        DataError: the file does not hold the expected columns.
    """
    ids, columns = _downloaded(name, path, (target,), ("composition", "formula", "structure"))
    source = next(name for name in columns if name != target)
    formulas = [structure_formula(entry) if source == "structure" else entry for entry in columns[source]]
    return pd.DataFrame({"id": ids, "formula": formulas, "target": columns[target]})


def downloaded_structures(name, path):
    """Yield the structures (id, lattice, number, frac) of a downloaded matminer file, with the ids of `read_download`.

    Raises:
        DataError: the file does not hold structures, or one with a partly occupied site.
    """
    from pymatgen.core import Element

    ids, columns = _downloaded(name, path, (), ("structure",))
    for identity, structure in zip(ids, columns["structure"], strict=True):
        sites = structure["sites"]
        if any(len(site["species"]) != 1 or site["species"][0]["occu"] != 1 for site in sites):
            raise DataError(f"{path}: id {identity}: sites with partial occupancy; remove the structure")
        number = np.array([Element(site["species"][0]["element"]).Z for site in sites], np.uint8)
        yield (
            identity,
            np.array(structure["lattice"]["matrix"], float),
            number,
            np.array([site["abc"] for site in sites], float),
        )


def _downloaded(name, path, wanted, alternatives):
    """(ids, {column: values}) of a matminer file: the wanted columns, and the first of the alternatives that it has.

    Raises:
        DataError: another file than that of the dataset, or columns that the dataset does not have.
    """
    opener = gzip.open if str(path).endswith(".gz") else open
    try:
        with opener(path, "rt") as handle:
            content = json.load(handle)
        names, data = content["columns"], content["data"]
        ids = matbench_row_ids(name, len(data)) if name.startswith("matbench_") else _ids(names, data)
    except (OSError, EOFError, zlib.error, ValueError, LookupError, TypeError) as error:
        raise DataError(f"{path}: not the matminer file of {name} ({error}); delete it and run again") from None
    absent, source = [c for c in wanted if c not in names], [c for c in alternatives if c in names][:1]
    if absent:
        raise DataError(f"{path}: {name} has no column {absent[0]}, only {', '.join(names)}; correct target")
    if not source:
        has = f"{name} has no column {' or '.join(alternatives)}, only {', '.join(names)}"
        raise DataError(f"{path}: {has}; use another dataset")
    values = {column: [row[names.index(column)] for row in data] for column in (*wanted, *source)}
    return ids, values


def _ids(names, data):
    """Ids of the rows of a table that names its columns: the first column of ids that has one for every row, else row-1, row-2, ..."""
    for column in (names.index(name) for name in ("material_id", "mpid", "jid") if name in names):
        ids = [row[column] for row in data]
        if None not in ids and len(set(ids)) == len(ids):
            return ids
    return [f"row-{k}" for k in range(1, len(data) + 1)]


def structure_formula(structure):
    """Formula of a serialised pymatgen structure (a dictionary): elements in alphabetical order with their amounts."""
    amounts = {}
    for site in structure["sites"]:
        for species in site["species"]:
            amounts[species["element"]] = amounts.get(species["element"], 0) + species["occu"]
    return "".join(f"{element}{amount:.10g}" for element, amount in sorted(amounts.items()))


def _experimental_formation_energy():
    """2,135 measured formation energies (eV per atom) that pymatgen fits its corrections to."""
    path = files("pymatgen.analysis.compatibility") / "exp_compounds.json.gz"
    from pymatgen.core import Composition

    records = json.loads(gzip.decompress(path.read_bytes()))
    table = pd.DataFrame({"formula": [r["formula"] for r in records]})
    table["id"] = [r["mpid"] or f"exp-{i + 1}" for i, r in enumerate(records)]
    table["target"] = [r["exp energy"] / Composition(r["formula"]).num_atoms for r in records]
    table["id"] = table["id"].where(~table["id"].duplicated(keep=False), table["id"] + "-" + table["formula"])
    return table[["id", "formula", "target"]]


def _transport(column):
    """47,737 Materials Project entries with computed transport coefficients (Ricci et al., Sci. Data 4, 170085)."""
    path = files("matminer.utils.data_files") / "mp_transport" / "transport_database.tar.xz"
    with path.open("rb") as handle, tarfile.open(fileobj=handle, mode="r:xz") as archive:
        table = pd.read_csv(archive.extractfile("transport_database.csv"), keep_default_na=False)
    table = pd.DataFrame({"id": table["mp_id"], "formula": table["pretty_formula"], "target": table[column]})
    return table[table["target"] != ""].reset_index(drop=True)


def optical_constants():
    """Dielectric functions of the materials of refractiveindex.info that matminer carries, as measured.

    Of each material the record with tabulated n and k that covers most of OPTICAL_RANGE is taken, if it is OPTICAL_LEAST;
    eps = (n + ik)^2.

    Returns:
        Data frame id, formula, energy (eV), eps_re, eps_im, a row per tabulated point.
    """
    import yaml

    path = files("matminer.utils.data_files") / "optical_polyanskiy" / "database.tar.xz"
    best = {}
    with path.open("rb") as handle, tarfile.open(fileobj=handle, mode="r:xz") as archive:
        for member in sorted((m for m in archive if m.name.endswith(".yml")), key=lambda m: m.name):
            record = yaml.load(archive.extractfile(member).read(), yaml.CSafeLoader)
            tables = [part["data"] for part in record["DATA"] if part["type"] == "tabulated nk"]
            if not tables:
                continue
            wavelength, n, k = np.array([line.split() for line in tables[0].strip().splitlines()], float).T
            energy = EV_MICROMETRE / wavelength
            steps = np.diff(np.sort(energy).clip(*OPTICAL_RANGE))
            covers = steps[steps <= GAP].sum()
            material = member.name.split("/")[1]
            if material not in best or covers > best[material][0]:
                best[material] = covers, energy, (n + 1j * k) ** 2
    parts = [
        pd.DataFrame({"id": material, "formula": material, "energy": energy, "eps_re": eps.real, "eps_im": eps.imag})
        for material, (covers, energy, eps) in best.items()
        if covers >= OPTICAL_LEAST
    ]
    return pd.concat(parts, ignore_index=True)


def aflow_prototypes():
    """Yield the 288 AFLOW prototypes that pymatgen carries (Mehl et al., Comput. Mater. Sci. 136, S1 (2017)).

    Each is a structure (id, lattice, number, frac) as in `crystal`; its id is the AFLOW label, with a running number
    where several have the same.
    """
    from pymatgen.core import Structure

    path = files("pymatgen.analysis.prototypes") / "aflow_prototypes.json.gz"
    seen = {}
    for entry in json.loads(gzip.decompress(path.read_bytes())):
        label = entry["tags"]["aflow"]
        seen[label] = seen.get(label, 0) + 1
        identity = label if seen[label] == 1 else f"{label}-{seen[label]}"
        structure = Structure.from_dict({"lattice": entry["snl"]["lattice"], "sites": entry["snl"]["sites"], "charge": None})
        yield identity, structure.lattice.matrix, np.array(structure.atomic_numbers, np.uint8), structure.frac_coords


def _aflow_densities():
    """Density in g/cm3 of the AFLOW prototypes whose elements MEGNet knows."""
    from pymatgen.core import Lattice, Structure

    rows = []
    for identity, lattice, number, frac in aflow_prototypes():
        if KNOWN[number].all():
            structure = Structure(Lattice(lattice), number, frac)
            rows.append((identity, structure.composition.formula.replace(" ", ""), float(structure.density)))
    return pd.DataFrame(rows, columns=["id", "formula", "target"])


SPECTRA = {"matminer_optical_constants": optical_constants}
STRUCTURES = {"aflow_prototypes": aflow_prototypes}
EMBEDDED = {
    "aflow_prototypes": _aflow_densities,
    "pymatgen_exp_formation_energy": _experimental_formation_energy,
    "matminer_transport_seebeck_p": lambda: _transport("S_p"),
}


def read_embedded(name):
    """Table (id, formula, target) of an embedded dataset, a key of EMBEDDED."""
    return EMBEDDED[name]()


def open_structures(path, source, expected_hash, rows=None):
    """Structures (id, lattice, number, frac) of a corpus or dataset, and where they come from, for messages.

    Args:
        path: file or folder of structures, None for embedded ones.
        source: name of the embedded structures, or of the matminer dataset whose download `path` is; None for others.
        expected_hash: SHA-256 that a file that was not downloaded must have, or None.
        rows: data frame id, formula, structure of a dataset, whose rows get a structure each; None for all structures.

    Raises:
        DataError: wrong hash, or a row whose structure is not there or is of another composition.
    """
    if path and source:
        expected_hash = registered(source)["hash"]
    if expected_hash:
        check_hash(path, expected_hash)
    where = path or f"embedded structures {source}"
    if path:
        structures = downloaded_structures(source, path) if source else read_structures(path)
    else:
        structures = STRUCTURES[source]()
    return (structures if rows is None else of_rows(structures, rows, where)), where


def of_rows(structures, table, where):
    """The structures that the rows of a dataset name, in their order, under the ids of the rows.

    Args:
        table: data frame id, formula, structure.

    Raises:
        DataError: naming the first row whose structure is not there, or has other atomic fractions than its formula.
    """
    wanted = set(table["structure"])
    found = {structure[0]: structure for structure in structures if structure[0] in wanted}
    absent = table[~table["structure"].isin(found.keys())]
    if len(absent):
        first, more = absent.iloc[0], f" (and {len(absent) - 1} more rows)" if len(absent) > 1 else ""
        raise DataError(
            f"{where}: no structure {first['structure']}, which row {first['id']} of the dataset names{more}; add it or remove the row"
        )
    chosen = [(row, *found[name][1:]) for row, name in zip(table["id"], table["structure"], strict=True)]
    numbers = [number for _, _, number, _ in chosen]
    offset = np.cumsum([0, *map(len, numbers)])
    held, (named, _) = compositions_of(np.concatenate(numbers), offset), parse_formulas(table["formula"])
    other = np.flatnonzero((np.abs(element_fractions(held) - element_fractions(named)) > SAME).any(1))
    if len(other):
        first, more = table.iloc[other[0]], f" (and {len(other) - 1} more rows)" if len(other) > 1 else ""
        raise DataError(
            f"{where}: structure {first['structure']} is not {first['formula']}, the formula of row {first['id']} of the dataset{more}; "
            "correct one of them"
        )
    return chosen
