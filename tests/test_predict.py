"""Weights that are kept, prediction by all members, distance to the training set, and the README's way to an encoder."""

import json
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import PROJECT, load
from faults import edit_record, replace
from safetensors.torch import load_file, save
from small_problem import all_folds

from matpretrain import roost
from matpretrain.composition import element_fractions, matscholar_vectors, parse_formulas, take
from matpretrain.distance import TrainingSet
from matpretrain.files import DataError, read_csv
from matpretrain.members import load_members, save_members, seed_folders
from matpretrain.predict import combine, main, predict_file
from matpretrain.recipe import Recipe
from matpretrain.sources import read_embedded
from matpretrain.splits import outer_folds
from matpretrain.supervised import Training
from matpretrain.weights import save_encoder

VECTORS = np.nan_to_num(matscholar_vectors())
N_FOLDS = 2
COLUMNS = ["id", "formula", "prediction", "aleatoric_std", "epistemic_std", "distance", "far"]


def quiet(text):
    pass


def train(folder, loss="robust_l1", seeds=(0, 1), threads=1, target_scale="linear"):
    """Train Roost on 40 computed Seebeck coefficients. Returns the table and the predictions."""
    table = read_embedded("matminer_transport_seebeck_p").sample(40, random_state=1).reset_index(drop=True)
    table = table.assign(fold=outer_folds(40, N_FOLDS), target=table["target"].abs() + 1)
    compositions, _ = parse_formulas(table["formula"].tolist())
    config = load("config/config.yaml")["default_recipes"]["all"]
    recipe = {**config, "epochs": 2, "min_steps": 4}
    del recipe["loss"], recipe["target_scale"]
    rows = []
    for seed in seeds:
        training = Training(
            table,
            compositions,
            "roost",
            {"element_vectors": VECTORS},
            None,
            loss,
            Recipe(**recipe),
            0.5,  # ten of twenty rows scale the deviations
            size=None,
            seed=seed,
            device="cpu",
            target_scale=target_scale,
        )
        predictions, _, kept = all_folds(training, threads, quiet, folder / f"state{seed}")
        record = {"encoder": "roost", "n_outputs": 2 if loss == "robust_l1" else 1, "loss": loss, "recipe": recipe}
        record |= {"target_scale": target_scale, "dataset": "mine", "model": "roost", "seed": seed, "unit": "microvolt/K"}
        save_members(kept, {"element_vectors": VECTORS}, compositions, record, folder / f"seed{seed}")
        rows.append(predictions)
    return table, pd.concat(rows)


FAULTS = "Prediction for new formulas"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(folder of the model, table, predictions while it was trained)."""
    folder = tmp_path_factory.mktemp("trained")
    return folder, *train(folder)


@pytest.fixture
def copied(trained, tmp_path):
    """The model's folder in hard links; what is damaged must be replaced, not written to."""
    return shutil.copytree(trained[0], tmp_path / "model", copy_function=os.link)


@pytest.fixture
def formulas(tmp_path):
    def write(text="formula\nFe2O3\nNaN\nLi0.5CoO2\n"):
        (tmp_path / "new.csv").write_text(text)
        return tmp_path / "new.csv"

    return write


def test_every_member_predicts_what_it_predicted_in_training(trained):
    folder, table, predictions = trained
    ensemble = load_members(seed_folders(folder))
    assert [(m.seed, m.fold) for m in ensemble.members] == [(s, f) for s in (0, 1) for f in range(N_FOLDS)]
    compositions, _ = parse_formulas(table["formula"].tolist())
    means, stds = ensemble.predictions(compositions)
    for member, mean, std in zip(ensemble.members, means, stds, strict=True):
        expected = predictions.query(f"seed == {member.seed} and fold == {member.fold} and part == 'test'").set_index("id")
        rows = np.flatnonzero(table["fold"] == member.fold)
        expected = expected.loc[table["id"].to_numpy()[rows]]
        assert np.abs(mean[rows] - expected["prediction"]).max() < 1e-6 * member.std
        assert np.abs(std[rows] - expected["aleatoric_std"]).max() < 1e-6 * member.std
    assert len({mean.tobytes() for mean in means}) == 2 * N_FOLDS


