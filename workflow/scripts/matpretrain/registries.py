"""Entries of the registries that have to fit each other: names, corpora, networks and what they are asked to learn."""

from difflib import SequenceMatcher
from itertools import chain, product
from pathlib import Path

from matpretrain.files import no_such, refuse
from matpretrain.networks import check_arguments, check_models, strategies, strategy_of_seed
from matpretrain.provenance import pretext_tasks, reads, structures_read
from matpretrain.tables import ALL, ENSEMBLE

FIXED_FEATURES = ("magpie", "onehot", "none")  # the names of baselines.FEATURES
OTHERS = f"a baseline on {', '.join(FIXED_FEATURES[:-1])} or {FIXED_FEATURES[-1]}"
TAKEN = (*FIXED_FEATURES, "structure")  # files of results/features, beside those of the strategies
OF_NUMBERS = ("id", "formula", "log10", "one_per_composition", "split", "fold", "group", "structures", "missing_structures")
SPECTRA, STRUCTURES = "matminer_optical_constants", "aflow_prototypes"  # embedded datasets with them
FILE = {"csv", "mirror_file", "mirror_sha256", "unknown_elements"}
CORPUS_KEYS = {
    "formulas": FILE | {"formula", "id", "n_samples"},
    "union": {"of", "without"},
    "structures": FILE | {"embedded", "sample", "teacher", "teacher_sha256"},
    "vectors": FILE | {"n_samples"},
}  # what each kind of corpus reads
RESERVED = {
    "datasets": (ALL, "crystals"),  # a row of tables, a folder of results/probes
    "models": ("published",),  # submissions to Matbench in tables
}
SPECTRAL_COLUMNS = "id, formula, energy, eps_re, eps_im"


def check_registries(config):
    """Compare the registries with each other and with what the run asks of them.

    Raises:
        DataError: naming the first offending key.
    """
    _check_corpora(config)
    _check_labels(config)
    _check_references(config)
    _check_circles(config)
    _check_unions(config)
    _check_strategies(config)
    check_models(config)
    _check_features(config)
    _check_spectra(config)
    _check_structures(config)
    _check_validation(config)
    _check_runs(config)


def _recipe_layers(config, dataset, encoder):
    """{config key: keys of the recipe} of a network on a dataset, or None; each wins over those before it."""
    entry = config["datasets"].get(dataset, {})
    layers = {f"default_recipes.{name}": config["default_recipes"].get(name, {}) for name in ("all", encoder)}
    layers |= {"recipe": config["recipe"], f"encoder_recipes.{encoder}": config["encoder_recipes"].get(encoder, {})}
    if "energies" in entry:
        layers["enz.recipe"] = config["enz"]["recipe"]
    return layers | {f"datasets.{dataset}.recipe": entry.get("recipe", {})}


def recipe_of(config, dataset, encoder):
    """How a network is trained on a dataset: what all have by default, those with the encoder, `recipe`, `encoder_recipes`, spectra and
    the dataset. Each wins over those before it, also over what these say of the same keys in `large`.

    Args:
        dataset: name in the registry; None leaves the keys of datasets out.
    """
    recipe, large = {}, {}
    for keys in _recipe_layers(config, dataset, encoder).values():
        large = {key: value for key, value in large.items() if key not in keys} | keys.get("large", {})
        recipe |= keys
    return recipe | {"large": large} if large else recipe


def _check_corpora(config):
    """What each kind of corpus is made from."""
    for name, entry in config["corpora"].items():
        if entry["kind"] == "union":
            missing = None if "of" in entry else "of: [names]"
        else:
            missing = None if {"csv", "mirror_file", "embedded"} & entry.keys() else "csv: PATH"
        if missing:
            refuse(f"corpora.{name}", f"a corpus of kind {entry['kind']} needs {missing}; add it")
        if {"csv", "embedded"} <= entry.keys():
            refuse(f"corpora.{name}.csv", f"it has the structures of {entry['embedded']}; give your own a name of their own")
        for key in entry:
            if key not in CORPUS_KEYS[entry["kind"]] | {"kind", "licence", "citation"}:
                refuse(f"corpora.{name}.{key}", f"a corpus of kind {entry['kind']} has no use for it; remove it")


def _check_labels(config):
    """Names and labels that stand for one thing only."""
    for name in config["datasets"]:
        for kind in ("corpora", "models"):
            if name in config[kind]:
                refuse(f"{kind}.{name}", "there is a dataset of that name; rename one of them")
    for kind, names in RESERVED.items():
        for name in config[kind]:
            if name in names or (kind == "models" and name.endswith(ENSEMBLE)):
                refuse(f"{kind}.{name}", "tables and files of results have that name already; choose another")
    for name in TAKEN:
        if name in config["pretraining"]:
            refuse(f"pretraining.{name}", "features have that name already; rename the strategy")
    named = {}
    for name, entry in reversed(config["models"].items()):  # Snakemake puts the user's entries before those of the registry
        other = named.setdefault(entry["label"], name)
        if other != name:
            refuse(f"models.{name}.label", f"{other} has the label {entry['label']!r} too; give each model its own")


