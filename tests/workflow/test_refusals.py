"""What a user's mistakes end with: one line, exit status 1, earlier results as they were."""

import gzip

import numpy as np
import pytest
from runs import FAST, NEW, error_line, write_config, write_csv_of_60

from matpretrain.files import DataError

FAULTS = "The workflow"


@pytest.mark.parametrize(
    ("what", "edit", "words"),
    [
        (
            "A table that now has a dummy species",
            lambda t: t.assign(formula=["Xx2", *t["formula"][1:]]),
            ["mine.csv", "line 2", "Xx", "correct or remove"],
        ),
        (
            "A table that now has an infinite target",
            lambda t: t.assign(energy=[np.inf, *t["energy"][1:]]),
            ["mine.csv", "line 2", "finite"],
        ),
        ("A table that now has one id for all", lambda t: t.assign(id="same"), ["mine.csv", "line 3", "id same", "unique"]),
        (
            "A table that now lacks the target",
            lambda t: t.rename(columns={"energy": "value"}),
            ["mine.csv", "'energy'", "registry"],
        ),
        ("A table that now has no rows", lambda t: t.head(0), ["mine.csv", "no rows"]),
        (
            "A table that now has an unknown element",
            lambda t: t.assign(formula=["Og", *t["formula"][1:]]),
            ["mine.csv", "line 2", "Og", "unknown_elements: drop"],
        ),
        ("A table that now has four rows", lambda t: t.head(4), ["mine.csv", "4 rows", "5 folds", "n_folds"]),
    ],
)
def test_bad_rows_end_with_one_line_and_leave_earlier_results(checkout, fault, what, edit, words):
    table = "results/data/mine/table.csv"
    write_csv_of_60(checkout.folder)
    arguments = write_config(checkout.folder)
    assert checkout.snakemake(*arguments, "--", table).returncode == 0
    write_csv_of_60(checkout.folder, edit)
    with fault(what, *words, kept=[checkout.folder / "results/data/mine"]):
        checkout.make(*arguments, "--", table)


def test_a_job_that_failed_is_tried_again_although_the_earlier_result_stands(checkout):
    table = "results/data/mine/table.csv"
    write_csv_of_60(checkout.folder)
    arguments = write_config(checkout.folder)
    checkout.make(*arguments, "--", table)
    earlier = (checkout.folder / table).read_bytes()
    write_csv_of_60(checkout.folder, lambda t: t.assign(formula=["Xx2", *t["formula"][1:]]))  # another input
    for _ in range(2):
        with pytest.raises(DataError, match="Xx"):
            checkout.make(*arguments, "--", table)
    write_csv_of_60(checkout.folder)
    write_config(checkout.folder, datasets={"mine": {"csv": "mine.csv", "target": "absent", "unit": "eV"}})  # other settings
    for _ in range(2):
        with pytest.raises(DataError, match="absent"):
            checkout.make(*arguments, "--", table)
    assert (checkout.folder / table).read_bytes() == earlier
    write_config(checkout.folder)
    assert checkout.planned(*arguments, "--", table) == ["prepare_dataset"]
    checkout.make(*arguments, "--", table)
    assert (checkout.folder / table).read_bytes() == earlier
    assert checkout.planned(*arguments, "--", table) == []


def test_what_is_missing_is_told_in_one_line_although_earlier_results_are_there(checkout):
    write_csv_of_60(checkout.folder)
    benchmark = {"datasets": ["mine"], "models": ["dummy"], "probes": []}
    arguments = write_config(checkout.folder, benchmark=benchmark)
    checkout.make(*arguments, "--", "tables")
    scores = (checkout.folder / "results/scores.csv").read_bytes()
    write_config(checkout.folder, benchmark=benchmark | {"datasets": ["mine", "mp2021_gap"]})
    for target, *dry in (("tables", "-n"), ("tables",), ("results/scores.csv",)):
        done = checkout.snakemake("--quiet", "all", *arguments, *dry, "--", target)
        assert done.returncode == 1
        assert done.text.strip().splitlines()[-1].startswith("config key datasets.mp2021_gap: fetch it by hand")
        assert not any(word in done.text for word in ("Error", "Exception", "Traceback")), done.text
    assert (checkout.folder / "results/scores.csv").read_bytes() == scores
    write_config(checkout.folder, benchmark=benchmark)
    assert checkout.planned(*arguments, "--", "tables") == []  # no lock is left


