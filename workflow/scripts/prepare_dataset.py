"""Any source -> table.csv (id, formula, target, fold, where it has structures also structure) and compositions.npz, validated."""

from pathlib import Path

import numpy as np

from matpretrain.composition import distinct_numbers, system_numbers, take
from matpretrain.data import (
    check_count,
    check_spread,
    check_targets,
    encode_known,
    log10_targets,
    one_per_composition,
    read_split,
    read_table,
    with_folds,
    with_own_split,
    with_structure,
)
from matpretrain.files import DataError, atomic_path, check_hash, write_csv
from matpretrain.graphs import KNOWN
from matpretrain.jobs import job
from matpretrain.sources import read_download, read_embedded, registered
from matpretrain.splits import NEVER_TESTED, fold_numbers, has_official_folds, split_of

NAMED = 20  # dropped rows whose ids are printed


def read(entry, path, kind):
    """Table (id, formula, target) of a registry entry; kind is csv, mirror, download or embedded.

    Where the entry has structures also the column structure, which names that of the row: in a mirror the name that the
    file gives ("" for none), else the id of the row; a folder has a column fold, its own split.
    """
    official = entry.get("matbench", entry.get("matminer"))
    expected = entry.get({"csv": "sha256", "mirror": "mirror_sha256"}.get(kind))
    if kind == "download":
        expected = registered(official)["hash"]
    if expected:
        check_hash(path, expected)
    if kind == "mirror":
        target = "target" if "matbench" in entry else entry["target"]
        return read_table(path, target, structure="structure_id" if entry.get("structures") else None)
    if kind == "csv":
        read_any = read_split if Path(path).is_dir() else read_table
        own = {key: entry.get(key) for key in ("fold", "group")}
        table = read_any(path, entry["target"], entry.get("formula", "formula"), entry.get("id"), **own)
        table = with_own_split(table, path, **own)
    elif kind == "download":
        table = check_targets(read_download(official, path, entry["target"]), path, entry["target"])
    else:
        table = check_targets(read_embedded(entry["embedded"]), f"embedded dataset {entry['embedded']}")
    return table.assign(structure=table["id"]) if entry.get("structures") else table


def shared(number, fold):
    """Rows [n] whose composition (number [n]) is also that of a row with another fold ([n])."""
    pairs = np.unique(np.stack([number, fold]), axis=1)
    folds = np.bincount(pairs[0], minlength=number.max() + 1)
    return folds[number] > 1


def prepare_dataset(name, entry, path, kind, unknown_elements, table_path, compositions_path, say):
    """Validate a dataset, assign its outer folds and encode its formulas."""
    where = path or f"dataset {name}"
    table = read(entry, path, kind)
    n_read, among, expected = len(table), True, entry.get("n_samples")
    given, split, keep = "fold" in table, split_of(entry), entry.get("one_per_composition")
    check_count(table, where, entry.get("mirror_samples", expected) if kind == "mirror" else expected)
    late = split["split"] != "random" or keep
    if "fold" not in table and not late:  # of all rows: where some are dropped, the others stay in their (official) folds
        table = with_folds(table, where, entry)
    if entry.get("log10"):
        table = log10_targets(table, where)
    if "structure" in table:
        among = KNOWN
        table, without = with_structure(table, where, entry.get("missing_structures"))
        if without:
            more = ", ..." if len(without) > NAMED else ""
            say(f"dropped {len(without)} rows without a structure: {', '.join(without[:NAMED])}{more}")
    table, compositions = encode_known(table, where, unknown_elements, say, among)
    number = distinct_numbers(compositions)
    if keep:
        rows = one_per_composition(number, table["target"].to_numpy(), keep)
        table, compositions, number = table.iloc[rows].reset_index(drop=True), take(compositions, rows), number[rows]
        say(f"one row per composition, that of the {keep} target")
    if not len(table):
        raise DataError(f"{where}: none of {n_read} rows is left; see the rows dropped above, and correct or replace the file")
    check_spread(table, where, f"log10 of {entry['target']}" if entry.get("log10") else entry["target"])
    if "fold" not in table:
        groups = number if split["split"] == "group_by_formula" else None
        groups = system_numbers(compositions) if split["split"] == "group_by_chemical_system" else groups
        table = with_folds(table, where, entry, groups)
    elif not fold_numbers(table["fold"]):
        raise DataError(f"{where}: no test row is left; see the rows dropped above, and correct or replace the file")
    say(
        f"{len(table)} rows, {len(np.unique(number))} distinct compositions, {n_read - len(table)} dropped, from {where} ({kind})"
    )
    if given:
        tested = table["fold"].value_counts()
        parts = ", ".join(str(tested[fold]) for fold in fold_numbers(table["fold"]))
        say(f"rows per test part: {parts}; {tested.get(NEVER_TESTED, 0)} rows only train")
    n_shared = 0 if has_official_folds(entry) else shared(number, table["fold"].to_numpy()).sum()
    if n_shared:
        remedy = f": config key datasets.{name}.split: group_by_formula keeps them together"
        possible = not given and "group" not in entry and len(np.unique(number)) >= split["n_folds"]
        say(f"{n_shared} of {len(table)} rows share their composition with a row of another fold{remedy if possible else ''}")
    with atomic_path(compositions_path) as temporary:
        np.savez(temporary, **compositions.arrays())
    write_csv(table, table_path)


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