def _check_references(config):
    """Names that refer to entries of the registries."""
    references = [  # (key, name, registries of which one must hold it)
        (f"{section}.{key}", name, [key])
        for section, keys in (
            ("benchmark", ("datasets", "models")),
            ("maps", ("datasets", "pretraining")),
            ("modes", ("datasets", "models")),
            ("enz", ("datasets", "models")),
        )
        for key in keys
        for name in config[section][key]
    ]
    for key in ("probes", "seeds_per_dataset"):
        references += [(f"benchmark.{key}", name, ["datasets"]) for name in config["benchmark"][key]]
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
        references += [(f"models.{model}.pretraining", name, ["pretraining"]) for name in strategies(entry)]
        if entry.get("features", "none") not in FIXED_FEATURES:
            references.append((f"models.{model}.features", entry["features"], ["pretraining"]))
    for prediction, entry in config["predict"].items():
        references.append((f"predict.{prediction}.dataset", entry["dataset"], ["datasets"]))
        references.append((f"predict.{prediction}.model", entry["model"], ["models"]))
    for key, name, kinds in references:
        if not any(name in config[kind] for kind in kinds):
            refuse(key, unregistered(name, kinds, config))
    encoders = sorted({entry["encoder"] for entry in config["models"].values() if "encoder" in entry})
    for section, known in (("default_recipes", ["all", *encoders]), ("encoder_recipes", encoders)):
        for name in [name for name in config[section] if name not in known]:
            refuse(f"{section}.{name}", f"no model has this encoder; the nearest are {nearest(name, encoders)}")
    _check_large(config, encoders)
    for study, entry in config["subsets"].items():
        if entry["reference"] not in entry["models"]:
            refuse(f"subsets.{study}.reference", f"{entry['reference']} is not among the models of the study; add it there")


def _check_large(config, encoders):
    """What holds from many training rows on says from how many."""
    for dataset, encoder in product((None, *config["datasets"]), encoders):
        if "rows" not in recipe_of(config, dataset, encoder).get("large", {"rows": 1}):
            key = next(key for key, keys in _recipe_layers(config, dataset, encoder).items() if "large" in keys)
            refuse(f"{key}.large", "it has no rows; say from how many training rows on these keys hold")


def unregistered(name, kinds, config):
    """Words on a name that none of some registries holds, and on the nearest there."""
    known = list(chain(*(config[kind] for kind in kinds)))
    remedy = f"the nearest there are {nearest(name, known)}" if known else "add it there"
    return f"{name!r} is not in the registry of {' or '.join(kinds)}; {remedy}"


def nearest(name, known):
    """The three of some names that are most like another."""
    return ", ".join(sorted(known, key=lambda other: -SequenceMatcher(None, name, other).ratio())[:3])


def _check_circles(config):
    """Corpora and models that are not made from themselves."""
    corpora = {name: entry.get("of", []) for name, entry in config["corpora"].items()}
    models = {name: [entry["initial"]] for name, entry in config["models"].items() if "initial" in entry}
    for key, parts in (("corpora.{}.of", corpora), ("models.{}.initial", models)):
        for name in parts:
            below, todo = set(), list(parts[name])
            while todo:
                part = todo.pop()
                if part not in below:
                    below.add(part)
                    todo += parts.get(part, [])
            if name in below:
                refuse(key.format(name), f"{name} would be made from itself; name another")


def _check_unions(config):
    """Unions of what has compositions."""
    for name, entry in config["corpora"].items():
        for part in entry.get("of", []):
            if not _has_compositions(config["corpora"].get(part, {})):
                refuse(
                    f"corpora.{name}.of", f"{part} has no compositions without teacher: PATH; add that there or leave it out"
                )


def _has_compositions(corpus):
    """A corpus gets its compositions with the embeddings of its structures."""
    return corpus.get("kind") != "structures" or "teacher" in corpus


def has_embeddings(corpora, name):
    """Whether the compositions of a corpus have embeddings of structures: its own, or those of all parts of a union."""
    entry = corpora.get(name, {"kind": "formulas"})  # a dataset
    if entry["kind"] == "union":
        return all(has_embeddings(corpora, part) for part in entry["of"])
    return entry["kind"] in ("structures", "vectors")