def test_another_folder_is_refused_before_anything_is_read(checkout, tmp_path_factory):
    done = checkout.snakemake("-n", "--directory", str(tmp_path_factory.mktemp("elsewhere")))
    assert done.returncode == 1
    assert done.text.splitlines()[-1].startswith(f"start Snakemake in the folder of the project ({checkout.folder})")


@pytest.mark.parametrize(
    ("what", "changes", "words"),
    [
        ("A key that does not exist", {"recipe": {"epoch": 3}}, ["recipe", "'epoch'"]),
        ("A word instead of a number", {"recipe": {"epochs": "many"}}, ["recipe.epochs", "'many'", "integer"]),
        ("A whole number with a decimal point", {"recipe": {"epochs": 1.0}}, ["recipe.epochs", "1.0", "integer"]),
        ("A key in the wrong place", {"learning_rate": 1}, ["(top level)", "'learning_rate'"]),
        ("A model that is not registered", {"benchmark": {"models": ["rost"]}}, ["benchmark.models", "'rost'", "roost"]),
        (
            "A CSV of the registry that is not there",
            {"datasets": {"mine": {"csv": "absent.csv", "target": "x", "unit": "eV"}}},
            ["datasets.mine.csv", "absent.csv"],
        ),
        ("A dataset without its target", {"datasets": {"mine": {"csv": "mine.csv", "unit": "eV"}}}, ["mine", "'target'"]),
        (
            "A run left out that is not part of the benchmark",
            {"benchmark": {"exclude": {"mine": ["roost"]}}},
            ["benchmark.exclude.mine", "roost", "not part"],
        ),
        ("A mirror that is not there", {"mirror": "nowhere"}, ["mirror", "nowhere", "no such folder"]),
        ("A number that YAML reads as text", {"recipe": {"learning_rate": "1e-3"}}, ["learning_rate", "write 1.0e-3"]),
        (
            "A dataset without a source",
            {"datasets": {"mine": {"target": "x", "unit": "eV"}}},
            ["datasets.mine", "exactly one of matbench or matminer or csv or embedded or by_hand"],
        ),
        (
            "A dataset that must be fetched by hand",
            {"benchmark": {"datasets": ["mp2021_n"]}},
            ["datasets.mp2021_n", "by hand", "figshare", "csv: PATH"],
        ),
        (
            "Folds for a folder that has its own split",
            {"datasets": {"mine": {"csv": ".", "target": "x", "unit": "eV", "n_folds": 3}}},
            ["datasets.mine.n_folds", "own split"],
        ),
        (
            "A network without its module",
            {"models": {"net": {"encoder": "net", "label": "Net"}}},
            ["models.net.encoder", "net.py"],
        ),
        ("A device that does not exist", {"device": "gpu"}, ["device", "'gpu'"]),
        (
            "A corpus that is not registered",
            {"pretraining": {"ssl": {"corpus": "absent"}}},
            ["pretraining.ssl.corpus", "'absent'", "registry of corpora"],
        ),
        (
            "A name that is misspelt where matminer is asked",
            {
                "datasets": {"mine": {"matminer": "dielectric_constants", "target": "n", "unit": "unitless"}},
                "benchmark": {"datasets": ["mine"]},
            },
            ["datasets.mine.matminer", "'dielectric_constants'", "the nearest are dielectric_constant,"],
        ),
        ("A pretext task that does not exist", {"pretraining": {"ssl": {"tasks": {"puzzle": {}}}}}, ["ssl.tasks", "'puzzle'"]),
        (
            "A corpus with the name of a dataset",
            {"corpora": {"mine": {"kind": "union", "of": ["oqmd"]}}},
            ["corpora.mine", "dataset of that name"],
        ),
        (
            "A union with a corpus that is not registered",
            {"corpora": {"ours": {"kind": "union", "of": ["nothing"]}}},
            ["corpora.ours.of", "'nothing'"],
        ),
        (
            "A strategy that is not registered",
            {"models": {"roost-ssl": {"pretraining": "absent"}}},
            ["models.roost-ssl.pretraining", "'absent'"],
        ),
        (
            "A corpus that only a mirror has, without a mirror",
            {"pretraining": {"ssl": {"corpus": "oqmd"}}},
            ["corpora.oqmd", "csv: PATH", "ssl.corpus: mp_transport", "needed by roost-ssl, pretrained by ssl on oqmd"],
        ),
        (
            "A baseline beside a network of structures",
            {"modes": {"models": ["finder", "rf-magpie"]}},
            ["modes.models", "rf-magpie", "baseline"],
        ),
        (
            "Two modes on a dataset of formulas",
            {"modes": {"datasets": ["mine"]}},
            ["modes", "finder-structure reads structures, which mine has none of"],
        ),
        (
            "Formulas to predict that are not there",
            {"predict": {"new": NEW | {"csv": "absent.csv"}}},
            ["predict.new.csv", "absent.csv", "no such file"],
        ),
        (
            "A prediction from a dataset that is not registered",
            {"predict": {"new": NEW | {"dataset": "yours"}}},
            ["predict.new.dataset", "'yours'", "registry of datasets"],
        ),
        (
            "A prediction by a model that is not registered",
            {"predict": {"new": NEW | {"model": "rost"}}},
            ["predict.new.model", "'rost'", "roost"],
        ),
        (
            "A prediction by a baseline on a frozen encoder",
            {"predict": {"new": NEW | {"model": "rf-roost-ssl"}}},
            ["predict.new.model", "rf-roost-ssl", "frozen encoder", "magpie, onehot or none"],
        ),
        ("A key that predictions do not have", {"predict": {"new": NEW | {"id": "key"}}}, ["predict.new", "'id'"]),
        (
            "A prediction without its dataset",
            {"predict": {"new": {"csv": "mine.csv", "model": "roost"}}},
            ["predict.new", "'dataset'"],
        ),
        ("A map of a strategy that is not registered", {"maps": {"pretraining": ["sll"]}}, ["maps.pretraining", "'sll'"]),
        ("A subset of more than all rows", {"subsets": {"huang2024": {"sizes": ["110%"]}}}, ["huang2024.sizes", "110%"]),
        (
            "A reference that is not registered",
            {"subsets": {"huang2024": {"reference": "rost"}}},
            ["subsets.huang2024.models", "'rost'"],
        ),
        (
            "A network of structures in a benchmark of formulas",
            {"benchmark": {"models": ["megnet"]}},
            ["benchmark", "megnet reads structures, which matbench_steels has none of"],
        ),
    ],
)
def test_bad_configuration_names_the_key(checkout, fault, what, changes, words):
    write_csv_of_60(checkout.folder)
    with fault(what, *words):
        checkout.make(*write_config(checkout.folder, **changes), "-n")


