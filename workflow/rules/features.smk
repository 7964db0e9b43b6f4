"""Fixed features of compositions.

Needs: results/data/{dataset}/compositions.npz
Makes: results/features/{dataset}/magpie.npy
"""


rule featurize_magpie:
    input:
        compositions=rules.prepare_dataset.output.compositions,
    output:
        features="results/features/{dataset}/magpie.npy",
    log:
        "logs/features/{dataset}/magpie.log",
    conda:
        "../../envs/data.yaml"
    resources:
        mem_mb=4000,
        runtime=30,
    params:
        code=fingerprint("featurize_magpie"),
    script:
        "../scripts/featurize_magpie.py"
