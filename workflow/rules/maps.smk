"""Representations -> maps coloured by the target (Figures 6-8 of Huang et al. 2024).

Needs: results/data/{dataset}, results/features/{dataset}/{pretraining}.npy
Makes: results/figures/maps/{dataset}.png
"""


rule plot_maps:
    input:
        table="results/data/{dataset}/table.csv",
        compositions="results/data/{dataset}/compositions.npz",
        features=expand(
            "results/features/{{dataset}}/{pretraining}.npy",
            pretraining=config["maps"]["pretraining"],
        ),
    output:
        report(
            "results/figures/maps/{dataset}.png",
            caption="../report/maps.rst",
            category="Maps",
            labels={"dataset": "{dataset}"},
        ),
    log:
        "logs/figures/maps/{dataset}.log",
    conda:
        "../../envs/analysis.yaml"
    resources:
        mem_mb=8000,
        runtime=60,
    params:
        pretraining=config["maps"]["pretraining"],
        rows=config["maps"]["rows"],
        quantity=lambda w: quantity(w.dataset),
        unit=lambda w: config["datasets"][w.dataset]["unit"],
        title=lambda w: label(w.dataset),
        code=fingerprint("plot_maps"),
    script:
        "../scripts/plot_maps.py"


rule maps:
    input:
        expand(rules.plot_maps.output[0], dataset=config["maps"]["datasets"]),
