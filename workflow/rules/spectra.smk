"""Dielectric functions and the search for materials whose permittivity is near zero (ENZ).

Needs: embedded optical constants or a CSV of the user; results/finetune
Makes: results/data/{dataset}/table.csv, compositions.npz and spectra.npz; results/enz/{dataset}/{model}/scores.csv,
screening.csv and candidates.csv; results/figures/enz/{dataset}/{model}.png
"""


rule prepare_spectra:
    input:
        unpack(raw_file),
    output:
        table=update("results/data/{dataset}/table.csv"),
        compositions=update("results/data/{dataset}/compositions.npz"),
        spectra=update("results/data/{dataset}/spectra.npz"),
    log:
        "logs/data/{dataset}/prepare.log",
    wildcard_constraints:
        dataset=names_or_none(SPECTRAL),
    conda:
        "../../envs/data.yaml"
    resources:
        mem_mb=grown(16000),
        runtime=grown(60),
    params:
        entry=lambda w: data_keys(w.dataset),
        files=lambda w: listing(config["datasets"][w.dataset].get("csv")),
        unknown_elements=lambda w: unknown_elements(config["datasets"][w.dataset]),
        code=fingerprint("prepare_spectra"),
    script:
        "../scripts/prepare_spectra.py"


rule screen_enz:
    input:
        predictions="results/finetune/{dataset}/{model}/predictions.csv",
        table="results/data/{dataset}/table.csv",
    output:
        scores=report(
            "results/enz/{dataset}/{model}/scores.csv",
            caption="../report/enz_scores.rst",
            category="Near-zero permittivity",
            labels={"dataset": "{dataset}", "model": "{model}", "content": "scores"},
        ),
        screening="results/enz/{dataset}/{model}/screening.csv",
        candidates=report(
            "results/enz/{dataset}/{model}/candidates.csv",
            caption="../report/enz_candidates.rst",
            category="Near-zero permittivity",
            labels={
                "dataset": "{dataset}",
                "model": "{model}",
                "content": "candidates",
            },
        ),
    log:
        "logs/enz/{dataset}/{model}/screen.log",
    wildcard_constraints:
        dataset=names_or_none(SPECTRAL),
    conda:
        "../../envs/analysis.yaml"
    params:
        largest_loss=config["enz"]["largest_loss"],
        code=fingerprint("screen_enz"),
    script:
        "../scripts/screen_enz.py"


rule plot_enz:
    input:
        predictions=rules.screen_enz.input.predictions,
        candidates=rules.screen_enz.output.candidates,
    output:
        report(
            "results/figures/enz/{dataset}/{model}.png",
            caption="../report/enz.rst",
            category="Near-zero permittivity",
            labels={"dataset": "{dataset}", "model": "{model}", "content": "figure"},
        ),
    log:
        "logs/figures/enz_{dataset}_{model}.log",
    wildcard_constraints:
        dataset=names_or_none(SPECTRAL),
    conda:
        "../../envs/analysis.yaml"
    params:
        largest_loss=config["enz"]["largest_loss"],
        title=lambda w: f"{label(w.model)}, {label(w.dataset)}",
        code=fingerprint("plot_enz"),
    script:
        "../scripts/plot_enz.py"


rule enz:
    input:
        expand(
            rules.plot_enz.output[0],
            dataset=config["enz"]["datasets"],
            model=config["enz"]["models"],
        ),
