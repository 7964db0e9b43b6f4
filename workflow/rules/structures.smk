"""Crystal structures -> graphs for MEGNet; -> neighbour lists -> embeddings of a pretrained teacher.

Needs: the structures of a corpus (.jsonl.gz or a folder of CIF files) and, for embeddings, the weights of a CGCNN encoder
Makes: results/structures/{table}/graphs.safetensors and graphs.csv, of a corpus or of the rows of a dataset; results/structures/atoms.npy;
results/structures/{corpus}/graphs.npz, compositions.npz (same order) and
embeddings.npz (id, embedding); of corpora with embeddings: results/data/{corpus}/compositions.npz, counts.csv and
results/features/{corpus}/structure.npy, the target of MML
"""


def teacher_file(corpus):
    """The weights that embed the structures of a corpus: the user's, else those of the mirror."""
    teacher = config["corpora"][corpus]["teacher"]
    if Path(teacher).is_file():
        return teacher
    if not config["mirror"]:
        raise WorkflowError(
            f"config key corpora.{corpus}.teacher: {teacher}: no such file; give the weights of Crystal Twins, or set mirror: DIR"
        )
    return f"{config['mirror']}/{teacher}"


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
    found = {"table": f"results/data/{name}/table.csv"}
    if kind == "csv":
        found["structures"] = entry["structures"]
    elif kind == "mirror":
        found["structures"] = f"{config['mirror']}/{entry['mirror_structures']}"
    elif kind == "download":
        found["structures"] = f"resources/downloads/{matminer_name(name)}.json.gz"
    return found


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


rule connect_structures:
    input:
        unpack(structure_source),
    output:
        graphs=update("results/structures/{table}/graphs.safetensors"),
        table=update("results/structures/{table}/graphs.csv"),
    log:
        "logs/structures/{table}/connect.log",
    conda:
        "../../envs/data.yaml"
    resources:
        mem_mb=8000,
        runtime=240,
    params:
        source=lambda w: structure_collection(w.table),
        sample=lambda w: config["corpora"].get(w.table, {}).get("sample"),
        sha256=lambda w: structure_hash(w.table),
        unknown_elements=lambda w: unknown_elements(w.table),
        code=fingerprint("connect_structures"),
    script:
        "../scripts/connect_structures.py"


rule export_atoms:
    output:
        "results/structures/atoms.npy",
    log:
        "logs/structures/atoms.log",
    conda:
        "../../envs/data.yaml"
    params:
        code=fingerprint("export_atoms"),
    script:
        "../scripts/export_atoms.py"


rule encode_structures:
    input:
        structures=lambda w: corpus_file(w.corpus),
    output:
        graphs=update("results/structures/{corpus}/graphs.npz"),
        compositions=update("results/structures/{corpus}/compositions.npz"),
    log:
        "logs/structures/{corpus}/encode.log",
    conda:
        "../../envs/data.yaml"
    resources:
        mem_mb=8000,
        runtime=240,
    params:
        sha256=lambda w: corpus_hash(w.corpus),
        unknown_elements=lambda w: unknown_elements(w.corpus),
        code=fingerprint("encode_structures"),
    script:
        "../scripts/encode_structures.py"


rule embed_structures:
    input:
        graphs=rules.encode_structures.output.graphs,
        atoms=rules.export_atoms.output[0],
        teacher=lambda w: teacher_file(w.corpus),
    output:
        update("results/structures/{corpus}/embeddings.npz"),
    log:
        "logs/structures/{corpus}/embed.log",
    conda:
        "../../envs/torch.yaml"
    threads: 4
    resources:
        mem_mb=8000,
        runtime=240,
        gpu=1,
    params:
        device=config["device"],
        code=fingerprint("embed_structures"),
    script:
        "../scripts/embed_structures.py"


rule group_structures:
    input:
        unpack(structure_embeddings),
    output:
        compositions=update("results/data/{corpus}/compositions.npz"),
        counts=update("results/data/{corpus}/counts.csv"),
        mean=update("results/features/{corpus}/structure.npy"),
        spread=update("results/features/{corpus}/structure_spread.npy"),
    log:
        "logs/data/{corpus}/prepare.log",
    wildcard_constraints:
        corpus=names_or_none(corpora_of("structures", "vectors")),
    conda:
        "../../envs/data.yaml"
    resources:
        mem_mb=16000,
        runtime=60,
    params:
        sha256=lambda w: corpus_hash(w.corpus),
        unknown_elements=lambda w: unknown_elements(w.corpus),
        code=fingerprint("group_structures"),
    script:
        "../scripts/group_structures.py"
