"""Any source -> table.csv (id, formula, target, fold) and compositions.npz, validated."""

import numpy as np

from matpretrain.composition import distinct_numbers
from matpretrain.data import check_count, check_targets, encode_known, read_table
from matpretrain.files import DataError, atomic_path, check_hash, write_csv
from matpretrain.jobs import job
from matpretrain.sources import read_embedded, read_matbench
from matpretrain.splits import MATBENCH_SEED, outer_folds


def read(name, entry, path, kind):
    """Table (id, formula, target) of a registry entry; kind is csv, mirror, download or embedded."""
    if kind == "embedded":
        return check_targets(read_embedded(entry["embedded"]), f"embedded dataset {entry['embedded']}")
    if kind == "download":
        return check_targets(read_matbench(entry["matbench"], path, entry["target"]), path)
    expected = entry.get("sha256" if kind == "csv" else "mirror_sha256")
    if expected:
        check_hash(path, expected)
    if kind == "mirror":
        return read_table(path, "target")
    return read_table(path, entry["target"], entry.get("formula", "formula"), entry.get("id"))


def prepare_dataset(name, entry, path, kind, unknown_elements, table_path, compositions_path, say):
    """Validate a dataset, assign its outer folds and encode its formulas."""
    where = path or f"dataset {name}"
    table = read(name, entry, path, kind)
    check_count(table, where, entry.get("n_samples"))
    n_read = len(table)
    table, compositions = encode_known(table, where, unknown_elements, say)
    number = distinct_numbers(compositions)
    groups = number if entry.get("split") == "group_by_formula" else None
    try:
        fold = outer_folds(len(table), entry.get("n_folds", 5), entry.get("split_seed", MATBENCH_SEED), groups)
    except ValueError as error:
        raise DataError(f"{where}: {error}; add rows or set a smaller n_folds") from None
    say(
        f"{len(table)} rows, {len(np.unique(number))} distinct compositions, {n_read - len(table)} dropped, from {where} ({kind})"
    )
    with atomic_path(compositions_path) as temporary:
        np.savez(temporary, **compositions.arrays())
    write_csv(table.assign(fold=fold), table_path)


if __name__ == "__main__":
    with job(snakemake) as say:
        prepare_dataset(
            name=snakemake.wildcards.dataset,
            entry=snakemake.params.entry,
            path=str(snakemake.input.raw) if snakemake.input.get("raw") else None,
            kind=snakemake.params.kind,
            unknown_elements=snakemake.params.unknown_elements,
            table_path=snakemake.output.table,
            compositions_path=snakemake.output.compositions,
            say=say,
        )
