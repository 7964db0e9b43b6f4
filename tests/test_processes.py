import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import until

from matpretrain import composition, processes
from matpretrain.files import DataError
from matpretrain.processes import Stopped, deferred, heed_signals, side_by_side, stop_reason

SCRIPTS = Path(__file__).resolve().parents[1] / "workflow/scripts"


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_signals_stop_a_job_at_once(number):
    before = signal.signal(number, signal.SIG_DFL)  # tests in the background are started with SIGINT ignored
    try:
        with pytest.raises(Stopped) as stopped, heed_signals():
            os.kill(os.getpid(), number)
        assert str(stopped.value) == f"stopped on {signal.Signals(number).name}"
        assert signal.getsignal(number) == signal.SIG_DFL and stop_reason() is None
    finally:
        signal.signal(number, before)


def test_a_signal_is_no_bad_formula(monkeypatch):
    def interrupted(formula):
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr("pymatgen.core.Composition", interrupted)
    with pytest.raises(Stopped), heed_signals():
        composition.parse_formulas(["Fe2O3"])


def test_a_second_signal_does_not_disturb_the_end():
    with pytest.raises(Stopped), heed_signals():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)
            cleaned = True
    assert cleaned


def test_training_is_told_of_signals_after_a_step():
    with heed_signals(), deferred():
        assert stop_reason() is None
        os.kill(os.getpid(), signal.SIGUSR1)
        assert stop_reason() == "SIGUSR1"


def test_an_ignored_signal_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as for a job in the background
    try:
        with heed_signals():
            os.kill(os.getpid(), signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


def test_all_items_are_worked_on_in_processes_of_their_own(tmp_path):
    side_by_side(lambda k: (tmp_path / f"{k}").write_text(f"{os.getpid()}"), range(5), 2)
    pids = {(tmp_path / f"{k}").read_text() for k in range(5)}
    assert len(pids) == 5 and str(os.getpid()) not in pids


def test_the_first_failure_stops_the_others(tmp_path):
    def work(k):
        (tmp_path / f"{k}").touch()
        if k == 1:
            until(lambda: (tmp_path / "0").exists())
            raise DataError("row 7 is bad")
        time.sleep(60)

    started = time.monotonic()
    with heed_signals(), pytest.raises(DataError, match="row 7 is bad"):
        side_by_side(work, range(3), 2)
    assert time.monotonic() - started < 30 and not (tmp_path / "2").exists()


def test_an_unexpected_error_tells_where():
    def work(k):
        return [][k]

    with pytest.raises(IndexError) as error:
        side_by_side(work, range(2), 1)
    assert "return [][k]" in error.value.__notes__[0]


def test_a_killed_process_is_one_line():
    with pytest.raises(DataError, match=r"ended by SIGKILL \(out of memory\?\).*run again"):
        side_by_side(lambda k: os.kill(os.getpid(), signal.SIGKILL), range(3), 2)


def test_a_signal_to_the_job_stops_its_processes_and_names_their_places(tmp_path):
    def work(k):
        with deferred():
            (tmp_path / f"{k}").touch()
            if k == 1:
                until(lambda: (tmp_path / "0").exists())
                os.kill(os.getppid(), signal.SIGUSR1)  # the job alone gets it
            until(stop_reason)
            raise Stopped(stop_reason(), [f"fold {k} after epoch 3"])

    with heed_signals(), pytest.raises(Stopped) as stopped:
        side_by_side(work, range(4), 2)
    line = "stopped on SIGUSR1: fold 0 after epoch 3, fold 1 after epoch 3; the next run goes on from there"
    assert str(stopped.value) == line and sorted(path.name for path in tmp_path.iterdir()) == ["0", "1"]


def test_a_signal_right_after_a_fork_stops_the_new_process_too(tmp_path, monkeypatch):
    fork = processes._fork

    def forked(work, item):
        found = fork(work, item)
        os.kill(os.getpid(), signal.SIGTERM)
        return found

    def work(k):
        with deferred():
            (tmp_path / "pid").write_text(f"{os.getpid()}")
            until(stop_reason)
            raise Stopped(stop_reason(), [f"fold {k} after epoch 3"])

    monkeypatch.setattr(processes, "_fork", forked)
    with heed_signals(), pytest.raises(Stopped):
        side_by_side(work, range(4), 2)
    assert not (tmp_path / "pid").exists() or not is_running(int((tmp_path / "pid").read_text()))
    assert not multiprocessing.active_children()


JOB = """
import os, pathlib, sys, time
from matpretrain.processes import deferred, heed_signals, side_by_side, stop_reason
def work(k):
    pathlib.Path(sys.argv[1], f"fold{k}").write_text(f"{os.getpid()}")
    time.sleep(600)
def train():
    pathlib.Path(sys.argv[1], "fold0").write_text(f"{os.getpid()}")
    with deferred():
        while not stop_reason():
            time.sleep(0.01)
    pathlib.Path(sys.argv[1], "why").write_text(stop_reason())
with heed_signals():
    side_by_side(work, range(2), 2) if sys.argv[2] == "folds" else train()
"""


def start_job(folder, kind):
    environment = os.environ | {"PYTHONPATH": str(SCRIPTS)}
    return subprocess.Popen([sys.executable, "-c", JOB, str(folder), kind], env=environment)


def pid_in(path):
    until(lambda: path.exists() and path.read_text())
    return int(path.read_text())


def test_processes_die_with_the_job_that_forked_them(tmp_path):
    job = start_job(tmp_path, "folds")
    pids = [pid_in(tmp_path / f"fold{k}") for k in range(2)]
    assert all(map(is_running, pids))
    job.kill()
    job.wait()
    until(lambda: not any(map(is_running, pids)))


def test_a_job_whose_parent_died_stops(tmp_path):
    code = (
        "import subprocess, sys, time\n"
        f"subprocess.Popen([sys.executable, '-c', {JOB!r}, {str(tmp_path)!r}, 'train'])\n"
        "time.sleep(600)"
    )
    manager = subprocess.Popen([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": str(SCRIPTS)})
    pid = pid_in(tmp_path / "fold0")
    manager.kill()
    manager.wait()
    until(lambda: not is_running(pid))
    assert (tmp_path / "why").read_text() == "the death of its parent process"
