"""docs/faults.md, made from what users see in the tests that provoke faults (`make faults`).

A test takes the fixture `fault`, its module names the heading of its rows in FAULTS:

    with fault("A column is missing", "mine.csv", "no column"):
        read_table(path, "gap")
    fault.told("Formulas with fractions", line)

Without --faults=FILE every row must already be in docs/faults.md, so the table is what the tests see.
"""

import json
import re
from contextlib import contextmanager
from pathlib import Path

import pytest

from matpretrain.files import DataError
from matpretrain.provenance import content_hash

TABLE = Path(__file__).resolve().parents[1] / "docs/faults.md"
HEAD = """# Faults

What users see of bad input and of trouble with the machine: one line, and exit status 1. Every row was recorded by a test
(`make faults` writes this page). A line of a job begins with the job, `[prepare_dataset mine] error:`, in the terminal, and is
the last one of its log. Paths are those of the tests. "kept" in the last column: the test also compared the results of
earlier runs before and after.

A row whose second column begins with → is no error: the line says what was done about it.
"""


class Fault:
    """The rows of one test."""

    def __init__(self, record, folders, known):
        self.record, self.folders, self.known = record, [re.escape(str(folder)) for folder in folders], known

    @contextmanager
    def __call__(self, what, *words, kept=(), error=DataError):
        """The block raises an error whose message is one line with all the words, and leaves the paths `kept` as they were."""
        before = [content_hash(path) for path in kept]
        with pytest.raises(error) as caught:
            yield caught
        line = str(caught.value)
        assert line and "\n" not in line and all(word in line for word in words), line
        assert [content_hash(path) for path in kept] == before, "earlier results were changed"
        self._row(what, line, bool(kept))

    def told(self, what, line):
        """What is no error is told in this line."""
        assert line and "\n" not in line
        self._row(what, f"→ {line}", False)

    def _row(self, what, line, kept):
        line = re.sub(rf"({'|'.join(self.folders)})/?", "", line).replace("|", "\\|")
        row = f"| {what} | {line} | {'kept' if kept else ''} |"
        self.record(row)
        assert self.known is None or row in self.known, f"not in docs/faults.md: run `make faults`\n{row}"


@pytest.fixture
def fault(request, tmp_path, tmp_path_factory):
    """See the module `faults`."""
    heading = f"{request.module.FAULTS} (`{request.path.relative_to(TABLE.parents[1]).as_posix()}`)"

    def record(row):
        request.node.user_properties.append(("fault", [heading, row]))

    known = None if request.config.getoption("--faults") else TABLE.read_text().splitlines()
    return Fault(record, [tmp_path, *tmp_path_factory.getbasetemp().iterdir(), TABLE.parents[1]], known)


def replace(name, content):
    """Function (folder of a model) that puts another file in the place of one of its second seed, which may be a hard link."""

    def edit(folder):
        path = folder / "seed1" / name
        path.unlink()
        path.write_bytes(content)

    return edit


def edit_record(**changes):
    """Function (folder of a model) that changes the record of its second seed; a key whose value is None is left out."""

    def edit(folder):
        record = json.loads((folder / "seed1/model.json").read_text()) | changes
        kept = {key: value for key, value in record.items() if key not in changes or value is not None}
        replace("model.json", json.dumps(kept).encode())(folder)

    return edit


class Writer:
    """Collects the rows of a run, from all of its processes, and writes the page if no test failed."""

    def __init__(self, path):
        self.path, self.rows = path, {}

    def pytest_runtest_logreport(self, report):
        if report.when == "call":
            for name, value in report.user_properties:
                if name == "fault":
                    heading, row = value
                    self.rows.setdefault(heading, {})[row] = None

    def pytest_sessionfinish(self, session, exitstatus):
        if exitstatus == 0:
            Path(self.path).write_text(page(self.rows))


def page(rows):
    """The page from {heading: rows}."""
    sections = [
        "\n".join([f"\n## {heading}\n", "| fault | what the user sees | earlier results |", "|---|---|---|", *rows[heading]])
        for heading in sorted(rows)
    ]
    return HEAD + "\n".join(sections) + "\n"


def pytest_addoption(parser):
    parser.addoption("--faults", metavar="FILE", help="run the tests that provoke faults; write what the user sees")


def pytest_configure(config):
    if config.getoption("--faults") and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Writer(config.getoption("--faults")))


def pytest_collection_modifyitems(config, items):
    if config.getoption("--faults"):
        items[:] = [item for item in items if "fault" in item.fixturenames]
