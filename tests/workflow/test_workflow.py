"""The workflow through its command line, on a user's CSV of 60 measured formation energies."""

import json
import os
import shutil
import subprocess
import sys

import pytest
import runs
from runs import COLUMNS, MODELS, NEW, SMALL_FORESTS, error_line, write_csv_of_60
from safetensors.torch import load_file

from matpretrain import roost
from matpretrain.files import read_csv

SSL_1 = {"encoder": "roost", "corpus": "ours", "tasks": {"barlow_twins": {}}, "seed": 1}


def write_config(folder, **changes):
    """The configuration of runs.py, in which the second seed of Roost-SSL starts from an encoder of its own."""
    several = {
        "pretraining": {"ssl": {"corpus": "ours"}, "ssl-1": SSL_1},
        "models": SMALL_FORESTS | {"roost-ssl": {"pretraining": ["ssl", "ssl-1"]}},
    }
    return runs.write_config(folder, **several | changes)


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


def test_every_product_is_there_and_consistent(finished):
    results = finished.folder / "results"
    scores = read_csv(results / "scores.csv")
    assert set(scores["model"]) == set(MODELS) and set(scores["unit"]) == {"eV/atom"}
    table2, table3, table4 = (read_csv(results / f"tables/huang2024_table{n}.csv").set_index("model") for n in (2, 3, 4))
    assert "rf-roost-ssl" not in table2.index and list(table3.index) == ["rf-roost-ssl", "rf-onehot", "dummy"]
    for model in ("roost", "roost-ssl", "rf-magpie", "rf-onehot", "dummy"):
        predictions = read_csv(results / f"finetune/mine/{model}/predictions.csv").query("part == 'test'")
        error = (predictions["prediction"] - predictions["target"]).abs()
        folds = error.groupby([predictions["fold"], predictions["seed"]]).mean().groupby("fold").mean()
        assert table2.loc[model, "mae_mean"] == pytest.approx(folds.mean())
        assert table2.loc[model, "mae_std"] == pytest.approx(folds.std(ddof=0))
    assert table2.loc["rf-magpie", "mae_mean"] < table2.loc["dummy", "mae_mean"]
    assert table2.loc["roost-ensemble", "n_seeds"] == 2
    assert table4.loc["roost-ssl", "difference"] == pytest.approx(
        table2.loc["roost-ssl", "mae_mean"] - table2.loc["roost", "mae_mean"]
    )
    comparisons = read_csv(results / "comparisons.csv")
    assert len(comparisons) == 15 and (comparisons["p_corrected"] >= comparisons["p"] - 1e-12).all()
    assert "Roost ensemble, ours" in (results / "tables/huang2024_table2.md").read_text()
    figures = sorted(p.relative_to(results / "figures").as_posix() for p in (results / "figures").rglob("*.png"))
    assert figures == [
        "cumulative/mine.png", "gains.png", "learning_curves/mine.png", "mae.png",
        "parity/mine/rf-magpie.png", "parity/mine/rf-onehot.png", "parity/mine/roost-ssl.png", "parity/mine/roost.png",
        "uncertainty.png",
    ]  # fmt: skip
    uncertainty = read_csv(results / "tables/uncertainty.csv").set_index("model")
    assert list(uncertainty.index) == ["roost", "roost-ssl", "rf-magpie", "rf-onehot", "dummy"]
    assert uncertainty["within_one"].between(0, 1).all() and (uncertainty["mean_std"] > 0).all()
    assert uncertainty.loc["rf-magpie", "mae"] == pytest.approx(table2.loc["rf-magpie", "mae_mean"])
    assert uncertainty.loc["roost", "mae"] == pytest.approx(table2.loc["roost-ensemble", "mae_mean"])
    probes = read_csv(results / "tables/probes.csv")
    assert list(probes["pretraining"].unique()) == ["ssl", "ssl-1"]
    for _, part in probes.groupby("pretraining"):
        assert part["epoch"].tolist() == [0, 1, 2, *[0] * 9]
        before = part[part["epoch"] == 0]
        assert sorted(before["seed"]) == list(range(10)) and before["mae_mean"].nunique() == 10
    folders = {path.parent for path in results.rglob("*") if path.suffix in (".csv", ".npy", ".npz", ".png", ".safetensors")}
    for folder in folders - {results / f"pretrain/{name}/epochs" for name in ("ssl", "ssl-1")}:
        for path in list(folder.glob("*provenance.json")) or pytest.fail(f"{folder} has no record"):
            record = json.loads(path.read_text())
            assert record["device"] and record["code_version"] and record["versions"]["torch"] and record["outputs"]
    assert not list(finished.folder.rglob("*.tmp*"))


