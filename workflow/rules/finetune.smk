"""Nested cross-validation: one job trains all outer folds of a (dataset, model, seed).

Needs: results/data, results/features
Makes: results/finetune/{dataset}/{model}/predictions.csv, and per seed predictions, history,
provenance, weights of all folds and model.json
"""


rule finetune:
    input:
        unpack(start),
        table=rules.prepare_dataset.output.table,
        compositions=rules.prepare_dataset.output.compositions,
        elements=lambda w: f"results/data/elements/{elements_of(config['models'][w.model].get('pretraining'))}.npy",
    output:
        predictions=update(
            "results/finetune/{dataset}/{model}/seed{seed}/predictions.csv"
        ),
        history=update("results/finetune/{dataset}/{model}/seed{seed}/history.csv"),
        provenance=update(
            "results/finetune/{dataset}/{model}/seed{seed}/provenance.json"
        ),
        weights=update(
            "results/finetune/{dataset}/{model}/seed{seed}/weights.safetensors"
        ),
        record=update("results/finetune/{dataset}/{model}/seed{seed}/model.json"),
    log:
        "logs/finetune/{dataset}/{model}/seed{seed}.log",
    benchmark:
        "benchmarks/finetune/{dataset}/{model}/seed{seed}.tsv"
    wildcard_constraints:
        model="|".join(map(re.escape, NETWORKS)),
    conda:
        "../../envs/torch.yaml"
    threads: 4
    resources:
        mem_mb=8000,
        runtime=720,
        gpu=1,
    params:
        encoder=lambda w: config["models"][w.model]["encoder"],
        loss=config["recipe"]["loss"],
        recipe=RECIPE,
        inner_fraction=config["inner_fraction"],
        train_rows=lambda w: config["datasets"][w.dataset].get("train_rows"),
        unit=lambda w: config["datasets"][w.dataset]["unit"],
        device=config["device"],
        code=lambda w: fingerprint("finetune", config["models"][w.model]["encoder"]),
    script:
        "../scripts/finetune.py"


rule fit_baseline:
    input:
        unpack(baseline_features),
        table=rules.prepare_dataset.output.table,
        compositions=rules.prepare_dataset.output.compositions,
    output:
        predictions=update(
            "results/finetune/{dataset}/{model}/seed{seed}/predictions.csv"
        ),
        provenance=update(
            "results/finetune/{dataset}/{model}/seed{seed}/provenance.json"
        ),
    log:
        "logs/finetune/{dataset}/{model}/seed{seed}.log",
    benchmark:
        "benchmarks/finetune/{dataset}/{model}/seed{seed}.tsv"
    wildcard_constraints:
        model="|".join(map(re.escape, BASELINES)),
    conda:
        "../../envs/analysis.yaml"
    threads: 8
    resources:
        mem_mb=16000,
        runtime=720,
    params:
        estimator=lambda w: config["models"][w.model]["estimator"],
        features=lambda w: config["models"][w.model]["features"],
        train_rows=lambda w: config["datasets"][w.dataset].get("train_rows"),
        code=fingerprint("fit_baseline"),
    script:
        "../scripts/fit_baseline.py"


rule merge_seeds:
    input:
        predictions=lambda w: seed_files("predictions.csv", w.dataset, w.model),
    output:
        update("results/finetune/{dataset}/{model}/predictions.csv"),
    log:
        "logs/finetune/{dataset}/{model}/merge.log",
    conda:
        "../../envs/analysis.yaml"
    params:
        code=fingerprint("merge_seeds"),
    script:
        "../scripts/merge_seeds.py"