def test_the_weights_hold_all_folds_and_the_element_vectors_once(trained):
    folder, table, _ = trained
    tensors = load_file(folder / "seed0/weights.safetensors")
    n_own = len([name for name in roost.Model(VECTORS).state_dict() if not name.endswith("element_vectors")])
    assert len(tensors) == N_FOLDS * n_own + 4
    assert torch.equal(tensors["element_vectors"], torch.from_numpy(VECTORS))
    compositions, _ = parse_formulas(table["formula"].tolist())
    kept = load_members([folder / "seed0"]).train
    assert all(np.array_equal(array, kept.arrays()[name]) for name, array in compositions.arrays().items())
    assert len({(folder / "seed0" / name).stat().st_mode for name in ("weights.safetensors", "model.json")}) == 1
    record = json.loads((folder / "seed0/model.json").read_text())
    assert record["element_vectors"] == [119, 200] and record["unit"] == "microvolt/K" and len(record["folds"]) == N_FOLDS


def test_folds_trained_in_other_processes_are_kept_as_well(trained, tmp_path):
    train(tmp_path, seeds=(0,), threads=2)
    ours, theirs = (load_file(folder / "seed0/weights.safetensors") for folder in (trained[0], tmp_path))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_members_are_combined_as_numpy_does():
    rng = np.random.default_rng(0)
    means, stds = rng.normal(size=(6, 9)), rng.uniform(0.1, 1, size=(6, 9))
    columns = combine(means, stds)
    for k in range(9):
        assert columns["prediction"][k] == pytest.approx(sum(means[:, k]) / 6)
        assert columns["aleatoric_std"][k] == pytest.approx(np.sqrt(np.mean(np.square(stds[:, k]))))
        assert columns["epistemic_std"][k] == pytest.approx(np.std(means[:, k], ddof=1))
    alone = combine(means[:1], stds[:1])
    assert np.isnan(alone["epistemic_std"]).all() and np.array_equal(alone["prediction"], means[0])


def brute_force(queries, training):
    """[Q, T] half the L1 distances of atomic fractions."""
    a, b = element_fractions(queries), element_fractions(training)
    return np.abs(a[:, None] - b[None]).sum(-1) / 2


def test_distance_is_the_share_of_atoms_to_be_exchanged():
    training, _ = parse_formulas(["NaCl", "Fe2O3", "Fe4O6", "Cu"])
    queries, _ = parse_formulas(["Na2Cl2", "KCl", "FeO", "Cu3Au", "He"])
    distance = TrainingSet(training).nearest(queries)
    assert distance.tolist() == [0, 0.5, 0.1, 0.25, 1]
    assert distance == pytest.approx(brute_force(queries, training).min(1), abs=1e-6)


def test_far_is_an_unseen_element_or_a_distance_above_the_limit():
    formulas = read_embedded("matminer_transport_seebeck_p").sample(600, random_state=2)["formula"].tolist()
    training, _ = parse_formulas(formulas[:300] + formulas[:50])
    known = TrainingSet(training)
    distinct, _ = parse_formulas(sorted(set(formulas[:300])))
    own = brute_force(distinct, distinct).round(6)
    own[own == 0] = np.inf  # the same composition
    distinct_rows = np.unique(element_fractions(distinct).round(6), axis=0, return_index=True)[1]
    assert known.limit == pytest.approx(np.quantile(own[distinct_rows].min(1), 0.99), abs=1e-6)
    queries, _ = parse_formulas([*formulas[300:500], "Po0.001Fe0.999"])
    distance = known.nearest(queries)
    assert distance == pytest.approx(brute_force(queries, training).min(1), abs=1e-6)
    unseen = ~np.isin(queries.number, training.number)
    expected = np.array([unseen[queries.row == b].any() or distance[b] > known.limit for b in range(len(queries))])
    far = known.far(queries, distance)
    assert np.array_equal(far, expected) and far[-1] and distance[-1] < known.limit and 0 < far.sum() < 200