def test_a_file_changed_in_place_within_a_folder_is_read_again(checkout):
    folder = checkout.folder / "split"
    folder.mkdir()
    write_csv_of_60(checkout.folder)
    table = read_csv(checkout.folder / "mine.csv").rename_axis("id").reset_index()
    table[:40].to_csv(folder / "train.csv", index=False)
    table[40:].to_csv(folder / "test.csv", index=False)
    datasets = {"mine": {"csv": "split", "id": "id", "target": "energy", "unit": "eV/atom"}}
    target = [*write_config(checkout.folder, datasets=datasets), "--", "results/data/mine/table.csv"]
    checkout.make(*target)
    assert checkout.planned(*target) == []
    with (folder / "train.csv").open("r+") as handle:
        handle.write(table[:40].assign(energy=table["energy"] + 1).to_csv(index=False))
    assert checkout.planned(*target) == ["prepare_dataset"]


def test_a_benchmark_without_probed_datasets_has_no_table_of_probes(finished):
    benchmark = {"datasets": ["mine"], "models": MODELS, "seeds": [0, 1]}
    planned = finished.planned(*write_config(finished.folder, benchmark=benchmark))
    write_config(finished.folder)
    assert "tabulate_probes" not in planned and "finetune" not in planned


def verified(checkout):
    environment = os.environ | {"PYTHONPATH": "workflow/scripts"}
    command = [sys.executable, "-m", "matpretrain.verify", "results"]
    done = subprocess.run(command, cwd=checkout.folder, env=environment, capture_output=True, text=True)
    return done.returncode, done.stdout.splitlines()


def test_results_are_verified_and_a_changed_prediction_is_named(finished):
    status, lines = verified(finished)
    assert status == 0 and int(lines[0].removesuffix(" results verified")) > 30, lines
    path = finished.folder / "results/finetune/mine/roost/seed0/predictions.csv"
    times, content = path.stat(), path.read_bytes()
    path.write_bytes(content.replace(b"0,test", b"1,test", 1))
    status, lines = verified(finished)
    assert status == 1 and len(lines) == 1 and "predictions.csv: changed since finetune made it" in lines[0]
    path.write_bytes(content)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert verified(finished)[0] == 0


def test_pretraining_leaves_an_encoder_that_loads_and_is_where_finetuning_starts(finished):
    from matpretrain.weights import load_encoder

    folder = finished.folder / "results/pretrain/ssl"
    encoder, record = load_encoder(folder)
    assert sum(p.numel() for p in encoder.parameters()) == 2_219_919
    assert record["corpus"] == "ours" and record["epochs"] == 2 and record["tasks"] == {"barlow_twins": {}}
    history = read_csv(folder / "history.csv")
    assert history["loss"].iloc[-1] < history["loss"].iloc[0]
    assert sorted(p.name for p in (folder / "epochs").glob("*.safetensors")) == [f"000{k}.safetensors" for k in range(3)]
    assert not list((finished.folder / "results").rglob(".state"))
    assert "loaded" not in (finished.folder / "logs/finetune/mine/roost/seed0.log").read_text()


def test_seeds_start_from_one_encoder_each(finished):
    import probe_untrained

    folders = [finished.folder / "results/pretrain" / name for name in ("ssl", "ssl-1")]
    assert [json.loads((folder / "encoder.json").read_text())["seed"] for folder in folders] == [0, 1]
    for seed, folder in enumerate(folders):
        log = (finished.folder / f"logs/finetune/mine/roost-ssl/seed{seed}.log").read_text()
        assert "loaded all" in log and f"results/pretrain/{folder.name}/encoder.safetensors" in log
    first, second = (load_file(folder / "epochs/0000.safetensors") for folder in folders)
    drawn = probe_untrained.untrained(roost, {"element_vectors": second["element_vectors"]}, {}, seed=1).state_dict()
    # what probes call untrained is what a pretraining begins with
    assert all(drawn[name].equal(second[name]) for name in second)
    assert not all(first[name].equal(second[name]) for name in second)


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


