import numpy as np
import pandas as pd
import pytest
from compare_published import compare_published, markdown
from record_matbench import record_matbench

from matpretrain.files import DataError, read_csv
from matpretrain.sources import matbench_row_ids
from matpretrain.splits import outer_folds

FAULTS = "Submissions to Matbench"
SUBMISSIONS = {"finder": "Finder_v1.2_composition", "dummy": "dummy"}
TASKS = {"matbench_phonons": "matbench_phonons", "mine": "matbench_phonons"}


@pytest.fixture
def published(request):
    return read_csv(request.config.rootpath / "resources/paper/matbench_submissions.csv")


def scores(published, factor):
    row = published.set_index(["dataset", "submission"]).loc[("matbench_phonons", "Finder_v1.2_composition")]
    whole = {"dataset": "matbench_phonons", "part": "test", "n": 253, "train_rows": 1012}
    rows = [
        {**whole, "model": model, "seed": seed, "fold": k, "mae": row[f"fold_{k}"] * f}
        for model, seed, f in (("finder", 0, factor), ("finder", 1, factor), ("roost", 0, 1.0))
        for k in range(5)
    ]
    return pd.DataFrame(rows)


def test_models_are_compared_with_their_submission_only(published):
    table = compare_published(scores(published, 1.0), published, SUBMISSIONS, {}, TASKS)
    (row,) = table.to_dict("records")
    assert row["model"] == "finder" and row["difference"] == 0 and row["p"] == 1 and row["n_seeds"] == 2
    assert row["published_mean"] == pytest.approx(46.575057) and row["published_std"] == pytest.approx(3.741485, abs=1e-5)


def test_a_model_with_the_name_of_its_submission_is_not_compared_with_itself(published):
    theirs = published.set_index(["dataset", "submission"]).loc[("matbench_phonons", "dummy")]
    ours = scores(published, 1.0).query("model == 'roost'").assign(model="dummy")
    ours["mae"] = [theirs[f"fold_{k}"] + 10 for k in range(5)]
    (row,) = compare_published(ours, published, SUBMISSIONS, {}, TASKS).to_dict("records")
    assert row["difference"] == pytest.approx(10) and row["p"] < 1e-6
    assert row["published_mean"] == pytest.approx(theirs[[f"fold_{k}" for k in range(5)]].mean())


def test_a_constant_gain_is_significant_and_printed(published):
    structures = {"finder": {"matbench_phonons": "as published"}}
    table = compare_published(scores(published, 0.9), published, SUBMISSIONS, structures, TASKS)
    text = markdown(table, {"matbench_phonons": "Phonons", "finder": "Finder"}, {"matbench_phonons": "1/cm"})
    assert "| Phonons | 1/cm | Finder | 2 | 41.92 ± 3.37 | 46.58 ± 3.74 | -10.0% | 0.00 | as published |" in text


def test_a_dataset_of_another_name_is_compared_on_its_task_and_other_folds_are_not(published):
    ours = scores(published, 0.9)
    table = compare_published(
        pd.concat([ours.assign(dataset="mine"), ours.assign(dataset="no_polymorph")]), published, SUBMISSIONS, {}, TASKS
    )
    (row,) = table.to_dict("records")
    assert row["dataset"] == "mine" and row["published_mean"] == pytest.approx(46.575057)
    assert row["difference"] == pytest.approx(-0.1 * 46.575057)


def test_predictions_for_matbench_cover_all_its_rows(fault):
    name = "matbench_steels"
    ids = matbench_row_ids(name, 312)
    table = pd.DataFrame({"id": ids, "formula": "Fe", "target": np.arange(312.0)})
    predictions = table.assign(fold=outer_folds(312), part="test", seed=0, prediction=1.0 + table["target"])
    (task,) = record_matbench({name: table}, {name: predictions}, {"algorithm": "mine"}).tasks
    assert task.scores["mae"]["mean"] == pytest.approx(1)
    with fault("A row of a Matbench task that was dropped", f"{name}: fold 0", "mb-steels-003", "its row was dropped"):
        record_matbench({name: table.drop(2)}, {name: predictions.drop(2)}, {})
    others = predictions.assign(fold=outer_folds(312, seed=1))
    for changed, why in (
        (others, "the folds are not the official ones"),
        (predictions[predictions["fold"] < 4], "none at all"),
    ):
        with pytest.raises(DataError, match=f"no prediction for .* {why}"):
            record_matbench({name: table}, {name: changed}, {})
