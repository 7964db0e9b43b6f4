"""matpretrain: what is pretraining worth for predicting materials properties?

Table of contents, in order of execution. Targets: all (default), tables, figures, matbench, maps, subsets, crystals,
modes, enz, reproduction.
"""

from snakemake.utils import min_version

min_version("9.0")


include: "workflow/rules/start.smk"


configfile: "config/config.yaml"
configfile: "config/datasets.yaml"
configfile: "config/models.yaml"
configfile: "config/pretraining.yaml"


report: "workflow/report/workflow.rst"


include: "workflow/rules/common.smk"
include: "workflow/rules/common_sources.smk"
include: "workflow/rules/common_structures.smk"
include: "workflow/rules/common_benchmark.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/features.smk"
include: "workflow/rules/structures.smk"
include: "workflow/rules/pretrain.smk"
include: "workflow/rules/finetune.smk"
include: "workflow/rules/predict.smk"
include: "workflow/rules/statistics.smk"
include: "workflow/rules/figures.smk"
include: "workflow/rules/maps.smk"
include: "workflow/rules/subsets.smk"
include: "workflow/rules/spectra.smk"
include: "workflow/rules/reproduction.smk"


rule all:
    default_target: True
    input:
        rules.tables.input,
        rules.figures.input,
        rules.matbench.input,


include: "workflow/rules/targets.smk"
