"""Predictions for new formulas by all seeds of a network or a baseline.

Needs: what is kept in results/finetune/{dataset}/{model}/seed*, a CSV of formulas
Makes: results/predict/{prediction}.csv
"""


rule predict_formulas:
    input:
        csv=lambda w: config["predict"][w.prediction]["csv"],
        kept=prediction_files,
    output:
        update("results/predict/{prediction}.csv"),
    log:
        "logs/predict/{prediction}.log",
    conda:
        "../../envs/predict.yaml"
    threads: 8
    resources:
        mem_mb=grown(16000),
        runtime=grown(720),
    params:
        formula=lambda w: config["predict"][w.prediction].get("formula", "formula"),
        files=lambda w: listing(config["predict"][w.prediction]["csv"]),
        unknown_elements=config["unknown_elements"],
        code=lambda w: fingerprint(
            "predict_formulas",
            config["models"][config["predict"][w.prediction]["model"]].get(
                "encoder", "baselines"
            ),
        ),
    script:
        "../scripts/predict_formulas.py"
