"""The merged configuration, checked before any rule is planned: one line that names the key and the remedy."""

import os
import re
from pathlib import Path

import jsonschema
import yaml

from matpretrain.files import DataError
from matpretrain.provenance import reads, structures_read

ALLOCATOR = "glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=40000000000:glibc.malloc.hugetlb=1"
FIXED_FEATURES = ("magpie", "onehot", "none")
SOURCES = {
    "models": ("encoder (a network)", "estimator with features"),
    "datasets": ("matbench", "matminer", "csv", "embedded"),
}  # registry: the keys of which an entry has exactly one


def check(config, folder):
    """Compare a configuration with the schema, with the registries it names, and with the file system.

    Args:
        config: merged configuration.
        folder: the project, with workflow/schemas and workflow/scripts.

    Raises:
        DataError: naming the first offending key.
    """
    _check_schema(config, folder / "workflow/schemas/config.schema.yaml")
    _check_files(config, folder / "workflow/scripts/matpretrain")
    _check_corpora(config)
    _check_names(config)
    _check_strategies(config)
    _check_structures(config)
    _check_spectra(config)
    for name, entry in config["models"].items():
        other = config["models"].get(entry.get("initial"), entry)
        if other.get("encoder") != entry.get("encoder") or ("initial" in entry and entry["encoder"] != "finder"):
            _refuse(f"models.{name}.initial", "weights pass between two modes of Finder only; name one or leave it out")
    for name, entry in config["predict"].items():
        if "encoder" not in config["models"][entry["model"]]:
            _refuse(f"predict.{name}.model", f"{entry['model']} is a baseline, whose fit is not kept; name a network")
    benchmark = config["benchmark"]
    for dataset, models in benchmark["exclude"].items():
        for model in models:
            if dataset not in benchmark["datasets"] or model not in benchmark["models"]:
                _refuse(f"benchmark.exclude.{dataset}", f"{dataset} with {model} is not part of the benchmark; remove it")


