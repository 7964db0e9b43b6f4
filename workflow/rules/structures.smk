"""Crystal structures -> graphs for MEGNet and Finder; -> neighbour lists for CGCNN -> embeddings of a pretrained teacher.

Needs: the structures of a corpus (.jsonl.gz or a folder of CIF files) and, for embeddings, the weights of a CGCNN encoder
Makes: results/structures/{table}/graphs.safetensors and graphs.csv, neighbours.npz and compositions.npz, of a corpus or of
the rows of a dataset; results/structures/{corpus}/embeddings.npz (id, embedding); of corpora with embeddings: results/data/{corpus}/compositions.npz, counts.csv and
results/features/{corpus}/structure.npy, the target of MML, which unions of them have too
"""


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
        mem_mb=grown(8000),
        runtime=grown(240),
    params:
        source=lambda w: structure_collection(w.table),
        sample=lambda w: config["corpora"].get(w.table, {}).get("sample"),
        sha256=lambda w: structure_hash(w.table),
        files=lambda w: listing(structure_source(w).get("structures")),
        unknown_elements=lambda w: unknown_in_structures(w.table),
        code=fingerprint("connect_structures"),
    script:
        "../scripts/connect_structures.py"


# What a sample leaves out, for a probe on structures that pretraining has not seen.
use rule connect_structures as connect_left_out with:
    output:
        graphs=update("results/structures/{table}/left_out.safetensors"),
        table=update("results/structures/{table}/left_out.csv"),
    log:
        "logs/structures/{table}/left_out.log",
    wildcard_constraints:
        table=names_or_none([c for c in corpora_of("structures") if is_sample(c)]),
    params:
        left_out=PROBED_CRYSTALS,


rule encode_structures:
    input:
        unpack(structure_source),
    output:
        neighbours=update("results/structures/{table}/neighbours.npz"),
        compositions=update("results/structures/{table}/compositions.npz"),
    log:
        "logs/structures/{table}/encode.log",
    conda:
        "../../envs/data.yaml"
    resources:
        mem_mb=grown(8000),
        runtime=grown(240),
    params:
        source=lambda w: structure_collection(w.table),
        sha256=lambda w: structure_hash(w.table),
        files=lambda w: listing(structure_source(w).get("structures")),
        unknown_elements=lambda w: unknown_in_structures(w.table),
        code=fingerprint("encode_structures"),
    script:
        "../scripts/encode_structures.py"


rule embed_structures:
    input:
        neighbours="results/structures/{corpus}/neighbours.npz",
        atoms="results/data/elements/cgcnn.npy",
        teacher=lambda w: teacher_file(w.corpus),
    output:
        update("results/structures/{corpus}/embeddings.npz"),
    log:
        "logs/structures/{corpus}/embed.log",
    conda:
        "../../envs/torch.yaml"
    threads: 4
    resources:
        mem_mb=grown(8000),
        runtime=grown(240),
        gpu=1,
    params:
        sha256=lambda w: teacher_hash(w.corpus),
        files=lambda w: listing(teacher_file(w.corpus)),
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
    log:
        "logs/data/{corpus}/prepare.log",
    wildcard_constraints:
        corpus=names_or_none(corpora_of("structures", "vectors")),
    conda:
        "../../envs/data.yaml"
    resources:
        mem_mb=grown(16000),
        runtime=grown(60),
    params:
        sha256=lambda w: corpus_hash(w.corpus),
        n_samples=lambda w: corpus_keys(w.corpus).get("n_samples"),
        files=lambda w: listing(structure_embeddings(w).get("vectors")),
        unknown_elements=lambda w: unknown_elements(config["corpora"][w.corpus]),
        code=fingerprint("group_structures"),
    script:
        "../scripts/group_structures.py"


rule select_embeddings:
    input:
        compositions="results/data/{corpus}/compositions.npz",
        parts=corpus_sources,
        embeddings=lambda w: [
            f"results/features/{part}/structure.npy"
            for part in config["corpora"][w.corpus]["of"]
        ],
    output:
        update("results/features/{corpus}/structure.npy"),
    log:
        "logs/features/{corpus}/structure.log",
    wildcard_constraints:
        corpus=names_or_none(
            [
                c
                for c in corpora_of("union")
                if registries.has_embeddings(config["corpora"], c)
            ]
        ),
    conda:
        "../../envs/data.yaml"
    resources:
        mem_mb=grown(8000),
    params:
        code=fingerprint("select_embeddings"),
    script:
        "../scripts/select_embeddings.py"
