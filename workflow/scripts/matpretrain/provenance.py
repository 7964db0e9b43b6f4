"""What a result was made from: code fingerprints, versions, input hashes."""

import ast
import hashlib
import json
import platform
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
PLUMBING = {"jobs", "files", "devices", "provenance"}  # they move bytes and words, not numbers
REPORTED = ("torch", "numpy", "numba", "scipy", "pandas", "scikit-learn", "pymatgen", "matminer")


@cache
def fingerprint(*names):
    """Twelve hexadecimal digits that change when the behaviour of these scripts and modules may change.

    The hash covers the syntax trees, without comments and docstrings, of the named scripts or modules and of every
    module of the package that they import, directly or not, except the PLUMBING.
    """
    digest = hashlib.sha256()
    for name in sorted(_closure(names)):
        digest.update(name.encode() + b"\0" + ast.dump(_tree(name)).encode())
    return digest.hexdigest()[:12]


def reads(entry):
    """What the network of a registry entry is made from: "compositions", "graphs" or "neighbours", and "elements" where it
    takes vectors.

    It is the constant READS of its module, a tuple; of a network with modes {mode: tuple}, the first one by default.

    Raises:
        KeyError: there is no such mode.
    """
    found = _reads(entry["encoder"])
    return found[entry.get("arguments", {}).get("mode", next(iter(found)))] if isinstance(found, dict) else found


def structures_read(entry):
    """In which form the network of a registry entry reads structures, "graphs" or "neighbours"; None where it reads formulas."""
    return next((form for form in reads(entry) if form in ("graphs", "neighbours")), None)


@cache
def _reads(network):
    for node in _tree(network).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", None) == "READS":
            return ast.literal_eval(node.value)
    return ("compositions", "elements")


def _closure(names):
    seen, todo = set(), list(names)
    while todo:
        name = todo.pop()
        if name in seen or name in PLUMBING:
            continue
        seen.add(name)
        for node in ast.walk(_tree(name)):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == PACKAGE.name:
                below = node.module.split(".")[1:]
                todo += below or [alias.name for alias in node.names]
    return seen


@cache
def _tree(name):
    script = PACKAGE.parent / f"{name}.py"
    tree = ast.parse((script if script.exists() else PACKAGE / f"{name}.py").read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:]
    return tree


def environment():
    """Versions of Python and of the packages that decide numbers, as far as they are installed."""
    versions = {"python": platform.python_version()}
    for package in REPORTED:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions


def processor():
    """Name of the CPU."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def write_json(record, path):
    """Write a dictionary as indented JSON, atomically."""
    from matpretrain.files import atomic_path

    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(record, indent=2) + "\n")
