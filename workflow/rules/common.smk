"""Validation, wildcard constraints and the helpers that several rule files share. No rules."""

import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(workflow.basedir) / "workflow" / "scripts"))
from matpretrain import networks, registries
from matpretrain.configuration import check, set_environment
from matpretrain.files import DataError
from matpretrain.provenance import fingerprint, reads, stacks, structures_read
from matpretrain.unfinished import keep_unfinished

try:
    check(config, Path(workflow.basedir), workflow.configfiles)
except DataError as error:
    refuse(error)

set_environment(config)
keep_unfinished()

DATASETS = config["benchmark"]["datasets"]
MODELS = config["benchmark"]["models"]
NETWORKS = [m for m, entry in config["models"].items() if "encoder" in entry]
BASELINES = [m for m, entry in config["models"].items() if "estimator" in entry]
EDGES_PREDICTED = [
    m
    for m in NETWORKS
    if config["models"][m]["encoder"] == "finder"
    and "compositions" in reads(config["models"][m])
]
EXCLUDED = config["benchmark"]["exclude"]
SPECTRAL = [d for d, entry in config["datasets"].items() if "energies" in entry]
SCALAR = [d for d in config["datasets"] if d not in SPECTRAL]
TRAINED = [m for m in MODELS if m in NETWORKS]


def grown(amount):
    """Memory or time of a job: `amount`, and as much again with every retry (profiles/slurm). The time of one that goes on from its
    state stays, since partitions have limits."""
    return lambda wildcards, attempt: amount * attempt


def strategies_of(model):
    """Strategies whose encoders the seeds of a network start from in turn, or whose frozen encoder feeds a baseline."""
    entry = config["models"][model]
    names = [*networks.strategies(entry), entry.get("features")]
    return [name for name in names if name in config["pretraining"]]


def made_of(model):
    """What a network is made from; two with the same have the same parameters."""
    return networks.made_of(config, config["models"][model], "Model")


def scratch_of(model):
    """The network of the benchmark with the same encoder and element vectors and no pretraining; None without one."""

    same = [m for m in TRAINED if made_of(m) == made_of(model)]
    return next((m for m in same if not strategies_of(m)), None)


def elements_of(entry):
    """Element vectors of a pretraining strategy or of a network; a network has those of its encoder."""
    return networks.elements_of(config, entry)


def arguments_of(model):
    """Further arguments of a network, as the registry gives them."""
    return config["models"][model].get("arguments", {})


def recipe_of(dataset, model):
    """How a network is trained on a dataset, or, for None, on those without keys of their own."""
    return registries.recipe_of(config, dataset, config["models"][model]["encoder"])


def inner_fraction_of(dataset):
    """Share of the outer training rows held out for validation."""
    return config["datasets"][dataset].get("inner_fraction", config["inner_fraction"])


def resolution_of(dataset):
    """Width in eV with which predicted spectra are smoothed; None for other targets."""
    return config["enz"]["resolution"] if dataset in SPECTRAL else None


PRETRAINED = [m for m in TRAINED if strategies_of(m)]
FROZEN = [m for m in MODELS if m in BASELINES and strategies_of(m)]
# Linear probes follow the encoders of these strategies on these datasets.
STRATEGIES = dict.fromkeys(s for m in PRETRAINED + FROZEN for s in strategies_of(m))
STRATEGIES = [s for s in STRATEGIES if config["pretraining"][s]["tasks"]]
PROBED = [d for d in config["benchmark"]["probes"] if d in DATASETS]

# {model: submission to Matbench with which it is compared}
SUBMISSIONS = {
    m: config["models"][m]["published"]
    for m in MODELS
    if "published" in config["models"][m]
}
LABELS = {d: config["datasets"][d].get("label", d) for d in DATASETS} | {
    m: config["models"][m]["label"] for m in MODELS
}
UNITS = {d: config["datasets"][d]["unit"] for d in DATASETS}


def names_or_none(names):
    """A pattern that matches these names, or nothing where there are none."""
    return "|".join(map(re.escape, names)) or "(?!)"


wildcard_constraints:
    dataset=names_or_none(config["datasets"]),
    corpus=names_or_none(config["corpora"]),
    table=names_or_none([*config["datasets"], *config["corpora"]]),
    pretraining=names_or_none(config["pretraining"]),
    model=names_or_none(config["models"]),
    prediction=names_or_none(config["predict"]),
    seed=r"\d+",
    subset=r"(@\d+(pct)?)?",
    study=names_or_none(config["subsets"]),


def data_keys(dataset):
    """Registry keys of a dataset that decide its rows and folds; a new label must not train anything again."""
    words = "label property unit licence citation matched by_hand materials inner_fraction recipe"
    entry, others = config["datasets"][dataset], words.split()
    if source_kind(dataset) != "mirror":
        others += [k for k in entry if k.startswith("mirror_")]
    return {k: v for k, v in entry.items() if k not in others}


