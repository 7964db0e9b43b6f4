import errno
import os
import platform
import subprocess
import threading
import time
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import until
from small_problem import RECIPE, all_folds

from matpretrain import states
from matpretrain.files import DataError, atomic_path
from matpretrain.states import check_history, kept_state, load_state, save_state, state_key


class Named(list):
    """Files or parameters by name, as Snakemake gives them to a script."""

    def __init__(self, **named):
        super().__init__(named.values())
        self.__dict__ |= named | {"items": named.items}


def job_of(folder, **params):
    (folder / "in.csv").write_text("a")
    return SimpleNamespace(
        rule="finetune",
        wildcards=Named(dataset="mine", seed="0"),
        params=Named(recipe={"epochs": 3, "precision": "float32"}, code="1234", **params),
        input=[str(folder / "in.csv")],
    )


class Said(list):
    """What a job said and noted."""

    def __init__(self):
        self.noted = {}
        self.note = self.noted.update

    def __call__(self, text):
        self.append(text)


def test_the_key_follows_parameters_inputs_and_kind_of_device(tmp_path):
    job = job_of(tmp_path)
    key = state_key(job, "cuda:0")
    assert key == state_key(job_of(tmp_path), "cuda:1")
    others = [state_key(job, "cpu"), state_key(job_of(tmp_path, size="500"), "cuda:0")]
    (tmp_path / "in.csv").write_text("b")
    others.append(state_key(job, "cuda:0"))
    job.wildcards = Named(dataset="mine", seed="1")
    others.append(state_key(job, "cuda:0"))
    assert len({key, *others}) == 5


def test_the_key_follows_what_products_are_rounded_to(tmp_path, monkeypatch):
    job, keys = job_of(tmp_path), {}
    for precision in ("float32", "auto"):
        job.params.recipe = {"precision": precision}
        for units in (True, False):
            monkeypatch.setattr("matpretrain.recipe.multiplies_bfloat16", lambda units=units: units)
            keys[precision, units] = state_key(job, "cpu")
    assert keys["float32", True] == keys["float32", False] and keys["auto", True] != keys["auto", False]


def test_a_state_stays_after_a_failure_and_goes_after_success(tmp_path):
    said, home = Said(), tmp_path / "seed0" / ".state"

    def work(fails, **params):
        with kept_state(job_of(tmp_path, **params), tmp_path / "seed0", "cpu", said) as state:
            found = (state / "fold0.pt").exists()
            save_state({"of": {}}, state / "fold0.pt")
            if fails:
                raise RuntimeError
        return found

    with pytest.raises(RuntimeError):
        work(True)
    with pytest.raises(RuntimeError):
        work(True, size="500")  # of other parameters: it neither uses the first state nor removes it
    assert not said and len(list(home.glob("*/fold0.pt"))) == 2
    assert work(False) and said == [f"goes on from {home}/{state_key(job_of(tmp_path), 'cpu')}"]
    assert not home.exists()


def test_the_time_of_interrupted_runs_counts_until_their_last_state(tmp_path):
    said = Said()

    def interrupted(seconds):
        with pytest.raises(RuntimeError), kept_state(job_of(tmp_path), tmp_path / "seed0", "cpu", said) as state:
            save_state({"of": {}}, state / "training.pt")
            later = time.time() + seconds
            os.utime(state / "training.pt", (later, later))
            raise RuntimeError
        return said.noted["earlier_seconds"]

    assert interrupted(30) == 0
    assert interrupted(12) == pytest.approx(30, abs=5)
    with kept_state(job_of(tmp_path), tmp_path / "seed0", "cpu", said):
        assert said.noted["earlier_seconds"] == pytest.approx(42, abs=5)


def test_a_run_without_a_state_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError), kept_state(job_of(tmp_path), tmp_path / "seed0", "cpu", Said()):
        raise RuntimeError
    assert not (tmp_path / "seed0/.state").exists()


def test_a_file_system_without_locks_is_said_and_no_job_waits_for_a_dead_one(tmp_path, monkeypatch):
    def lacking(*arguments):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", lacking)
    said = Said()
    for _ in range(2):
        with kept_state(job_of(tmp_path), tmp_path / "seed0", "cpu", said):
            (tmp_path / "seed0/.state/lock").touch()  # as another host's killed job would have left it
    assert len(said) == 2 and "this file system has no locks" in said[0]


