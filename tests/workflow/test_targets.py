"""Single targets of the workflow through its command line, each in a checkout of its own."""

import re

import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import PROJECT
from runs import COLUMNS, FAST, error_line, write_config, write_csv_of_60

from matpretrain.files import read_csv


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


def test_hundreds_of_trainings_are_planned_in_one_graph(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(PROJECT / "benchmark")
    from dag import configuration, dry_run

    assert dry_run(configuration(tmp_path))[0] == 9 * 6 * 10


def test_two_networks_side_by_side_on_rows_that_neither_was_trained_on(checkout):
    small = {"readout": False, "layers": 1}
    config = {
        "models": {
            "a": {"encoder": "finder", "label": "without structures", "arguments": small},
            "b": {"encoder": "finder", "label": "with structures", "arguments": small | {"mode": "structure"}},
        },
        "modes": {"datasets": ["aflow_density"], "models": ["a", "b"]},
        "benchmark": {"seeds": [0, 1]},
        "cohort": "all",
        "encoder_recipes": {"finder": {"epochs": 1, "batch_size": 32}},
    }
    (checkout.folder / "my.yaml").write_text(yaml.safe_dump(config))
    done = checkout.snakemake("--configfile", "my.yaml", "--", "modes")
    assert done.returncode == 0, done.text
    for model in "ab":
        assert f"[finetune_together aflow_density  {model}] 284 rows, 4 folds, in cohorts of 4, 1 at a time" in done.text
    table = read_csv(checkout.folder / "results/data/aflow_density/table.csv", dtype={"id": str}).set_index("id")
    for model in "ab":
        with np.load(checkout.folder / f"results/finetune/aflow_density/{model}/seed0/test_rows.npz") as arrays:
            assert set(table["fold"].loc[arrays["id"]]) == {0} and arrays["features"].shape == (85, 200)
    correlations = read_csv(checkout.folder / "results/modes/aflow_density.csv")
    assert len(correlations) == 25 and correlations["r"].between(0, 1).all()
    assert (checkout.folder / "results/figures/modes/aflow_density.png").exists()


def test_an_encoder_of_crystals_is_pretrained_by_the_same_rule(checkout):
    from matpretrain.megnet import CorpusInputs, Inputs
    from matpretrain.weights import embed, load_encoder

    small = {"pretraining": {"cdssl-aflow": {"arguments": {"size": "small"}, "recipe": {"epochs": 2, "batch_size": 16}}}}
    small |= {"corpora": {"aflow_prototypes": {"sample": 170}}, "pretraining_validation": 0.3}
    small |= {"models": {"megnet-cdssl-aflow": {"arguments": {"size": "small"}}}}
    (checkout.folder / "my.yaml").write_text(yaml.safe_dump(small))
    made = ["results/probes/crystals/cdssl-aflow.csv"]
    made += [f"results/figures/{kind}/cdssl-aflow.png" for kind in ("pretraining", "crystals")]
    done = checkout.snakemake("--configfile", "my.yaml", "--", *made)
    assert done.returncode == 0, done.text
    probe = read_csv(checkout.folder / made[0])
    assert probe["epoch"].tolist() == [0, 1, 2] and set(probe["structures"]) == {114}  # what the sample left out
    assert (probe[["r2_log_density", "r2_log_volume_per_atom", "r2_log_volume"]] <= 1).all(axis=None)
    assert "288 structures read, 4 dropped, 170 of the 284 others taken" in done.text
    sampled, left_out = (
        set(read_csv(checkout.folder / f"results/structures/aflow_prototypes/{name}.csv", dtype=str)["id"])
        for name in ("graphs", "left_out")
    )
    assert len(sampled) == 170 and len(left_out) == 114 and not sampled & left_out
    assert all((checkout.folder / path).exists() for path in made[1:])
    history = read_csv(checkout.folder / "results/pretrain/cdssl-aflow/history.csv")
    assert history["epoch"].tolist() == [1, 2] and (history["gradient_norm"] > 0).all()
    assert history["loss"].iloc[-1] < history["loss"].iloc[0] and history["denoising_mae"].between(0, 2).all()
    assert history["denoising_training_mae"].between(0, 2).all()
    encoder, record = load_encoder(checkout.folder / "results/pretrain/cdssl-aflow")
    assert record["arguments"] == {"size": "small"} and "element_vectors" not in record
    path = checkout.folder / "results/structures/aflow_prototypes/graphs.safetensors"
    of_atoms, of_orbits = (embed(encoder, form.read(path)) for form in (CorpusInputs, Inputs))
    assert of_atoms.shape == (170, 96) and np.allclose(of_atoms, of_orbits, rtol=1e-3, atol=1e-3)


def test_what_is_planned_for_crystals_that_were_not_pretrained_and_for_a_default_argument(checkout):
    """Untrained crystals have no losses to draw; a network that leaves `size: large` out is compared with one that says it."""
    study = {"datasets": ["aflow_density"], "sizes": ["50%"], "models": ["megnet", "untrained", "mine"], "reference": "megnet"}
    models = {
        name: {"encoder": "megnet", "label": name, "pretraining": start}
        for name, start in (("untrained", "still"), ("mine", "cdssl-aflow"))
    }
    config = {
        "models": models,
        "pretraining": {"still": {"encoder": "megnet", "corpus": "aflow_prototypes", "tasks": {}}},
        "benchmark": {"datasets": ["aflow_density"], "models": ["megnet", "mine"], "probes": []},
        "subsets": {"own": study, "new2024": None},
    }
    (checkout.folder / "my.yaml").write_text(yaml.safe_dump(config))
    of_crystals = checkout.planned("--configfile", "my.yaml", "--", "crystals")
    assert (of_crystals.count("probe_crystals"), of_crystals.count("plot_pretraining")) == (2, 1)
    assert {"tabulate_tests", "plot_gains"} <= set(checkout.planned("--configfile", "my.yaml", "--", "tables", "figures"))


def test_embeddings_of_structures_are_learned_whitened_without_the_formulas_of_a_dataset(checkout):
    write_csv_of_60(checkout.folder)
    mine = read_csv(checkout.folder / "mine.csv", dtype=str)["formula"]
    formulas = [*mine[:20], *(f"{a}{b}" for a in ("Na", "K", "Rb", "Cs") for b in ("F", "Cl", "Br", "I"))]
    embedding = np.random.default_rng(0).normal(size=(len(formulas), 6)) * [10.0, 1, 1, 1, 1, 0]
    np.savez(checkout.folder / "vectors.npz", id=np.arange(len(formulas)), composition=formulas, embedding=embedding)
    config = {
        "corpora": {
            "all": {"kind": "vectors", "csv": "vectors.npz"},
            "others": {"kind": "union", "of": ["all"], "without": ["mine"]},
        },
        "pretraining": {"white": {"encoder": "roost", "corpus": "others", "tasks": {"structure": {"scale": "whitened"}}}},
        "pretraining_recipe": {"epochs": 1, "min_steps": 2},
    }
    done = checkout.snakemake(*write_config(checkout.folder, **config), "--", "results/pretrain/white/encoder.safetensors")
    assert done.returncode == 0, done.text
    kept = len(set(formulas) - set(mine))
    assert f"embeddings of {kept} compositions, 6 numbers each" in done.text and kept >= 12
    history = read_csv(checkout.folder / "results/pretrain/white/history.csv")
    assert 0.3 < history["structure"].iloc[0] < 4  # of unit variance, not of the first number's hundred


def test_subsets_of_a_csv_give_tables_and_a_figure(checkout):
    write_csv_of_60(checkout.folder)
    study = {"datasets": ["mine"], "sizes": [20, "60%"], "models": ["dummy", "rf-onehot"], "reference": "dummy"}
    studies = {"own": study, "alone": study | {"models": ["dummy"]}}
    arguments = write_config(
        checkout.folder, benchmark={"datasets": ["mine"], "models": ["dummy", "rf-onehot"]}, subsets=studies
    )
    tables = [f"results/tables/own_{name}.csv" for name in ("subsets", "wins", "scores")]
    done = checkout.snakemake(*arguments, "--", *tables, "results/figures/subsets/own.png", "results/tables/alone_wins.csv")
    assert done.returncode == 0, done.text
    assert read_csv(checkout.folder / "results/tables/alone_wins.csv").empty  # nothing to compare with
    errors, wins, scores = (read_csv(checkout.folder / path, dtype={"size": str}) for path in tables)
    dummy = errors[errors["model"] == "dummy"]
    assert dummy["size"].tolist() == ["20", "60%", "full"] and dummy["train_rows"].tolist() == [20, 36, 48]
    assert wins["dataset"].tolist() == ["mine", "all"] and wins["cells"].tolist() == [3, 3] and len(scores) == 2 * 3 * 5
    assert (checkout.folder / "results/figures/subsets/own.png").exists()
    assert not (checkout.folder / "results/data/mine@20").exists()  # subsets share the data of the whole
    done = checkout.snakemake(*arguments, "--", "results/finetune/mine@49/dummy/predictions.csv")
    assert done.returncode == 1 and "a subset of 49 has 49 rows, but fold 0 has only 48" in error_line(done)


def test_a_network_of_structures_is_finetuned_from_its_pretraining(checkout):
    small, fast = {"arguments": {"size": "small"}}, {"epochs": 2, "batch_size": 32}
    study = {"datasets": ["aflow_density"], "sizes": ["20%"], "models": ["megnet-small", "megnet-cdssl-aflow"]}
    config = {"pretraining": {"cdssl-aflow": small | {"recipe": fast}}, "models": {"megnet-cdssl-aflow": small}}
    config |= {"corpora": {"aflow_prototypes": {"sample": 40}}, "encoder_recipes": {"megnet": fast}}
    config |= {"subsets": {"own": study | {"reference": "megnet-small"}}, "benchmark": {"seeds": [0]}}
    (checkout.folder / "my.yaml").write_text(yaml.safe_dump(config))
    target = "results/tables/own_subsets.csv"
    done = checkout.snakemake("--configfile", "my.yaml", "--", target)
    assert done.returncode == 0, done.text
    assert "loaded all" in done.text and "encoder.safetensors" in done.text
    table = read_csv(checkout.folder / target)
    assert table["train_rows"].tolist()[:2] == [57, 57] and table["structures"].tolist()[:2] == ["as published"] * 2
    record = checkout.folder / "results/finetune/aflow_density@20pct/megnet-small/seed0/provenance.json"
    assert '"loss": "mse"' in record.read_text() and '"epochs": 2' in record.read_text()
    models = {"megnet-cdssl-aflow": {"arguments": {"size": "large"}}}
    (checkout.folder / "my.yaml").write_text(yaml.safe_dump(config | {"models": models}))
    done = checkout.snakemake("--configfile", "my.yaml", "--", target)
    assert done.returncode == 1 and "arguments.size: large, but small in pretraining.cdssl-aflow" in error_line(done)
    assert read_csv(checkout.folder / target).equals(table)


def test_maps_need_the_frozen_encoders_only(checkout):
    write_csv_of_60(checkout.folder)
    planned = checkout.planned(
        *write_config(checkout.folder, maps={"datasets": ["mine"], "pretraining": ["untrained"]}), "--", "maps"
    )
    rules = [
        "embed_compositions",
        "export_elements",
        "maps",
        "plot_maps",
        "prepare_corpus",
        "prepare_dataset",
        "prepare_dataset",
    ]
    assert planned == [*rules, "pretrain"]


def test_excluded_models_are_left_out(checkout):
    write_csv_of_60(checkout.folder)
    models = ["roost", "rf-magpie", "rf-onehot", "dummy"]
    benchmark = {"datasets": ["mine"], "models": models, "exclude": {"mine": ["rf-magpie", "roost"]}}
    planned = checkout.planned(*write_config(checkout.folder, benchmark=benchmark))
    assert planned.count("fit_baseline") == 2
    assert not {"featurize_magpie", "finetune", "plot_learning_curves"} & set(planned)
    benchmark = {"datasets": ["mine"], "models": ["rf-untrained"], "probes": []}
    planned = checkout.planned(*write_config(checkout.folder, benchmark=benchmark))
    assert planned.count("tabulate_huang2024") == 1 and "plot_mae" not in planned  # table 3 alone
    table2 = checkout.snakemake("--configfile", "my.yaml", "-n", "--", "results/tables/huang2024_table2.csv")
    assert table2.returncode == 1 and error_line(table2).endswith("table2.csv: there is no such file for 2, but for 3")


def test_a_snapshot_is_made_of_tables_and_figures(checkout):
    write_csv_of_60(checkout.folder)
    benchmark = {"datasets": ["mine"], "models": ["rf-onehot", "dummy"], "probes": []}
    planned = checkout.planned(*write_config(checkout.folder, benchmark=benchmark), "--", "reproduction")
    assert {"snapshot_reproduction", "tabulate_huang2024", "plot_mae"} <= set(planned)


def test_matbench_tasks_from_a_mirror_are_recorded_for_the_leaderboard(mirror, checkout):
    from matbench.bench import MatbenchBenchmark

    arguments = ["--config", f"mirror={mirror}", "--configfile", "my.yaml"]
    again = {
        "matbench": "matbench_jdft2d",
        "target": "exfoliation_en",
        "unit": "meV/atom",
        "mirror_file": "tables/matbench_jdft2d.csv.gz",
    }
    config = {
        "benchmark": {"datasets": ["matbench_steels", "mine", "matbench_jdft2d"], "models": ["dummy"]},
        "datasets": {"mine": again},
    }
    (checkout.folder / "my.yaml").write_text(yaml.safe_dump(config))
    done = checkout.snakemake(*arguments, "--", "matbench", "tables")
    assert done.returncode == 0, done.text
    recorded = MatbenchBenchmark.from_file(checkout.folder / "results/matbench/dummy.json.gz")
    assert recorded.is_valid
    published = pd.read_csv(checkout.folder / "resources/paper/matbench_submissions.csv").set_index(["dataset", "submission"])
    for task in recorded.tasks:
        expected = published.loc[(task.dataset_name, "dummy"), [f"fold_{k}" for k in range(5)]]
        assert [task.results[f"fold_{k}"]["scores"]["mae"] for k in range(5)] == pytest.approx(expected.tolist(), abs=1e-4)
    steels, jdft2d = {"n_folds": 5, "split": "random", "log10": False}, {"split_seed": 1}  # the official folds, and others
    config = {"benchmark": {"datasets": ["matbench_steels", "matbench_jdft2d"], "models": ["dummy"]}}
    changes = {"datasets": {"matbench_steels": steels, "matbench_jdft2d": jdft2d}}
    (checkout.folder / "my.yaml").write_text(yaml.safe_dump(config | changes))
    assert checkout.snakemake(*arguments, "--", "tables").returncode == 0
    table = pd.read_csv(checkout.folder / "results/tables/huang2024_table2.csv").set_index(["dataset", "model"])["paper_mean"]
    assert table["matbench_steels", "dummy"] > 0 and np.isnan(table["matbench_jdft2d", "dummy"]), "other folds, nothing beside"
    lines = (checkout.folder / "results/tables/huang2024_table2.md").read_text().splitlines()
    assert "229.7" in lines[2] and "67." in lines[3] and lines[2].count("±") > lines[3].count("±") == 1


def test_account_and_partition_of_the_slurm_profile_reach_every_job(checkout):
    write_csv_of_60(checkout.folder)
    profile = checkout.folder / "profiles/slurm/config.yaml"
    profile.write_text(re.sub(r"^( *)# ?(?= *- |set-resources:)", r"\1", profile.read_text(), flags=re.MULTILINE))
    target = "results/finetune/mine/roost/predictions.csv"
    done = checkout.snakemake("-n", "--profile", "profiles/slurm", *write_config(checkout.folder), "--", target)
    assert done.returncode == 0, done.text
    resources = dict(re.findall(r"^rule (\w+):.*?^    resources: (.*?)$", done.text, re.MULTILINE | re.DOTALL))
    assert sorted(resources) == ["export_elements", "finetune", "merge_seeds", "prepare_dataset"]
    assert all("slurm_account=YOURS" in text and "runtime=" in text and "mem_mb=" in text for text in resources.values())
    assert "slurm_partition=GPUS" in resources["finetune"] and "gpu=0" in resources["finetune"]
    assert "slurm_partition=YOURS" in resources["merge_seeds"] and "runtime=30" in resources["merge_seeds"]


def test_seeds_take_encoders_in_turn(checkout):
    write_csv_of_60(checkout.folder)
    ssl = {"encoder": "roost", "corpus": "ours", "tasks": {"barlow_twins": {}}}
    strategies = {f"ssl-{k}": ssl | {"seed": k} for k in range(2)}
    models = {"roost-ssl": {"pretraining": list(strategies)}}
    seeds = [f"results/finetune/mine/roost-ssl/seed{k}/predictions.csv" for k in range(3)]
    done = checkout.snakemake("-n", *write_config(checkout.folder, models=models, pretraining=strategies), "--", *seeds)
    starts = re.findall(r"input: results/pretrain/(ssl-\d)/encoder.safetensors.*\n *output: \S+seed(\d)/", done.text)
    assert {seed: name for name, seed in starts} == {"0": "ssl-0", "1": "ssl-1", "2": "ssl-0"}, done.text


def test_who_trains_together(checkout):
    """Runs with the same parameters on one dataset or subset, but those that are excluded, start from other networks or have spectra; only
    the seeds of a model on a dataset outside the benchmark."""
    write_csv_of_60(checkout.folder)
    models = {"roost-onehot": {"encoder": "roost", "elements": "onehot", "label": "Roost, one-hot elements"}}
    subsets = {
        "a": {"datasets": ["mine"], "sizes": [20], "models": ["roost", "dummy"], "reference": "dummy"},
        "b": {"datasets": ["mine"], "sizes": [20, 30], "models": ["roost-ssl", "roost"], "reference": "roost"},
    }
    listed = ["roost-onehot", "roost", "roost-ssl", "roost-fl", "finder", "rescnn", "dummy"]
    benchmark = {"datasets": ["mine"], "models": listed, "seeds": [0, 1], "exclude": {"mine": ["roost-fl"]}, "probes": []}
    datasets = {name: {"csv": "mine.csv", "target": "energy", "unit": "eV/atom"} for name in ("mine", "beside")}
    changes = {"benchmark": benchmark, "models": models, "subsets": subsets, "datasets": datasets}
    arguments = [*write_config(checkout.folder, **changes), "--config", "cohort=all"]
    pattern = "results/finetune/mine{}/{}/seed{}/predictions.csv"
    targets = [pattern.format("", m, 0) for m in ("roost-onehot", "roost-ssl", "finder", "rescnn")]
    targets += [
        "results/finetune/beside/roost/seed0/predictions.csv",
        pattern.format("@20", "roost", 1),
        pattern.format("@30", "roost", 7),
        "results/finetune/optical_constants/roost/seed0/predictions.csv",
        "results/finetune/aflow_density/finder-structure/seed0/predictions.csv",
    ]
    done = checkout.snakemake("-n", *arguments, "--", *targets)
    assert done.returncode == 0, done.text
    groups = {
        output: inputs for inputs, output in re.findall(r"input: (.*)\n *output: results/together/(\S+)/folds", done.text)
    }
    own = ["mine/finder", "mine/roost", "mine/roost-onehot", "mine@20/roost"]
    assert sorted(groups) == ["aflow_density/finder-structure", "beside/roost", *own], done.text
    assert "results/structures/aflow_density/graphs.safetensors" in groups["aflow_density/finder-structure"]
    encoder = "results/pretrain/ssl/encoder.safetensors"
    assert {name for name, inputs in groups.items() if encoder in inputs} == {"mine/roost", "mine@20/roost"}
    assert groups["mine/roost"].split(", ").count(encoder) == 2  # a file for each of two seeds, which the job takes in turn
    assert "pretrain/fl" not in done.text