def _check_strategies(config):
    """Networks, pretext tasks and corpora that fit each other."""
    recipes = {"pretraining_recipe": config["pretraining_recipe"]}
    recipes |= {f"pretraining.{name}.recipe": entry.get("recipe", {}) for name, entry in config["pretraining"].items()}
    for key, recipe in recipes.items():
        for unused in [key for key in ("loss", "target_scale") if key in recipe]:
            refuse(f"{key}.{unused}", "pretraining has the losses and targets of its tasks; remove it")
        if "large" in recipe:
            refuse(f"{key}.large", "corpora of every size are pretrained on by one recipe; remove it")
    for name, entry in config["pretraining"].items():
        key, corpus, encoder = f"pretraining.{name}", config["corpora"][entry["corpus"]], entry["encoder"]
        able, graphs = pretext_tasks(encoder), structures_read(entry)
        if not able:
            refuse(
                f"{key}.encoder", f"{encoder} cannot be pretrained: its module names no TASKS; name another, for example roost"
            )
        if graphs and corpus["kind"] != "structures":
            refuse(f"{key}.corpus", f"{encoder} reads structures; name a corpus of kind structures")
        wrong = [task for task in entry["tasks"] if task not in able]
        if wrong:
            refuse(
                f"{key}.tasks",
                f"{wrong[0]} is not a task for {encoder}, which reads {reads(entry)[0]}; name {' or '.join(able)}",
            )
        if "structure" in entry["tasks"] and not has_embeddings(config["corpora"], entry["corpus"]):
            has = f"{entry['corpus']} has no structures to embed"
            refuse(
                f"{key}.tasks",
                f"structure: {has}; name a corpus of kind structures or vectors or a union of such, or another task",
            )
        if not (graphs or _has_compositions(corpus)):
            refuse(f"corpora.{entry['corpus']}", f"{key} embeds its structures: it needs teacher: PATH; add it")
        check_arguments(key, entry, "Encoder")


def _check_features(config):
    """Maps, probes and baselines show the encoders of formulas."""
    benchmark, models = config["benchmark"], config["models"]
    asked = [("maps.pretraining", name) for name in config["maps"]["pretraining"]]
    asked += [(f"models.{name}.features", entry.get("features")) for name, entry in models.items()]
    if set(benchmark["probes"]) & set(benchmark["datasets"]):
        asked += [("benchmark.probes", strategy) for name in benchmark["models"] for strategy in strategies(models[name])]
    for key, name in asked:
        if name in config["pretraining"] and structures_read(config["pretraining"][name]):
            remedy = "leave the list empty" if key == "benchmark.probes" else "name another strategy"
            refuse(key, f"{name} pretrains an encoder of structures, and rows are embedded by their formulas here; {remedy}")


def _check_spectra(config):
    """Spectra and numbers are learned apart."""
    spectral = [name for name, entry in config["datasets"].items() if "energies" in entry]
    for name in config["enz"]["datasets"]:
        if name not in spectral:
            refuse("enz.datasets", f"{name} has no spectra; give it energies: [first, last, step] or leave it out")
    for name, entry in config["datasets"].items():
        if entry.get("embedded") == SPECTRA and name not in spectral:
            refuse(f"datasets.{name}", f"{SPECTRA} holds spectra; give it energies: [first, last, step]")
    for name in spectral:
        entry = config["datasets"][name]
        first, last, step = entry["energies"]
        if not (step > 0 and last >= first + step):
            refuse(f"datasets.{name}.energies", "give first, last and step in eV, for example [0.5, 12.4, 0.1]")
        if "csv" not in entry and entry.get("embedded") != SPECTRA:
            refuse(f"datasets.{name}", f"spectra come from csv: PATH or embedded: {SPECTRA}")
        for key in OF_NUMBERS:
            if entry.get(key):
                refuse(f"datasets.{name}.{key}", f"spectra ({SPECTRAL_COLUMNS}) have no use for it; remove it")
        used = {section: config[section] for section in ("benchmark", "maps", "modes")}
        used |= {f"subsets.{study}": of_study for study, of_study in config["subsets"].items()}
        for key, section in used.items():
            if name in section["datasets"]:
                refuse(f"{key}.datasets", f"{name} holds spectra, which have tables of their own; name it in enz.datasets")
    for section in ("enz", "modes"):
        for model in config[section]["models"]:
            if "encoder" not in config["models"][model]:
                refuse(f"{section}.models", f"{model} is a baseline; name a network")
    recipes = {"enz.recipe": config["default_recipes"]["all"] | config["recipe"] | config["enz"]["recipe"]}
    recipes |= {f"datasets.{name}.recipe": config["datasets"][name].get("recipe", {}) for name in spectral}
    for key, recipe in recipes.items():
        if recipe.get("loss") == "robust_l1":
            refuse(f"{key}.loss", "spectra are learned with l1 or mse; choose one of them")
        if recipe.get("target_scale") == "log":
            refuse(f"{key}.target_scale", "spectra have negative parts, which have no logarithm; set asinh")


