"""Baselines that are kept: fitted again they predict the same, and what is wrong with them is told in one line."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from conftest import PROJECT
from faults import edit_record
from fit_baseline import fit_baseline
from sklearn.ensemble import RandomForestRegressor
from sklearn.linear_model import BayesianRidge, Ridge

from matpretrain import estimators
from matpretrain.baselines import FEATURES, ROWS, builder, load_baselines, save_baseline
from matpretrain.calibration import NORMAL
from matpretrain.composition import parse_formulas, take
from matpretrain.files import DataError
from matpretrain.predict import main, predict_file
from matpretrain.provenance import fingerprint
from matpretrain.registries import FIXED_FEATURES
from matpretrain.sources import read_embedded
from matpretrain.splits import NEVER_TESTED, outer_folds
from matpretrain.subsets import trained_rows

FAULTS = "Prediction by baselines"
ARGUMENTS = {"trees": 20}
FOLDS = 3


@pytest.fixture(scope="module")
def table():
    """60 computed Seebeck coefficients in three folds."""
    table = read_embedded("matminer_transport_seebeck_p").sample(60, random_state=1).reset_index(drop=True)
    return table.assign(fold=outer_folds(60, FOLDS))


def fit(folder, table, seed=0, features="magpie", size=None, **changes):
    """Fit and keep a forest as the rule does. Returns its predictions for test rows."""
    compositions, _ = parse_formulas(table["formula"].tolist())
    build = builder("random_forest", seed, ARGUMENTS)
    predictions = fit_baseline(table, FEATURES[features](compositions), build, 1, lambda text: None, size)
    record = {"estimator": "random_forest", "features": features, "arguments": ARGUMENTS, "size": size, "seed": seed}
    record |= {
        "dataset": "mine",
        "model": "rf",
        "unit": "microvolt/K",
        "data_sha256": "0",
        "code_version": fingerprint("fit_baseline"),
    }
    folder.mkdir(parents=True, exist_ok=True)
    save_baseline(compositions, table, record | changes, folder)
    return predictions


@pytest.fixture(scope="module")
def kept(tmp_path_factory, table):
    """(folder with two seeds, their predictions for test rows)."""
    folder = tmp_path_factory.mktemp("kept")
    return folder, [fit(folder / f"seed{seed}", table, seed) for seed in (0, 1)]


@pytest.fixture
def copied(kept, tmp_path):
    return shutil.copytree(kept[0], tmp_path / "model")


@pytest.fixture
def formulas(tmp_path):
    path = tmp_path / "new.csv"
    path.write_text("formula\nFe2O3\nNaN\nPoFe\n")
    return path


def test_every_fold_predicts_what_it_predicted_before(kept, table):
    baselines = load_baselines([kept[0] / "seed0", kept[0] / "seed1"], print)
    compositions, _ = parse_formulas(table["formula"].tolist())
    means, stds = baselines.predictions(compositions, threads=2)
    assert len(baselines) == len(means) == 2 * FOLDS
    for member, (mean, std) in enumerate(zip(means, stds, strict=True)):
        seed, fold = divmod(member, FOLDS)
        test = np.flatnonzero(table["fold"] == fold)
        before = kept[1][seed].query("fold == @fold").set_index("id").loc[table["id"].to_numpy()[test]]
        assert np.array_equal(mean[test], before["prediction"]) and np.array_equal(std[test], before["aleatoric_std"])
    assert len({mean.tobytes() for mean in means}) == 2 * FOLDS


def test_deviations_are_those_of_the_trees_scaled_on_rows_out_of_bag(table):
    compositions, _ = parse_formulas(table["formula"].tolist())
    features, target = FEATURES["magpie"](compositions), table["target"].to_numpy()
    reference = RandomForestRegressor(20, max_features=1 / 3, random_state=0).fit(features[:40], target[:40])
    trees = np.array([[tree.predict([row])[0] for tree in reference.estimators_] for row in features])
    unseen = np.array([[row not in rows for rows in reference.estimators_samples_] for row in range(40)])
    known = zip(trees[:40], unseen, target[:40], strict=True)
    ratios = [abs(np.median(of_row[out]) - truth) / np.std(of_row[out]) for of_row, out, truth in known]
    factor = sorted(ratios)[int(np.ceil(NORMAL * 41)) - 1]
    forest = estimators.random_forest(0, 20, "median").fit(features[:40], target[:40])
    np.testing.assert_allclose(estimators.predicted(forest, features[40:])[1], factor * trees[40:].std(1), rtol=1e-9)


def test_two_thirds_of_the_errors_of_a_forest_lie_within_its_deviations():
    random = np.random.default_rng(0)
    features = random.normal(size=(1200, 5))
    target = np.exp(features[:, 0] + random.normal(size=1200))  # heavy tails: the trees' own deviation is far too wide
    forest = estimators.random_forest(0, 100).fit(features[:600], target[:600])
    prediction, deviation = forest.predict(features[600:], return_std=True)
    assert forest.deviation_factor < 0.8
    assert np.mean(np.abs(prediction - target[600:]) <= deviation) == pytest.approx(NORMAL, abs=0.05)


def test_regressors_of_scikit_learn_have_the_deviations_that_they_predict():
    features = np.random.default_rng(0).normal(size=(50, 3))
    target = features @ [1.0, 2.0, 3.0] + np.random.default_rng(1).normal(size=50)
    bayes = BayesianRidge().fit(features, target)
    assert np.array_equal(estimators.predicted(bayes, features)[1], bayes.predict(features, return_std=True)[1])
    assert np.isnan(estimators.predicted(Ridge().fit(features, target), features)[1]).all()
    prediction, deviation = estimators.predicted(estimators.mean(0).fit(features, target), features[:2])
    assert prediction.tolist() == [target.mean()] * 2 and deviation[0] == deviation[1]
    assert (np.abs(target - target.mean()) <= deviation[0]).mean() == pytest.approx(NORMAL, abs=0.02)


def test_the_features_read_off_formulas_are_those_that_the_registry_knows():
    assert tuple(FEATURES) == FIXED_FEATURES


def test_a_subset_is_fitted_again_to_the_rows_that_were_drawn(tmp_path, table):
    table = table.assign(fold=table["fold"].replace(2, NEVER_TESTED))
    before = fit(tmp_path / "seed0", table, size="10")
    baselines = load_baselines([tmp_path / "seed0"], print)
    compositions, _ = parse_formulas(table["formula"].tolist())
    means, _ = baselines.predictions(compositions, threads=1)
    assert len(means) == 2 and np.array_equal(means[0][table["fold"] == 0], before.query("fold == 0")["prediction"])
    drawn = trained_rows(table["fold"].to_numpy(), "10")
    assert 10 <= len(drawn) <= 20
    expected = take(compositions, drawn).arrays()
    assert all(np.array_equal(array, expected[name]) for name, array in baselines.train.arrays().items())


def test_forests_are_scaled_on_groups_that_were_not_seen(tmp_path, table, monkeypatch):
    compositions, _ = parse_formulas(table["formula"].tolist())
    features, target = np.repeat(FEATURES["magpie"](compositions), 2, axis=0), np.repeat(table["target"].to_numpy(), 2)
    target = target + np.random.default_rng(0).normal(0, 0.1 * target.std(), 120)
    groups = np.repeat(np.arange(60), 2)
    alone, grouped = (estimators.random_forest(0, 50).fit(features, target, g) for g in (None, groups))
    assert grouped.deviation_factor > 1.5 * alone.deviation_factor  # the twin, of nearly the same target, was mostly seen
    pairs = grouped.held_out(features, target, groups).reshape(10, 60, 2)
    assert np.array_equal(pairs[..., 0], pairs[..., 1]) and np.isfinite(pairs).all()
    monkeypatch.setitem(ARGUMENTS, "trees", 50)
    twice = table.loc[groups].reset_index(drop=True).assign(target=target, group=groups, id=np.arange(120))
    apart = fit(tmp_path / "apart", twice.drop(columns="group"))
    before = fit(tmp_path / "seed0", twice)
    assert (before["aleatoric_std"] > 1.5 * apart["aleatoric_std"]).all()
    means, stds = load_baselines([tmp_path / "seed0"], print).predictions(parse_formulas(twice["formula"].tolist())[0], 1)
    for fold, rows in before.groupby("fold"):
        assert np.array_equal(stds[fold, rows["id"]], rows["aleatoric_std"]) and np.array_equal(
            means[fold, rows["id"]], rows["prediction"]
        )


def test_the_command_line_predicts_by_a_baseline(kept, formulas, capsys):
    assert main([str(formulas), "--model", str(kept[0])]) == 0
    out, err = capsys.readouterr()
    assert "3 formulas, 6 baselines trained on mine (microvolt/K); " in err
    lines = [line.split(",") for line in out.splitlines()]
    assert lines[0] == ["id", "formula", "prediction", "aleatoric_std", "epistemic_std", "distance", "far"]
    assert all(float(cell) > 0 for line in lines[1:] for cell in line[3:5]) and lines[3][-1] == "True"
    one = predict_file(formulas, [kept[0] / "seed0"], say=print)
    two = predict_file(formulas, [kept[0] / "seed0", kept[0] / "seed1"], say=print)
    assert np.array_equal(two["prediction"], pd.DataFrame(lines[1:], columns=lines[0])["prediction"].astype(float))
    assert not np.array_equal(one["prediction"], two["prediction"])


def test_another_version_of_scikit_learn_is_told(copied, formulas):
    record = json.loads((copied / "seed0/model.json").read_text())
    assert record["arguments"] == {"trees": 20, "prediction": "auto", "max_features": 1 / 3}  # as they were by default
    (copied / "seed0/model.json").write_text(json.dumps(record | {"scikit-learn": "1.0", "code_version": "abc"}))
    said = []
    predict_file(formulas, [copied / "seed0"], say=said.append)
    assert said[0].startswith("fitted with scikit-learn 1.0, and now again with ")
    assert said[1].startswith("fitted with code_version abc, and now again with ") and len(said) == 3


def edit_rows(**changes):
    def edit(folder):
        with np.load(folder / "seed1" / ROWS) as rows:
            arrays = dict(rows) | {name: change(rows[name]) for name, change in changes.items()}
        np.savez(folder / "seed1" / ROWS, **arrays)

    return edit


@pytest.mark.parametrize(
    ("what", "damage", "words"),
    [
        ("Rows of a baseline that are cut off", lambda f: os.truncate(f / "seed1" / ROWS, 100), ["seed1/training.npz"]),
        (
            "Another file as the rows of a baseline",
            lambda f: np.save((f / "seed1" / ROWS).open("wb"), np.ones(3)),
            ["seed1/training.npz"],
        ),
        (
            "Rows of a baseline that do not belong together",
            edit_rows(fold=lambda a: a[:-1]),
            ["seed1/training.npz", "different lengths"],
        ),
        ("A baseline without its unit", edit_record(unit=None), ["seed1/model.json", "unit"]),
        ("A baseline of an unknown estimator", edit_record(estimator="forest"), ["seed1/model.json", "forest"]),
        ("A baseline with other arguments", edit_record(arguments={"tree": 3}), ["seed1/model.json", "tree"]),
        ("A baseline on a frozen encoder", edit_record(features="fl"), ["seed1/model.json", "frozen encoder fl", "magpie"]),
        ("Baselines fitted to different tables", edit_record(data_sha256="1"), ["seed1: data_sha256 is not that of", "seed0"]),
        ("Baselines fitted to different targets", edit_rows(target=lambda a: a + 1), ["seed1: target is not that of", "seed0"]),
    ],
)
def test_bad_baselines_end_with_one_line(copied, formulas, capsys, fault, what, damage, words):
    damage(copied)
    with fault(what, *words):
        assert main([str(formulas), "--model", str(copied)]) == 1
        raise DataError(capsys.readouterr().err.split("error: ", 1)[1].removesuffix("\n"))


def test_the_command_line_says_nothing_of_pymatgens_noble_gases(kept, formulas):
    command = [sys.executable, "-m", "matpretrain.predict", str(formulas), "--model", str(kept[0] / "seed0")]
    ours = os.environ | {"PYTHONPATH": str(PROJECT / "workflow/scripts")}
    done = subprocess.run(command, env=ours, capture_output=True, text=True, check=True)
    assert len(done.stderr.splitlines()) == 1 and done.stderr.startswith("3 formulas, 3 baselines trained on mine")