def test_two_jobs_never_work_with_one_state(tmp_path, monkeypatch):
    monkeypatch.setattr(states, "POLL", 0.01)
    said, ended = Said(), []

    def second():
        with kept_state(job_of(tmp_path), tmp_path / "seed0", "cpu", said):
            ended.append(time.monotonic())

    with kept_state(job_of(tmp_path), tmp_path / "seed0", "cpu", Said()):
        thread = threading.Thread(target=second, daemon=True)
        thread.start()
        until(lambda: said)
        assert said == [f"another process works on {tmp_path}/seed0: waiting until it ends"]
        released = time.monotonic()
    thread.join(30)
    assert not thread.is_alive() and ended[0] >= released and not (tmp_path / "seed0/.state").exists()


def test_the_folder_of_states_may_go_while_it_is_made(tmp_path, monkeypatch):
    """The other process ends within mkdir, after the system has refused to make what is there, before Python looks for it."""
    home, real, calls = tmp_path / "seed0/.state", os.mkdir, []

    def mkdir(path, *arguments):
        calls.append(path)
        if len(calls) == 1:
            raise FileExistsError(errno.EEXIST, "File exists", str(path))
        real(path, *arguments)

    (tmp_path / "seed0").mkdir()
    monkeypatch.setattr(os, "mkdir", mkdir)
    with kept_state(job_of(tmp_path), tmp_path / "seed0", "cpu", Said()):
        assert home.is_dir() and len(calls) > 1


def test_a_history_is_that_of_a_training():
    row = {"epoch": 1, "learning_rate": 0.1, "loss": 1.0, "mae": float("nan"), "seconds": 2.0}
    check_history([row, row | {"epoch": 2}], 2)
    for history in (None, [row] * 2, [row | {"seconds": float("inf")}], [row, {"epoch": 2}], [[]], [row | {"loss": None}]):
        with pytest.raises(ValueError, match="history"):
            check_history(history, 2)
    with pytest.raises(ValueError, match="at most 1 epochs"):
        check_history([row, row | {"epoch": 2}], 1)


def test_states_hold_what_they_were_given(tmp_path):
    record = {"of": {"fold": 3}, "weights": {"w": torch.randn(4)}, "rows": [{"id": "a", "value": 0.1}]}
    save_state(record, tmp_path / "fold3.pt")
    again = load_state(tmp_path / "fold3.pt", {"fold": 3}, lambda record: None)
    assert torch.equal(again["weights"]["w"], record["weights"]["w"]) and again["rows"] == record["rows"]
    with pytest.raises(DataError, match=r"fold3.pt: .*of another training: fold differs\); delete it to start again"):
        load_state(tmp_path / "fold3.pt", {"fold": 4}, lambda record: None)
    with pytest.raises(DataError, match=r"fold4.pt: .*there is no such file\); train again"):
        load_state(tmp_path / "fold4.pt", {"fold": 4}, lambda record: None, remedy="train again")


def test_the_temporary_of_a_killed_process_is_no_state(tmp_path):
    said = Said()
    with pytest.raises(RuntimeError), kept_state(job_of(tmp_path), tmp_path / "seed0", "cpu", said) as state:
        (state / ".training0.pt.here.1.tmp.pt").touch()
        raise RuntimeError
    with kept_state(job_of(tmp_path), tmp_path / "seed0", "cpu", said):
        pass
    assert not said and said.noted["earlier_seconds"] == 0 and not (tmp_path / "seed0" / ".state").exists()


def test_temporaries_of_dead_processes_go_with_the_next_writing(tmp_path):
    child = subprocess.Popen(["true"])
    child.wait()
    here = platform.node()
    dead = tmp_path / f".table.csv.{here}.{child.pid}.tmp.csv"
    alive = tmp_path / f".table.csv.{here}.{os.getppid()}.tmp.csv"
    others = tmp_path / f".other.csv.{here}.{child.pid}.tmp.csv"
    elsewhere = tmp_path / f".table.csv.{here}-2.{child.pid}.tmp.csv"
    for path in (dead, alive, others, elsewhere):
        path.touch()
    forgotten = tmp_path / f".table.csv.{here}-3.{child.pid}.tmp.csv"
    forgotten.touch()
    os.utime(forgotten, (0, 0))
    with atomic_path(tmp_path / "table.csv") as temporary:
        temporary.write_text("new")
    assert sorted(tmp_path.iterdir()) == sorted([alive, others, elsewhere, tmp_path / "table.csv"])


