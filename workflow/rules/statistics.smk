"""Predictions -> scores, tests and tables.

Needs: results/finetune/{dataset}/{model}/predictions.csv
Makes: results/scores.csv, results/comparisons.csv, results/tables/huang2024_table2.{csv,md}, results/matbench/{model}.json.gz
"""


rule score_models:
    input:
        predictions=benchmark_files("predictions.csv"),
    output:
        report("results/scores.csv", caption="../report/scores.rst", category="Tables"),
    log:
        "logs/statistics/scores.log",
    conda:
        "../../envs/analysis.yaml"
    params:
        units={d: UNITS[d] for d in DATASETS},
        code=fingerprint("statistics", "data"),
    script:
        "../scripts/score_models.py"


rule compare_models:
    input:
        scores=rules.score_models.output[0],
    output:
        report(
            "results/comparisons.csv",
            caption="../report/comparisons.rst",
            category="Tables",
        ),
    log:
        "logs/statistics/comparisons.log",
    conda:
        "../../envs/analysis.yaml"
    params:
        models=MODELS,
        code=fingerprint("statistics", "data"),
    script:
        "../scripts/compare_models.py"


rule tabulate_huang2024:
    input:
        predictions=benchmark_files("predictions.csv"),
        provenance=[
            f"results/finetune/{d}/{m}/seed{seed}/provenance.json"
            for d in DATASETS
            for m in MODELS
            for seed in seeds_of(m)
        ],
        table2="resources/paper/huang2024_table2.csv",
        table3="resources/paper/huang2024_table3.csv",
        published="resources/paper/matbench_submissions.csv",
    output:
        csv=report(
            "results/tables/huang2024_table2.csv",
            caption="../report/table2.rst",
            category="Tables",
        ),
        md="results/tables/huang2024_table2.md",
    log:
        "logs/statistics/table2.log",
    conda:
        "../../envs/analysis.yaml"
    params:
        labels=LABELS,
        units=UNITS,
        code=fingerprint("statistics", "data"),
    script:
        "../scripts/tabulate_huang2024.py"


rule record_matbench:
    input:
        tables=expand("results/data/{dataset}/table.csv", dataset=MATBENCH),
        predictions=expand(
            "results/finetune/{dataset}/{{model}}/predictions.csv", dataset=MATBENCH
        ),
    output:
        "results/matbench/{model}.json.gz",
    log:
        "logs/statistics/matbench_{model}.log",
    conda:
        "../../envs/matbench.yaml"
    params:
        tasks=MATBENCH,
        metadata=lambda w: {
            "algorithm": LABELS[w.model],
            "software": "matpretrain",
            "seeds": seeds_of(w.model),
            "recipe": config["recipe"] if w.model in NETWORKS else {},
        },
        code=fingerprint("statistics", "data"),
    script:
        "../scripts/record_matbench.py"


rule tables:
    input:
        rules.score_models.output,
        rules.compare_models.output,
        rules.tabulate_huang2024.output,


rule matbench:
    input:
        expand("results/matbench/{model}.json.gz", model=MODELS if MATBENCH else []),
