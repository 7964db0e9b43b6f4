"""Fixed features of compositions.

Needs: results/data/{table}/compositions.npz, of a dataset or a corpus
Makes: results/features/{table}/magpie.npy
"""


rule featurize_magpie:
    input:
        compositions="results/data/{table}/compositions.npz",
    output:
        features="results/features/{table}/magpie.npy",
    log:
        "logs/features/{table}/magpie.log",
    conda:
        "../../envs/data.yaml"
    resources:
        mem_mb=grown(4000),
        runtime=grown(30),
    params:
        code=fingerprint("featurize_magpie"),
    script:
        "../scripts/featurize_magpie.py"
