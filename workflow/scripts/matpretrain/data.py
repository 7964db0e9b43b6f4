"""Reading and validating tables of compositions and targets.

Every table becomes the same three columns (id, formula, target), whatever its source. Problems are raised as
`DataError` with one line that names the file, the row or key, and the remedy.
"""

import warnings
import zlib

import numpy as np
import pandas as pd

from matpretrain.files import DataError
from matpretrain.splits import MATBENCH_SEED, outer_folds


def read_table(path, target=None, formula="formula", id_column=None, structure=None):
    """Read a CSV (also gzipped) into columns id, formula and, where they are named, target and structure.

    Args:
        path: CSV file with a header line.
        target: name of the target column, a finite number in every row; None for a list of formulas.
        formula: name of the formula column.
        id_column: name of the id column; by default "id" where the file has it, else ids are row-1, row-2, ...
        structure: name of the column that names the structure of a row.

    Raises:
        DataError: unreadable or empty file, missing column, missing, infinite or non-numeric target, duplicate id.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # rows with more cells than the header
            table = pd.read_csv(path, dtype=str, keep_default_na=False, skip_blank_lines=False, index_col=False)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; correct the path") from None
    except pd.errors.EmptyDataError:
        raise DataError(f"{path}: the file is empty; it needs a header line and one row per composition") from None
    except pd.errors.ParserWarning:
        raise DataError(f"{path}: rows have more cells than the header; quote cells that hold a comma") from None
    except (pd.errors.ParserError, UnicodeDecodeError, OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: not a readable CSV ({str(error).strip()}); correct or replace the file") from None
    table.index = pd.RangeIndex(2, len(table) + 2, name="line")
    table = table[(table.fillna("") != "").any(axis=1)]  # blank lines
    for column in (formula, target, id_column, structure):
        if column and column not in table.columns:
            raise DataError(
                f"{path}: no column {column!r} (it has {', '.join(table.columns)}); name the right column in the registry"
            )
    if table.empty:
        raise DataError(f"{path}: no rows below the header; it needs one row per composition")
    id_column = id_column or "id"
    ids = table[id_column] if id_column in table.columns else [f"row-{i + 1}" for i in range(len(table))]
    columns = {"id": ids, "formula": table[formula].str.strip()}
    if structure:
        columns["structure"] = table[structure].str.strip()
    if target is None:
        return check_ids(pd.DataFrame(columns, index=table.index), path)
    columns["target"] = table[target].str.strip()
    return check_targets(pd.DataFrame(columns, index=table.index), path, target)


def check_targets(table, path, target="target"):
    """Return the table (id, formula, target) with float targets, after `check_ids`.

    Raises:
        DataError: naming the first offending row.
    """
    value = pd.to_numeric(table["target"], errors="coerce").to_numpy(float)
    bad = np.flatnonzero(~np.isfinite(value))
    if len(bad):
        found = table["target"].iloc[bad[0]]
        raise DataError(f"{_place(table, path, bad)}: {target} is {found!r}, not a finite number; correct or remove the row")
    return check_ids(table, path).assign(target=value)


def log10_targets(table, path):
    """Return the table with the decimal logarithm of its targets.

    Raises:
        DataError: naming the first row whose target is not positive.
    """
    bad = np.flatnonzero(table["target"].to_numpy() <= 0)
    if len(bad):
        raise DataError(
            f"{_place(table, path, bad)}: target {table['target'].iloc[bad[0]]:g} has no logarithm; remove the row or log10: true"
        )
    return table.assign(target=np.log10(table["target"]))


def with_structure(table, path, missing):
    """Return the rows that name a structure, and the ids of the others, which missing="drop" allows.

    Raises:
        DataError: naming the first row without one.
    """
    without = np.flatnonzero(table["structure"] == "")
    if len(without) and missing != "drop":
        raise DataError(f"{_place(table, path, without)}: no structure; name one or set missing_structures: drop")
    return table[table["structure"] != ""], table["id"].iloc[without].tolist()


def with_folds(table, where, entry, groups=None):
    """Return the table with a column fold, the outer folds that its registry entry asks for.

    Args:
        entry: registry entry of the dataset.
        groups: as in `splits.outer_folds`.

    Raises:
        DataError: fewer rows or groups than folds, or test parts that do not fit beside each other.
    """
    seed = entry.get("split_seed", MATBENCH_SEED)
    try:
        fold = outer_folds(len(table), entry.get("n_folds", 5), seed, groups, entry.get("test_fraction"))
    except ValueError as error:
        raise DataError(f"{where}: {error}; add rows or set a smaller n_folds or test_fraction") from None
    return table.assign(fold=fold)


def check_ids(table, path):
    """Return the table, whose ids are filled in and unique.

    Raises:
        DataError: naming the first offending row.
    """
    empty = np.flatnonzero(table["id"].astype(str).str.strip() == "")
    if len(empty):
        raise DataError(f"{_place(table, path, empty)}: the id is empty; fill it in or remove the id column")
    twice = np.flatnonzero(table["id"].duplicated())
    if len(twice):
        raise DataError(f"{_place(table, path, twice)}: this id appears a second time; make ids unique")
    return table


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
        rows = sorted(problems)
        raise DataError(f"{_place(table, path, rows)}: {problems[rows[0]]}; correct or remove the row")
    node_unknown = ~known[compositions.number]
    rows = np.unique(compositions.row[node_unknown])
    if not len(rows):
        return table.reset_index(drop=True), compositions, []
    elements = {r: set() for r in rows}
    for row, z in zip(compositions.row[node_unknown], compositions.number[node_unknown], strict=True):
        elements[row].add(Element.from_Z(int(z)).symbol)
    if unknown_elements != "drop":
        raise DataError(
            f"{_place(table, path, rows)}: no element vector for {', '.join(sorted(elements[rows[0]]))} in "
            f"{table['formula'].iloc[rows[0]]!r}; remove the row or set unknown_elements: drop"
        )
    dropped = [f"{table['id'].iloc[r]} {table['formula'].iloc[r]} ({', '.join(sorted(elements[r]))})" for r in rows]
    keep = np.setdiff1d(np.arange(len(table)), rows)
    return table.iloc[keep].reset_index(drop=True), take(compositions, keep), dropped


def encode_known(table, path, unknown_elements, say, among=True):
    """`encode` for the elements that have a Matscholar vector; returns table and Compositions, and says what was dropped.

    Args:
        among: [119] bool, further elements may not occur either.
    """
    from matpretrain.composition import matscholar_vectors

    known = ~np.isnan(matscholar_vectors()).any(1) & among
    table, compositions, dropped = encode(table, path, known, unknown_elements)
    for line in dropped:
        say(f"dropped: {line}")
    return table, compositions


def check_count(table, path, expected):
    """Raise DataError unless the table has the number of rows that the registry says, if it says one."""
    if expected and len(table) != expected:
        raise DataError(
            f"{path}: {len(table)} rows, the registry says n_samples: {expected}; fetch the file again or correct it"
        )


def _place(table, path, rows):
    """Where the first of the offending row positions is: file, line (or row, where there are no lines), id, how many more."""
    first = rows[0]
    where = f"line {table.index[first]}" if table.index.name == "line" else f"row {first + 1}"
    more = f" (and {len(rows) - 1} more rows)" if len(rows) > 1 else ""
    return f"{path}: {where} (id {table['id'].iloc[first]}){more}"