def corpora_of(*kinds):
    """Names of the corpora of some kinds."""
    return [c for c, entry in config["corpora"].items() if entry["kind"] in kinds]


def corpus_keys(corpus):
    """Registry keys of a corpus that decide its compositions."""
    entry, words = config["corpora"][corpus], ["licence", "citation"]
    if "csv" in entry and "mirror_file" in entry:
        words.append("n_samples")  # the registry's, not of the user's own file
    return {k: v for k, v in entry.items() if k not in words}


def unknown_elements(entry):
    """What to do with rows of a dataset or corpus (its entry) that hold an element without a vector: error or drop. What a
    union is made of holds none."""
    if "of" in entry:
        return "error"
    return entry.get("unknown_elements", config["unknown_elements"])


def strategy(wildcards):
    """Registry entry of a pretraining strategy."""
    return config["pretraining"][wildcards.pretraining]


def element_file(entry):
    """{"elements": file} of a strategy or network that takes element vectors."""
    if "elements" not in reads(entry):
        return {}
    return {"elements": f"results/data/elements/{elements_of(entry)}.npy"}


def structure_file(table, entry):
    """The structures of a corpus or dataset in the form that a network reads."""
    names = {"graphs": "graphs.safetensors", "neighbours": "neighbours.npz"}
    return f"results/structures/{table}/{names[structures_read(entry)]}"


def examples(wildcards):
    """What a pretraining strategy trains on: the corpus in the form that its network reads."""
    entry = strategy(wildcards)
    corpus, files = entry["corpus"], element_file(entry)
    if structures_read(entry):
        return {"examples": structure_file(corpus, entry)} | files
    return {"examples": f"results/data/{corpus}/compositions.npz"} | files


def backend(entry):
    """The library whose layers a network of structures uses; None for other networks."""
    return config["structure_backend"] if entry["encoder"] == "megnet" else None


def cohort_of(entry):
    """Outer folds of a job that train as one: the configured number for a network whose weights can be stacked, else 1."""
    folds = "auto" if config["cohort"] == "all" else config["cohort"]
    return folds if stacks(entry["encoder"]) else 1


def together(dataset, subset, model):
    """Models of the benchmark, or of the studies of a subset, whose networks train as one with those of a model on a dataset where
    `cohort` is "all".

    They have the same parameters and differ at most in the encoder from which they start; fewer than two runs are no group. On
    a dataset outside the benchmark the seeds of the model alone are one.
    """
    entry = config["models"][model]
    if config["cohort"] != "all" or "encoder" not in entry or dataset in SPECTRAL:
        return []
    if subset:
        names = [m for study in studies_of(dataset, subset) for m in study["models"]]
    else:
        names = [m for d, m in runs(TRAINED) if d == dataset] or [model]
    same = [
        m
        for m in dict.fromkeys(names)
        if m in NETWORKS
        and "initial" not in config["models"][m]
        and made_of(m) == made_of(model)
    ]
    several = sum(len(seeds_of(dataset, m)) for m in same) > 1
    return same if several and stacks(entry["encoder"]) else []


def studies_of(dataset, subset):
    """Studies in which a subset ("@500", "@10pct") of a dataset has a part."""
    return [
        study
        for study in config["subsets"].values()
        if dataset in study["datasets"]
        and subset[1:] in [str(size).replace("%", "pct") for size in study["sizes"]]
    ]


def trained_together(wildcards):
    """The folds of all runs with which a run trains as one; None where it trains alone."""
    w = wildcards
    group = together(w.dataset, w.subset, w.model)
    if w.model not in group or int(w.seed) not in seeds_of(w.dataset, w.model):
        return None
    return f"results/together/{w.dataset}{w.subset}/{group[0]}/folds"


def group_of(wildcards):
    """Models that train as one in a job of finetune_together."""
    return together(wildcards.dataset, wildcards.subset, wildcards.model)


def members_of(wildcards):
    """(model, seed) of all runs of that job."""
    return [(m, s) for m in group_of(wildcards) for s in seeds_of(wildcards.dataset, m)]


def task_targets(wildcards):
    """{task: file of its targets} for the tasks of a strategy that predict something of the corpus."""
    entry = strategy(wildcards)
    return {
        task: f"results/features/{entry['corpus']}/{task}.npy"
        for task in entry["tasks"]
        if task not in ("barlow_twins", "denoising")
    }


