"""Structures -> graphs.safetensors (all pairs of atoms within a cutoff) and graphs.csv (id, atoms, pairs, isolated).

Those of a corpus in their own order, or those of a dataset row by row; of a corpus that is a sample also others, for its probe.
"""

import time

import numpy as np
import pandas as pd

from matpretrain.crystal import check_elements
from matpretrain.files import DataError, read_csv, write_csv
from matpretrain.graphs import CUTOFF, KNOWN, connect, save_graphs
from matpretrain.jobs import job
from matpretrain.sources import open_structures

SEED = 0  # of the sample


def connect_structures(
    path, source, sample, expected_hash, unknown_elements, graphs_path, table_path, say, rows=None, left_out=None
):  # fmt: skip
    """Read structures, check their elements, find the neighbours of their atoms.

    Args:
        path, source, rows: as in `sources.open_structures`.
        sample: so many of them, drawn at random; None for all.
        left_out: None, or instead of the sample at most so many of the others, in random order.

    Raises:
        DataError: as `sources.open_structures` and `graphs.connect`; the sample leaves none out.
    """
    started = time.perf_counter()
    structures, where = open_structures(path, source, expected_hash, rows)
    dropped = []
    structures = list(check_elements(structures, where, unknown_elements, dropped, KNOWN, "MEGNet"))
    for line in dropped:
        say(f"dropped: {line}")
    n_kept = len(structures)
    if sample:
        draw = np.random.default_rng(SEED)
        chosen = np.sort(draw.choice(n_kept, min(sample, n_kept), replace=False))
        if left_out is not None:
            if sample >= n_kept:
                raise DataError(
                    f"{where}: a sample of {sample} takes all {n_kept} structures and leaves none for a probe; remove `sample`"
                )
            chosen = draw.permutation(np.setdiff1d(np.arange(n_kept), chosen))[:left_out]
        structures = [structures[k] for k in chosen]
    ids = [structure[0] for structure in structures]
    graphs = connect(structures)
    seconds = time.perf_counter() - started
    n_pairs = np.diff(graphs.pair_offset)
    start = np.repeat(graphs.node_offset[:-1], n_pairs)
    alone = np.ones(len(graphs.number), bool)
    for end in (graphs.first, graphs.second):
        alone[start + end] = False
    isolated = np.diff(np.append(0, np.cumsum(alone))[graphs.node_offset])
    say(
        f"{n_kept + len(dropped)} structures read, {len(dropped)} dropped, {len(ids)} of the {n_kept} others taken, from {where}; "
        f"{len(graphs.number)} atoms, {isolated.sum()} of them without a neighbour within {CUTOFF:g} angstrom, "
        f"{len(graphs.first)} pairs of neighbours; {seconds:.0f} s ({len(ids) / seconds:.0f} structures per second)"
    )
    save_graphs(graphs, graphs_path)
    write_csv(
        pd.DataFrame({"id": ids, "atoms": np.diff(graphs.node_offset), "pairs": n_pairs, "isolated": isolated}), table_path
    )


if __name__ == "__main__":
    with job(snakemake) as say:
        connect_structures(
            path=str(snakemake.input.structures) if snakemake.input.get("structures") else None,
            source=snakemake.params.source,
            sample=snakemake.params.sample,
            expected_hash=snakemake.params.sha256,
            unknown_elements=snakemake.params.unknown_elements,
            graphs_path=snakemake.output.graphs,
            table_path=snakemake.output.table,
            say=say,
            rows=read_csv(table, dtype=str) if (table := snakemake.input.get("table")) else None,
            left_out=snakemake.params.get("left_out"),
        )