def _check_structures(config):
    """Networks of structures meet datasets with structures only."""
    benchmark = config["benchmark"]
    asked = [("benchmark", d, m) for d in benchmark["datasets"] for m in benchmark["models"]]
    asked = [(key, d, m) for key, d, m in asked if m not in benchmark["exclude"].get(d, [])]
    studies = {"modes": config["modes"], "enz": config["enz"]}
    studies |= {f"subsets.{study}": entry for study, entry in config["subsets"].items()}
    asked += [(key, d, m) for key, study in studies.items() for d in study["datasets"] for m in study["models"]]
    for name, entry in config["predict"].items():
        model = config["models"][entry["model"]]
        if model.get("features", "none") not in FIXED_FEATURES:
            refuse(
                f"predict.{name}.model",
                f"{entry['model']} is fitted to the outputs of a frozen encoder; name a network, or {OTHERS}",
            )
        if "encoder" in model and structures_read(model):
            refuse(
                f"predict.{name}.model",
                f"{entry['model']} reads structures, which formulas have none of; name a network of formulas",
            )
        asked.append((f"predict.{name}", entry["dataset"], entry["model"]))
    for key, dataset, model in asked:
        entry = config["models"][model]
        entry = config["models"].get(entry.get("initial"), entry)
        if "encoder" in entry and structures_read(entry) and not config["datasets"][dataset].get("structures"):
            refuse(key, f"{model} reads structures, which {dataset} has none of; give it structures: or leave one of them out")
    for name, entry in config["datasets"].items():
        structures = entry.get("structures")
        if "csv" in entry:
            if structures is True:
                refuse(f"datasets.{name}.structures", "a CSV holds none; name the file or folder with those of its ids")
            if structures and not Path(structures).exists():
                refuse(f"datasets.{name}.structures", no_such(structures, "file or folder"))
            if "missing_structures" in entry:
                refuse(
                    f"datasets.{name}.missing_structures",
                    "rows of a CSV have the structures of their ids, all of them; remove it, and the rows without one",
                )
        elif isinstance(structures, str):
            refuse(f"datasets.{name}.structures", "a path goes with csv: PATH; write structures: true")
        elif structures and entry.get("embedded", STRUCTURES) != STRUCTURES:
            refuse(f"datasets.{name}.structures", f"{entry['embedded']} holds none; remove it, or name {STRUCTURES}")


def _check_validation(config):
    """Weights are chosen by validation rows only where there are some."""
    first = config["benchmark"]  # any network may be asked for on any dataset; a line names what the run has if it can
    for name in dict.fromkeys([*first["datasets"], *config["datasets"]]):
        entry = config["datasets"][name]
        if entry.get("inner_fraction", config["inner_fraction"]) == 0:
            models = [config["models"][model] for model in dict.fromkeys([*first["models"], *config["models"]])]
            models = [model for model in models if "encoder" in model]
            models = [model for model in models if entry.get("structures") or not structures_read(model)]  # what can run there
            for encoder in dict.fromkeys(model["encoder"] for model in models):
                recipe = recipe_of(config, name, encoder)
                if recipe["select"] == "best" or recipe["patience"]:
                    key = f"datasets.{name}.inner_fraction" if "inner_fraction" in entry else "inner_fraction"
                    refuse(
                        key,
                        f"{encoder} on {name} has select: best or a patience, which need rows; hold out some, or change that",
                    )


def _check_runs(config):
    """Runs that are left out are of the benchmark, and others stay."""
    benchmark = config["benchmark"]
    for dataset, models in benchmark["exclude"].items():
        for model in models:
            if dataset not in benchmark["datasets"] or model not in benchmark["models"]:
                refuse(f"benchmark.exclude.{dataset}", f"{dataset} with {model} is not part of the benchmark; remove it")
    if all(set(benchmark["models"]) <= set(benchmark["exclude"].get(dataset, [])) for dataset in benchmark["datasets"]):
        refuse("benchmark.exclude", "no run is left; leave out less")
    seeds = {seed for d in benchmark["datasets"] for seed in benchmark["seeds_per_dataset"].get(d, benchmark["seeds"])}
    for model in benchmark["models"]:
        for idle in _idle(strategies(config["models"][model]), seeds):
            refuse(
                f"models.{model}.pretraining",
                f"no seed of the benchmark starts from {idle}: seed 0 takes the first, and so on, round; add seeds or leave it out",
            )


def _idle(names, seeds):
    """Strategies, of those that a network names, from which none of some seeds starts."""
    taken = {strategy_of_seed(names, seed) for seed in seeds} if names else ()
    return [name for name in names if name not in taken]
