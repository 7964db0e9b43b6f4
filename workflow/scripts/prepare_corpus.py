"""Formulas of several sources -> distinct compositions of a pretraining corpus, with counts per source."""

import numpy as np
import pandas as pd

from matpretrain.composition import Compositions, concatenate, formula_keys, take
from matpretrain.data import check_count, encode_known, read_table
from matpretrain.files import NO_NPZ, DataError, atomic_path, check_hash, write_csv
from matpretrain.jobs import job


def read_source(path, say, entry=None, expected_hash=None, unknown_elements="error"):
    """Compositions of one source: an encoded set (.npz), or a CSV of formulas with its registry entry.

    Raises:
        DataError: an .npz of something else, another hash or number of rows than the registry gives, or a bad row.
    """
    if str(path).endswith(".npz"):
        try:
            return Compositions.read(path)
        except NO_NPZ:
            remedy = "name a CSV of formulas, or kind: vectors for embeddings of structures"
            remedy = remedy if entry and entry["kind"] == "formulas" else "delete it, and it is made anew"
            raise DataError(f"{path}: not an .npz of compositions; {remedy}") from None
    if expected_hash:
        check_hash(path, expected_hash)
    table = read_table(path, None, entry.get("formula", "formula"), entry.get("id"))
    check_count(table, path, entry.get("n_samples"))
    return encode_known(table, path, unknown_elements, say)[1]


def merge(sources, removed):
    """Distinct compositions of several sources, in order of appearance.

    Two compositions are the same where elements and atomic fractions, rounded to six digits, agree (formula_keys).

    Args:
        sources: {name: Compositions}.
        removed: set of keys that must not occur.

    Returns:
        Compositions, and a data frame with one row per source: formulas, distinct ones, those that earlier sources
        hold, those removed, those added.

    Raises:
        DataError: fewer than two compositions are left, one to train on and one to validate.
    """
    seen, kept, counts = set(), [], []
    for name, compositions in sources.items():
        keys = formula_keys(compositions)
        first = {}
        for row, key in enumerate(keys):
            first.setdefault(key, row)
        new = [key for key in first if key not in seen]
        allowed = [first[key] for key in new if key not in removed]
        kept.append(take(compositions, np.array(allowed, np.int64)))
        seen.update(first)
        counts.append((name, len(keys), len(first), len(first) - len(new), len(new) - len(allowed), len(allowed)))
    merged = concatenate(kept)
    if len(merged) < 2:
        raise DataError(
            f"{', '.join(sources)}: {len(merged)} distinct compositions are left, a corpus needs at least 2; name other sources"
        )
    columns = ["source", "formulas", "distinct", "in_earlier_sources", "removed", "added"]
    return merged, pd.DataFrame(counts, columns=columns)


if __name__ == "__main__":
    with job(snakemake) as say:
        p = snakemake.params
        sources = {
            name: read_source(path, say, p.entry, p.sha256, p.unknown_elements)
            for name, path in zip(p.names, snakemake.input.sources, strict=True)
        }
        removed = set()
        for path in snakemake.input.without:
            removed.update(formula_keys(read_source(path, say)))
        compositions, counts = merge(sources, removed)
        for row in counts.itertuples(index=False):
            say(", ".join(f"{k} {v}" for k, v in row._asdict().items()))
        say(f"{len(compositions)} distinct compositions")
        with atomic_path(snakemake.output.compositions) as temporary:
            np.savez(temporary, **compositions.arrays())
        write_csv(counts, snakemake.output.counts)
