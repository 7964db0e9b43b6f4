"""Reading and validating tables of compositions and targets.

Every table becomes the same three columns (id, formula, target), whatever its source. Problems are raised as
`DataError` with one line that names the file, the row or key, and the remedy.
"""

import lzma
import re
import tarfile
import zipfile
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd

from matpretrain.files import DataError, place, unpacked
from matpretrain.splits import NEVER_TESTED, outer_folds, split_of

# What pandas raises for a file that is not what its name says; ImportError: it cannot unpack .zst without a further package.
UNREADABLE = (ValueError, OSError, EOFError, ImportError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, tarfile.TarError)
REGISTRY = "name the right column in the registry"
GIVEN = {"train.csv": NEVER_TESTED, "val.csv": NEVER_TESTED, "test.csv": 0}  # files of a split that comes with the data: fold
# Words in a column of folds for rows that are not tested, and those that may mean it or be a label (not NA or Na, a region and sodium).
TRAINS = ("train", "training", "val", "valid", "validation", "dev", "development", "-1", "-1.0")
UNCLEAR = ("nan", "NaN", "none", "None", "null", "NULL", "n/a", "N/A")
LARGEST = 1e100  # of targets
TEXT = {"dtype": str, "keep_default_na": False, "skip_blank_lines": False, "header": None}  # how pandas reads a CSV as it is


def _breaks(table):
    """[n] line breaks within the quoted cells of each row of a table as `TEXT` reads it."""
    return sum(table[column].str.count("\n").fillna(0) for column in table).astype(int)


def _line(content, row):
    """Line of a CSV (bytes) at which its row, counted from 0 with the header and blank lines, begins."""
    return 1 + row + (int(_breaks(pd.read_csv(BytesIO(content), nrows=row, **TEXT)).sum()) if row else 0)


def read_rows(path):
    """Read a CSV (also compressed) as text: a data frame whose index `line` says where each row, blank ones left out, stands.

    Blanks around the names of columns are taken off.

    Raises:
        DataError: unreadable or empty file, NUL bytes, rows with more cells than the header, or no row.
    """
    try:
        content = unpacked(path)
        table = pd.read_csv(BytesIO(content), **TEXT)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; correct the path") from None
    except pd.errors.EmptyDataError:
        raise DataError(
            f"{path}: the file is empty or begins with a blank line; it needs a header line and one row per composition"
        ) from None
    except DataError:
        raise
    except UNREADABLE as error:
        longer = re.search(r"line (\d+), saw (\d+)", str(error))
        if longer:
            line, cells = _line(content, int(longer[1]) - 1), longer[2]
            raise DataError(
                f"{path}: line {line} has {cells} cells, more cells than the header; separate columns by commas, quote cells that hold one"
            ) from None
        opened = re.search(r"EOF inside string starting at row (\d+)", str(error))
        if opened:
            line = _line(content, int(opened[1]))
            raise DataError(f"{path}: line {line} opens a quote that is never closed; close or remove it") from None
        raise DataError(f"{path}: not a readable CSV ({' '.join(str(error).split())}); correct or replace the file") from None
    breaks = _breaks(table)
    table.columns = table.iloc[0].str.strip().tolist()
    table.index = pd.Index(np.arange(1, len(table) + 1) + breaks.cumsum() - breaks, name="line")
    table = table.iloc[1:]
    table = table[(table.fillna("") != "").any(axis=1)]  # blank lines
    if table.empty:
        raise DataError(f"{path}: no rows below the header; it needs one row per composition")
    return table


def check_columns(table, path, names, remedy=REGISTRY):
    """Raise DataError unless each of the names is that of one column of `read_rows`."""
    columns = list(table.columns)
    for name in names:
        if columns.count(name) > 1:
            raise DataError(f"{path}: {columns.count(name)} columns {name!r}; rename or remove one")
        if name not in columns:
            other = len(columns) == 1 and re.search(r"[;\t|]", columns[0])
            if other:
                remedy = f"separate columns by commas, not by {other[0]!r}"
            elif near := [column for column in columns if str(column).lower() == name.lower()]:
                remedy = f"{near[0]!r} differs in case alone: {remedy}"
            raise DataError(f"{path}: no column {name!r} (it has {', '.join(columns).expandtabs(1)}); {remedy}")


def read_table(path, target=None, formula="formula", id_column=None, rows_of="", remedy=REGISTRY, **others):
    """Read a CSV (also compressed) into columns id, formula and, where they are named, target and others.

    Args:
        path: CSV file with a header line.
        target: name of the target column, a finite number in every row; None for a list of formulas.
        formula: name of the formula column.
        id_column: name of the id column; by default "id" where the file has it, else ids are row-1, row-2, ...
        rows_of: what ids that are made up begin with.
        remedy: what to do where a column is missing.
        others: names of further columns, or None: structure, which names that of the row, fold and group.

    Raises:
        DataError: unreadable or empty file, missing or doubled column, missing, infinite or non-numeric target, duplicate id.
    """
    table = read_rows(path)
    if not id_column and "id" in table.columns:
        id_column = "id"
    names = {"id": id_column, "formula": formula, "target": target} | others
    names = {name: column for name, column in names.items() if column}
    check_columns(table, path, names.values(), remedy)
    found = pd.DataFrame({name: table[column].str.strip() for name, column in names.items()}, index=table.index)
    if not id_column:
        found.insert(0, "id", [f"{rows_of}row-{i + 1}" for i in range(len(table))])
    return check_targets(found, path, target) if target else check_ids(found, path)


