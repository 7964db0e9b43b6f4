"""Whether results and what they were made from are still what their records say.

python -m matpretrain.verify [FOLDER ...]
"""

import argparse
import json
import sys
from collections import defaultdict
from functools import cache
from pathlib import Path

from matpretrain.provenance import PACKAGE, content_hash, fingerprint

FOLDERS = ("results", "docs/reproduction")
NAME = "provenance.json"  # a record is called so, or OUTPUT.provenance.json
AGAIN = "run snakemake again"
SCRIPTS = {"connect_left_out": "connect_structures"}  # of rules whose script has another name
SPARE = "results/together/"  # copies that may be deleted


def verify(folders):
    """Compare all records in some folders with the files they name.

    Returns:
        Number of records, and lines: one per file that is missing or another one, per job whose code changed, and per
        record that cannot be compared. Without lines everything matches.
    """
    paths = [path for folder in folders for path in sorted(Path(folder).rglob(f"*{NAME}")) if _is_record(path)]
    lines, read = [], {}
    for path in paths:
        try:
            record = json.loads(path.read_text())
            read[path] = record["rule"], record["code_version"], record["inputs"].items(), record["outputs"].items()
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            lines.append(f"{path}: not a record with the hashes of inputs and outputs; {AGAIN}")
    return len(paths), lines + _files(read) + _codes(read)


def _is_record(path):
    return path.name == NAME or path.name.endswith(f".{NAME}")


def _files(read):
    """Lines on files: first what their own job says, then, of others, what was made from them."""
    current, lines, told = cache(_hash_or_none), [], set()
    for rule, _, _, outputs in read.values():
        for path, made in outputs:
            found = current(path)
            if found is None:
                lines.append(f"{path}: missing; {rule} made it: {AGAIN}")
            elif found != made:
                lines.append(f"{path}: changed since {rule} made it; restore it, or delete it and {AGAIN}")
            if found != made:
                told.add((path, made))
    others = defaultdict(list)  # (input, hash it had) -> records of what was made from it
    for record, (_, _, inputs, _) in read.items():
        for path, had in inputs:
            if current(path) != had and (path, had) not in told and not (path.startswith(SPARE) and current(path) is None):
                others[path, had].append(record)
    for (path, _), records in others.items():
        if current(path) is None:
            lines.append(f"{path}: missing; {_first(records)} was made from it: restore it")
        else:
            lines.append(f"{path}: not the file that {_first(records)} was made from; restore it or {AGAIN}")
    return lines


def _codes(read):
    """Lines on jobs whose code now behaves differently."""
    older = defaultdict(list)
    for record, (rule, code, _, _) in read.items():
        if code and code not in _fingerprints(rule):
            older[rule, code].append(record)
    return [f"{_first(records)}: made by other code of {rule} ({code}); {AGAIN}" for (rule, code), records in older.items()]


@cache
def _fingerprints(rule):
    """What the code of a rule may be now: its script's alone, or with the network that it was given."""
    rule = SCRIPTS.get(rule, rule)
    if not (PACKAGE.parent / f"{rule}.py").is_file():
        return set()
    networks = [path.stem for path in PACKAGE.glob("*.py") if path.stem != "__init__"]
    return {fingerprint(rule), *(fingerprint(rule, network) for network in networks)}


def _first(records):
    return f"{records[0]}" + (f" (and {len(records) - 1} more)" if len(records) > 1 else "")


def _hash_or_none(path):
    try:
        return content_hash(path)
    except OSError:
        return None


def main(arguments=None):
    """The command line. Returns the exit status: 1, after one line for each, where something does not match."""
    parser = argparse.ArgumentParser(prog="python -m matpretrain.verify", description="Compare results with their records.")
    parser.add_argument("folders", metavar="FOLDER", nargs="*", default=FOLDERS, help=f"default: {' '.join(FOLDERS)}")
    number, lines = verify(parser.parse_args(arguments).folders)
    for line in lines:
        print(line)
    if lines:
        return 1
    print(f"{number} {'result' if number == 1 else 'results'} verified")
    return 0


if __name__ == "__main__":
    sys.exit(main())
