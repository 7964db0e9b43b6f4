"""Targets that cannot be made: the line names the part, the key or who needs what is missing."""

import pytest
import yaml
from runs import error_line, write_config, write_csv_of_60

FAULTS = "The workflow: targets"


@pytest.mark.parametrize(
    ("what", "target", "words"),
    [
        (
            "A target with a network of structures and a dataset of formulas",
            "results/finetune/exp_formation_energy/megnet/predictions.csv",
            ["datasets.exp_formation_energy", "no structures", "name a network of formulas"],
        ),
        (
            "A target with a network of structures and spectra",
            "results/finetune/optical_constants/finder-structure/predictions.csv",
            ["datasets.optical_constants", "no structures"],
        ),
        (
            "A target with a baseline and spectra",
            "results/finetune/optical_constants/dummy/predictions.csv",
            ["models.dummy", "baseline", "optical_constants holds spectra; name a network"],
        ),
        (
            "The compositions of structures without a teacher, as a target",
            "results/data/aflow_prototypes/compositions.npz",
            ["corpora.aflow_prototypes", "teacher: PATH", "add it"],
        ),
        (
            "A model that is misspelt in a target",
            "results/finetune/exp_formation_energy/rost/predictions.csv",
            ["'rost'", "registry of models", "roost"],
        ),
        (
            "A dataset that is misspelt in a target",
            "results/finetune/steels/roost/predictions.csv",
            ["'steels'", "registry of datasets", "matbench_steels"],
        ),
        (
            "A strategy that is misspelt in a target",
            "results/pretrain/fll/encoder.safetensors",
            ["'fll'", "registry of pretraining", "fl,"],
        ),
        (
            "A prediction without an entry, as a target",
            "results/predict/candidates.csv",
            ["'candidates'", "registry of predict; add it"],
        ),
        (
            "A size that is misspelt in a target",
            "results/finetune/matbench_steels@20%/roost/predictions.csv",
            ["'@20%' is no size", "@20pct"],
        ),
        (
            "A file that is not made of a dataset, as a target",
            "results/enz/matbench_steels/roost/scores.csv",
            ["no such file for matbench_steels", "optical_constants"],
        ),
        ("A named target that is misspelt", "table", ["target table", "tables"]),
        (
            "A suffix that is misspelt in a target",
            "results/finetune/matbench_steels/roost/predictions.cvs",
            ["no rule makes such a file", "/predictions.csv"],
        ),
    ],
)
def test_targets_that_cannot_be_made_name_the_key(checkout, fault, what, target, words):
    with fault(what, *words):
        checkout.make("-n", "--", target)


def test_who_else_needs_a_corpus_is_named_where_networks_train_together(checkout, fault):
    words = ["corpora.oqmd", "csv: PATH", "needed by roost-ssl, pretrained by ssl on huang2024"]
    with fault("A network that trains together with pretrained ones, without a mirror", *words):
        checkout.make("-n", "--config", "cohort=all", "--", "results/finetune/matbench_steels/roost/seed0/predictions.csv")


@pytest.mark.parametrize(
    ("target", "names"),
    [
        ("results/predict/new.csv", "ssl.corpus: mp_transport, which needs no file; needed by roost-ssl,"),
        ("results/figures/subsets/mine.png", "ssl-fl.corpus: mp_transport, which needs no file; needed by roost-ssl-fl,"),
    ],
)
def test_who_needs_a_corpus_is_read_off_predictions_and_studies(checkout, target, names):
    write_csv_of_60(checkout.folder)
    study = {"datasets": ["mine"], "sizes": [30], "models": ["roost", "roost-ssl-fl"], "reference": "roost"}
    changes = {
        "benchmark": {"datasets": ["mine"], "models": ["roost", "roost-fl"], "probes": []},
        "models": {"roost-ssl-fl": {"encoder": "roost", "pretraining": "ssl-fl", "label": "both"}},
        "predict": {"new": {"csv": "mine.csv", "dataset": "mine", "model": "roost-ssl"}},
        "subsets": {"mine": study},
    }
    done = checkout.snakemake("-n", *write_config(checkout.folder, pretraining={}, **changes), "--", target)
    assert done.returncode == 1 and names in error_line(done)


def test_structures_in_a_mirror_need_a_name(checkout, fault):
    (checkout.folder / "mirror/tables").mkdir(parents=True)
    (checkout.folder / "mirror/tables/x.csv.gz").touch()
    entry = {"by_hand": "a shelf", "structures": True, "mirror_file": "tables/x.csv.gz", "target": "t", "unit": "eV"}
    (checkout.folder / "my.yaml").write_text(yaml.safe_dump({"mirror": "mirror", "datasets": {"x": entry}}))
    with fault("Structures in a mirror that no key names", "datasets.x: no mirror_structures names the file", "add it"):
        checkout.make("--configfile", "my.yaml", "-n", "--", "results/finetune/x/megnet/predictions.csv")


def test_a_model_that_is_excluded_is_not_to_be_added(checkout, fault):
    write_csv_of_60(checkout.folder)
    benchmark = {"datasets": ["mine"], "models": ["roost", "dummy"], "exclude": {"mine": ["roost"]}, "probes": []}
    words = ["benchmark.exclude.mine: this figure shows networks", "none runs on mine; leave out less"]
    with fault("Learning curves of networks that are left out, as a target", *words):
        target = "results/figures/learning_curves/mine.png"
        checkout.make(*write_config(checkout.folder, benchmark=benchmark), "-n", "--", target)


@pytest.mark.parametrize(
    ("what", "target", "words"),
    [
        (
            "Learning curves of spectra, as a target",
            "results/figures/learning_curves/optical_constants.png",
            ["no such file for optical_constants"],
        ),
        (
            "Learning curves of a dataset outside the benchmark, as a target",
            "results/figures/learning_curves/matbench_steels.png",
            ["benchmark.datasets: matbench_steels is not among them", "add it there"],
        ),
        (
            "Learning curves without a network, as a target",
            "results/figures/learning_curves/mine.png",
            ["benchmark.models: this figure shows networks", "none runs on mine; add one"],
        ),
        (
            "Errors of a dataset outside the benchmark, as a target",
            "results/figures/cumulative/mp_seebeck_p.png",
            ["benchmark.datasets: mp_seebeck_p is not among them"],
        ),
        (
            "Probes of no dataset, as a target",
            "results/tables/probes.csv",
            ["benchmark.probes: none of its datasets is in benchmark.datasets"],
        ),
        (
            "A record of no Matbench task, as a target",
            "results/matbench/dummy.json.gz",
            ["benchmark.datasets: dummy runs on none", "a Matbench task; add one"],
        ),
        (
            "Formulas for an encoder of crystals, as a target",
            "results/features/mine/cdssl-aflow.npy",
            ["no such file for cdssl-aflow, but for ssl-fl"],
        ),
        (
            "A probe of an encoder of crystals on formulas, as a target",
            "results/probes/mine/cdssl-aflow.csv",
            ["no such file for cdssl-aflow, but for ssl-fl"],
        ),
    ],
)
def test_targets_that_the_benchmark_has_nothing_for_name_the_key(checkout, fault, what, target, words):
    write_csv_of_60(checkout.folder)
    benchmark = {"datasets": ["mine"], "models": ["rf-magpie", "dummy"], "probes": []}
    with fault(what, *words):
        checkout.make(*write_config(checkout.folder, benchmark=benchmark), "-n", "--", target)
