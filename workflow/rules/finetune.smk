"""Nested cross-validation: one job trains all outer folds of a (dataset, model, seed).

Needs: results/data, results/features; for networks of structures results/structures
Makes: results/finetune/{dataset}{subset}/{model}/predictions.csv, and per seed predictions, history, provenance, model.json
and weights of all folds, of baselines the rows they were fitted to

Where `cohort` is "all", one job trains all seeds and initialisations of a network on a dataset, and those jobs only write
what it found.
"""


rule finetune:
    input:
        unpack(start),
        unpack(network_inputs),
        table=rules.prepare_dataset.output.table,
        compositions=rules.prepare_dataset.output.compositions,
    output:
        predictions=update(
            "results/finetune/{dataset}{subset}/{model}/seed{seed}/predictions.csv"
        ),
        history=update(
            "results/finetune/{dataset}{subset}/{model}/seed{seed}/history.csv"
        ),
        provenance=update(
            "results/finetune/{dataset}{subset}/{model}/seed{seed}/provenance.json"
        ),
        weights=update(
            "results/finetune/{dataset}{subset}/{model}/seed{seed}/weights.safetensors"
        ),
        record=update(
            "results/finetune/{dataset}{subset}/{model}/seed{seed}/model.json"
        ),
    log:
        "logs/finetune/{dataset}{subset}/{model}/seed{seed}.log",
    benchmark:
        "benchmarks/finetune/{dataset}{subset}/{model}/seed{seed}.tsv"
    wildcard_constraints:
        model=names_or_none(NETWORKS),
    conda:
        "../../envs/torch.yaml"
    threads: lambda w: 1 if trained_together(w) else 4
    resources:
        mem_mb=grown(8000),
        runtime=720,
        gpu=lambda w: 0 if trained_together(w) else 1,
    params:
        encoder=lambda w: config["models"][w.model]["encoder"],
        arguments=lambda w: arguments_of(w.model),
        backend=lambda w: backend(config["models"][w.model]),
        recipe=lambda w: recipe_of(w.dataset, w.model),
        resolution=lambda w: resolution_of(w.dataset),
        inner_fraction=lambda w: inner_fraction_of(w.dataset),
        size=subset_size,
        cohort=lambda w: cohort_of(config["models"][w.model]),
        code=lambda w: fingerprint("finetune", config["models"][w.model]["encoder"]),
    script:
        "../scripts/finetune.py"


rule finetune_together:
    input:
        unpack(network_inputs),
        table=rules.prepare_dataset.output.table,
        compositions=rules.prepare_dataset.output.compositions,
        weights=lambda w: [
            encoder_file(m, s) for m, s in members_of(w) if strategies_of(m)
        ],
    output:
        directory("results/together/{dataset}{subset}/{model}/folds"),
    log:
        "logs/finetune/{dataset}{subset}/together_{model}.log",
    benchmark:
        "benchmarks/finetune/{dataset}{subset}/together_{model}.tsv"
    wildcard_constraints:
        model=names_or_none(NETWORKS),
    conda:
        "../../envs/torch.yaml"
    threads: 4
    resources:
        mem_mb=grown(16000),
        runtime=1440,
        gpu=1,
    params:
        runs=members_of,
        # which of them starts from which encoder: Snakemake compares inputs as a set
        pretrained=lambda w: [
            (m, s, encoder_file(m, s)) for m, s in members_of(w) if strategies_of(m)
        ],
        encoder=lambda w: config["models"][w.model]["encoder"],
        arguments=lambda w: arguments_of(w.model),
        recipe=lambda w: recipe_of(w.dataset, w.model),
        inner_fraction=lambda w: inner_fraction_of(w.dataset),
        size=subset_size,
        cohort="all",
        code=lambda w: fingerprint(
            "finetune_together", config["models"][w.model]["encoder"]
        ),
    script:
        "../scripts/finetune_together.py"


rule fit_baseline:
    input:
        unpack(baseline_features),
        table=rules.prepare_dataset.output.table,
        compositions=rules.prepare_dataset.output.compositions,
    output:
        predictions=update(
            "results/finetune/{dataset}{subset}/{model}/seed{seed}/predictions.csv"
        ),
        provenance=update(
            "results/finetune/{dataset}{subset}/{model}/seed{seed}/provenance.json"
        ),
        rows=update(
            "results/finetune/{dataset}{subset}/{model}/seed{seed}/training.npz"
        ),
        record=update(
            "results/finetune/{dataset}{subset}/{model}/seed{seed}/model.json"
        ),
    log:
        "logs/finetune/{dataset}{subset}/{model}/seed{seed}.log",
    benchmark:
        "benchmarks/finetune/{dataset}{subset}/{model}/seed{seed}.tsv"
    wildcard_constraints:
        model=names_or_none(BASELINES),
    conda:
        "../../envs/analysis.yaml"
    threads: 8
    resources:
        mem_mb=grown(16000),
        runtime=grown(720),
    params:
        estimator=lambda w: config["models"][w.model]["estimator"],
        features=lambda w: config["models"][w.model]["features"],
        arguments=lambda w: arguments_of(w.model),
        size=subset_size,
        code=fingerprint("fit_baseline"),
    script:
        "../scripts/fit_baseline.py"


rule merge_seeds:
    input:
        predictions=lambda w: seed_files(
            "predictions.csv", w.dataset + w.subset, w.model
        ),
    output:
        update("results/finetune/{dataset}{subset}/{model}/predictions.csv"),
    log:
        "logs/finetune/{dataset}{subset}/{model}/merge.log",
    conda:
        "../../envs/analysis.yaml"
    params:
        code=fingerprint("merge_seeds"),
    script:
        "../scripts/merge_seeds.py"
