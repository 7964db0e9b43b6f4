"""Predictions -> scores, tests and tables.

Needs: results/finetune/{dataset}/{model}/predictions.csv
Makes: results/scores.csv, results/comparisons.csv, results/tables/published.{csv,md} and huang2024_table{2,3,4}.{csv,md},
results/tables/uncertainty.{csv,md}, results/tables/probes.{csv,md}, results/matbench/{model}.json.gz
"""

# {pretrained network: the one from scratch with which it is compared somewhere in the benchmark}
COMPARED = {
    m: scratch_of(m) for d, m in runs(PRETRAINED) if (d, scratch_of(m)) in runs()
}


rule score_models:
    input:
        predictions=run_files("results/finetune/{dataset}/{model}/predictions.csv"),
        tables=expand("results/data/{dataset}/table.csv", dataset=UNITS),
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


rule compare_published:
    input:
        scores=rules.score_models.output[0],
        published="resources/paper/matbench_submissions.csv",
    output:
        csv=report(
            "results/tables/published.csv",
            caption="../report/published.rst",
            category="Tables",
        ),
        md="results/tables/published.md",
    log:
        "logs/statistics/published.log",
    conda:
        "../../envs/analysis.yaml"
    params:
        official={
            d: config["datasets"][d]["matbench"]
            for m in MODELS
            for d in matbench_tasks(m)
        },
        submissions=SUBMISSIONS,
        structures={
            m: {d: structure_note(d) for d in DATASETS}
            for m in TRAINED
            if structures_read(config["models"][m])
        },
        labels=LABELS,
        units=UNITS,
        code=fingerprint("compare_published"),
    script:
        "../scripts/compare_published.py"


rule tabulate_huang2024:
    input:
        predictions=lambda w: run_files(
            "results/finetune/{dataset}/{model}/predictions.csv", TABLES[w.number]
        ),
        provenance=lambda w: [
            path
            for d, m in runs(TABLES[w.number])
            for path in seed_files("provenance.json", d, m)
        ],
        paper="resources/paper/huang2024_table{number}.csv",
        dummy="resources/paper/huang2024_table3.csv",
        published="resources/paper/matbench_submissions.csv",
    output:
        csv=report(
            "results/tables/huang2024_table{number}.csv",
            caption="../report/huang2024_table.rst",
            category="Tables",
        ),
        md="results/tables/huang2024_table{number}.md",
    log:
        "logs/statistics/table{number}.log",
    wildcard_constraints:
        number=names_or_none(TABLES),
    conda:
        "../../envs/analysis.yaml"
    params:
        official=official(DATASETS),
        held_out=lambda w: {
            d: inner_fraction_of(d) for d, m in runs(TABLES[w.number]) if m in TRAINED
        },
        labels=LABELS,
        units=UNITS,
        code=fingerprint("tabulate_huang2024"),
    script:
        "../scripts/tabulate_huang2024.py"


rule tabulate_tests:
    input:
        scores=rules.score_models.output[0],
        tests="resources/paper/huang2024_table4.csv",
        means="resources/paper/huang2024_table2.csv",
    output:
        csv=report(
            "results/tables/huang2024_table4.csv",
            caption="../report/table4.rst",
            category="Tables",
        ),
        md="results/tables/huang2024_table4.md",
    log:
        "logs/statistics/table4.log",
    conda:
        "../../envs/analysis.yaml"
    params:
        official=official(DATASETS),
        pretrained=COMPARED,
        materials=materials_of(DATASETS),
        labels=LABELS,
        code=fingerprint("tabulate_tests"),
    script:
        "../scripts/tabulate_tests.py"


rule tabulate_uncertainty:
    input:
        run_files("results/finetune/{dataset}/{model}/predictions.csv", WHOLE),
    output:
        csv=report(
            "results/tables/uncertainty.csv",
            caption="../report/uncertainty_table.rst",
            category="Tables",
        ),
        md="results/tables/uncertainty.md",
    log:
        "logs/statistics/uncertainty.log",
    conda:
        "../../envs/analysis.yaml"
    params:
        labels=LABELS,
        units=UNITS,
        code=fingerprint("tabulate_uncertainty"),
    script:
        "../scripts/tabulate_uncertainty.py"


