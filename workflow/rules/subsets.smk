"""Predictions of training subsets -> error by number of training rows (Figures 9 and 10 of Huang et al. 2024).

Needs: results/finetune/{dataset}-{size}/{model}/predictions.csv, those of the whole dataset where the benchmark has them
Makes: results/tables/huang2024_subsets.csv, results/figures/subsets_{dataset}.png
"""


rule tabulate_subsets:
    input:
        predictions=list(subset_runs().values()),
        paper="resources/paper/huang2024_subsets.csv",
    output:
        report(
            "results/tables/huang2024_subsets.csv",
            caption="../report/subsets_table.rst",
            category="Tables",
        ),
    log:
        "logs/statistics/subsets.log",
    conda:
        "../../envs/analysis.yaml"
    params:
        runs=list(subset_runs()),
        reference="roost",
        code=fingerprint("tabulate_subsets"),
    script:
        "../scripts/tabulate_subsets.py"


rule plot_subsets:
    input:
        rules.tabulate_subsets.output[0],
    output:
        report(
            "results/figures/subsets_{dataset}.png",
            caption="../report/subsets.rst",
            category="Subsets",
            labels={"dataset": "{dataset}"},
        ),
    log:
        "logs/figures/subsets_{dataset}.log",
    wildcard_constraints:
        dataset="|".join(map(re.escape, config["subsets"]["datasets"])),
    conda:
        "../../envs/analysis.yaml"
    params:
        dataset=lambda w: w.dataset,
        labels={m: label(m) for m in config["subsets"]["models"]},
        unit=lambda w: config["datasets"][w.dataset]["unit"],
        title=lambda w: label(w.dataset),
        code=fingerprint("plot_subsets"),
    script:
        "../scripts/plot_subsets.py"


rule subsets:
    input:
        rules.tabulate_subsets.output,
        expand(rules.plot_subsets.output[0], dataset=config["subsets"]["datasets"]),
