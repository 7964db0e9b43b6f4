"""Predictions of training subsets -> error by number of training rows, one table, comparison and figure per study.

Figures 9 and 10 of Huang et al. (2024), Figure 4 of New et al. (2024), and whatever is registered under `subsets`.

Needs: results/finetune/{dataset}@{size}/{model}/predictions.csv, those of the whole dataset where the benchmark has them
Makes: results/tables/{study}_scores.csv (every fold), results/tables/{study}_subsets.csv, results/tables/{study}_wins.csv, results/figures/subsets/{study}.png
"""


rule score_subsets:
    input:
        predictions=lambda w: list(subset_runs(w.study).values()),
        tables=lambda w: [
            f"results/data/{d}/table.csv"
            for d in config["subsets"][w.study]["datasets"]
        ],
    output:
        "results/tables/{study}_scores.csv",
    log:
        "logs/statistics/{study}_scores.log",
    conda:
        "../../envs/analysis.yaml"
    params:
        runs=lambda w: list(subset_runs(w.study)),
        structures=lambda w: {
            d: structure_note(d) for d in config["subsets"][w.study]["datasets"]
        },
        code=fingerprint("score_subsets"),
    script:
        "../scripts/score_subsets.py"


rule tabulate_subsets:
    input:
        scores=rules.score_subsets.output[0],
        paper="resources/paper/huang2024_subsets.csv",
    output:
        report(
            "results/tables/{study}_subsets.csv",
            caption="../report/subsets_table.rst",
            category="Subsets",
            labels={"study": "{study}", "content": "errors"},
        ),
    log:
        "logs/statistics/{study}_subsets.log",
    conda:
        "../../envs/analysis.yaml"
    params:
        official=lambda w: official(config["subsets"][w.study]["datasets"]),
        reference=lambda w: config["subsets"][w.study]["reference"],
        code=fingerprint("tabulate_subsets"),
    script:
        "../scripts/tabulate_subsets.py"


rule compare_subsets:
    input:
        rules.score_subsets.output[0],
    output:
        report(
            "results/tables/{study}_wins.csv",
            caption="../report/subsets_wins.rst",
            category="Subsets",
            labels={"study": "{study}", "content": "comparisons"},
        ),
    log:
        "logs/statistics/{study}_wins.log",
    conda:
        "../../envs/analysis.yaml"
    params:
        materials=lambda w: materials_of(config["subsets"][w.study]["datasets"]),
        code=fingerprint("compare_subsets"),
    script:
        "../scripts/compare_subsets.py"


rule plot_subsets:
    input:
        rules.tabulate_subsets.output[0],
    output:
        report(
            "results/figures/subsets/{study}.png",
            caption="../report/subsets.rst",
            category="Subsets",
            labels={"study": "{study}", "content": "figure"},
        ),
    log:
        "logs/figures/subsets_{study}.log",
    conda:
        "../../envs/analysis.yaml"
    params:
        models=lambda w: {m: label(m) for m in config["subsets"][w.study]["models"]},
        units=lambda w: {
            d: config["datasets"][d]["unit"]
            for d in config["subsets"][w.study]["datasets"]
        },
        titles=lambda w: {d: label(d) for d in config["subsets"][w.study]["datasets"]},
        code=fingerprint("plot_subsets"),
    script:
        "../scripts/plot_subsets.py"


rule subsets:
    input:
        expand(rules.compare_subsets.output[0], study=config["subsets"]),
        expand(rules.plot_subsets.output[0], study=config["subsets"]),
