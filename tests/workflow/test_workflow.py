"""The workflow through its command line, on a user's CSV of 60 measured formation energies."""

import gzip
import json

import numpy as np
import pandas as pd
import pytest
import yaml

from matpretrain.files import read_csv
from matpretrain.sources import read_embedded

FAST = {"epochs": 2}
COLUMNS = ["id", "fold", "seed", "part", "target", "prediction", "aleatoric_std", "epistemic_std"]


def write_csv_of_60(folder, edit=lambda table: table):
    table = read_embedded("pymatgen_exp_formation_energy").sample(60, random_state=1)
    table = edit(table[["formula", "target"]].rename(columns={"target": "energy"}).reset_index(drop=True))
    table.to_csv(folder / "mine.csv", index=False)


def write_config(folder, **changes):
    config = {
        "datasets": {"mine": {"csv": "mine.csv", "target": "energy", "unit": "eV/atom"}},
        "benchmark": {"datasets": ["mine"], "seeds": [0, 1]},
        "recipe": FAST,
        **changes,
    }
    (folder / "my.yaml").write_text(yaml.safe_dump(config))
    return ["--configfile", "my.yaml"]


def edit_module(checkout, name, old, new):
    path = checkout.folder / "workflow/scripts" / name
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A checkout in which the whole benchmark ran on the user's CSV."""
    from conftest import Checkout

    checkout = Checkout(tmp_path_factory.mktemp("finished"))
    write_csv_of_60(checkout.folder)
    checkout.arguments = write_config(checkout.folder)
    checkout.first = checkout.snakemake(*checkout.arguments)
    assert checkout.first.returncode == 0, checkout.first.text
    return checkout


def test_a_csv_and_three_keys_give_predictions(checkout):
    write_csv_of_60(checkout.folder)
    my = {"datasets": {"my_gap": {"csv": "mine.csv", "target": "energy", "unit": "eV/atom"}}, "recipe": FAST}
    (checkout.folder / "my.yaml").write_text(yaml.safe_dump(my))
    done = checkout.snakemake("--configfile", "my.yaml", "--", "results/finetune/my_gap/roost/predictions.csv")
    assert done.returncode == 0, done.text
    table = read_csv(checkout.folder / "results/finetune/my_gap/roost/predictions.csv")
    assert list(table.columns) == COLUMNS
    assert set(table["seed"]) == {0, 1, 2} and set(table["fold"]) == set(range(5))
    test = table[table["part"] == "test"]
    assert len(test) == 3 * 60 and not test["prediction"].isna().any()
    assert (test["aleatoric_std"] > 0).all() and (test["epistemic_std"] > 0).all()


def test_every_product_is_there_and_consistent(finished):
    results = finished.folder / "results"
    scores = read_csv(results / "scores.csv")
    models = ["roost", "rf-magpie", "rf-onehot", "dummy"]
    assert set(scores["model"]) == set(models) and set(scores["unit"]) == {"eV/atom"}
    table2 = read_csv(results / "tables/huang2024_table2.csv").set_index("model")
    for model in models:
        predictions = read_csv(results / f"finetune/mine/{model}/predictions.csv").query("part == 'test'")
        error = (predictions["prediction"] - predictions["target"]).abs()
        folds = error.groupby([predictions["fold"], predictions["seed"]]).mean().groupby("fold").mean()
        assert table2.loc[model, "mae_mean"] == pytest.approx(folds.mean())
        assert table2.loc[model, "mae_std"] == pytest.approx(folds.std(ddof=0))
    assert table2.loc["rf-magpie", "mae_mean"] < table2.loc["dummy", "mae_mean"]
    assert table2.loc["roost-ensemble", "n_seeds"] == 2
    comparisons = read_csv(results / "comparisons.csv")
    assert len(comparisons) == 6 and (comparisons["p_corrected"] >= comparisons["p"] - 1e-12).all()
    assert "Roost ensemble, ours" in (results / "tables/huang2024_table2.md").read_text()
    figures = sorted(p.relative_to(results / "figures").as_posix() for p in (results / "figures").rglob("*.png"))
    assert figures == [
        "learning_curves/mine.png", "mae.png",
        "parity/mine/rf-magpie.png", "parity/mine/rf-onehot.png", "parity/mine/roost.png",
    ]  # fmt: skip
    record = json.loads((results / "finetune/mine/roost/seed0/provenance.json").read_text())
    assert record["device"] and record["code_version"] and record["versions"]["torch"]
    assert not list(finished.folder.rglob("*.tmp*"))


