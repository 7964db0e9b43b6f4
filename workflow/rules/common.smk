"""Validation, wildcard constraints and the helpers that several rule files share. No rules."""

import re
import sys
from pathlib import Path

import jsonschema
import yaml
from snakemake.exceptions import WorkflowError

sys.path.insert(0, str(Path(workflow.basedir) / "workflow" / "scripts"))
from matpretrain.provenance import fingerprint


def check_config(config):
    """Raise one line naming the key for anything that the schema, the registries or the file system contradict."""
    schema = yaml.safe_load(
        (Path(workflow.basedir) / "workflow/schemas/config.schema.yaml").read_text()
    )
    error = jsonschema.exceptions.best_match(
        jsonschema.Draft202012Validator(schema).iter_errors(config)
    )
    if error:
        hint = ""
        if error.validator == "oneOf":
            choices = (
                ("encoder (a network)", "estimator with features")
                if error.absolute_path[0] == "models"
                else ("matbench", "csv", "embedded")
            )
            raise WorkflowError(
                f"config key {'.'.join(map(str, error.absolute_path))}: give exactly one of {' or '.join(choices)}; see config/README.md"
            )
        if (
            error.validator == "type"
            and isinstance(error.instance, str)
            and re.fullmatch(r"[-+]?\d+e[-+]?\d+", error.instance)
        ):
            hint = " (YAML reads 1e-3 as text: write 1.0e-3)"
        key = ".".join(str(p) for p in error.absolute_path) or "(top level)"
        raise WorkflowError(
            f"config key {key}: {error.message}{hint}; see config/README.md for the keys and their types"
        )
    for kind in ("datasets", "models"):
        for name in config["benchmark"][kind]:
            if name not in config[kind]:
                raise WorkflowError(
                    f"config key benchmark.{kind}: {name!r} is not in the registry; it has {', '.join(config[kind])}"
                )
    for name, entry in config["datasets"].items():
        if "csv" in entry and not Path(entry["csv"]).is_file():
            raise WorkflowError(
                f"config key datasets.{name}.csv: {entry['csv']}: no such file; correct the path"
            )
    package = Path(workflow.basedir) / "workflow/scripts/matpretrain"
    for name, entry in config["models"].items():
        if "encoder" in entry and not (package / f"{entry['encoder']}.py").is_file():
            raise WorkflowError(
                f"config key models.{name}.encoder: there is no module {package.name}/{entry['encoder']}.py; correct the name or write it"
            )
    for dataset, models in config["benchmark"]["exclude"].items():
        for model in models:
            if (
                dataset not in config["benchmark"]["datasets"]
                or model not in config["benchmark"]["models"]
            ):
                raise WorkflowError(
                    f"config key benchmark.exclude.{dataset}: {dataset} with {model} is not part of the benchmark; remove it"
                )
    mirror = config["mirror"]
    if mirror and not Path(mirror).is_dir():
        raise WorkflowError(
            f"config key mirror: {mirror}: no such folder; correct the path or leave it empty to download"
        )


check_config(config)

DATASETS = config["benchmark"]["datasets"]
MODELS = config["benchmark"]["models"]
NETWORKS = [m for m, entry in config["models"].items() if "encoder" in entry]
BASELINES = [m for m, entry in config["models"].items() if "estimator" in entry]
EXCLUDED = config["benchmark"]["exclude"]
TRAINED = [m for m in MODELS if m in NETWORKS]

LABELS = {d: config["datasets"][d].get("label", d) for d in DATASETS} | {
    m: config["models"][m]["label"] for m in MODELS
}
UNITS = {d: config["datasets"][d]["unit"] for d in DATASETS}


wildcard_constraints:
    dataset="|".join(map(re.escape, config["datasets"])),
    model="|".join(map(re.escape, config["models"])),
    seed=r"\d+",


def source_kind(dataset):
    """Where a dataset comes from: embedded, csv, mirror or download."""
    entry = config["datasets"][dataset]
    if "matbench" not in entry:
        return "csv" if "csv" in entry else "embedded"
    return "mirror" if config["mirror"] else "download"


def raw_file(wildcards):
    """The raw file of a dataset, none for embedded data."""
    entry = config["datasets"][wildcards.dataset]
    kind = source_kind(wildcards.dataset)
    if kind == "csv":
        return {"raw": entry["csv"]}
    if kind == "mirror":
        name = entry.get("mirror_file", f"tables/{entry['matbench']}.csv.gz")
        return {"raw": f"{config['mirror']}/{name}"}
    if kind == "download":
        return {"raw": f"resources/downloads/{wildcards.dataset}.json.gz"}
    return {}


def data_keys(dataset):
    """Registry keys of a dataset that decide its rows and folds; a new label must not train anything again."""
    words = ("label", "property", "unit", "licence", "citation")
    return {k: v for k, v in config["datasets"][dataset].items() if k not in words}


def label(name):
    """Name of a dataset or model in tables and figures."""
    entry = config["datasets"].get(name) or config["models"][name]
    return entry.get("label", name)


def quantity(dataset):
    """What the target of a dataset is, in words."""
    return config["datasets"][dataset].get(
        "property", config["datasets"][dataset]["target"]
    )


def seeds_of(dataset, model):
    """Seeds of a model on a dataset: all for a network, the first for a baseline."""
    benchmark = config["benchmark"]
    seeds = benchmark["seeds_per_dataset"].get(dataset, benchmark["seeds"])
    return seeds if model in NETWORKS else seeds[:1]


def seed_files(name, dataset, model):
    """The file `name` of every seed of a model on a dataset."""
    return [
        f"results/finetune/{dataset}/{model}/seed{seed}/{name}"
        for seed in seeds_of(dataset, model)
    ]


def runs(models=MODELS):
    """(dataset, model) pairs of the benchmark, without the excluded ones."""
    return [(d, m) for d in DATASETS for m in models if m not in EXCLUDED.get(d, [])]


def run_files(pattern, models=MODELS):
    """The file `pattern`, with {dataset} and {model}, of every run of the benchmark."""
    return [pattern.format(dataset=d, model=m) for d, m in runs(models)]


def matbench_tasks(model):
    """Matbench tasks of the benchmark that a model runs on."""
    return [d for d, m in runs([model]) if "matbench" in config["datasets"][d]]