def test_a_large_training_set_is_sampled_and_one_composition_suffices():
    rng = np.random.default_rng(1)
    shares = rng.uniform(0.01, 1, size=(2500, 2)).round(3)
    many, _ = parse_formulas([f"Fe{a}O{b}" for a, b in shares])
    assert 0 < TrainingSet(many).limit < 0.05
    one = TrainingSet(take(many, [0]))
    assert one.nearest(take(many, [0])).tolist() == [0] and one.limit == 1


def test_the_command_line_writes_all_columns(trained, formulas, tmp_path, capsys):
    output = tmp_path / "out/predicted.csv"
    path = formulas("key,composition\n1,Fe2O3\n2,NaN\n3,PoFe\n")
    assert main([str(path), "--model", str(trained[0]), "--output", str(output), "--formula", "composition"]) == 0
    table = read_csv(output)
    assert list(table.columns) == COLUMNS
    assert table["id"].tolist() == ["row-1", "row-2", "row-3"] and table["formula"].tolist() == ["Fe2O3", "NaN", "PoFe"]
    assert (table[["aleatoric_std", "epistemic_std"]] > 0).all().all() and table["far"].tolist()[-1] is True
    assert "3 formulas, 4 networks trained on mine (microvolt/K); " in capsys.readouterr().err
    assert main([str(path), "--model", str(trained[0] / "seed1"), "--formula", "composition"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == ",".join(COLUMNS)


@pytest.mark.parametrize("rows", [1, 2000])  # less and more than is buffered
def test_a_pipe_that_is_read_no_more_ends_in_silence(trained, formulas, monkeypatch, capfd, rows):
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)
        assert main([str(formulas("formula\n" + "Fe2O3\n" * rows)), "--model", str(trained[0] / "seed1")]) == 1
    assert len(capfd.readouterr().err.splitlines()) == 1, "that on the networks"


def test_predictions_do_not_replace_the_formulas(trained, formulas, capsys, fault):
    path = formulas("formula,note\nFe2O3,mine\n")
    assert main([str(path), "--model", str(trained[0]), "--output", str(path.parent / "." / path.name)]) == 1
    line = capsys.readouterr().err.strip()
    with fault("Predictions that would replace the formulas", path.name, "name another --output"):
        raise DataError(line.removeprefix("error: "))
    assert path.read_text() == "formula,note\nFe2O3,mine\n"


def test_ids_are_kept_and_unknown_elements_dropped_on_request(trained, formulas, fault):
    said = []
    path = formulas("formula,id\nFe2O3,a\nOg,b\nGaAs,c\n")
    table = predict_file(path, seed_folders(trained[0]), unknown_elements="drop", say=said.append)
    assert table["id"].tolist() == ["a", "c"] and said[0] == "dropped: b Og (Og)"
    with fault("Formulas that all have an unknown element, with --unknown-elements drop", "no row is left"):
        predict_file(formulas("formula\nOg\n"), seed_folders(trained[0]), unknown_elements="drop", say=quiet)


def test_networks_of_logarithms_predict_what_they_predicted_in_training(tmp_path):
    table, predictions = train(tmp_path, seeds=(0,), target_scale="log")
    means, stds = load_members([tmp_path / "seed0"]).predictions(parse_formulas(table["formula"].tolist())[0])
    for fold in range(N_FOLDS):
        rows = np.flatnonzero(table["fold"] == fold)
        test = predictions.query(f"fold == {fold} and part == 'test'").set_index("id").loc[table["id"].to_numpy()[rows]]
        assert means[fold, rows] == pytest.approx(test["prediction"].to_numpy(), rel=1e-5)
        assert stds[fold, rows] == pytest.approx(test["aleatoric_std"].to_numpy(), rel=1e-5)


def test_a_loss_without_uncertainty_gives_none(formulas, tmp_path):
    train(tmp_path, loss="l1", seeds=(3,))
    table = predict_file(formulas(), [tmp_path / "seed3"], say=quiet)
    assert table["aleatoric_std"].isna().all() and (table["epistemic_std"] > 0).all()


def test_the_predictions_of_two_seeds_are_those_of_all_their_folds(trained, formulas):
    path = formulas()
    both, first, second = (
        predict_file(path, [trained[0] / name for name in names], say=quiet)
        for names in (("seed0", "seed1"), ("seed0",), ("seed1",))
    )
    assert both["prediction"].to_numpy() == pytest.approx((first["prediction"] + second["prediction"]).to_numpy() / 2)
    variances = (first["aleatoric_std"] ** 2 + second["aleatoric_std"] ** 2) / 2
    assert both["aleatoric_std"].to_numpy() == pytest.approx(np.sqrt(variances.to_numpy()))


@pytest.mark.parametrize(
    ("what", "text", "words"),
    [
        ("Predicting a formula with a dummy species", "formula\nFe2O3\nXx2\n", ["new.csv", "line 3", "Xx"]),
        (
            "Predicting an unknown element",
            "formula\nFe2O3\nOg\n",
            ["new.csv", "line 3", "no element vector for Og", "--unknown-elements drop"],
        ),
        ("Predicting a charged formula", "formula\n\nFe2O3+\n", ["new.csv", "line 3"]),
        (
            "Predicting without a column of formulas",
            "composition\nFe2O3\n",
            ["no column 'formula'", "composition", "--formula"],
        ),
        ("Predicting no rows", "formula\n", ["new.csv", "no rows"]),
        ("Predicting an empty file", "", ["new.csv", "empty"]),
        ("Predicting the same id twice", "id,formula\na,Fe\na,Cu\n", ["new.csv", "line 3", "id a", "unique"]),
    ],
)
def test_bad_formulas_end_with_one_line(trained, formulas, capsys, fault, what, text, words):
    with fault(what, *words):
        predict(capsys, formulas(text), trained[0])


def edit_weights(change):
    def edit(folder):
        tensors = load_file(folder / "seed1/weights.safetensors")
        change(tensors)
        replace("weights.safetensors", save(tensors))(folder)

    return edit


def predict(capsys, path, folder):
    """Run the command line; its one line for the user is raised."""
    assert main([str(path), "--model", str(folder)]) == 1
    start, line = capsys.readouterr().err.split("error: ", 1)
    assert not start
    raise DataError(line.removesuffix("\n"))


BIAS = "fold1.head.2.bias"


@pytest.mark.parametrize(
    ("what", "damage", "words"),
    [
        ("The folder of a model that is not there", shutil.rmtree, ["model: no such folder"]),
        (
            "A folder without a model",
            lambda f: [shutil.rmtree(f / s) for s in ("seed0", "seed1")],
            ["model: no trained model", "DATASET/MODEL"],
        ),
        ("A model without weights", lambda f: (f / "seed1/weights.safetensors").unlink(), ["seed1", "weights.safetensors"]),
        ("Weights of a model that are cut off", replace("weights.safetensors", b"short"), ["seed1", "weights.safetensors"]),
        ("A damaged record of a model", replace("model.json", b"{"), ["seed1", "model.json"]),
        ("Another file as the record of a model", replace("model.json", b"[]"), ["seed1", "model.json"]),
        ("A model of a module that is not there", edit_record(encoder="absent"), ["model.json", "absent"]),
        ("A model of a module without networks", edit_record(encoder="files"), ["model.json", "Model"]),
        ("A model of another recipe", edit_record(recipe={"epoch": 3}), ["model.json", "epoch"]),
        ("A model without its unit", edit_record(unit=None), ["model.json", "unit"]),
        ("A model with other outputs", edit_record(n_outputs=1), ["fold0.head.2.bias and 3 more", "another shape"]),
        ("Seeds trained with different losses", edit_record(loss="l1"), ["seed1: loss is not that of", "seed0"]),
        ("Seeds trained on different scales", edit_record(target_scale="log"), ["seed1: target_scale is not that of", "seed0"]),
        ("Seeds trained on other numbers of rows", edit_record(size="20"), ["seed1: size is not that of", "seed0"]),
        ("Seeds trained on another table", edit_record(data_sha256="0" * 64), ["seed1: data_sha256 is not that of", "seed0"]),
        ("Seeds trained on different datasets", edit_record(dataset="other"), ["seed1: dataset is not that of", "seed0"]),
        ("A model without a layer", edit_weights(lambda t: t.pop(BIAS)), [BIAS, "missing"]),
        ("A model without its compositions", edit_weights(lambda t: t.pop("train.offset")), ["seed1", "train.offset"]),
        ("A layer of another shape", edit_weights(lambda t: t.update({BIAS: torch.zeros(7)})), [BIAS, "another shape"]),
        ("A model with a layer more", edit_weights(lambda t: t.update(extra=torch.zeros(1))), ["extra", "unexpected"]),
        (
            "Seeds trained on different compositions",
            edit_weights(lambda t: t["train.amount"].add_(1)),
            ["seed1: train.amount is not that of", "seed0"],
        ),
    ],
)
def test_bad_models_end_with_one_line(copied, formulas, capsys, fault, what, damage, words):
    damage(copied)
    with fault(what, *words):
        predict(capsys, formulas(), copied)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"loss": "l2"}, "seed1/model.json: .*its loss is l2"),
        ({"loss": "l1"}, "2 outputs are not those of the loss"),
        ({"target_scale": "sqrt"}, "seed1/model.json: .*its target_scale is sqrt"),
    ],
)
def test_a_record_names_a_loss_and_a_scale_that_are_known(copied, formulas, changes, words):
    edit_record(**changes)(copied)
    with pytest.raises(DataError, match=words):
        predict_file(formulas(), [copied / "seed1"], say=quiet)


