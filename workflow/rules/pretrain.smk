"""Corpora, pretext tasks and the encoders they train.

Needs: results/data, results/features of the corpora
Makes: results/data/{corpus}/compositions.npz and counts.csv; results/pretrain/{pretraining}/encoder.safetensors,
encoder.json, history.csv and the encoder after every epoch; results/probes/crystals/{pretraining}.csv;
results/figures/pretraining/{pretraining}.png and results/figures/crystals/{pretraining}.png
"""

OF_CRYSTALS = [
    p for p, entry in config["pretraining"].items() if structures_read(entry)
]
LEARNING = [p for p, entry in config["pretraining"].items() if entry["tasks"]]
OF_FORMULAS = [p for p in config["pretraining"] if p not in OF_CRYSTALS]
# Those whose structures a probe reads, and of these the ones in a study.
OF_GRAPHS = [
    p for p in OF_CRYSTALS if structures_read(config["pretraining"][p]) == "graphs"
]
STUDIED = {m for study in config["subsets"].values() for m in study["models"]}
STUDIED_CRYSTALS = [p for p in OF_GRAPHS if any(p in strategies_of(m) for m in STUDIED)]


rule prepare_corpus:
    input:
        sources=corpus_sources,
        without=lambda w: [
            f"results/data/{d}/compositions.npz"
            for d in config["corpora"][w.corpus].get("without", [])
        ],
    output:
        compositions=update("results/data/{corpus}/compositions.npz"),
        counts=update("results/data/{corpus}/counts.csv"),
    log:
        "logs/data/{corpus}/prepare.log",
    wildcard_constraints:
        corpus=names_or_none(corpora_of("formulas", "union")),
    conda:
        "../../envs/data.yaml"
    resources:
        mem_mb=grown(16000),
        runtime=grown(60),
    params:
        names=lambda w: config["corpora"][w.corpus].get("of", [w.corpus]),
        entry=lambda w: corpus_keys(w.corpus),
        sha256=lambda w: corpus_hash(w.corpus),
        files=lambda w: listing(config["corpora"][w.corpus].get("csv")),
        unknown_elements=lambda w: unknown_elements(config["corpora"][w.corpus]),
        code=fingerprint("prepare_corpus"),
    script:
        "../scripts/prepare_corpus.py"


rule pretrain:
    input:
        unpack(task_targets),
        unpack(examples),
    output:
        weights=update("results/pretrain/{pretraining}/encoder.safetensors"),
        record=update("results/pretrain/{pretraining}/encoder.json"),
        history=update("results/pretrain/{pretraining}/history.csv"),
        epochs=directory("results/pretrain/{pretraining}/epochs"),
    log:
        "logs/pretrain/{pretraining}.log",
    benchmark:
        "benchmarks/pretrain/{pretraining}.tsv"
    conda:
        "../../envs/torch.yaml"
    threads: 8
    resources:
        mem_mb=grown(16000),
        runtime=1440,
        gpu=1,
    params:
        encoder=lambda w: strategy(w)["encoder"],
        arguments=lambda w: strategy(w).get("arguments", {}),
        corpus=lambda w: strategy(w)["corpus"],
        elements=lambda w: elements_of(strategy(w)),
        backend=lambda w: backend(strategy(w)),
        tasks=lambda w: strategy(w)["tasks"],
        recipe=lambda w: config["pretraining_recipe"] | strategy(w).get("recipe", {}),
        validation_fraction=config["pretraining_validation"],
        seed=lambda w: networks.seed_of(config, w.pretraining),
        code=lambda w: fingerprint("pretrain", strategy(w)["encoder"]),
    script:
        "../scripts/pretrain.py"


rule probe_crystals:
    input:
        record="results/pretrain/{pretraining}/encoder.json",
        weights="results/pretrain/{pretraining}/encoder.safetensors",
        epochs="results/pretrain/{pretraining}/epochs",
        graphs=probed_crystals,
    output:
        table="results/probes/crystals/{pretraining}.csv",
        features="results/probes/crystals/{pretraining}.npz",
    log:
        "logs/probes/crystals/{pretraining}.log",
    wildcard_constraints:
        pretraining=names_or_none(OF_GRAPHS),
    conda:
        "../../envs/torch.yaml"
    resources:
        mem_mb=grown(8000),
        runtime=grown(120),
    params:
        structures=PROBED_CRYSTALS,
        left_out=lambda w: is_sample(strategy(w)["corpus"]),
        validation_fraction=config["pretraining_validation"],
        seed=lambda w: networks.seed_of(config, w.pretraining),
        code=lambda w: fingerprint("probe_crystals", strategy(w)["encoder"]),
    script:
        "../scripts/probe_crystals.py"


rule plot_crystals:
    input:
        rules.probe_crystals.output.features,
    output:
        report(
            "results/figures/crystals/{pretraining}.png",
            caption="../report/crystals.rst",
            category="Crystals",
            labels={"pretraining": "{pretraining}", "content": "map"},
        ),
    log:
        "logs/figures/crystals/{pretraining}.log",
    conda:
        "../../envs/analysis.yaml"
    resources:
        mem_mb=grown(8000),
        runtime=grown(60),
    params:
        title=lambda w: w.pretraining,
        code=fingerprint("plot_crystals"),
    script:
        "../scripts/plot_crystals.py"


rule plot_pretraining:
    input:
        "results/pretrain/{pretraining}/history.csv",
    output:
        report(
            "results/figures/pretraining/{pretraining}.png",
            caption="../report/pretraining.rst",
            category="Pretraining",
            labels={"pretraining": "{pretraining}", "content": "history"},
        ),
    log:
        "logs/figures/pretraining/{pretraining}.log",
    wildcard_constraints:
        pretraining=names_or_none(LEARNING),
    conda:
        "../../envs/analysis.yaml"
    params:
        tasks=lambda w: list(strategy(w)["tasks"]),
        title=lambda w: w.pretraining,
        code=fingerprint("plot_pretraining"),
    script:
        "../scripts/plot_pretraining.py"


rule crystals:
    input:
        expand(
            [rules.probe_crystals.output.table, rules.plot_crystals.output[0]],
            pretraining=STUDIED_CRYSTALS,
        ),
        expand(
            rules.plot_pretraining.output[0],
            pretraining=[p for p in STUDIED_CRYSTALS if p in LEARNING],
        ),


rule embed_compositions:
    input:
        record="results/pretrain/{pretraining}/encoder.json",
        weights="results/pretrain/{pretraining}/encoder.safetensors",
        compositions="results/data/{table}/compositions.npz",
    output:
        "results/features/{table}/{pretraining}.npy",
    log:
        "logs/features/{table}/{pretraining}.log",
    wildcard_constraints:
        pretraining=names_or_none(OF_FORMULAS),
    conda:
        "../../envs/torch.yaml"
    resources:
        mem_mb=grown(8000),
        runtime=grown(60),
    params:
        code=lambda w: fingerprint("embed_compositions", strategy(w)["encoder"]),
    script:
        "../scripts/embed_compositions.py"