def test_validation_rows_are_never_test_rows(finished):
    table = read_csv(finished.folder / "results/finetune/mine/roost/predictions.csv")
    for _, group in table.groupby(["seed", "fold"]):
        test, validation = (set(group.loc[group["part"] == part, "id"]) for part in ("test", "validation"))
        assert test and validation and not test & validation


def test_a_second_call_does_nothing(finished):
    assert finished.planned(*finished.arguments) == []


def test_one_thread_and_two_give_the_same_predictions(finished):
    path = finished.folder / "results/finetune/mine/roost/seed1/predictions.csv"
    before = path.read_bytes()
    done = finished.snakemake(*finished.arguments, "--force", str(path.relative_to(finished.folder)), cores=1)
    assert done.returncode == 0, done.text
    assert path.read_bytes() == before
    assert finished.snakemake(*finished.arguments).returncode == 0


def test_a_comment_reruns_nothing_and_a_formula_what_uses_it(finished):
    edit_module(finished, "matpretrain/roost.py", "HEADS, HIDDEN = 64, 3, 256", "HEADS, HIDDEN = 64, 3, 256  # sizes")
    edit_module(finished, "matpretrain/magpie.py", '"""The Magpie fingerprint', '"""This is the Magpie fingerprint')
    assert finished.planned(*finished.arguments) == []
    edit_module(finished, "matpretrain/roost.py", "y = ReLU", "z = ReLU")
    assert finished.planned(*finished.arguments) == []
    edit_module(
        finished, "matpretrain/roost.py", "F.relu(self.linear(x)) + self.skip(x)", "F.relu(self.linear(x)) - self.skip(x)"
    )
    planned = finished.planned(*finished.arguments)
    assert planned.count("finetune") == 2
    assert not {"prepare_dataset", "fit_baseline", "featurize_magpie", "export_elements"} & set(planned)
    edit_module(
        finished, "matpretrain/roost.py", "F.relu(self.linear(x)) - self.skip(x)", "F.relu(self.linear(x)) + self.skip(x)"
    )
    edit_module(finished, "matpretrain/magpie.py", "1 - np.exp(-0.25", "2 - np.exp(-0.25")
    planned = finished.planned(*finished.arguments)
    assert "featurize_magpie" in planned and "finetune" not in planned
    edit_module(finished, "matpretrain/magpie.py", "2 - np.exp(-0.25", "1 - np.exp(-0.25")
    assert finished.planned(*finished.arguments) == []


def test_scripts_are_tracked_like_modules(finished):
    edit_module(finished, "fit_baseline.py", "    return RandomForest", "    # many\n    return RandomForest")
    edit_module(finished, "matpretrain/jobs.py", "error: {error}", "error was: {error}")
    assert finished.planned(*finished.arguments) == []
    edit_module(finished, "fit_baseline.py", "RandomForestRegressor(500", "RandomForestRegressor(400")
    planned = finished.planned(*finished.arguments)
    assert planned.count("fit_baseline") == 3 and "finetune" not in planned
    edit_module(finished, "fit_baseline.py", "RandomForestRegressor(400", "RandomForestRegressor(500")
    edit_module(finished, "matpretrain/jobs.py", "error was: {error}", "error: {error}")


def test_a_new_model_is_one_module_and_one_entry(finished):
    module = finished.folder / "workflow/scripts/matpretrain/perceptron.py"
    module.write_text(
        "import torch\n"
        "from torch import nn\n\n\n"
        "class Inputs:\n"
        "    def __init__(self, c, device):\n"
        "        self.x = torch.zeros(len(c), 119, device=device)\n"
        "        rows, columns = torch.as_tensor(c.row), torch.as_tensor(c.number.astype(int))\n"
        "        self.x[rows, columns] = torch.as_tensor(c.fraction, dtype=torch.float32)\n\n"
        "    def __getitem__(self, rows):\n"
        "        return self.x[rows]\n\n\n"
        "def Model(element_vectors, n_outputs):\n"
        "    return nn.Sequential(nn.Linear(119, 32), nn.ReLU(), nn.Linear(32, n_outputs))\n"
    )
    models = {"perceptron": {"encoder": "perceptron", "label": "Perceptron"}}
    arguments = write_config(finished.folder, models=models)
    done = finished.snakemake(*arguments, "--", "results/finetune/mine/perceptron/predictions.csv")
    assert done.returncode == 0, done.text
    table = read_csv(finished.folder / "results/finetune/mine/perceptron/predictions.csv")
    assert list(table.columns) == COLUMNS and len(table.query("part == 'test'")) == 120
    write_config(finished.folder)


