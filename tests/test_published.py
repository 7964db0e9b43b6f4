import pandas as pd
import pytest
from compare_published import compare_published, markdown

from matpretrain.files import read_csv

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