def read_split(folder, *arguments, **options):
    """`read_table` of train.csv, test.csv and, where it is there, val.csv of a folder, with the column fold of that split:
    0 for test.csv, the others only train.

    Raises:
        DataError: as `read_table`, or an id that is in two of the files.
    """
    parts = {}
    for name, fold in GIVEN.items():
        path = Path(folder) / name
        if name == "val.csv" and not path.exists():
            continue
        part = read_table(path, *arguments, rows_of=f"{path.stem}-", **options).assign(fold=fold)
        for other, table in parts.items():
            both = np.flatnonzero(part["id"].isin(table["id"]))
            if len(both):
                raise DataError(f"{place(part, path, both)}: this id is also in {other}; make ids unique")
        part.index = pd.Index([f"{line} of {name}" for line in part.index], name="line")
        parts[name] = part
    return pd.concat(parts.values())


def with_own_split(table, path, fold=None, group=None):
    """Return the table whose columns fold and group, where the user named them, are numbers in place of text.

    Labels of folds are numbered from 0 in their order, as numbers where all are; rows without one, or with one of TRAINS, only train
    (NEVER_TESTED).

    Args:
        table: a data frame of `read_table` with these columns.
        fold, group: names of the user's columns.

    Raises:
        DataError: a label of folds is one of UNCLEAR; no row has a fold, or one fold has all rows; a row without a group, or whose
            group is in another fold too, named.
    """
    if group:
        without = np.flatnonzero(table["group"].fillna("") == "")
        if len(without):
            raise DataError(f"{place(table, path, without)}: {group} is empty; give the row a group, of its own if need be")
        table = table.assign(group=pd.factorize(table["group"])[0])
    if fold:
        unclear = np.flatnonzero(table["fold"].isin(UNCLEAR))
        if len(unclear):
            raise DataError(
                f"{place(table, path, unclear)}: {fold} is {table['fold'].iloc[unclear[0]]}; leave it empty or write train where the "
                "row only trains, or give the part another name"
            )
        label = table["fold"].mask(table["fold"].fillna("").str.lower().isin(("", *TRAINS)))
        number = pd.to_numeric(label, errors="coerce")
        code = pd.factorize(label if number.isna().ne(label.isna()).any() else number, sort=True)[0]
        if len(set(code)) == 1:
            words = "in no row a test part" if code[0] == NEVER_TESTED else f"{label.iloc[0]} in all rows"
            raise DataError(
                f"{path}: {fold} is {words}; name the part in which each row is tested, nothing or train where it only trains"
            )
        table = table.assign(fold=code)
    if fold and group:
        split = np.flatnonzero(table["fold"] != table.groupby("group")["fold"].transform("first"))
        if len(split):
            raise DataError(
                f"{place(table, path, split)}: other rows with this {group} have another {fold}; keep each in one, or remove group"
            )
    return table


def check_targets(table, path, target="target"):
    """Return the table (id, formula, target) with float targets, after `check_ids`.

    Raises:
        DataError: naming the first offending row.
    """
    truth = np.flatnonzero([isinstance(value, bool | np.bool_) for value in table["target"]])
    if len(truth):
        found = bool(table["target"].iloc[truth[0]])
        raise DataError(f"{place(table, path, truth)}: {target} is {found}, not a number; name a column of numbers")
    value = pd.to_numeric(table["target"], errors="coerce").to_numpy(float)
    bad = np.flatnonzero(~np.isfinite(value))
    if len(bad):
        found = table["target"].iloc[bad[0]]
        raise DataError(f"{place(table, path, bad)}: {target} is {found!r}, not a finite number; correct or remove the row")
    bad = np.flatnonzero(np.abs(value) > LARGEST)
    if len(bad):
        raise DataError(
            f"{place(table, path, bad)}: {target} is {value[bad[0]]:g}, and squares of numbers beyond {LARGEST:g} overflow; correct the row or "
            "take another unit"
        )
    return check_ids(table, path).assign(target=value)


def check_spread(table, path, target="target"):
    """Raise DataError where all targets are equal."""
    if len(table) > 1 and table["target"].nunique() == 1:
        raise DataError(
            f"{path}: {target} is {table['target'].iloc[0]:g} in all rows, nothing can be learned; name another column"
        )


def check_logarithms(table, path, setting):
    """Whether the targets of a table have logarithms, which a setting asks for.

    Raises:
        DataError: naming the first row whose target is not positive.
    """
    bad = np.flatnonzero(table["target"].to_numpy() <= 0)
    if len(bad):
        value = table["target"].iloc[bad[0]]
        raise DataError(f"{place(table, path, bad)}: target {value:g} has no logarithm; remove the row or {setting}")


