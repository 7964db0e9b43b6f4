"""Predictions and histories -> figures.

Needs: results/finetune/{dataset}/{model}/predictions.csv, histories of the networks, results/tables
Makes: results/figures/parity/{dataset}/{model}.png, results/figures/learning_curves/{dataset}.png, results/figures/mae.png
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
    conda:
        "../../envs/analysis.yaml"
    params:
        quantity=lambda w: quantity(w.dataset),
        unit=lambda w: UNITS[w.dataset],
        title=lambda w: f"{LABELS[w.model]} on {LABELS[w.dataset]}",
        code=fingerprint("plots", "statistics", "data"),
    script:
        "../scripts/plot_parity.py"


rule plot_learning_curves:
    input:
        histories=lambda w: [
            f"results/finetune/{w.dataset}/{m}/seed{seed}/history.csv"
            for m in TRAINED
            for seed in seeds_of(m)
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
    conda:
        "../../envs/analysis.yaml"
    params:
        models=[m for m in TRAINED for seed in seeds_of(m)],
        labels=LABELS,
        title=lambda w: LABELS[w.dataset],
        unit=lambda w: UNITS[w.dataset],
        code=fingerprint("plots", "data"),
    script:
        "../scripts/plot_learning_curves.py"


rule plot_mae:
    input:
        rules.tabulate_huang2024.output.csv,
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
        code=fingerprint("plots", "data"),
    script:
        "../scripts/plot_mae.py"


rule figures:
    input:
        rules.plot_mae.output,
        expand(
            "results/figures/learning_curves/{dataset}.png",
            dataset=DATASETS if TRAINED else [],
        ),
        expand(
            "results/figures/parity/{dataset}/{model}.png",
            dataset=DATASETS,
            model=[m for m in MODELS if m != "dummy"],
        ),