def test_a_wrong_hash_and_an_absent_gpu_are_refused(checkout, fault, monkeypatch):
    write_csv_of_60(checkout.folder)
    entry = {"csv": "mine.csv", "target": "energy", "unit": "eV/atom", "sha256": "0" * 64}
    arguments = write_config(checkout.folder, datasets={"mine": entry})
    with fault("A CSV with another hash than the registry gives", "mine.csv: sha256"):
        checkout.make(*arguments, "--", "results/data/mine/table.csv")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    arguments = write_config(checkout.folder, device="cuda")
    with fault("A training with device: cuda where there is none", "device: cuda was asked for, but CUDA_VISIBLE_DEVICES"):
        checkout.make(*arguments, "--", "results/finetune/mine/roost/seed0/predictions.csv")


def test_an_output_that_cannot_be_written_is_named(checkout, fault):
    write_csv_of_60(checkout.folder)
    blocked = checkout.folder / "results/data/mine"
    blocked.mkdir(parents=True)
    (blocked / "compositions.npz").mkdir()
    (blocked / "compositions.npz" / "in_the_way").touch()
    with fault("An output that something is in the way of", "compositions.npz: cannot be written", kept=[blocked]):
        checkout.make(*write_config(checkout.folder), "--", "results/data/mine/table.csv")
    assert not list(blocked.glob("*.tmp*"))


