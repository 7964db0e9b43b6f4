"""What a user's mistakes end with: one line, exit status 1, earlier results as they were."""

import gzip

import numpy as np
import pytest
from runs import NEW, error_line, write_config, write_csv_of_60


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda t: t.assign(formula=["Xx2", *t["formula"][1:]]), ["mine.csv", "line 2", "Xx", "correct or remove"]),
        (lambda t: t.assign(energy=[np.inf, *t["energy"][1:]]), ["mine.csv", "line 2", "finite"]),
        (lambda t: t.assign(id="same"), ["mine.csv", "line 3", "id same", "unique"]),
        (lambda t: t.rename(columns={"energy": "value"}), ["mine.csv", "'energy'", "registry"]),
        (lambda t: t.head(0), ["mine.csv", "no rows"]),
        (lambda t: t.assign(formula=["Og", *t["formula"][1:]]), ["mine.csv", "line 2", "Og", "unknown_elements: drop"]),
        (lambda t: t.head(4), ["mine.csv", "4 rows", "5 folds", "n_folds"]),
    ],
)
def test_bad_rows_end_with_one_line_and_leave_earlier_results(checkout, edit, words):
    table = "results/data/mine/table.csv"
    write_csv_of_60(checkout.folder)
    arguments = write_config(checkout.folder)
    assert checkout.snakemake(*arguments, "--", table).returncode == 0
    files = sorted((checkout.folder / "results/data/mine").iterdir())
    earlier = [path.read_bytes() for path in files]
    write_csv_of_60(checkout.folder, edit)
    done = checkout.snakemake(*arguments, "--", table)
    assert done.returncode == 1
    line = error_line(done)
    assert all(word in line for word in words), line
    assert "Traceback" not in done.text
    assert sorted((checkout.folder / "results/data/mine").iterdir()) == files
    assert [path.read_bytes() for path in files] == earlier


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"recipe": {"epoch": 3}}, ["recipe", "'epoch'"]),
        ({"recipe": {"epochs": "many"}}, ["recipe.epochs", "'many'", "integer"]),
        ({"learning_rate": 1}, ["(top level)", "'learning_rate'"]),
        ({"benchmark": {"models": ["rost"]}}, ["benchmark.models", "'rost'", "roost"]),
        ({"datasets": {"mine": {"csv": "absent.csv", "target": "x", "unit": "eV"}}}, ["datasets.mine.csv", "absent.csv"]),
        ({"datasets": {"mine": {"csv": "mine.csv", "unit": "eV"}}}, ["datasets.mine", "'target'"]),
        ({"benchmark": {"exclude": {"mine": ["roost"]}}}, ["benchmark.exclude.mine", "roost", "not part"]),
        ({"mirror": "nowhere"}, ["mirror", "nowhere", "no such folder"]),
        ({"recipe": {"learning_rate": "1e-3"}}, ["recipe.learning_rate", "write 1.0e-3"]),
        (
            {"datasets": {"mine": {"target": "x", "unit": "eV"}}},
            ["datasets.mine", "exactly one of matbench or matminer or csv or embedded"],
        ),
        ({"models": {"net": {"encoder": "net", "label": "Net"}}}, ["models.net.encoder", "net.py"]),
        ({"device": "gpu"}, ["device", "'gpu'"]),
        ({"pretraining": {"ssl": {"corpus": "absent"}}}, ["pretraining.ssl.corpus", "'absent'", "huang2024"]),
        ({"pretraining": {"ssl": {"tasks": {"puzzle": {}}}}}, ["pretraining.ssl.tasks", "'puzzle'"]),
        ({"corpora": {"mine": {"kind": "union", "of": ["oqmd"]}}}, ["corpora.mine", "dataset of that name"]),
        ({"corpora": {"ours": {"kind": "union", "of": ["nothing"]}}}, ["corpora.ours.of", "'nothing'"]),
        ({"models": {"roost-ssl": {"pretraining": "absent"}}}, ["models.roost-ssl.pretraining", "'absent'"]),
        ({"pretraining": {"ssl": {"corpus": "oqmd"}}}, ["corpora.oqmd", "cannot be downloaded", "csv: PATH"]),
        ({"predict": {"new": NEW | {"csv": "absent.csv"}}}, ["predict.new.csv", "absent.csv", "no such file"]),
        ({"predict": {"new": NEW | {"dataset": "yours"}}}, ["predict.new.dataset", "'yours'", "mine"]),
        ({"predict": {"new": NEW | {"model": "rost"}}}, ["predict.new.model", "'rost'", "roost"]),
        ({"predict": {"new": NEW | {"model": "rf-magpie"}}}, ["predict.new.model", "rf-magpie", "baseline"]),
        ({"predict": {"new": NEW | {"id": "key"}}}, ["predict.new", "'id'"]),
        ({"predict": {"new": {"csv": "mine.csv", "model": "roost"}}}, ["predict.new", "'dataset'"]),
        ({"maps": {"pretraining": ["sll"]}}, ["maps.pretraining", "'sll'", "untrained"]),
        ({"subsets": {"huang2024": {"sizes": ["110%"]}}}, ["subsets.huang2024.sizes", "110%"]),
        ({"subsets": {"huang2024": {"reference": "rost"}}}, ["subsets.huang2024.models", "'rost'"]),
        ({"benchmark": {"models": ["megnet"]}}, ["benchmark", "megnet reads structures, which matbench_steels has none of"]),
    ],
)
def test_bad_configuration_names_the_key(checkout, changes, words):
    write_csv_of_60(checkout.folder)
    done = checkout.snakemake(*write_config(checkout.folder, **changes), "-n")
    assert done.returncode == 1
    line = error_line(done)
    assert all(word in line for word in words), line


