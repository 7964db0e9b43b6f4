"""Raw data -> validated tables with folds and encoded compositions.

Needs: nothing, a mirror, the network, or a CSV of the user.
Outputs are marked update() here and wherever they cost much: a job that fails must not have cost the earlier result, which
is then made again by the next call (matpretrain.unfinished). Folders are not: a backup of one that Snakemake left when it was
killed would stop the next call. Scripts write whole files and rename them.
Makes: results/data/{dataset}/table.csv (id, formula, target, fold; group where rows of one composition stay together), compositions.npz; results/data/elements/{elements}.npy
"""


localrules:
    fetch_file,


rule fetch_file:
    output:
        update(f"{RAW}/{{file}}"),
    log:
        "logs/data/fetch/{file}.log",
    wildcard_constraints:
        file=names_or_none(FETCHED),
    conda:
        "../../envs/data.yaml"
    params:
        source=lambda w: RAW_FILES[w.file],
    script:
        "../scripts/fetch_file.py"


rule prepare_dataset:
    input:
        unpack(raw_file),
    output:
        table=update("results/data/{dataset}/table.csv"),
        compositions=update("results/data/{dataset}/compositions.npz"),
    log:
        "logs/data/{dataset}/prepare.log",
    wildcard_constraints:
        dataset=names_or_none(SCALAR),
    conda:
        "../../envs/data.yaml"
    resources:
        mem_mb=grown(16000),
        runtime=grown(60),
    params:
        entry=lambda w: data_keys(w.dataset),
        kind=lambda w: source_kind(w.dataset),
        files=lambda w: listing(config["datasets"][w.dataset].get("csv")),
        unknown_elements=lambda w: unknown_elements(config["datasets"][w.dataset]),
        code=fingerprint("prepare_dataset"),
    script:
        "../scripts/prepare_dataset.py"


rule export_elements:
    output:
        "results/data/elements/{elements}.npy",
    log:
        "logs/data/elements/{elements}.log",
    wildcard_constraints:
        elements="matscholar|matscholar_magpie|onehot|cgcnn",
    conda:
        "../../envs/data.yaml"
    params:
        code=fingerprint("export_elements"),
    script:
        "../scripts/export_elements.py"