def set_environment(config):
    """Set the variables that every job inherits and that libraries read when they are loaded.

    OMP_WAIT_POLICY (unless it is set): idle OpenMP threads sleep; with the default they spin, and jobs that share a machine
    lose most of their time to it. GLIBC_TUNABLES (unless it is set): large arrays come from the heap, in huge pages, and
    go back to it; by default each is mapped anew and its pages are zeroed one by one, which took two thirds of the time
    of large batches of crystals on one machine (benchmark/README.md). MATGL_BACKEND: the library of matgl's layers.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GLIBC_TUNABLES", ALLOCATOR)
    os.environ["MATGL_BACKEND"] = config["structure_backend"]


def _refuse(key, message):
    raise DataError(f"config key {key}: {message}")


def _check_schema(config, path):
    """Unknown keys, wrong types, missing keys."""
    validator = jsonschema.Draft202012Validator(yaml.safe_load(path.read_text()))
    error = jsonschema.exceptions.best_match(validator.iter_errors(config))
    if not error:
        return
    key = ".".join(map(str, error.absolute_path)) or "(top level)"
    if error.validator == "oneOf":
        choices = " or ".join(SOURCES[error.absolute_path[0]])
        _refuse(key, f"give exactly one of {choices}; see config/README.md")
    hint = ""
    if error.validator == "type" and re.fullmatch(r"[-+]?\d+e[-+]?\d+", str(error.instance)):
        hint = " (YAML reads 1e-3 as text: write 1.0e-3)"
    _refuse(key, f"{error.message}{hint}; see config/README.md for the keys and their types")


def _check_files(config, package):
    """Files, folders and modules that the configuration names."""
    for kind in ("datasets", "corpora", "predict"):
        for name, entry in config[kind].items():
            if "csv" in entry and not Path(entry["csv"]).exists():
                _refuse(f"{kind}.{name}.csv", f"{entry['csv']}: no such file; correct the path")
    for kind in ("models", "pretraining"):
        for name, entry in config[kind].items():
            if "encoder" in entry and not (package / f"{entry['encoder']}.py").is_file():
                _refuse(
                    f"{kind}.{name}.encoder",
                    f"there is no module {package.name}/{entry['encoder']}.py; correct the name or write it",
                )
            try:
                "encoder" in entry and reads(entry)
            except KeyError as error:
                _refuse(f"{kind}.{name}.arguments.mode", f"{entry['encoder']} has no mode {error}; see READS in its module")
    if config["mirror"] and not Path(config["mirror"]).is_dir():
        _refuse("mirror", f"{config['mirror']}: no such folder; correct the path or leave it empty to download")


def _check_corpora(config):
    """What each kind of corpus is made from."""
    for name, entry in config["corpora"].items():
        if entry["kind"] == "union":
            missing = None if "of" in entry else "of: [names]"
        else:
            missing = None if {"csv", "mirror_file", "embedded"} & entry.keys() else "csv: PATH"
        if missing:
            _refuse(f"corpora.{name}", f"a corpus of kind {entry['kind']} needs {missing}; add it")


def _check_strategies(config):
    """Networks, pretext tasks and corpora that fit each other."""
    for name, entry in config["pretraining"].items():
        key, corpus = f"pretraining.{name}", config["corpora"].get(entry["corpus"], {"kind": None})
        graphs = structures_read(entry)
        if graphs and corpus["kind"] not in (None, "structures"):
            _refuse(f"{key}.corpus", f"{entry['encoder']} reads structures; name a corpus of kind structures")
        wrong = [task for task in entry["tasks"] if (task == "denoising") != bool(graphs)]
        if wrong:
            _refuse(f"{key}.tasks", f"{wrong[0]} is not a task for {entry['encoder']}, which reads {reads(entry)[0]}")
        if "structure" in entry["tasks"] and corpus["kind"] == "structures" and "teacher" not in corpus:
            _refuse(f"corpora.{entry['corpus']}", f"pretraining.{name} embeds its structures: it needs teacher: PATH; add it")


def _check_names(config):
    """Names that refer to entries of the registries."""
    for name in sorted(set(config["datasets"]) & set(config["corpora"])):
        _refuse(f"corpora.{name}", "there is a dataset of that name; rename one of them")
    references = [  # (key, name, registries of which one must hold it)
        (f"{section}.{key}", name, [key])
        for section, keys in (
            ("benchmark", ("datasets", "models")),
            ("maps", ("datasets", "pretraining")),
            ("enz", ("datasets", "models")),
        )
        for key in keys
        for name in config[section][key]
    ]
    for study, entry in config["subsets"].items():
        names = [(key, name) for key in ("datasets", "models") for name in entry[key]]
        references += [(f"subsets.{study}.{key}", name, [key]) for key, name in [*names, ("models", entry["reference"])]]
    for corpus, entry in config["corpora"].items():
        references += [(f"corpora.{corpus}.of", name, ["corpora", "datasets"]) for name in entry.get("of", [])]
        references += [(f"corpora.{corpus}.without", name, ["datasets"]) for name in entry.get("without", [])]
    references += [(f"pretraining.{k}.corpus", entry["corpus"], ["corpora"]) for k, entry in config["pretraining"].items()]
    for model, entry in config["models"].items():
        if "initial" in entry:
            references.append((f"models.{model}.initial", entry["initial"], ["models"]))
        if "pretraining" in entry:
            references.append((f"models.{model}.pretraining", entry["pretraining"], ["pretraining"]))
        if entry.get("features", "none") not in FIXED_FEATURES:
            references.append((f"models.{model}.features", entry["features"], ["pretraining"]))
    for prediction, entry in config["predict"].items():
        references.append((f"predict.{prediction}.dataset", entry["dataset"], ["datasets"]))
        references.append((f"predict.{prediction}.model", entry["model"], ["models"]))
    for key, name, kinds in references:
        if not any(name in config[kind] for kind in kinds):
            known = ", ".join(entry for kind in kinds for entry in config[kind])
            _refuse(key, f"{name!r} is not in the registry; it has {known}")


def _check_spectra(config):
    """Spectra and numbers are learned apart."""
    spectral = [name for name, entry in config["datasets"].items() if "energies" in entry]
    for name in config["enz"]["datasets"]:
        if name not in spectral:
            _refuse("enz.datasets", f"{name} has no spectra; give it energies: [first, last, step] or leave it out")
    for name in spectral:
        entry = config["datasets"][name]
        first, last, step = entry["energies"]
        if not (step > 0 and last >= first + step):
            _refuse(f"datasets.{name}.energies", "give first, last and step in eV, for example [0.5, 12.4, 0.1]")
        if "csv" not in entry and entry.get("embedded") != "matminer_optical_constants":
            _refuse(f"datasets.{name}", "spectra come from csv: PATH or embedded: matminer_optical_constants")
        used = [*config["benchmark"]["datasets"], *config["maps"]["datasets"]]
        used += [d for study in config["subsets"].values() for d in study["datasets"]]
        if name in used:
            _refuse("benchmark.datasets", f"{name} holds spectra, which have tables of their own; name it in enz.datasets")
    for model in config["enz"]["models"]:
        if "encoder" not in config["models"][model]:
            _refuse("enz.models", f"{model} is a baseline; name a network")
    if (config["recipe"] | config["enz"]["recipe"])["loss"] == "robust_l1":
        _refuse("enz.recipe.loss", "spectra are learned with l1 or mse; choose one of them")


def _check_structures(config):
    """Networks of structures meet datasets with structures only."""
    benchmark = config["benchmark"]
    asked = [("benchmark", d, m) for d in benchmark["datasets"] for m in benchmark["models"]]
    asked = [(key, d, m) for key, d, m in asked if m not in benchmark["exclude"].get(d, [])]
    for study, entry in config["subsets"].items():
        asked += [(f"subsets.{study}", d, m) for d in entry["datasets"] for m in entry["models"]]
    for key, dataset, model in asked:
        entry = config["models"][model]
        entry = config["models"].get(entry.get("initial"), entry)
        if "encoder" in entry and structures_read(entry) and not config["datasets"][dataset].get("structures"):
            _refuse(key, f"{model} reads structures, which {dataset} has none of; give it structures: or leave one of them out")
    for name, entry in config["datasets"].items():
        structures = entry.get("structures")
        if not structures:
            continue
        if "csv" in entry and not (isinstance(structures, str) and Path(structures).exists()):
            _refuse(f"datasets.{name}.structures", f"{structures}: no such file or folder; correct the path")
        if {"matbench", "matminer"} & entry.keys() and config["mirror"] and "mirror_structures" not in entry:
            _refuse(f"datasets.{name}.structures", "the mirror needs mirror_structures: PATH; add it or leave mirror empty")