def test_a_wrong_hash_and_an_absent_gpu_are_refused(checkout):
    write_csv_of_60(checkout.folder)
    entry = {"csv": "mine.csv", "target": "energy", "unit": "eV/atom", "sha256": "0" * 64}
    arguments = write_config(checkout.folder, datasets={"mine": entry})
    done = checkout.snakemake(*arguments, "--", "results/data/mine/table.csv")
    assert done.returncode == 1 and "sha256" in error_line(done)
    import torch

    if not torch.cuda.is_available():
        arguments = write_config(checkout.folder, device="cuda")
        done = checkout.snakemake(*arguments, "--", "results/finetune/mine/roost/seed0/predictions.csv")
        assert done.returncode == 1 and "no working CUDA device" in error_line(done)


def test_an_output_that_cannot_be_written_is_named(checkout):
    write_csv_of_60(checkout.folder)
    blocked = checkout.folder / "results/data/mine"
    blocked.mkdir(parents=True)
    (blocked / "compositions.npz").mkdir()
    (blocked / "compositions.npz" / "in_the_way").touch()
    done = checkout.snakemake(*write_config(checkout.folder), "--", "results/data/mine/table.csv")
    assert done.returncode == 1 and "compositions.npz: cannot be written" in error_line(done)
    assert "Traceback" not in done.text
    assert not list(blocked.glob("*.tmp*"))


def test_a_damaged_mirror_is_refused(mirror, checkout):
    copy = checkout.folder / "mirror/tables"
    copy.mkdir(parents=True)
    text = gzip.decompress((mirror / "tables/matbench_steels.csv.gz").read_bytes()).replace(b"2411.5", b"2412.5")
    (copy / "matbench_steels.csv.gz").write_bytes(gzip.compress(text))
    done = checkout.snakemake("--config", "mirror=mirror", "--", "results/data/matbench_steels/table.csv")
    assert done.returncode == 1 and "matbench_steels.csv.gz: sha256" in error_line(done)


def test_an_encoder_of_another_shape_is_refused_and_earlier_results_stay(checkout):
    write_csv_of_60(checkout.folder)
    arguments = write_config(checkout.folder)
    target = "results/finetune/mine/roost-ssl/seed0/predictions.csv"
    assert checkout.snakemake(*arguments, "--", target).returncode == 0
    before = (checkout.folder / target).read_bytes()
    weights = checkout.folder / "results/pretrain/ssl/encoder.safetensors"
    onehot = {"ssl": {"corpus": "ours", "elements": "onehot"}}
    other = write_config(checkout.folder, pretraining=onehot)
    assert checkout.snakemake(*other, "--", "results/pretrain/ssl/encoder.safetensors").returncode == 0
    write_config(checkout.folder)
    weights.touch()
    done = checkout.snakemake(*arguments, "--rerun-triggers", "mtime", "--", target)
    assert done.returncode == 1 and "encoder.safetensors: has another shape of" in error_line(done)
    assert "Traceback" not in done.text and (checkout.folder / target).read_bytes() == before