def test_runs_that_train_together_predict_what_they_predict_alone(finished, tmp_path):
    """All seeds and initialisations of Roost in one job; rounding grows with the steps, most where a unit changes its sign."""
    from conftest import Checkout

    checkout = Checkout(tmp_path)
    write_csv_of_60(checkout.folder)
    targets = [f"results/finetune/mine/{model}/predictions.csv" for model in ("roost", "roost-ssl")]
    arguments = [*write_config(checkout.folder), "--config", "cohort=all", "--", *targets]
    done = checkout.snakemake(*arguments)
    assert done.returncode == 0, done.text
    assert "20 folds, in cohorts of 20, 1 at a time" in done.text
    for target in targets:
        alone, together = (read_csv(folder / target) for folder in (finished.folder, checkout.folder))
        assert together[COLUMNS[:5]].equals(alone[COLUMNS[:5]])
        apart = (together["prediction"] - alone["prediction"]).abs() / alone["target"].std()
        apart = apart.groupby([alone["seed"], alone["fold"]]).max()
        assert apart.median() < 1e-5 and apart.nlargest(2).iloc[1] < 1e-3 and apart.max() < 1e-2
    record = json.loads((checkout.folder / "results/finetune/mine/roost/seed1/provenance.json").read_text())
    assert "results/together/mine/roost/folds" in record["inputs"] and record["device"]
    assert record["trained_together"]["runs"] == 4 and record["wall_seconds"] > 0
    assert verified(checkout)[0] == 0
    assert "Nothing to be done" in checkout.snakemake("-n", *arguments).text
    done = checkout.snakemake(
        "-n", *write_config(checkout.folder), "--config", "cohort=all", "--", targets[0].replace("roost/", "roost/seed7/")
    )
    assert done.returncode == 0 and "finetune_together" not in done.text
    # the same inputs, which Snakemake compares as a set
    other = SMALL_FORESTS | {"roost-ssl": {"pretraining": ["ssl-1", "ssl"]}}
    assert "finetune_together" in checkout.planned(*write_config(checkout.folder, models=other), *arguments[2:])
    # a damaged fold of them
    again = [*arguments[:-2], "results/finetune/mine/roost/seed1/predictions.csv"]
    write_config(checkout.folder)
    cut = checkout.folder / "results/together/mine/roost/folds/roost/seed1/fold2.pt"
    cut.write_bytes(cut.read_bytes()[:1000])
    done = checkout.snakemake("--force", *again)
    assert "(the file is damaged); delete the folder results/together/mine/roost/folds to train them again" in done.text
    shutil.rmtree(cut.parents[2])
    assert "finetune_together" in checkout.planned(*again)


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
    assert planned.count("pretrain") == 2 and planned.count("finetune") == 4
    assert planned.count("fit_baseline") == 1  # the forest on the frozen encoder
    assert not {"prepare_dataset", "prepare_corpus", "featurize_magpie", "export_elements"} & set(planned)
    edit_module(
        finished, "matpretrain/roost.py", "F.relu(self.linear(x)) - self.skip(x)", "F.relu(self.linear(x)) + self.skip(x)"
    )
    edit_module(finished, "matpretrain/magpie.py", "1 - np.exp(-0.25", "2 - np.exp(-0.25")
    planned = finished.planned(*finished.arguments)
    assert "featurize_magpie" in planned and "finetune" not in planned
    edit_module(finished, "matpretrain/magpie.py", "2 - np.exp(-0.25", "1 - np.exp(-0.25")
    assert finished.planned(*finished.arguments) == []


