"""Structures -> graphs.npz (neighbour lists, ids) and compositions.npz, in the same order."""

import time

import numpy as np

from matpretrain.crystal import cgcnn_vectors, check_elements, compositions_of, pack, read_structures
from matpretrain.files import atomic_path, check_hash
from matpretrain.jobs import job


def encode_structures(path, expected_hash, unknown_elements, graphs_path, compositions_path, say):
    """Read structures, check their elements and find their neighbours."""
    started = time.perf_counter()
    if expected_hash:
        check_hash(path, expected_hash)
    dropped = []
    known = np.isfinite(cgcnn_vectors()).all(1)
    crystals = pack(check_elements(read_structures(path), path, unknown_elements, dropped, known, "CGCNN"))
    for line in dropped:
        say(f"dropped: {line}")
    seconds = time.perf_counter() - started
    say(
        f"{len(crystals)} structures, {len(crystals.number)} atoms, {len(dropped)} dropped, from {path} "
        f"in {seconds:.0f} s ({len(crystals) / seconds:.0f} per second)"
    )
    for arrays, target in (
        (crystals.arrays(), graphs_path),
        (compositions_of(crystals.number, crystals.offset).arrays(), compositions_path),
    ):
        with atomic_path(target) as temporary:
            np.savez(temporary, **arrays)


if __name__ == "__main__":
    with job(snakemake) as say:
        encode_structures(
            path=str(snakemake.input.structures),
            expected_hash=snakemake.params.sha256,
            unknown_elements=snakemake.params.unknown_elements,
            graphs_path=snakemake.output.graphs,
            compositions_path=snakemake.output.compositions,
            say=say,
        )
