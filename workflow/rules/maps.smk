"""Representations -> maps coloured by the target (Figures 6-8 of Huang et al. 2024); two trained networks side by side
(Figure 5 of Ihalage and Hao 2022).

Needs: results/data/{dataset}, results/features/{dataset}/{pretraining}.npy; networks of results/finetune/{dataset}/{model}
Makes: results/figures/maps/{dataset}.png; results/finetune/{dataset}/{model}/seed{seed}/test_rows.npz,
results/figures/modes/{dataset}.png, results/modes/{dataset}.csv
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
        mem_mb=grown(8000),
        runtime=grown(60),
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


rule embed_test_rows:
    input:
        unpack(network_inputs),
        table="results/data/{dataset}/table.csv",
        compositions="results/data/{dataset}/compositions.npz",
        weights="results/finetune/{dataset}/{model}/seed{seed}/weights.safetensors",
        record="results/finetune/{dataset}/{model}/seed{seed}/model.json",
    output:
        "results/finetune/{dataset}/{model}/seed{seed}/test_rows.npz",
    log:
        "logs/finetune/{dataset}/{model}/seed{seed}_test_rows.log",
    wildcard_constraints:
        model=names_or_none(NETWORKS),
    conda:
        "../../envs/torch.yaml"
    resources:
        mem_mb=grown(8000),
        runtime=grown(60),
    params:
        code=lambda w: fingerprint(
            "embed_test_rows", config["models"][w.model]["encoder"]
        ),
    script:
        "../scripts/embed_test_rows.py"


rule plot_modes:
    input:
        table="results/data/{dataset}/table.csv",
        features=lambda w: [
            seed_files("test_rows.npz", w.dataset, m)[0]
            for m in config["modes"]["models"]
        ],
        histories=lambda w: [
            path
            for m in config["modes"]["models"]
            for path in seed_files("history.csv", w.dataset, m)
        ],
    output:
        figure=report(
            "results/figures/modes/{dataset}.png",
            caption="../report/modes.rst",
            category="Maps",
            labels={"dataset": "{dataset}"},
        ),
        correlations="results/modes/{dataset}.csv",
    log:
        "logs/figures/modes/{dataset}.log",
    conda:
        "../../envs/analysis.yaml"
    resources:
        mem_mb=grown(8000),
        runtime=grown(60),
    params:
        models=config["modes"]["models"],
        history_models=lambda w: [
            m for m in config["modes"]["models"] for seed in seeds_of(w.dataset, m)
        ],
        labels={m: label(m) for m in config["modes"]["models"]},
        rows=config["maps"]["rows"],
        quantity=lambda w: quantity(w.dataset),
        unit=lambda w: config["datasets"][w.dataset]["unit"],
        title=lambda w: label(w.dataset),
        code=fingerprint("plot_modes"),
    script:
        "../scripts/plot_modes.py"


rule modes:
    input:
        expand(rules.plot_modes.output.figure, dataset=config["modes"]["datasets"]),
