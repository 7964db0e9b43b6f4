"""What figures, tables and records show of the benchmark; where it has nothing for them, the key to set. No rules."""

from matpretrain.splits import has_official_folds


def official(datasets):
    """Those of some datasets that are Matbench tasks with their official folds, rows and unit, for which others have printed numbers."""
    entries = {d: config["datasets"][d] for d in datasets}
    return [
        d
        for d, entry in entries.items()
        if has_official_folds(entry)
        and not entry.get("log10")
        and "one_per_composition" not in entry
    ]


def task_of(dataset):
    """The Matbench task that a dataset is."""
    return config["datasets"][dataset]["matbench"]


def matbench_tasks(model):
    """Matbench tasks of the benchmark that a model runs on."""
    return official([d for d, _ in runs([model])])


def recorded_tasks(model):
    """Those of `matbench_tasks` with all rows, as Matbench records them; of several that are one task the first."""
    recorded = {}
    for dataset in matbench_tasks(model):
        if config["datasets"][dataset].get("missing_structures") != "drop":
            recorded.setdefault(task_of(dataset), dataset)
    return list(recorded.values())


def models_on(dataset, models, kind):
    """Those of some models that run on a dataset in the benchmark, whose figures show nothing else."""
    found = [m for d, m in runs(models) if d == dataset]
    if dataset not in DATASETS:
        refuse(
            f"config key benchmark.datasets: {dataset} is not among them, whose runs this figure shows; add it there"
        )
    if not found:
        key, remedy = "models", "add one there"
        if set(models) & set(EXCLUDED.get(dataset, [])):
            key, remedy = f"exclude.{dataset}", "leave out less"
        refuse(
            f"config key benchmark.{key}: this figure shows {kind}, of which none runs on {dataset}; {remedy}"
        )
    return found


def probed():
    """(dataset, strategy) of the probes in their table."""
    if not PROBED:
        refuse(
            "config key benchmark.probes: none of its datasets is in benchmark.datasets; name one that is"
        )
    if not STRATEGIES:
        refuse(
            "config key benchmark.models: none starts from a pretrained encoder, which probes follow; add one there"
        )
    return [(d, p) for d in PROBED for p in STRATEGIES]


def recorded(wildcards):
    """Tasks in the record of a model for Matbench."""
    tasks = recorded_tasks(wildcards.model)
    if not tasks:
        refuse(
            f"config key benchmark.datasets: {wildcards.model} runs on none that is a Matbench task; add one there"
        )
    return tasks
