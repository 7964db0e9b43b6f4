"""Structures -> neighbours.npz (neighbour lists, ids) and compositions.npz, in the same order.

Those of a corpus in their own order, or those of a dataset row by row.
"""

import time

import numpy as np

from matpretrain.crystal import cgcnn_vectors, check_elements, compositions_of, pack
from matpretrain.files import atomic_path, read_csv
from matpretrain.jobs import job
from matpretrain.sources import open_structures


def encode_structures(path, source, expected_hash, unknown_elements, neighbours_path, compositions_path, say, rows=None):
    """Read structures, check their elements and find their neighbours.

    Args:
        path, source, rows: as in `sources.open_structures`.
    """
    started = time.perf_counter()
    structures, where = open_structures(path, source, expected_hash, rows)
    dropped = []
    known = np.isfinite(cgcnn_vectors()).all(1)
    crystals = pack(check_elements(structures, where, unknown_elements, dropped, known, "CGCNN"))
    for line in dropped:
        say(f"dropped: {line}")
    seconds = time.perf_counter() - started
    say(
        f"{len(crystals)} structures, {len(crystals.number)} atoms, {len(dropped)} dropped, from {where} "
        f"in {seconds:.0f} s ({len(crystals) / seconds:.0f} per second)"
    )
    for arrays, target in (
        (crystals.arrays(), neighbours_path),
        (compositions_of(crystals.number, crystals.offset).arrays(), compositions_path),
    ):
        with atomic_path(target, size=sum(array.nbytes for array in arrays.values())) as temporary:
            np.savez(temporary, **arrays)


if __name__ == "__main__":
    with job(snakemake) as say:
        encode_structures(
            path=str(snakemake.input.structures) if snakemake.input.get("structures") else None,
            source=snakemake.params.source,
            expected_hash=snakemake.params.sha256,
            unknown_elements=snakemake.params.unknown_elements,
            neighbours_path=snakemake.output.neighbours,
            compositions_path=snakemake.output.compositions,
            say=say,
            rows=read_csv(table, dtype=str) if (table := snakemake.input.get("table")) else None,
        )