def log10_targets(table, path):
    """Return the table with the decimal logarithm of its targets; DataError as check_logarithms."""
    check_logarithms(table, path, "log10: true")
    return table.assign(target=np.log10(table["target"]))


def with_structure(table, path, missing):
    """Return the rows that name a structure, and the ids of the others, which missing="drop" allows.

    Raises:
        DataError: naming the first row without one.
    """
    without = np.flatnonzero(table["structure"] == "")
    if len(without) and missing != "drop":
        raise DataError(f"{place(table, path, without)}: no structure; name one or set missing_structures: drop")
    return table[table["structure"] != ""], table["id"].iloc[without].tolist()


def one_per_composition(number, target, keep):
    """Positions, sorted, of the row that stands for each composition: that of the lowest or of the median target.

    The median of an even number of rows is the lower one of the middle two, so that it is the value of a row; of equal
    targets the first row stays.

    Args:
        number: [n] composition of each row.
        target: [n].
        keep: "lowest" or "median".
    """
    order = np.lexsort((target, number))
    _, first, count = np.unique(number[order], return_index=True, return_counts=True)
    return np.sort(order[first + {"lowest": 0 * count, "median": (count - 1) // 2}[keep]])


def with_folds(table, where, entry, groups=None):
    """Return the table with a column fold, the outer folds that its registry entry asks for, and, where there are groups, group.

    Args:
        entry: registry entry of the dataset.
        groups: optional [n] labels of the rows, as in `splits.outer_folds`, by default the column group, where there is one; the
            inner split keeps them together as well.

    Raises:
        DataError: fewer rows or groups than folds, or test parts that do not fit beside each other.
    """
    split, groups = split_of(entry), table.get("group") if groups is None else groups
    try:
        fold = outer_folds(len(table), split["n_folds"], split["split_seed"], groups, split["test_fraction"])
    except ValueError as error:
        raise DataError(f"{where}: {error}; add rows or set a smaller n_folds or test_fraction") from None
    return table.assign(fold=fold, **({} if groups is None else {"group": groups}))


def check_ids(table, path):
    """Return the table, whose ids are filled in and unique.

    Raises:
        DataError: naming the first offending row.
    """
    empty = np.flatnonzero(table["id"].astype(str).str.strip() == "")
    if len(empty):
        raise DataError(f"{place(table, path, empty)}: the id is empty; fill it in or remove the id column")
    twice = np.flatnonzero(table["id"].duplicated())
    if len(twice):
        raise DataError(f"{place(table, path, twice)}: this id appears a second time; make ids unique")
    return table


def encode(table, path, known, unknown_elements="error", among=True, drop="unknown_elements: drop"):
    """Parse the formulas of a table and check that every element has a vector.

    Args:
        table: columns id, formula, target.
        path: where the table came from, for messages.
        known: [119] bool, which atomic numbers have an element vector.
        unknown_elements: "error" or "drop" for rows with other elements.
        among: [119] bool, which of them networks of structures know, for a dataset with structures.
        drop: what the user sets to have such rows dropped.

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
        raise DataError(f"{place(table, path, rows)}: {problems[rows[0]]}; correct or remove the row")
    node_unknown = ~(known & among)[compositions.number]
    rows = np.unique(compositions.row[node_unknown])
    if not len(rows):
        return table.reset_index(drop=True), compositions, []
    elements = {r: set() for r in rows}
    for row, z in zip(compositions.row[node_unknown], compositions.number[node_unknown], strict=True):
        elements[row].add(Element.from_Z(int(z)).symbol)
    if unknown_elements != "drop":
        first = sorted(elements[rows[0]])
        without = [symbol for symbol in first if not known[Element(symbol).Z]]
        lack = (
            f"no element vector for {', '.join(without)}" if without else f"networks of structures know no {', '.join(first)},"
        )
        remedy = f"remove the row or set {drop}" + ("" if without else ", or leave out structures")
        raise DataError(f"{place(table, path, rows)}: {lack} in {table['formula'].iloc[rows[0]]!r}; {remedy}")
    dropped = [f"{table['id'].iloc[r]} {table['formula'].iloc[r]} ({', '.join(sorted(elements[r]))})" for r in rows]
    keep = np.setdiff1d(np.arange(len(table)), rows)
    return table.iloc[keep].reset_index(drop=True), take(compositions, keep), dropped


def encode_known(table, path, unknown_elements, say, among=True):
    """`encode` for the elements that have a Matscholar vector; returns table and Compositions, and says what was dropped.

    Args:
        among: as of `encode`.
    """
    from matpretrain.composition import known_elements

    table, compositions, dropped = encode(table, path, known_elements(), unknown_elements, among)
    for line in dropped:
        say(f"dropped: {line}")
    return table, compositions


def check_count(table, path, expected):
    """Raise DataError unless the table has the number of rows that the registry says, if it says one."""
    if expected and len(table) != expected:
        raise DataError(
            f"{path}: {len(table)} rows, the registry says n_samples: {expected}; fetch the file again or correct it"
        )
