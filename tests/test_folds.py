"""Jobs of finetuning: which outer folds train together, what they leave, and what is said of them."""

import numpy as np
import pytest
from small_problem import all_folds, finetuning, formation_energies, recipe

from matpretrain import folds, states, supervised
from matpretrain.composition import matscholar_vectors
from matpretrain.plots import learning_curves
from matpretrain.processes import Stopped
from matpretrain.run import Diverged
from matpretrain.selection import overtrained

VECTORS = np.nan_to_num(matscholar_vectors())  # as jobs get them


@pytest.fixture(scope="module")
def table():
    return formation_energies(62)


def training(table, **changes):
    slow = recipe(epochs=3, clip=1.0, select="last", learning_rate=1e-3)
    own = {"encoder": "roost", "arguments": {"element_vectors": VECTORS}, "loss": "robust_l1", "recipe": slow}
    return finetuning(table, **own | changes)


@pytest.mark.parametrize("cohort", [1, 5])
def test_all_rows_train_where_none_validate(table, cohort, tmp_path, capsys):
    own = training(table, inner_fraction=0, cohort=cohort)
    predictions, history, _ = all_folds(own, 1, print, tmp_path)
    assert set(predictions["part"]) == {"test"} and sorted(predictions["id"]) == sorted(table["id"])
    assert history["mae"].isna().all() and history["loss"].notna().all() and overtrained(history) is None
    train, validation, test = own.split(2)
    assert sorted([*train, *test]) == list(range(len(table))) and not len(validation)
    assert "loss" in (told := capsys.readouterr().out) and "validation MAE" not in told
    figure = learning_curves({"Roost": history}, "mine", "eV")
    assert any("all rows train" in text.get_text() for text in figure.axes[1].texts)


def test_folds_that_train_together_predict_what_they_predict_alone(table, tmp_path):
    """After three epochs: rounding grows with every step, as between the fused and the padded form of a network alone."""
    said = []
    alone, history, kept = all_folds(training(table), 1, said.append, tmp_path / "alone")
    together, other, stacked = all_folds(training(table, cohort=5), 1, said.append, tmp_path / "together")
    assert [line.rpartition(" on ")[0] for line in said if "rows, " in line] == [
        "62 rows, 5 folds, 1 at a time",
        "62 rows, 5 folds, in cohorts of 5, 1 at a time",
    ]
    same = ["id", "target", "fold", "seed", "part"]
    assert together[same].equals(alone[same]) and len(other) == len(history) == 15
    for name in ("prediction", "aleatoric_std"):
        assert np.allclose(together[name], alone[name], rtol=0, atol=1e-3 * alone["target"].std())
    assert np.allclose(other["loss"], history["loss"], atol=1e-4)
    for a, b in zip(kept, stacked, strict=True):
        assert a["fold"] == b["fold"] and a["mean"] == b["mean"] and a["weights"].keys() == b["weights"].keys()
        for name, own in a["weights"].items():  # the first steps of Adam carry the sign of a gradient, be it only rounding
            assert np.abs(own - b["weights"][name]).mean() < 1e-4
    assert np.abs(kept[0]["weights"]["head.2.weight"] - kept[1]["weights"]["head.2.weight"]).max() > 1e-2


def together(*trainings):
    """Folds of every cohort, with the name of the Training where there are several."""
    groups = folds.cohorts(list(trainings))
    return [[(own.name, fold) if own.name else fold for own, fold in group] for group in groups]


def test_who_trains_together(table):
    assert together(training(table)) == [[0], [1], [2], [3], [4]]
    assert together(training(table, cohort=2)) == [[0, 1], [2, 3], [4]]
    assert together(training(table, device="cuda:0")) == [[0, 1, 2, 3, 4]]
    assert together(training(table, device="cuda:0", encoder="rescnn")) == [[0], [1], [2], [3], [4]]
    runs = [training(table, device="cuda:0", name=name, seed=seed) for name, seed in (("a/seed0", 0), ("a/seed1", 1))]
    assert together(*runs) == [[(name, fold) for name in ("a/seed0", "a/seed1") for fold in range(5)]]
    uneven = table.assign(fold=[0, 1] * 8 + [2] * 30 + [3, 4] * 8)
    assert together(training(uneven, cohort=5)) == [[0, 1, 3, 4], [2]]


def test_a_cohort_that_was_killed_while_it_wrote_its_results_writes_them_all(table, tmp_path, monkeypatch):
    job, written = training(table, cohort=3), []
    whole = all_folds(job, 1, lambda text: None, tmp_path / "whole")[0]
    monkeypatch.setenv(states.MINUTES, "0")
    save = folds.save_state

    def killed(record, path):
        if path.name == "fold1.pt":
            raise KeyboardInterrupt
        save(record, path)

    monkeypatch.setattr(folds, "save_state", killed)
    state = tmp_path / "killed"
    with pytest.raises(KeyboardInterrupt):
        all_folds(job, 1, lambda text: None, state)
    assert sorted(path.name for path in state.iterdir()) == ["fold0.pt", "training0-1-2.pt"]
    monkeypatch.setattr(folds, "save_state", lambda record, path: (written.append(path.name), save(record, path)))
    again = all_folds(job, 1, lambda text: None, state)[0]
    assert written == [f"fold{k}.pt" for k in range(5)] and again.equals(whole)
    assert not list(state.glob("training*.pt"))


def test_a_cohort_of_many_folds_has_a_state_that_file_systems_can_name(table, tmp_path, monkeypatch):
    paths = []
    monkeypatch.setattr(folds, "train_members", lambda members, say, state: paths.append(state) or [])
    for many in (3, 300, 301):
        with pytest.raises(ValueError, match="argument 2"):  # nothing was trained
            folds.finish_members([(training(table), fold) for fold in range(many)], print, tmp_path)
    assert paths[0].name == "training0-1-2.pt" and len({path.name for path in paths}) == 3
    for path in paths:
        path.touch()


def test_what_goes_wrong_names_the_folds(table, tmp_path, monkeypatch):
    job = training(table, cohort=3)

    def stop(*arguments, **options):
        raise Stopped("SIGTERM", ["after epoch 1, step 2 of 6"])

    def diverge(*arguments, **options):
        raise Diverged("training loss became nan in epoch 3; lower learning_rate", 2)

    monkeypatch.setattr(supervised, "fit_cohort", stop)
    with pytest.raises(Stopped, match="stopped on SIGTERM: folds 0, 1, 2 after epoch 1, step 2 of 6; the next run"):
        all_folds(job, 1, lambda text: None, tmp_path)
    monkeypatch.setattr(supervised, "fit_cohort", diverge)
    with pytest.raises(FloatingPointError, match="^fold 2: training loss became nan in epoch 3"):
        all_folds(job, 1, lambda text: None, tmp_path)


def test_folds_that_stop_early_report_until_they_stop(table, tmp_path):
    said, changes = [], {"epochs": 12, "patience": 2, "learning_rate": 3e-3, "select": "best", "clip": 1.0}
    job = training(table, cohort=5, recipe=recipe(**changes))
    history = all_folds(job, 1, said.append, tmp_path)[1]
    epochs = history.groupby("fold")["epoch"].max()
    assert epochs.nunique() > 1 and epochs.min() < 12
    assert sum(line.startswith("fold 0: epoch") for line in said) == epochs[0]
