"""Predictions -> scores, tests and tables.

Needs: results/finetune/{dataset}/{model}/predictions.csv
Makes: results/scores.csv, results/comparisons.csv, results/tables/huang2024_table2.{csv,md}, results/matbench/{model}.json.gz
"""


rule score_models:
    input:
        predictions=run_files("results/finetune/{dataset}/{model}/predictions.csv"),
    output:
        report("results/scores.csv", caption="../report/scores.rst", category="Tables"),
    log:
        "logs/statistics/scores.log",
    conda:
        "../../envs/analysis.yaml"
    params:
        units=UNITS,
        code=fingerprint("score_models"),
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
        code=fingerprint("compare_models"),
    script:
        "../scripts/compare_models.py"


rule tabulate_huang2024:
    input:
        predictions=run_files("results/finetune/{dataset}/{model}/predictions.csv"),
        provenance=[
            path for d, m in runs() for path in seed_files("provenance.json", d, m)
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
        code=fingerprint("tabulate_huang2024"),
    script:
        "../scripts/tabulate_huang2024.py"


rule record_matbench:
    input:
        tables=lambda w: [
            f"results/data/{d}/table.csv" for d in matbench_tasks(w.model)
        ],
        predictions=lambda w: [
            f"results/finetune/{d}/{w.model}/predictions.csv"
            for d in matbench_tasks(w.model)
        ],
    output:
        "results/matbench/{model}.json.gz",
    log:
        "logs/statistics/matbench_{model}.log",
    conda:
        "../../envs/matbench.yaml"
    params:
        tasks=lambda w: [
            config["datasets"][d]["matbench"] for d in matbench_tasks(w.model)
        ],
        metadata=lambda w: {
            "algorithm": label(w.model),
            "software": "matpretrain",
            "seeds": {d: seeds_of(d, w.model) for d in matbench_tasks(w.model)},
            "recipe": config["recipe"] if w.model in NETWORKS else {},
        },
        code=fingerprint("record_matbench"),
    script:
        "../scripts/record_matbench.py"


rule tables:
    input:
        rules.score_models.output,
        rules.compare_models.output,
        rules.tabulate_huang2024.output,


rule matbench:
    input:
        [f"results/matbench/{m}.json.gz" for m in MODELS if matbench_tasks(m)],
