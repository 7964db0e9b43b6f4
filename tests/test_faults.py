"""The page of faults, and what writes it."""

import re

import pytest
from faults import TABLE, Fault, page

from matpretrain.files import DataError


def sections():
    """{test module: rows} of the page, a row a list of its three cells."""
    found = {}
    for line in TABLE.read_text().splitlines():
        if heading := re.fullmatch(r"## .+ \(`(.+)`\)", line):
            rows = found.setdefault(heading[1], [])
        elif found and line.startswith("| "):
            rows.append([cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]])
    return {path: rows[1:] for path, rows in found.items()}


def test_the_page_holds_at_least_forty_faults_of_tests_that_exist():
    rows = [(path, *row) for path, section in sections().items() for row in section]
    assert sum(not row[2].startswith("→") for row in rows) >= 40
    assert len({row[1] for row in rows}) == len(rows), "a fault is there twice"
    for path, what, line, _ in rows:
        assert f'"{what}"' in (TABLE.parents[1] / path).read_text(), f"{what}: {path} provokes it no more; run `make faults`"
        assert not re.search(r"/tmp|/home|/root|/work|127\.0\.0\.1|Traceback", line), line


@pytest.fixture
def recorded(tmp_path):
    rows = []
    return rows, Fault(rows.append, [tmp_path], None)


def test_a_row_is_the_message_without_the_folder_of_the_test(recorded, tmp_path):
    rows, fault = recorded
    earlier = tmp_path / "table.csv"
    earlier.write_text("earlier")
    with fault("A bar in a path", "a|b.csv", kept=[earlier]):
        raise DataError(f"{tmp_path}/a|b.csv: no such file")
    fault.told("A fraction", "312 rows")
    assert rows == ["| A bar in a path | a\\|b.csv: no such file | kept |", "| A fraction | → 312 rows |  |"]
    assert page({"Files (`tests/x.py`)": rows}).endswith("|---|---|---|\n" + "\n".join(rows) + "\n")


def test_more_than_a_line_missing_words_changed_results_and_unknown_rows_fail(recorded, tmp_path):
    earlier = tmp_path / "table.csv"
    earlier.write_text("earlier")
    _, fault = recorded
    with pytest.raises(AssertionError), fault("x"):
        raise DataError("two\nlines")
    with pytest.raises(AssertionError), fault("x", "row"):
        raise DataError("line")
    with pytest.raises(AssertionError, match="earlier results"), fault("x", kept=[tmp_path]):
        earlier.write_text("later")
        raise DataError("line")
    with pytest.raises(AssertionError, match="make faults"), Fault(print, [tmp_path], ["| x | line |  |"])("x"):
        raise DataError("another line")
    with Fault(print, [tmp_path], ["| x | line |  |"])("x"):
        raise DataError("line")
