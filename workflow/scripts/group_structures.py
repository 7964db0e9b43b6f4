"""Embeddings of structures -> one target per composition: the mean over its structures, with their spread.

Several structures share a composition, which is all that Roost sees. The squared error of a prediction is then
minimised by their mean, and the spread within compositions is the error that no composition model can go below.
"""

import numpy as np
import pandas as pd

from matpretrain.composition import Compositions, distinct_numbers, take
from matpretrain.data import check_count, encode_known
from matpretrain.files import NO_NPZ, DataError, atomic_path, check_hash, write_csv
from matpretrain.jobs import job


def read_vectors(path, expected_hash, expected, unknown_elements, say):
    """Compositions and embeddings [rows, n] of an .npz with arrays id, composition (formula) and embedding.

    Args:
        expected_hash: SHA-256 of the file, or None.
        expected: number of rows, or None.

    Raises:
        DataError: not such a file, other rows than expected, or numbers that are not finite.
    """
    if expected_hash:
        check_hash(path, expected_hash)
    try:
        with np.load(path) as arrays:
            table = pd.DataFrame({"id": arrays["id"].astype(str), "formula": arrays["composition"].astype(str)})
            table["row"] = range(len(table))
            embedding = arrays["embedding"].astype(np.float32)
    except NO_NPZ:
        raise DataError(f"{path}: not an .npz with arrays id, composition and embedding; correct or replace it") from None
    check_count(table, path, expected)
    if embedding.ndim != 2 or len(embedding) != len(table):
        raise DataError(f"{path}: embedding must be an array [{len(table)}, n], it is {embedding.shape}; replace the file")
    bad = np.flatnonzero(~np.isfinite(embedding).all(1))
    if len(bad):
        raise DataError(
            f"{path}: row {bad[0] + 1} (id {table['id'][bad[0]]}): embedding is not finite; remove it or replace the file"
        )
    kept, compositions = encode_known(table, path, unknown_elements, say)
    return compositions, embedding[kept["row"]]


def group(compositions, embedding):
    """Distinct compositions, and mean and standard deviation [rows, n] of the embeddings of each (0 for a single one).

    Returns:
        Compositions, mean, spread, number of structures per composition.
    """
    row = distinct_numbers(compositions)
    _, first, count = np.unique(row, return_index=True, return_counts=True)
    order, start = np.argsort(row, kind="stable"), np.cumsum(count) - count

    def mean_of(values):
        return np.add.reduceat(values[order], start, dtype=float) / count[:, None]

    mean = mean_of(embedding)
    return take(compositions, first), mean, np.sqrt(mean_of((embedding - mean[row]) ** 2)), count


def std_within(spread, count):
    """Standard deviation of embeddings within compositions, pooled over these and over the n numbers.

    The mean of each composition takes one degree of freedom, so that single structures say nothing about it.

    Args:
        spread, count: [rows, n] and [rows] as `group` returns them.

    Returns:
        A float, NaN where every composition has a single structure.
    """
    free = count.sum() - len(count)
    return float(np.sqrt((spread**2 * count[:, None]).sum(0).mean() / free)) if free else float("nan")


if __name__ == "__main__":
    with job(snakemake) as say:
        p, files, out = snakemake.params, snakemake.input, snakemake.output
        if files.get("vectors"):
            compositions, embedding = read_vectors(files.vectors, p.sha256, p.n_samples, p.unknown_elements, say)
        else:
            with np.load(files.embeddings) as arrays:
                embedding = arrays["embedding"]
            compositions = Compositions.read(files.compositions)
        distinct, mean, spread, count = group(compositions, embedding)
        shared = count > 1
        total_std = float(np.sqrt(embedding.var(0).mean()))
        within = std_within(spread, count)
        say(
            f"{len(embedding)} structures of {len(distinct)} compositions, {int(count[shared].sum())} structures share theirs; "
            f"standard deviation {total_std:.4f}, within compositions {within:.4f}"
        )
        with atomic_path(out.compositions) as temporary:
            np.savez(temporary, **distinct.arrays())
        with atomic_path(out.mean) as temporary:
            np.save(temporary, mean.astype(np.float32))
        write_csv(
            pd.DataFrame(
                [
                    {
                        "source": snakemake.wildcards.corpus,
                        "formulas": len(embedding),
                        "distinct": len(distinct),
                        "sharing": int(count[shared].sum()),
                        "std": total_std,
                        "std_within_compositions": within,
                    }
                ]
            ),
            out.counts,
        )