rule probe_encoder:
    input:
        record="results/pretrain/{pretraining}/encoder.json",
        weights="results/pretrain/{pretraining}/encoder.safetensors",
        epochs="results/pretrain/{pretraining}/epochs",
        table="results/data/{dataset}/table.csv",
        compositions="results/data/{dataset}/compositions.npz",
    output:
        "results/probes/{dataset}/{pretraining}.csv",
    log:
        "logs/probes/{dataset}/{pretraining}.log",
    wildcard_constraints:
        pretraining=names_or_none(OF_FORMULAS),
    conda:
        "../../envs/torch.yaml"
    resources:
        mem_mb=grown(8000),
        runtime=grown(120),
    params:
        code=lambda w: fingerprint("probe_encoder", strategy(w)["encoder"]),
    script:
        "../scripts/probe_encoder.py"


rule probe_untrained:
    input:
        unpack(lambda w: element_file(strategy(w))),
        table="results/data/{dataset}/table.csv",
        compositions="results/data/{dataset}/compositions.npz",
    output:
        "results/probes/{dataset}/untrained/{pretraining}.csv",
    log:
        "logs/probes/{dataset}/untrained/{pretraining}.log",
    wildcard_constraints:
        pretraining=names_or_none(OF_FORMULAS),
    conda:
        "../../envs/torch.yaml"
    resources:
        mem_mb=grown(8000),
        runtime=grown(120),
    params:
        encoder=lambda w: strategy(w)["encoder"],
        arguments=lambda w: strategy(w).get("arguments", {}),
        code=lambda w: fingerprint("probe_untrained", strategy(w)["encoder"]),
    script:
        "../scripts/probe_untrained.py"


rule tabulate_probes:
    input:
        probes=lambda w: [f"results/probes/{d}/{p}.csv" for d, p in probed()],
        untrained=lambda w: [
            f"results/probes/{d}/untrained/{networks.first_alike(config, STRATEGIES, p)}.csv"
            for d, p in probed()
        ],
    output:
        csv=report(
            "results/tables/probes.csv",
            caption="../report/probes.rst",
            category="Tables",
        ),
        md="results/tables/probes.md",
    log:
        "logs/statistics/probes.log",
    conda:
        "../../envs/analysis.yaml"
    params:
        labels=LABELS,
        units=UNITS,
        code=fingerprint("tabulate_probes"),
    script:
        "../scripts/tabulate_probes.py"


rule record_matbench:
    input:
        tables=lambda w: [f"results/data/{d}/table.csv" for d in recorded(w)],
        predictions=lambda w: [
            f"results/finetune/{d}/{w.model}/predictions.csv" for d in recorded(w)
        ],
    output:
        "results/matbench/{model}.json.gz",
    log:
        "logs/statistics/matbench_{model}.log",
    conda:
        "../../envs/matbench.yaml"
    params:
        tasks=lambda w: list(map(task_of, recorded_tasks(w.model))),
        metadata=lambda w: {
            "algorithm": label(w.model),
            "software": "matpretrain",
            "seeds": {
                task_of(d): seeds_of(d, w.model) for d in recorded_tasks(w.model)
            },
            "recipe": {
                task_of(d): recipe_of(d, w.model)
                for d in recorded_tasks(w.model)
                if w.model in NETWORKS
            },
        },
        code=fingerprint("record_matbench"),
    script:
        "../scripts/record_matbench.py"


rule tables:
    input:
        rules.score_models.output,
        rules.compare_models.output,
        (
            rules.compare_published.output
            if any(map(matbench_tasks, SUBMISSIONS))
            else []
        ),
        expand(
            "results/tables/huang2024_table{number}.{suffix}",
            number=TABLES,
            suffix=["csv", "md"],
        ),
        rules.tabulate_tests.output if COMPARED else [],
        rules.tabulate_uncertainty.output if runs(WHOLE) else [],
        rules.tabulate_probes.output if STRATEGIES and PROBED else [],


rule matbench:
    input:
        [f"results/matbench/{m}.json.gz" for m in MODELS if recorded_tasks(m)],
