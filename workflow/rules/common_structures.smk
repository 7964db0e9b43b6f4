"""Where the structures of corpora and datasets come from. No rules."""

PROBED_CRYSTALS = 4096  # structures of a probe (New et al. 2024)


def teacher_file(corpus):
    """The weights that embed the structures of a corpus: the user's, else those of the mirror."""
    teacher = config["corpora"][corpus].get("teacher")
    if not teacher:
        refuse(
            f"config key corpora.{corpus}: without teacher: PATH its structures have no embeddings; add it"
        )
    if Path(teacher).is_file():
        return teacher
    if not config["mirror"]:
        refuse(
            f"config key corpora.{corpus}.teacher: {teacher}: no such file; give the weights of Crystal Twins, or set mirror: DIR"
        )
    return raw(teacher)


def teacher_hash(corpus):
    """The hash that the teacher of a corpus must have; a user's own may be anything."""
    entry = config["corpora"][corpus]
    own = Path(entry["teacher"]).is_file()
    return None if own else entry.get("teacher_sha256")


def structure_embeddings(wildcards):
    """Where the embeddings of a corpus come from: a file with vectors, or a teacher's run over structures."""
    if config["corpora"][wildcards.corpus]["kind"] == "vectors":
        return {"vectors": corpus_file(wildcards.corpus)}
    folder = f"results/structures/{wildcards.corpus}"
    return {
        "compositions": f"{folder}/compositions.npz",
        "embeddings": f"{folder}/embeddings.npz",
    }


def structure_source(wildcards):
    """{"structures": file} of a corpus or dataset, none for embedded structures; of a dataset also {"table": file}."""
    name = wildcards.table
    if name in config["corpora"]:
        embedded = "embedded" in config["corpora"][name]
        return {} if embedded else {"structures": corpus_file(name)}
    entry, kind = config["datasets"][name], source_kind(name)
    if not entry.get("structures"):
        refuse(
            f"config key datasets.{name}: it has no structures, which the network of this target reads; give it structures: or "
            "name a network of formulas"
        )
    found = {"table": f"results/data/{name}/table.csv"}
    if kind == "csv":
        found["structures"] = entry["structures"]
    elif kind == "mirror":
        if "mirror_structures" not in entry:
            refuse(
                f"config key datasets.{name}: no mirror_structures names the file of its structures in the mirror; add it, or csv: PATH "
                "and structures: PATH"
            )
        found["structures"] = raw(entry["mirror_structures"])
    elif kind == "download":
        found["structures"] = downloaded_file(name)
    return found


def unknown_in_structures(name):
    """As `unknown_elements`, of the structures of a dataset or corpus; of a dataset prepare_dataset has dropped the rows."""
    return unknown_elements(config["corpora"].get(name, {"unknown_elements": "error"}))


def is_sample(corpus):
    """Whether a corpus of structures is a sample, whose probe takes structures that it leaves out."""
    return "sample" in config["corpora"][corpus]


def probed_crystals(wildcards):
    """Graphs of which a pretrained encoder of crystals is probed on those that its training has not seen."""
    corpus = strategy(wildcards)["corpus"]
    if is_sample(corpus):
        return f"results/structures/{corpus}/left_out.safetensors"
    return examples(wildcards)["examples"]


def structure_collection(name):
    """The embedded structures or the matminer dataset that the structures of a corpus or dataset come from, or None."""
    if name in config["corpora"]:
        return config["corpora"][name].get("embedded")
    if source_kind(name) == "download":
        return matminer_name(name)
    return config["datasets"][name].get("embedded")


def structure_hash(name):
    """The hash that the structures of a corpus, or those of a dataset in a mirror, must have; None for others."""
    if name in config["corpora"]:
        return corpus_hash(name)
    if source_kind(name) == "mirror":
        return config["datasets"][name].get("mirror_structures_sha256")
    return None


def structure_note(dataset):
    """Whose structures a dataset has, for tables: those published with it, or how they were matched to its rows."""
    entry = config["datasets"][dataset]
    if not entry.get("structures"):
        return ""
    matched = entry.get("matched") if source_kind(dataset) == "mirror" else None
    return matched or "as published"
