"""The merged configuration, checked before any rule is planned: one line that names the key and the remedy."""

import math
import os
import re
from itertools import chain
from pathlib import Path

import jsonschema
import yaml

from matpretrain.files import DataError, no_such, refuse
from matpretrain.provenance import reads
from matpretrain.registries import check_registries, nearest
from matpretrain.splits import OWN_FOLDS, SPLIT, split_of

ALLOCATOR = "glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=40000000000:glibc.malloc.hugetlb=1"
SOURCES = {
    "models": ("encoder (a network)", "estimator with features"),
    "datasets": ("matbench", "matminer", "csv", "embedded", "by_hand"),
}  # registry: the keys of which an entry has exactly one
# Keys of a dataset on the file that `by_hand` names, which a csv of the user's takes the place of.
OF_ANOTHER_FILE = (
    "n_samples",
    "missing_structures",
    "mirror_file",
    "mirror_sha256",
    "mirror_structures",
    "mirror_structures_sha256",
)
PATHS = {"datasets": ("csv", "structures"), "corpora": ("csv", "teacher"), "predict": ("csv",)}  # of entries of registries
ROUNDING = 0.01  # share of the rows by which test parts and subsets may miss what fits: whole rows are counted in the job
TYPES = {
    "integer": lambda _, value: type(value) is int,  # 3.0, to which Python objects where it counts, is none
    "number": lambda _, value: type(value) in (int, float) and math.isfinite(value),
}
VALIDATOR = jsonschema.validators.extend(
    jsonschema.Draft202012Validator, type_checker=jsonschema.Draft202012Validator.TYPE_CHECKER.redefine_many(TYPES)
)


def check(config, folder, files=()):
    """Compare a configuration with the schema, with the registries it names, and with the file system; studies that are null, which
    an overlay takes away, are left out of it.

    Args:
        config: merged configuration.
        folder: the project, with workflow/schemas and workflow/scripts.
        files: the YAML files that it was merged from.

    Raises:
        DataError: naming the first offending key, or a key that a file has twice.
    """
    for path in files:
        _check_doubled(Path(path))
    if isinstance(config.get("subsets"), dict):
        config["subsets"] = {name: study for name, study in config["subsets"].items() if study is not None}
    _check_schema(config, folder / "workflow/schemas/config.schema.yaml")
    _take_own_files(config)
    _expand_home(config)
    _check_files(config, folder / "workflow/scripts/matpretrain")
    check_registries(config)
    _check_splits(config)


def set_environment(config):
    """Set the variables that every job inherits and that libraries read when they are loaded.

    Those of `set_libraries`. MATGL_BACKEND: the library of matgl's layers.
    MATPRETRAIN_CHECKPOINT_MINUTES: how often states are written, which is no parameter of a job: it changes no result.
    """
    set_libraries()
    os.environ["MATGL_BACKEND"] = config["structure_backend"]
    os.environ["MATPRETRAIN_CHECKPOINT_MINUTES"] = str(config["checkpoint_minutes"])