def test_a_mirror_without_a_file_or_with_another_one_is_refused(checkout, fault):
    tables = checkout.folder / "mirror/tables"
    tables.mkdir(parents=True)
    missing = "mirror/corpora/oqmd.csv.gz: no loader offers this file"
    with fault("A mirror without a file that no loader offers", "config key mirror", missing, "put it there"):
        checkout.make("-n", "--config", "mirror=mirror", "--", "results/data/oqmd/compositions.npz")
    others = "missing there too: corpora/mp_non_metals.csv.gz, teachers/hmof_sample.npz"
    with fault("A mirror without the files of a union", missing, others):
        checkout.make("-n", "--config", "mirror=mirror", "--", "results/finetune/exp_formation_energy/roost-fl/predictions.csv")
    (tables / "matbench_steels.csv.gz").write_bytes(gzip.compress(b"id,formula,target\nmb-steels-001,Fe,1\n", mtime=0))
    with fault("A mirror with another version of a table", "matbench_steels.csv.gz: sha256", "fetch it again"):
        checkout.make("--config", "mirror=mirror", "--", "results/data/matbench_steels/table.csv")


def test_a_damaged_mirror_is_refused(mirror, checkout):
    copy = checkout.folder / "mirror/tables"
    copy.mkdir(parents=True)
    text = gzip.decompress((mirror / "tables/matbench_steels.csv.gz").read_bytes()).replace(b"2411.5", b"2412.5")
    (copy / "matbench_steels.csv.gz").write_bytes(gzip.compress(text))
    done = checkout.snakemake("--config", "mirror=mirror", "--", "results/data/matbench_steels/table.csv")
    assert done.returncode == 1 and "matbench_steels.csv.gz: sha256" in error_line(done)


def test_a_pretraining_that_diverges_leaves_the_earlier_encoder(checkout, fault):
    write_csv_of_60(checkout.folder)
    arguments = write_config(checkout.folder)
    target = "results/pretrain/ssl/encoder.safetensors"
    checkout.make(*arguments, "--", target)
    write_config(checkout.folder, pretraining_recipe={**FAST, "batch_size": 16, "learning_rate": 1e30})
    kept = [checkout.folder / target, (checkout.folder / target).with_name("history.csv")]
    with fault("A pretraining that diverges", "lower learning_rate", kept=kept):
        checkout.make(*arguments, "--", target)
    write_config(checkout.folder)
    assert "pretrain" in checkout.planned(*arguments, "--", target)


def test_an_encoder_of_another_shape_is_refused_and_earlier_results_stay(checkout, fault):
    write_csv_of_60(checkout.folder)
    arguments = write_config(checkout.folder)
    target = "results/finetune/mine/roost-ssl/seed0/predictions.csv"
    assert checkout.snakemake(*arguments, "--", target).returncode == 0
    weights = checkout.folder / "results/pretrain/ssl/encoder.safetensors"
    onehot = {"ssl": {"corpus": "ours", "elements": "onehot"}}
    other = write_config(checkout.folder, pretraining=onehot)
    assert checkout.snakemake(*other, "--", "results/pretrain/ssl/encoder.safetensors").returncode == 0
    write_config(checkout.folder)
    weights.touch()
    with fault(
        "An encoder pretrained with other arguments",
        "encoder.safetensors: has another shape of",
        kept=[(checkout.folder / target).parent],
    ):
        checkout.make(*arguments, "--rerun-triggers", "mtime", "--", target)


def test_a_strategy_without_tasks_has_no_curves_of_its_pretraining(checkout):
    done = checkout.snakemake("-n", "--", "results/figures/pretraining/untrained.png")
    assert done.returncode == 1 and "there is no such file for untrained" in done.text and "Traceback" not in done.text
