"""Reading, validating and splitting tables of compositions and targets.

Every table becomes the same three columns (id, formula, target), whatever its source. Problems are raised as
`DataError` with one line that names the file, the row or key, and the remedy.
"""

import hashlib
import os
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd

MATBENCH_SEED = 18012019  # random state of the official Matbench v0.1 folds
MAX_LISTED = 5


class DataError(ValueError):
    """Bad input; the message is one line for the user."""


@contextmanager
def atomic_path(path):
    """Yield a temporary path beside `path`; on success it is flushed and renamed to `path`, else removed.

    Raises:
        DataError: the folder cannot be written to.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp{''.join(path.suffixes)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch()
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror}); choose another folder or free space") from None
    try:
        yield temporary
        with open(temporary, "rb") as handle:
            os.fsync(handle.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_csv(table, path):
    """Write a data frame as CSV, atomically; floats keep all digits."""
    with atomic_path(path) as temporary:
        table.to_csv(temporary, index=False)


def read_csv(path, **options):
    """Read a CSV of this workflow. "NaN" is a formula; only empty cells are missing."""
    return pd.read_csv(path, keep_default_na=False, na_values=[""], **options)


def sha256(path):
    """Hexadecimal SHA-256 of a file."""
    digest = hashlib.sha256()
    with open(path, "rb") as handle:
        while block := handle.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def check_hash(path, expected):
    """Raise DataError unless the file has the expected SHA-256."""
    found = sha256(path)
    if found != expected:
        raise DataError(
            f"{path}: sha256 is {found[:12]}..., expected {expected[:12]}...; the file is damaged or another version: fetch it again"
        )


def read_table(path, target, formula="formula", id_column=None):
    """Read a CSV (also gzipped) into columns id, formula, target.

    Args:
        path: CSV file with a header line.
        target: name of the target column, a finite number in every row.
        formula: name of the formula column.
        id_column: name of the id column; by default "id" where the file has it, else ids are row-1, row-2, ...

    Raises:
        DataError: unreadable or empty file, missing column, missing, infinite or non-numeric target, duplicate id.
    """
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; correct the path") from None
    except pd.errors.EmptyDataError:
        raise DataError(f"{path}: the file is empty; it needs a header line and one row per composition") from None
    except (pd.errors.ParserError, UnicodeDecodeError, OSError, EOFError) as error:
        raise DataError(f"{path}: not a readable CSV ({str(error).strip()}); correct or replace the file") from None
    for column in (formula, target, id_column):
        if column and column not in table.columns:
            raise DataError(
                f"{path}: no column {column!r} (it has {', '.join(table.columns)}); name the right column in the registry"
            )
    if table.empty:
        raise DataError(f"{path}: no rows below the header; it needs one row per composition")
    id_column = id_column or "id"
    ids = table[id_column] if id_column in table.columns else [f"row-{i + 1}" for i in range(len(table))]
    table = pd.DataFrame({"id": ids, "formula": table[formula].str.strip(), "target": table[target].str.strip()})
    return check_targets(table, path, target)


def check_targets(table, path, target="target"):
    """Return the table (id, formula, target) with float targets and unique ids.

    Raises:
        DataError: naming the first offending row. Line numbers count the header as line 1.
    """
    value = pd.to_numeric(table["target"], errors="coerce").to_numpy(float)
    bad = np.flatnonzero(~np.isfinite(value))
    if len(bad):
        row = table.iloc[bad[0]]
        raise DataError(
            f"{path}: line {bad[0] + 2} (id {row.id}): {target} is {row.target!r}, not a finite number"
            f"{_more(bad)}; correct or remove the row"
        )
    twice = np.flatnonzero(table["id"].duplicated())
    if len(twice):
        raise DataError(
            f"{path}: line {twice[0] + 2}: id {table['id'].iloc[twice[0]]!r} appears a second time{_more(twice)}; make ids unique"
        )
    return table.assign(target=value)


def encode(table, path, known, unknown_elements="error"):
    """Parse the formulas of a table and check that every element has a vector.

    Args:
        table: columns id, formula, target.
        path: where the table came from, for messages.
        known: [119] bool, which atomic numbers have an element vector.
        unknown_elements: "error" or "drop" for rows with other elements.

    Returns:
        The table and its Compositions (without the dropped rows), and a list of "id formula (elements)" dropped.

    Raises:
        DataError: a formula that cannot be parsed, or an unknown element with unknown_elements="error".
    """
    from pymatgen.core import Element

    from matpretrain.composition import parse_formulas, take

    compositions, problems = parse_formulas(table["formula"].tolist())
    if problems:
        first = min(problems)
        raise DataError(
            f"{path}: line {first + 2} (id {table['id'].iloc[first]}): {problems[first]}"
            f"{_more(list(problems))}; correct or remove the row"
        )
    node_unknown = ~known[compositions.number]
    rows = np.unique(compositions.row[node_unknown])
    if not len(rows):
        return table, compositions, []
    elements = {r: set() for r in rows}
    for row, z in zip(compositions.row[node_unknown], compositions.number[node_unknown], strict=True):
        elements[row].add(Element.from_Z(int(z)).symbol)
    if unknown_elements != "drop":
        row = table.iloc[rows[0]]
        raise DataError(
            f"{path}: line {rows[0] + 2} (id {row.id}): no element vector for {', '.join(sorted(elements[rows[0]]))} in "
            f"{row.formula!r}{_more(rows)}; remove the row or set unknown_elements: drop"
        )
    dropped = [f"{table['id'][r]} {table['formula'][r]} ({', '.join(sorted(elements[r]))})" for r in rows]
    keep = np.setdiff1d(np.arange(len(table)), rows)
    return table.iloc[keep].reset_index(drop=True), take(compositions, keep), dropped


def outer_folds(n_rows, n_folds=5, seed=MATBENCH_SEED, groups=None):
    """Test fold [n_rows] of every row: K-fold with shuffling, the official Matbench folds for 5 folds and the default seed.

    Args:
        groups: optional [n_rows] labels; rows of one group fall into the same fold (group_by_formula).

    Raises:
        ValueError: fewer rows (or groups) than folds.
    """
    from sklearn.model_selection import KFold

    units, unit_of = (np.arange(n_rows),) * 2 if groups is None else np.unique(groups, return_inverse=True)
    if len(units) < n_folds:
        raise ValueError(f"{len(units)} rows or groups cannot be split into {n_folds} folds")
    fold = np.empty(len(units), np.int64)
    for k, (_, test) in enumerate(KFold(n_folds, shuffle=True, random_state=seed).split(units)):
        fold[test] = k
    return fold[unit_of]


def inner_split(outer_train, fraction, seed, fold):
    """Split the rows of an outer training part into (training, validation), seeded; both sorted, neither empty."""
    shuffled = np.random.default_rng([seed, fold]).permutation(outer_train)
    n_validation = min(max(1, round(fraction * len(shuffled))), len(shuffled) - 1)
    return np.sort(shuffled[n_validation:]), np.sort(shuffled[:n_validation])


def _more(rows):
    return f" (and {len(rows) - 1} more rows)" if len(rows) > 1 else ""