def set_libraries():
    """Set, unless they are set, the variables of threads and memory that processes started from now on read.

    OMP_WAIT_POLICY: idle OpenMP threads sleep; with the default they spin, and jobs that share a machine lose most of their
    time to it. GLIBC_TUNABLES: large arrays come from the heap, in huge pages, and go back to it; by default each is mapped
    anew and its pages are zeroed one by one, which took two thirds of the time of large batches of crystals on one machine
    (benchmark/README.md).
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GLIBC_TUNABLES", ALLOCATOR)


def _check_doubled(path):
    """A key that stands twice in one mapping, of which YAML keeps the last without a word."""
    try:
        nodes = [(yaml.compose(path.read_text(encoding="utf-8")), ())]
    except yaml.YAMLError:  # JSON with tabs; Snakemake has read it
        return
    while nodes:
        node, place = nodes.pop()
        if isinstance(node, yaml.SequenceNode):
            nodes += [(value, place) for value in node.value]
        if not isinstance(node, yaml.MappingNode):
            continue
        lines = {}
        for key, value in node.value:
            name, line = (*place, str(key.value)), key.start_mark.line + 1
            before = lines.setdefault((key.tag, name), line)
            if before != line and key.value != "<<":
                raise DataError(f"{path}: line {line}: {'.'.join(name)} stands in line {before} too; remove or rename one")
            nodes.append((value, name))


def _check_schema(config, path):
    """Unknown keys, wrong types, missing keys."""
    validator = VALIDATOR(yaml.safe_load(path.read_text()))
    _read_numbers(config, validator)
    errors = list(validator.iter_errors(config))
    if not errors:
        return
    unknown = [error for error in errors if error.validator == "additionalProperties"]
    error = unknown[0] if unknown else jsonschema.exceptions.best_match(errors)
    key = ".".join(map(str, error.absolute_path)) or "(top level)"
    if unknown:
        known = error.schema["properties"]
        name = next(name for name in error.instance if name not in known)
        refuse(key, f"there is no key {name!r} here; the nearest are {nearest(str(name), known)}; see config/README.md")
    if error.validator == "oneOf":
        choices = " or ".join(SOURCES[error.absolute_path[0]])
        refuse(key, f"give exactly one of {choices}; see config/README.md")
    several = error.parent or error
    if several.validator == "anyOf" and any("enum" in form for form in several.validator_value):
        forms = [form.get("enum", [f"a whole number from {form.get('minimum')}"]) for form in several.validator_value]
        refuse(key, f"{error.instance!r} is not one of {', '.join(chain(*forms))}; see config/README.md")
    hint = ""
    if error.validator == "type" and re.fullmatch(r"[-+]?\d+e[-+]?\d+", str(error.instance)):
        hint = " (YAML reads 1e-3 as text: write 1.0e-3)"
    refuse(key, f"{error.message}{hint}; see config/README.md for the keys and their types")


def _read_numbers(config, validator):
    """Read numbers and truth values that are text where the schema has none: Snakemake leaves them so within a value of --config."""
    errors = list(validator.iter_errors(config))
    for error in errors:
        errors += error.context  # of a key that may have one of several types
        if error.validator == "type" and isinstance(error.instance, str):
            try:
                value = yaml.safe_load(error.instance)
            except yaml.YAMLError:
                continue
            if validator.is_type(value, "number") or validator.is_type(value, "boolean"):
                *folders, key = error.absolute_path
                place = config
                for folder in folders:
                    place = place[folder]
                place[key] = value


def _take_own_files(config):
    """Leave out what the registry says of a file that the user has replaced."""
    for entry in config["datasets"].values():
        if {"csv", "by_hand"} <= entry.keys():
            for key in OF_ANOTHER_FILE:
                entry.pop(key, None)
            if entry.get("structures") is True:
                del entry["structures"]


def _expand_home(config):
    """Read ~ in paths as a shell does, which leaves it within YAML and after an equals sign."""
    config["mirror"] = os.path.expanduser(config["mirror"])
    for kind, keys in PATHS.items():
        for entry in config[kind].values():
            entry |= {key: os.path.expanduser(entry[key]) for key in keys if isinstance(entry.get(key), str)}


def _check_splits(config):
    """Test parts that fit beside each other, and training subsets that fit beside a test part; columns that split, alone."""
    for name, entry in config["datasets"].items():
        for column, others in (("fold", SPLIT), ("group", ("split",))):
            if column in entry and "csv" not in entry:
                refuse(f"datasets.{name}.{column}", "it names a column of a CSV of yours; add csv: PATH or remove it")
            for other in [other for other in others if column in entry and other in entry]:
                refuse(
                    f"datasets.{name}.{other}",
                    f"the column {entry[column]!r} ({column}) splits the rows; remove one of the two",
                )
        n_folds = split_of(entry)["n_folds"]
        if n_folds * entry.get("test_fraction", 0) > 1 + ROUNDING:
            refuse(
                f"datasets.{name}.test_fraction",
                f"{n_folds} test parts of {entry['test_fraction']:g} of the rows overlap; set a smaller n_folds or test_fraction",
            )
    for study, entry in config["subsets"].items():
        for name in entry["datasets"]:
            dataset = config["datasets"][name]
            if "fold" in dataset or ("csv" in dataset and Path(dataset["csv"]).is_dir()):  # with a split of its own
                continue
            if "test_fraction" in dataset and ("group" in dataset or split_of(dataset)["split"] != "random"):
                continue  # a share of groups, which may have few of the rows
            largest = 1 - dataset.get("test_fraction", 1 / split_of(dataset)["n_folds"])
            n_rows = dataset.get("n_samples", math.inf)
            for size in entry["sizes"]:
                share = float(size[:-1]) / 100 if str(size).endswith("%") else size / n_rows
                if share > largest + ROUNDING:
                    has = f"{largest:.0%}" + (f" of {n_rows} rows" if type(size) is int else "")
                    refuse(
                        f"subsets.{study}.sizes", f"{size} is more than {name} has beside a test part, {has}; make it smaller"
                    )


def _check_files(config, package):
    """Files, folders and modules that the configuration names."""
    named = {
        f"{kind}.{name}.{key}": config[kind][name].get(key) for kind in PATHS for name in config[kind] for key in PATHS[kind]
    }
    for key, path in (named | {"mirror": config["mirror"]}).items():
        if set("{}") & set(str(path)):
            refuse(key, f"{path}: Snakemake reads braces in paths as wildcards; rename the file or folder")
    for kind in ("datasets", "corpora", "predict"):
        for name, entry in config[kind].items():
            if "csv" in entry and not Path(entry["csv"]).exists():
                refuse(f"{kind}.{name}.csv", no_such(entry["csv"]))
            for key in ("sha256", *OWN_FOLDS):
                if kind == "datasets" and key in entry and Path(entry.get("csv", "")).is_dir() and "csv" in entry:
                    refuse(f"datasets.{name}.{key}", "the files of a folder keep their own split and have no hash; remove it")
    for kind in ("models", "pretraining"):
        for name, entry in config[kind].items():
            if "encoder" in entry and not (package / f"{entry['encoder']}.py").is_file():
                refuse(
                    f"{kind}.{name}.encoder",
                    f"there is no module {package.name}/{entry['encoder']}.py; correct the name or write it",
                )
            try:
                "encoder" in entry and reads(entry)
            except KeyError as error:
                refuse(f"{kind}.{name}.arguments.mode", f"{entry['encoder']} has no mode {error}; see READS in its module")
    if config["mirror"] and not Path(config["mirror"]).is_dir():
        refuse("mirror", f"{no_such(config['mirror'], 'folder')} or leave it empty to download")