def test_a_csv_that_an_older_one_replaces_is_read_again(finished):
    path = finished.folder / "mine.csv"
    text, found = path.read_text(), path.stat()
    path.write_text(text[: text.rstrip().rindex("\n") + 1])
    os.utime(path, (found.st_atime, found.st_mtime - 2 * 86400))
    assert "prepare_dataset" in finished.planned(*finished.arguments)
    path.write_text(text)
    os.utime(path, (found.st_atime, found.st_mtime))
    assert finished.planned(*finished.arguments) == []


def test_scripts_are_tracked_like_modules(finished):
    edit_module(finished, "matpretrain/estimators.py", "    forest = RandomForest", "    # many\n    forest = RandomForest")
    edit_module(finished, "matpretrain/jobs.py", "error: {error}", "error was: {error}")
    assert finished.planned(*finished.arguments) == []
    edit_module(finished, "matpretrain/estimators.py", "trees=500", "trees=400")
    planned = finished.planned(*finished.arguments)
    assert planned.count("fit_baseline") == 4 and "finetune" not in planned
    edit_module(finished, "matpretrain/estimators.py", "trees=400", "trees=500")
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


def test_another_label_unit_name_of_materials_or_device_trains_nothing_again(finished):
    entry = {"csv": "mine.csv", "target": "energy", "unit": "eV per atom", "label": "Formation energy", "materials": "those"}
    write_config(finished.folder, datasets={"mine": entry}, device="cpu")
    assert not {"finetune", "fit_baseline", "prepare_dataset", "pretrain"} & set(finished.planned(*finished.arguments))
    write_config(finished.folder)


def test_the_report_is_one_file_with_captions(finished):
    done = finished.snakemake(*finished.arguments, "--report", "report.html")
    assert done.returncode == 0, done.text
    text = (finished.folder / "report.html").read_text()
    assert "what is pretraining worth" in text and "Nadeau" in text and len(text) > 500_000


def test_formulas_are_predicted_by_all_folds_of_a_forest(finished):
    table = read_csv(finished.folder / "results/data/mine/table.csv")
    table[["id", "formula"]].to_csv(finished.folder / "again.csv", index=False)
    arguments = write_config(finished.folder, predict={"forest": NEW | {"csv": "again.csv", "model": "rf-magpie"}})
    done = finished.snakemake(*arguments, "--", "results/predict/forest.csv")
    assert done.returncode == 0 and "60 formulas, 5 baselines trained on mine (eV/atom); 0 far" in done.text, done.text
    found = read_csv(finished.folder / "results/predict/forest.csv", dtype={"id": str}).set_index("id")
    before = read_csv(finished.folder / "results/finetune/mine/rf-magpie/predictions.csv", dtype={"id": str}).set_index("id")
    assert (found[["aleatoric_std", "epistemic_std"]] > 0).all().all() and (found["distance"] == 0).all()
    unseen, seen = ((side["prediction"] - before["target"]).abs().mean() for side in (before, found))
    assert seen < 0.7 * unseen  # four folds of five have learned a row, with whatever id it came


def test_formulas_are_predicted_by_all_seeds_of_a_network(finished):
    (finished.folder / "new.csv").write_text("id,material\na,Fe2O3\nb,NaN\n")
    arguments = write_config(finished.folder, predict={"new": NEW | {"csv": "new.csv", "formula": "material"}})
    target = "results/predict/new.csv"
    assert finished.planned(*arguments, "--", target) == ["predict_formulas"]
    done = finished.snakemake(*arguments, "--", target)
    assert done.returncode == 0 and "10 networks trained on mine" in done.text, done.text
    table = read_csv(finished.folder / target)
    assert table["id"].tolist() == ["a", "b"] and table["formula"].tolist() == ["Fe2O3", "NaN"]
    assert (table[["aleatoric_std", "epistemic_std"]] > 0).all().all() and table["distance"].between(0, 1).all()
    (finished.folder / "new.csv").write_text("id,material\na,Og\n")
    done = finished.snakemake(*arguments, "--", target)
    assert done.returncode == 1 and "new.csv: line 2 (id a): no element vector for Og" in error_line(done)
    assert len(read_csv(finished.folder / target)) == 2
    done = finished.snakemake(*write_config(finished.folder), "-n", "--", "results/predict/other.csv")
    assert done.returncode == 1 and "'other' is not in the registry of predict" in done.text