def test_the_module_runs_without_snakemake(formulas, tmp_path):
    hidden = "import sys, runpy; sys.modules['snakemake'] = None; runpy.run_module('matpretrain.predict', run_name='__main__')"
    done = subprocess.run(
        [sys.executable, "-c", hidden, str(formulas()), "--model", str(tmp_path / "absent")],
        env={**os.environ, "PYTHONPATH": str(PROJECT / "workflow/scripts")}, capture_output=True, text=True,
    )  # fmt: skip
    assert (
        done.returncode == 1
        and done.stderr == f"error: {tmp_path / 'absent'}: no such folder; give results/finetune/DATASET/MODEL\n"
    )


def readme_block(heading):
    """The Python code under a heading of the README."""
    section = (PROJECT / "README.md").read_text().split(f"## {heading}\n")[1].split("\n## ")[0]
    return re.search(r"```python\n(.*?)```", section, re.DOTALL).group(1)


def test_the_readme_embeds_formulas_in_a_notebook(tmp_path, monkeypatch):
    torch.manual_seed(0)
    encoder = roost.Encoder(VECTORS)
    save_encoder(encoder, "roost", tmp_path / "results/pretrain/ssl", {"corpus": "none"})
    monkeypatch.chdir(tmp_path)
    names = {}
    code = readme_block("Encoders in a notebook")
    assert sum(bool(line) for line in code.splitlines()) <= 5
    exec(code, names)
    compositions, _ = parse_formulas(["Fe2O3", "GaAs", "LiCoO2"])
    with torch.inference_mode():
        expected = encoder.eval()(roost.Inputs(compositions)[torch.arange(3)])
    assert names["vectors"].shape == (3, roost.REPRESENTATION)
    assert np.allclose(names["vectors"], expected)
