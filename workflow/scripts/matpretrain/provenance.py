"""What a result was made from: code fingerprints, versions, hashes of inputs and outputs."""

import ast
import hashlib
import json
import platform
import time
from contextlib import contextmanager
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

STAMP = ".snakemake_timestamp"  # which Snakemake puts into a folder after the job that made it
PACKAGE = Path(__file__).resolve().parent
PLUMBING = {"jobs", "files", "devices", "processes", "states", "provenance"}  # they move bytes and words, not numbers
REPORTED = ("torch", "matgl", "torch-geometric", "numpy", "numba", "scipy", "pandas", "scikit-learn", "pymatgen", "matminer")


@cache
def fingerprint(*names):
    """Twelve hexadecimal digits that change when the behaviour of these scripts and modules may change.

    The hash covers the syntax trees, without comments and docstrings, of the named scripts or modules and of every
    module of the package that they import, directly or not, except the PLUMBING. Scripts do not import each other.
    """
    digest = hashlib.sha256()
    for name in sorted(_closure(names)):
        digest.update(name.encode() + b"\0" + _parsed(name)[1].encode())
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


def pretext_tasks(network):
    """Pretext tasks that the Encoder of a network can be pretrained by: the constant TASKS of its module, none without it."""
    return _constant(network, "TASKS", ())


def stacks(network):
    """Whether networks of a module can train as a cohort: its constant STACKS."""
    return _constant(network, "STACKS", False)


@cache
def parameters(network, role):
    """{name: default} of what a class of a network's module, its "Model", "Encoder" or "Inputs", is made from.

    Read off the syntax tree, since loading torch takes longer than planning. A parameter without a default has None.

    Returns:
        None where that cannot be read off: for a class of another module, without __init__, or with **keywords.

    Raises:
        KeyError: the module has no such name.
    """
    made = _named(network)[role]
    if isinstance(made, ast.ClassDef):
        made = next((node for node in made.body if getattr(node, "name", None) == "__init__"), None)
    if made is None or made.args.kwarg:
        return None
    given, keyword = made.args.args, made.args.kwonlyargs
    defaults = [None] * (len(given) - len(made.args.defaults)) + made.args.defaults + made.args.kw_defaults
    found = zip([*given, *keyword], defaults, strict=True)
    return {argument.arg: node and _written(node) for argument, node in found if argument.arg != "self"}


def defines(network, role, method):
    """Whether a class of a network's module has a method, read off the syntax tree; of a class of another module it is taken to."""
    made = _named(network)[role]
    return made is None or any(getattr(node, "name", None) == method for node in made.body)


@cache
def _named(network):
    """{name: node} of the classes and functions of a module, None for what it imports."""
    named = {}
    for node in _parsed(network)[0].body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            named[node.name] = node
        elif isinstance(node, ast.ImportFrom):
            named |= dict.fromkeys(alias.asname or alias.name for alias in node.names)
        elif isinstance(node, ast.Assign):
            for target, value in zip(*(getattr(side, "elts", [side]) for side in (node.targets[0], node.value)), strict=False):
                named[getattr(target, "id", None)] = named.get(getattr(value, "id", None))
    return named


def _written(node):
    """A constant of a syntax tree, or the text of an expression."""
    return ast.literal_eval(node) if isinstance(node, ast.Constant) else ast.unparse(node)


def _reads(network):
    return _constant(network, "READS", ("compositions", "elements"))


@cache
def _constant(network, name, default):
    """A constant of a network's module."""
    for node in _parsed(network)[0].body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", None) == name:
            return ast.literal_eval(node.value)
    return default


def _closure(names):
    seen, todo = set(), list(names)
    while todo:
        name = todo.pop()
        if name in seen or name in PLUMBING:
            continue
        seen.add(name)
        todo += _parsed(name)[2]
    return seen


@cache
def _parsed(name):
    """Syntax tree without docstrings of a script or module, its text, and the modules of the package that it imports.

    Raises:
        DataError: it is no Python.
    """
    from matpretrain.files import DataError

    script = PACKAGE.parent / f"{name}.py"
    path = script if script.exists() else PACKAGE / f"{name}.py"
    try:
        tree = ast.parse(path.read_text())
    except SyntaxError as error:
        raise DataError(f"{path}: line {error.lineno}: no Python ({error.msg}); correct it") from None
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:]
    imported = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == PACKAGE.name:
            imported += node.module.split(".")[1:] or [alias.name for alias in node.names]
    return tree, ast.dump(tree), imported


@contextmanager
def recorded(snakemake):
    """Yield a dictionary for facts that only the script knows; where the block ends well, write the record of the job.

    The record says what the outputs were made from and by what: rule, parameters, seed, device, threads, seconds (with those
    of interrupted runs, the fact earlier_seconds), code, versions, SHA-256 of every input (as it was when the job began) and
    output. It is the output `provenance` of the rule, else it stands beside the first output: table.csv has
    table.provenance.json. Every job hashes all of its inputs anew: it read them anyway, and a gigabyte takes one or two seconds.
    """
    inputs, facts, started = _hashes(snakemake.input), {}, time.perf_counter()
    yield facts
    seconds = time.perf_counter() - started
    params, wildcards = dict(snakemake.params.items()), dict(snakemake.wildcards.items())
    seed = params.get("seed", wildcards.get("seed"))
    first = Path(snakemake.output[0])
    path = Path(snakemake.output.get("provenance") or first.with_suffix(".provenance.json"))
    made = {
        "rule": snakemake.rule,
        "wildcards": wildcards,
        "seed": None if seed is None else int(seed),
        "device": processor(),
        "threads": snakemake.threads,
        "wall_seconds": round(seconds + facts.pop("earlier_seconds", 0.0), 1),
        "code_version": params.pop("code", None),
        "params": params,
        "versions": environment(),
        "inputs": inputs,
        "outputs": _hashes(output for output in snakemake.output if Path(output) != path),
    }
    write_json(made | facts, path)


def content_hash(path):
    """SHA-256 of a file, or of the names and hashes of all files in a folder."""
    from matpretrain.files import sha256

    path = Path(path)
    if not path.is_dir():
        return sha256(path)
    files = sorted(p for p in path.rglob("*") if p.is_file() and p.name != STAMP)
    lines = (f"{sha256(p)}  {p.relative_to(path).as_posix()}\n" for p in files)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _hashes(paths):
    return {path: content_hash(path) for path in dict.fromkeys(map(str, paths))}


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
    from matpretrain.files import write_text

    write_text(json.dumps(record, indent=2, default=str) + "\n", path)
