"""Where tables come from: Matbench through matminer, and the data that pymatgen and matminer carry with them."""

import gzip
import json
import tarfile
import time
import zlib
from importlib.resources import files

import numpy as np
import pandas as pd
import requests

from matpretrain.files import DataError, HashError, atomic_path, check_hash

TRIES = 4
WAIT = 2.0  # seconds before the second try, doubled each time
TIMEOUT = (10, 60)  # seconds to connect, and between two blocks


def matbench_row_ids(name, n_rows):
    """Official Matbench ids: mb-steels-001, counted from one, zero-padded to the number of digits of n_rows."""
    prefix = name.replace("matbench", "mb").replace("_", "-")
    return [f"{prefix}-{i:0{len(str(n_rows))}d}" for i in range(1, n_rows + 1)]


def download(name, path):
    """Download a matminer dataset: address and hash from matminer's registry, retried, checked, renamed into place.

    Raises:
        DataError: unknown dataset, host unreachable or silent, or wrong hash after all tries.
    """
    from matminer.datasets.utils import _load_dataset_dict

    registry = _load_dataset_dict()
    if name not in registry:
        raise DataError(f"{name}: not a matminer dataset; see matminer.datasets.get_available_datasets()")
    url, expected = registry[name]["url"], registry[name]["hash"]
    for attempt in range(1, TRIES + 1):
        try:
            with atomic_path(path) as temporary:
                _fetch(url, temporary)
                check_hash(temporary, expected)
            return
        except (requests.RequestException, HashError) as error:
            if attempt == TRIES:
                raise DataError(
                    f"{name}: {url} could not be downloaded in {TRIES} tries ({str(error)[:160]}); "
                    "check the network or proxy, or set mirror: DIR to a folder that holds the tables"
                ) from None
            time.sleep(WAIT * 2 ** (attempt - 1))


def _fetch(url, path):
    with requests.get(url, stream=True, timeout=TIMEOUT) as response, open(path, "wb") as handle:
        response.raise_for_status()
        for block in response.iter_content(1 << 20):
            handle.write(block)


def read_matbench(name, path, target):
    """Table (id, formula, target) of a downloaded Matbench file in official order.

    The composition of a structure is summed from its sites without building pymatgen structures, which keeps
    matbench_mp_e_form (132,752 structures) within memory.

    Raises:
        DataError: the file does not hold the expected columns.
    """
    opener = gzip.open if str(path).endswith(".gz") else open
    try:
        with opener(path, "rt") as handle:
            content = json.load(handle)
        columns = content["columns"]
        position = columns.index(target)
        source = next(c for c in ("composition", "structure") if c in columns)
    except (OSError, EOFError, zlib.error, ValueError, KeyError, TypeError, StopIteration) as error:
        raise DataError(f"{path}: not the matminer file of {name} ({error}); delete it and run again") from None
    where = columns.index(source)
    formulas = [row[where] if source == "composition" else structure_formula(row[where]) for row in content["data"]]
    targets = [row[position] for row in content["data"]]
    return pd.DataFrame({"id": matbench_row_ids(name, len(formulas)), "formula": formulas, "target": targets})


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


STRUCTURES = {"aflow_prototypes": aflow_prototypes}
EMBEDDED = {
    "pymatgen_exp_formation_energy": _experimental_formation_energy,
    "matminer_transport_seebeck_p": lambda: _transport("S_p"),
}


def read_embedded(name):
    """Table (id, formula, target) of an embedded dataset, a key of EMBEDDED."""
    return EMBEDDED[name]()
