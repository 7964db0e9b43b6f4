"""Where raw files come from, and where they lie. No rules."""

import functools
import hashlib
import os

from matpretrain.files import absent, sha256
from snakemake.cli import get_argument_parser

# The user's mirror, else a folder of the checkout: raw files that are missing are downloaded into it.
# However the mirror is spelt, `mirror/` or `./mirror`: a file of another name would make everything anew.
RAW = os.path.normpath(config["mirror"] or "resources")

# Corpora that the packages carry.
CARRIED = [
    c
    for c, entry in config["corpora"].items()
    if "of" in entry
    and all("embedded" in config["datasets"].get(part, {}) for part in entry["of"])
]


def matminer_name(dataset):
    """Name of a dataset that matminer downloads; None for others."""
    entry = config["datasets"][dataset]
    return entry.get("matbench", entry.get("matminer"))


def mirror_table(dataset):
    """The table of a dataset in a mirror, relative to it; None where mirrors have none."""
    name = matminer_name(dataset)
    default = f"tables/{name}.csv.gz" if name else None
    return config["datasets"][dataset].get("mirror_file", default)


def parts_of(corpus):
    """A corpus and, where it is a union, what that is made of, down to the sources."""
    parts = config["corpora"].get(corpus, {}).get("of", [])
    return [corpus, *(name for part in parts for name in parts_of(part))]


@functools.cache
def asked():
    """Targets of the command line: Snakemake tells a workflow no others before it plans."""
    program = Path(sys.argv[0])
    # python -m snakemake, and not another package that starts it
    if program.name == "__main__.py":
        program = program.parent
    if program.name != "snakemake":
        return []
    return get_argument_parser().parse_known_args()[0].targets


def asking():
    """{strategy: who needs it} of the targets or, where they name none, of the benchmark."""
    parts = [part for target in asked() for part in Path(target).parts]
    words = {*parts, *(Path(part).stem for part in parts)}
    models = [m for m in config["models"] if m in words]
    models += [entry["model"] for p, entry in config["predict"].items() if p in words]
    for study, entry in config["subsets"].items():
        tables = {f"{study}_{table}" for table in ("scores", "subsets", "wins")}
        if words & {study, *tables, "subsets"}:
            models += entry["models"]
    named = {s: s for s in config["pretraining"] if s in words}
    if "maps" in words:
        named |= {s: s for s in config["maps"]["pretraining"]}
    if not (models or named or words & config["corpora"].keys()):
        models = MODELS
    elif models and config["cohort"] == "all":
        models = [*models, *MODELS]  # which train in the same jobs
    found = {}
    for model in models:
        for s in strategies_of(model):
            found.setdefault(s, f"{model}, pretrained by {s}")
    return found | named


def needed(corpus):
    """Words on who needs a corpus, as far as that is known, and with which corpus it could do."""
    for name, who in asking().items():
        entry = config["pretraining"][name]
        if corpus not in parts_of(entry["corpus"]):
            continue
        other = "another"
        if CARRIED and not structures_read(entry) and "structure" not in entry["tasks"]:
            other = f"{CARRIED[0]}, which needs no file"
        return f", or pretraining.{name}.corpus: {other}; needed by {who} on {entry['corpus']}"
    return ""


def missing_beside(file):
    """Words on the other files of no loader that are missing of the corpora which the strategies of the call need."""
    corpora = [
        part for s in asking() for part in parts_of(config["pretraining"][s]["corpus"])
    ]
    entries = [config["corpora"].get(name, {}) for name in dict.fromkeys(corpora)]
    names = [
        e[key]
        for e in entries
        for key in ("mirror_file", "teacher")
        if key in e and "csv" not in e
    ]
    others = [n for n in names if n != file and not Path(RAW, n).is_file()]
    return (
        f"; missing there too: {', '.join(others)}" if others and file in names else ""
    )


def raw(file):
    """A file below RAW as an input. Where a hash is known, that says whether it is the right one, not its age: `make mirror`
    touches what it verifies."""
    path, how = f"{RAW}/{file}", RAW_FILES[file]
    if file not in FETCHED and not Path(path).is_file():
        refuse(f"config key mirror: {absent(path, **how)}{missing_beside(file)}")
    return ancient(path) if how.get("dataset") or how.get("sha256") else path