def test_a_new_label_trains_nothing_again(finished):
    entry = {"csv": "mine.csv", "target": "energy", "unit": "eV/atom", "label": "Formation energy"}
    write_config(finished.folder, datasets={"mine": entry})
    assert not {"finetune", "fit_baseline", "prepare_dataset"} & set(finished.planned(*finished.arguments))
    write_config(finished.folder)


def test_the_report_is_one_file_with_captions(finished):
    done = finished.snakemake(*finished.arguments, "--report", "report.html")
    assert done.returncode == 0, done.text
    text = (finished.folder / "report.html").read_text()
    assert "what is pretraining worth" in text and "Nadeau" in text and len(text) > 500_000


def error_line(done):
    lines = [line for line in done.text.splitlines() if "error:" in line or "config key" in line]
    assert len(lines) >= 1, done.text
    return lines[0]


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
            ["datasets.mine", "exactly one of matbench or csv or embedded"],
        ),
        ({"models": {"net": {"encoder": "net", "label": "Net"}}}, ["models.net.encoder", "net.py"]),
        ({"device": "gpu"}, ["device", "'gpu'"]),
    ],
)
def test_bad_configuration_names_the_key(checkout, changes, words):
    write_csv_of_60(checkout.folder)
    done = checkout.snakemake(*write_config(checkout.folder, **changes), "-n")
    assert done.returncode == 1
    line = error_line(done)
    assert all(word in line for word in words), line


def test_excluded_models_are_left_out(checkout):
    write_csv_of_60(checkout.folder)
    benchmark = {"datasets": ["mine"], "exclude": {"mine": ["rf-magpie", "roost"]}}
    planned = checkout.planned(*write_config(checkout.folder, benchmark=benchmark))
    assert planned.count("fit_baseline") == 2
    assert not {"featurize_magpie", "finetune", "plot_learning_curves"} & set(planned)


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


def test_matbench_tasks_from_a_mirror_are_recorded_for_the_leaderboard(mirror, checkout):
    from matbench.bench import MatbenchBenchmark

    arguments = ["--config", f"mirror={mirror}", "--configfile", "my.yaml"]
    config = {"benchmark": {"datasets": ["matbench_steels", "matbench_jdft2d"], "models": ["dummy"]}}
    (checkout.folder / "my.yaml").write_text(yaml.safe_dump(config))
    done = checkout.snakemake(*arguments, "--", "matbench", "tables")
    assert done.returncode == 0, done.text
    recorded = MatbenchBenchmark.from_file(checkout.folder / "results/matbench/dummy.json.gz")
    assert recorded.is_valid
    published = pd.read_csv(checkout.folder / "resources/paper/matbench_submissions.csv").set_index(["dataset", "submission"])
    for task in recorded.tasks:
        expected = published.loc[(task.dataset_name, "dummy"), [f"fold_{k}" for k in range(5)]]
        assert [task.results[f"fold_{k}"]["scores"]["mae"] for k in range(5)] == pytest.approx(expected.tolist(), abs=1e-4)


def test_a_damaged_mirror_is_refused(mirror, checkout):
    copy = checkout.folder / "mirror/tables"
    copy.mkdir(parents=True)
    text = gzip.decompress((mirror / "tables/matbench_steels.csv.gz").read_bytes()).replace(b"2411.5", b"2412.5")
    (copy / "matbench_steels.csv.gz").write_bytes(gzip.compress(text))
    done = checkout.snakemake("--config", "mirror=mirror", "--", "results/data/matbench_steels/table.csv")
    assert done.returncode == 1 and "matbench_steels.csv.gz: sha256" in error_line(done)
