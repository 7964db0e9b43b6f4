"""A committed snapshot of real runs.

Needs: tables and figures of the configured benchmark
Makes: docs/reproduction: huang2024_table2.{csv,md}, comparisons.csv, scores.csv, figures, provenance.json
"""


rule snapshot_reproduction:
    input:
        csv=rules.tabulate_huang2024.output.csv,
        md=rules.tabulate_huang2024.output.md,
        comparisons=rules.compare_models.output[0],
        scores=rules.score_models.output[0],
        mae=rules.plot_mae.output[0],
        parity=run_files("results/figures/parity/{dataset}/{model}.png", TRAINED),
        curves=sorted(
            set(run_files("results/figures/learning_curves/{dataset}.png", TRAINED))
        ),
        tables=expand("results/data/{dataset}/table.csv", dataset=DATASETS),
        made=rules.tabulate_huang2024.input.provenance,
    output:
        csv="docs/reproduction/huang2024_table2.csv",
        md="docs/reproduction/huang2024_table2.md",
        comparisons="docs/reproduction/comparisons.csv",
        scores="docs/reproduction/scores.csv",
        figures=directory("docs/reproduction/figures"),
        provenance="docs/reproduction/provenance.json",
    log:
        "logs/reproduction.log",
    conda:
        "../../envs/analysis.yaml"
    params:
        folder=lambda w, output: str(Path(output.provenance).parent),
        datasets=DATASETS,
        sources={d: source_kind(d) for d in DATASETS},
        recipe=config["recipe"],
        seeds=config["benchmark"]["seeds"],
    script:
        "../scripts/snapshot_reproduction.py"


rule reproduction:
    input:
        rules.snapshot_reproduction.output,
