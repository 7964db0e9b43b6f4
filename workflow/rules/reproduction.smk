"""A committed snapshot of real runs.

Needs: tables and figures of the configured benchmark
Makes: docs/reproduction: the tables, the histories of pretraining, figures, provenance.json
"""

SNAPSHOT = [str(path) for path in (*rules.tables.input, *rules.figures.input)] + [
    f"results/pretrain/{s}/history.csv" for s in STRATEGIES
]


rule snapshot_reproduction:
    input:
        products=SNAPSHOT,
        data=expand("results/data/{dataset}/table.csv", dataset=DATASETS),
        made=[path for d, m in runs() for path in seed_files("provenance.json", d, m)],
        encoders=[f"results/pretrain/{s}/encoder.json" for s in STRATEGIES],
        counts=[
            f"results/data/{c}/counts.csv"
            for c in dict.fromkeys(
                config["pretraining"][s]["corpus"] for s in STRATEGIES
            )
        ],
    output:
        copies=[update(f"docs/reproduction/{snapshot_name(path)}") for path in SNAPSHOT],
        provenance=update("docs/reproduction/provenance.json"),
    log:
        "logs/reproduction.log",
    conda:
        "../../envs/analysis.yaml"
    params:
        datasets=DATASETS,
        sources={d: source_kind(d) for d in DATASETS},
        recipes={m: recipe_of(None, m) for m in TRAINED}
        | {
            d: config["datasets"][d]["recipe"]
            for d in DATASETS
            if "recipe" in config["datasets"][d]
        },
        code=fingerprint("snapshot_reproduction"),
    script:
        "../scripts/snapshot_reproduction.py"


rule reproduction:
    input:
        rules.snapshot_reproduction.output,
