"""Predictions and histories -> figures.

Needs: results/finetune/{dataset}/{model}/predictions.csv, histories of the networks, results/tables
Makes: results/figures/parity/{dataset}/{model}.png, results/figures/learning_curves/{dataset}.png, results/figures/mae.png,
results/figures/gains.png, results/figures/uncertainty.png,
results/figures/cumulative/{dataset}.png and, for networks that predict edges, results/figures/edges/{dataset}/{model}.png
"""


rule plot_parity:
    input:
        predictions="results/finetune/{dataset}/{model}/predictions.csv",
    output:
        report(
            "results/figures/parity/{dataset}/{model}.png",
            caption="../report/parity.rst",
            category="Parity",
            labels={"dataset": "{dataset}", "model": "{model}"},
        ),
    log:
        "logs/figures/parity/{dataset}/{model}.log",
    wildcard_constraints:
        dataset=names_or_none(SCALAR),
    conda:
        "../../envs/analysis.yaml"
    params:
        quantity=lambda w: quantity(w.dataset),
        unit=lambda w: config["datasets"][w.dataset]["unit"],
        title=lambda w: f"{label(w.model)} on {label(w.dataset)}",
        code=fingerprint("plot_parity"),
    script:
        "../scripts/plot_parity.py"


rule plot_learning_curves:
    input:
        histories=lambda w: [
            path
            for m in models_on(w.dataset, TRAINED, "networks")
            for path in seed_files("history.csv", w.dataset, m)
        ],
    output:
        report(
            "results/figures/learning_curves/{dataset}.png",
            caption="../report/learning_curves.rst",
            category="Learning curves",
            labels={"dataset": "{dataset}"},
        ),
    log:
        "logs/figures/learning_curves/{dataset}.log",
    wildcard_constraints:
        dataset=names_or_none(SCALAR),
    conda:
        "../../envs/analysis.yaml"
    params:
        models=lambda w: [
            m for d, m in runs(TRAINED) if d == w.dataset for seed in seeds_of(d, m)
        ],
        labels=LABELS,
        title=lambda w: label(w.dataset),
        unit=lambda w: config["datasets"][w.dataset]["unit"],
        code=fingerprint("plot_learning_curves"),
    script:
        "../scripts/plot_learning_curves.py"


rule plot_mae:
    input:
        "results/tables/huang2024_table2.csv",
    output:
        report(
            "results/figures/mae.png", caption="../report/mae.rst", category="Summary"
        ),
    log:
        "logs/figures/mae.log",
    conda:
        "../../envs/analysis.yaml"
    params:
        labels=LABELS,
        units=UNITS,
        code=fingerprint("plot_mae"),
    script:
        "../scripts/plot_mae.py"


rule plot_gains:
    input:
        "results/tables/huang2024_table4.csv",
    output:
        report(
            "results/figures/gains.png",
            caption="../report/gains.rst",
            category="Summary",
        ),
    log:
        "logs/figures/gains.log",
    conda:
        "../../envs/analysis.yaml"
    params:
        labels=LABELS,
        code=fingerprint("plot_gains"),
    script:
        "../scripts/plot_gains.py"


rule plot_uncertainty:
    input:
        "results/tables/uncertainty.csv",
    output:
        report(
            "results/figures/uncertainty.png",
            caption="../report/uncertainty.rst",
            category="Errors",
        ),
    log:
        "logs/figures/uncertainty.log",
    conda:
        "../../envs/analysis.yaml"
    params:
        labels=LABELS,
        models=[m for m in WHOLE if m != "dummy"],
        code=fingerprint("plot_uncertainty"),
    script:
        "../scripts/plot_uncertainty.py"


rule plot_cumulative:
    input:
        lambda w: [
            f"results/finetune/{w.dataset}/{m}/predictions.csv"
            for m in models_on(
                w.dataset, WHOLE, "networks and baselines without a frozen encoder"
            )
        ],
    output:
        report(
            "results/figures/cumulative/{dataset}.png",
            caption="../report/cumulative.rst",
            category="Errors",
            labels={"dataset": "{dataset}"},
        ),
    log:
        "logs/figures/cumulative/{dataset}.log",
    wildcard_constraints:
        dataset=names_or_none(SCALAR),
    conda:
        "../../envs/analysis.yaml"
    params:
        labels=LABELS,
        title=lambda w: label(w.dataset),
        unit=lambda w: config["datasets"][w.dataset]["unit"],
        code=fingerprint("plot_cumulative"),
    script:
        "../scripts/plot_cumulative.py"


rule plot_edges:
    input:
        weights=lambda w: seed_files("weights.safetensors", w.dataset, w.model)[0],
        record=lambda w: seed_files("model.json", w.dataset, w.model)[0],
    output:
        report(
            "results/figures/edges/{dataset}/{model}.png",
            caption="../report/edges.rst",
            category="Predicted edges",
            labels={"dataset": "{dataset}", "model": "{model}"},
        ),
    log:
        "logs/figures/edges/{dataset}/{model}.log",
    wildcard_constraints:
        model=names_or_none(EDGES_PREDICTED),
    conda:
        "../../envs/predict.yaml"
    params:
        title=lambda w: f"{label(w.model)}, {label(w.dataset)}",
        code=fingerprint("plot_edges"),
    script:
        "../scripts/plot_edges.py"


rule figures:
    input:
        rules.plot_mae.output if "2" in TABLES else [],
        rules.plot_gains.output if COMPARED else [],
        rules.plot_uncertainty.output if runs(WHOLE) else [],
        sorted(set(run_files("results/figures/learning_curves/{dataset}.png", TRAINED))),
        sorted(set(run_files("results/figures/cumulative/{dataset}.png", WHOLE))),
        run_files(
            "results/figures/edges/{dataset}/{model}.png",
            [m for m in TRAINED if m in EDGES_PREDICTED],
        ),
        run_files(
            "results/figures/parity/{dataset}/{model}.png",
            [m for m in WHOLE if m != "dummy"],
        ),