def test_space_is_looked_for_before_a_large_file_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=1e6))
    save_state({"small": torch.zeros(10)}, tmp_path / "state.pt")
    with pytest.raises(DataError, match=r"state.pt: cannot be written \(0.004 GB needed, 0.001 GB free\); free space"):
        save_state({"large": {"w": torch.zeros(1_000_000)}}, tmp_path / "state.pt")
    assert [path.name for path in tmp_path.iterdir()] == ["state.pt"] and (tmp_path / "state.pt").stat().st_size < 1e5


@pytest.fixture
def folds(monkeypatch):
    """(a job of two folds whose training is pretended, list of the folds that were trained)."""
    from matpretrain import folds, supervised

    trained = []

    def train_members(members, say, state):
        ((training, fold),) = members
        trained.append(fold)
        if fold in training.arguments.get("fails", ()):
            raise FloatingPointError(f"fold {fold}")
        ids = training.table["id"][training.table["fold"] == fold].tolist()
        rows = pd.DataFrame({"id": ids, "target": 0.1, "prediction": 1 / 3, "aleatoric_std": np.nan, "part": "test"})
        history = pd.DataFrame([{"epoch": 1, "learning_rate": 0.1, "loss": 1.0, "mae": 2.0, "seconds": 0.5}])
        kept = {"fold": fold, "mean": 0.5, "std": 2.0, "weights": {"w": np.arange(3.0) / 7}}
        return [(rows.assign(fold=fold, seed=0), history.assign(fold=fold, seed=0), kept)]

    monkeypatch.setattr(folds, "train_members", train_members)
    table = pd.DataFrame({"id": list("abcd"), "fold": [0, 1, 0, 1], "target": 0.1})
    arguments = {}
    job = supervised.Training(table, None, "roost", arguments, None, "l1", RECIPE, 0.1, None, 0, "cpu")
    return job, trained


def finetuned(folds, state):
    return all_folds(folds[0], 1, lambda text: None, state)


def test_finished_folds_are_not_trained_again(folds, tmp_path):
    job, trained = folds
    job.arguments["fails"] = [1]
    with pytest.raises(FloatingPointError):
        finetuned(folds, tmp_path)
    job.arguments.clear()
    predictions, history, kept = finetuned(folds, tmp_path)
    assert trained == [0, 1, 1]
    assert predictions["id"].tolist() == ["a", "c", "b", "d"] and predictions["prediction"].tolist() == [1 / 3] * 4
    assert predictions["aleatoric_std"].isna().all() and history["fold"].tolist() == [0, 1]
    assert [member["fold"] for member in kept] == [0, 1] and np.array_equal(kept[1]["weights"]["w"], np.arange(3.0) / 7)


@pytest.mark.parametrize(
    ("keys", "value", "reason"),
    [
        (("predictions", "prediction"), [1.0, float("nan")], "2 predictions of 2 test rows, 1 of them not finite"),
        (("predictions", "part"), ["test", "validation"], "1 predictions of 2 test rows"),
        (("history", 0, "loss"), float("nan"), "loss of epoch 1 in its history is nan"),
        (("kept", "weights", "w"), torch.full((3,), torch.inf), "a number in it is not finite"),
        (("of", "seed"), 1, "of another training: seed differs"),
        (("of", "recipe", "epochs"), 6, "of another training: recipe differs"),
        (("of", "loss"), "mse", "of another training: loss differs"),
        (("of", "target_scale"), "log", "of another training: target_scale differs"),
        (("kept",), None, "TypeError"),
    ],
)
def test_a_poisoned_fold_is_refused(folds, tmp_path, keys, value, reason):
    finetuned(folds, tmp_path)
    path = tmp_path / "fold0.pt"
    record = part = torch.load(path, weights_only=True)
    for key in keys[:-1]:
        part = part[key]
    part[keys[-1]] = value
    torch.save(record, path)
    with pytest.raises(DataError, match=r"fold0.pt: not a state .*; delete it to start again") as error:
        finetuned(folds, tmp_path)
    assert reason in str(error.value) and "\n" not in str(error.value)


def test_results_of_a_job_of_several_runs_are_kept_where_it_fails(tmp_path):
    """Between two of its cohorts there is no training under way, only finished folds in folders of runs."""
    said = Said()
    for attempt in range(2):
        with pytest.raises(RuntimeError), kept_state(job_of(tmp_path), tmp_path / "folds", "cpu", said) as state:
            assert (state / "roost/seed0/fold0.pt").exists() == bool(attempt)
            save_state({"of": {}}, state / "roost/seed0/fold0.pt")
            raise RuntimeError
    assert len(said) == 1 and said[0].startswith("goes on from")