def listing(path):
    """Hash of a user's file, of which Snakemake sees the time alone, which may be older than that of the file before; of a folder
    that of the names, sizes and times of its files. None where there is none, and for raw files, which are known by their hash.
    """
    if not path or not Path(path).exists():
        return None
    if str(path) in {f"{RAW}/{file}" for file in RAW_FILES}:
        return None
    if Path(path).is_file():
        return sha256(path)
    found = [
        (file.name, file.stat(follow_symlinks=file.exists()))
        for file in Path(path).iterdir()
    ]
    lines = [f"{name} {s.st_size} {s.st_mtime_ns}" for name, s in sorted(found)]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def source_kind(dataset):
    """Where a dataset comes from: csv, embedded, mirror (where it holds the table), download, or by_hand where the user has
    to fetch it."""
    entry, table = config["datasets"][dataset], mirror_table(dataset)
    for kind in ("csv", "embedded"):
        if kind in entry:
            return kind
    if not (config["mirror"] and table):
        return "download" if matminer_name(dataset) else "by_hand"
    complete = "mirror_structures" in entry or not entry.get("structures")
    held = complete and Path(RAW, table).is_file()
    return "mirror" if held or not matminer_name(dataset) else "download"


@functools.cache
def matminer_names():
    """Datasets of matminer; none where it is not installed beside Snakemake but in the environments of jobs."""
    try:
        from matminer.datasets.utils import _load_dataset_dict
    except ImportError:
        return {}
    return _load_dataset_dict()


def downloaded_file(dataset):
    """The file that matminer's registry has for a dataset."""
    name, known = matminer_name(dataset), matminer_names()
    if name not in known and known:
        refuse(
            f"config key datasets.{dataset}.matminer: there is no {name!r}; the nearest are {registries.nearest(name, known)}"
        )
    return raw(f"downloads/{name}.json.gz")


def raw_file(wildcards):
    """The raw file of a dataset, none for embedded data."""
    entry = config["datasets"][wildcards.dataset]
    kind = source_kind(wildcards.dataset)
    if kind == "csv":
        return {"raw": entry["csv"]}
    if kind == "mirror":
        return {"raw": raw(mirror_table(wildcards.dataset))}
    if kind == "download":
        return {"raw": downloaded_file(wildcards.dataset)}
    if kind == "by_hand":
        mirror = ", or mirror: DIR" if "mirror_file" in entry else ""
        refuse(
            f"config key datasets.{wildcards.dataset}: fetch it by hand ({entry['by_hand']}) and set csv: PATH there{mirror}"
        )
    return {}


def corpus_hash(corpus):
    """The hash that the raw file of a corpus must have; a user's own file may be anything."""
    entry = config["corpora"][corpus]
    return None if "csv" in entry else entry.get("mirror_sha256")


def corpus_file(corpus):
    """The raw file of a corpus: the user's, else that of the mirror."""
    entry = config["corpora"][corpus]
    if "csv" in entry:
        return entry["csv"]
    if not config["mirror"]:
        refuse(
            f"config key corpora.{corpus}: it cannot be downloaded; set csv: PATH there, or mirror: DIR{needed(corpus)}"
        )
    return raw(entry["mirror_file"])


def corpus_sources(wildcards):
    """What a corpus is made from: the compositions of others, or its own file."""
    names = config["corpora"][wildcards.corpus].get("of")
    if names:
        return [f"results/data/{name}/compositions.npz" for name in names]
    return [corpus_file(wildcards.corpus)]


def raw_files():
    """{file below RAW: how it is fetched}: the dataset of matminer that it is, or what else to do where no loader offers it,
    and the hash that it must have."""
    found = {}
    for name, entry in config["datasets"].items():
        official, table = matminer_name(name), mirror_table(name)
        own = f"name your own (config key datasets.{name}: csv: PATH)"
        if official:
            found[f"downloads/{official}.json.gz"] = {"dataset": official}
            own = f"remove {table}: the published file has both"
        if not (config["mirror"] and table):
            continue
        where = f"; it comes from: {entry['by_hand']}" if "by_hand" in entry else ""
        for key, file in (
            ("mirror_sha256", table),
            ("mirror_structures_sha256", entry.get("mirror_structures")),
        ):
            found[file] = {"sha256": entry.get(key), "instead": own + where}
    for name, entry in config["corpora"].items() if config["mirror"] else ():
        own = f"name your own (config key corpora.{name}: "
        found[entry.get("mirror_file")] = {
            "sha256": entry.get("mirror_sha256"),
            "instead": own + "csv: PATH)",
        }
        found[entry.get("teacher")] = {
            "sha256": entry.get("teacher_sha256"),
            "instead": own + "teacher: PATH)",
        }
    return {file: how for file, how in found.items() if file}


RAW_FILES = raw_files()
# What fetch_file makes. Files of no loader are the user's: it sees to them only where a mirror is being filled.
FETCHED = [
    f for f, how in RAW_FILES.items() if how.get("dataset") or config["fill_mirror"]
]