def network_inputs(wildcards):
    """What a network reads besides table and compositions: graphs of the rows, or element vectors."""
    entry = config["models"][wildcards.model]
    files = {}
    if structures_read(entry):
        files["structures"] = structure_file(wildcards.dataset, entry)
    if wildcards.dataset in SPECTRAL:
        files["spectra"] = f"results/data/{wildcards.dataset}/spectra.npz"
    return files | element_file(entry)


def subset_size(wildcards):
    """Training rows that a run is cut to: "500", "10%" of all rows, or None for all."""
    return wildcards.subset[1:].replace("pct", "%") or None


def encoder_file(model, seed):
    """The pretrained encoder from which a seed of a network starts."""
    strategy = networks.strategy_of_seed(strategies_of(model), seed)
    return f"results/pretrain/{strategy}/encoder.safetensors"


def start(wildcards):
    """{"weights": encoder file} of a network that starts from a pretrained encoder, {"initial": weights of all folds} of
    one that starts from another network trained on the same folds, {"together": its folds} of one that trained with others.
    """
    entry = config["models"][wildcards.model]
    if folds := trained_together(wildcards):
        return {"together": folds}
    if strategies_of(wildcards.model):
        return {"weights": encoder_file(wildcards.model, int(wildcards.seed))}
    if "initial" in entry:
        run = f"{wildcards.dataset}{wildcards.subset}/{entry['initial']}/seed{wildcards.seed}"
        return {"initial": f"results/finetune/{run}/weights.safetensors"}
    return {}


def baseline_features(wildcards):
    """{"features": file} of a baseline whose features are not simply read off the composition."""
    features = config["models"][wildcards.model]["features"]
    if wildcards.dataset in SPECTRAL:
        refuse(
            f"config key models.{wildcards.model}: it is a baseline, and {wildcards.dataset} holds spectra; name a network"
        )
    if features in ("onehot", "none"):
        return {}
    return {"features": f"results/features/{wildcards.dataset}/{features}.npy"}


def materials_of(datasets):
    """{dataset: what names its materials}: datasets of the same ones are one unit in means over datasets."""
    return {d: config["datasets"][d].get("materials", d) for d in datasets}


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
    """Seeds of a model on a dataset or a subset of it: all for a network, the first for a baseline."""
    benchmark, whole = config["benchmark"], dataset.split("@")[0]
    seeds = benchmark["seeds_per_dataset"].get(whole, benchmark["seeds"])
    return seeds if model in NETWORKS else seeds[:1]


def seed_files(name, dataset, model):
    """The file `name` of every seed of a model on a dataset."""
    return [
        f"results/finetune/{dataset}/{model}/seed{seed}/{name}"
        for seed in seeds_of(dataset, model)
    ]


def prediction_files(wildcards):
    """What is kept of every seed of a predicting model: records, and weights or the rows of a baseline."""
    entry = config["predict"][wildcards.prediction]
    dataset, model = entry["dataset"], entry["model"]
    kept = "weights.safetensors" if model in NETWORKS else "training.npz"
    return sum((seed_files(f, dataset, model) for f in ("model.json", kept)), [])


def runs(models=MODELS):
    """(dataset, model) pairs of the benchmark, without the excluded ones."""
    return [(d, m) for d in DATASETS for m in models if m not in EXCLUDED.get(d, [])]


def run_files(pattern, models=MODELS):
    """The file `pattern`, with {dataset} and {model}, of every run of the benchmark."""
    return [pattern.format(dataset=d, model=m) for d, m in runs(models)]


# Tables of Huang et al.: 2 for networks and baselines, 3 for forests on frozen encoders.
WHOLE = [m for m in MODELS if m not in FROZEN]
TABLES = {"2": WHOLE} if runs(WHOLE) else {}
if runs(FROZEN):
    TABLES["3"] = FROZEN + [m for m in ("rf-onehot", "dummy") if m in MODELS]


def snapshot_name(path):
    """Flat name in a snapshot: pretrain_{strategy}_history.csv, figures/parity_{dataset}_{model}.png, a table's own."""
    _, folder, *names = Path(path).parts
    flat = "_".join(names)
    flats = {"pretrain": f"pretrain_{flat}", "figures": f"figures/{flat}"}
    return flats.get(folder, Path(path).name)


def subset_runs(study):
    """{(dataset, model, size): predictions}; size is "full" for the runs of the benchmark on all training rows."""
    subsets = config["subsets"][study]
    name = "results/finetune/{}/{}/predictions.csv".format
    found = {}
    for dataset in subsets["datasets"]:
        for model in subsets["models"]:
            for size in map(str, subsets["sizes"]):
                subset = size.replace("%", "pct")
                found[dataset, model, size] = name(f"{dataset}@{subset}", model)
            if (dataset, model) in runs():
                found[dataset, model, "full"] = name(dataset, model)
    return found
