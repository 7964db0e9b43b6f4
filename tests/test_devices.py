import itertools
import multiprocessing
import os
import random
import signal
import time
from contextlib import ExitStack, contextmanager, nullcontext

import pytest

from matpretrain import devices

FAULTS = "Devices"


@pytest.fixture
def two_devices(monkeypatch, tmp_path):
    monkeypatch.setattr(devices, "visible_devices", lambda: ["GPU-a", "GPU-b"])
    monkeypatch.setattr(devices.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(devices, "POLL", 0.01)
    current = []

    @contextmanager
    def device(k):
        current.append(k)
        yield
        current.remove(k)

    monkeypatch.setattr(devices.torch.cuda, "device", device)
    return current


def test_jobs_at_the_same_time_hold_different_devices(two_devices):
    with devices.claim_device("auto") as first, devices.claim_device("cuda") as second:
        assert {first, second} == {"cuda:0", "cuda:1"} and set(two_devices) == {0, 1}, "kernels start on the current device"
    with devices.claim_device("auto") as again:
        assert again == "cuda:0"


def test_a_third_job_waits_and_says_so(two_devices, fault):
    class Waited(Exception):
        pass

    def say(text):
        fault.told("More jobs at the same time than CUDA devices", text)
        assert "2 CUDA devices are in use" in text
        raise Waited

    busy = devices.claim_device("cuda"), devices.claim_device("cuda")
    with busy[0], busy[1], pytest.raises(Waited), devices.claim_device("cuda", say):
        pass


def test_a_failed_job_frees_its_device(two_devices):
    for _ in range(3):
        with pytest.raises(RuntimeError), devices.claim_device("cuda"):
            raise RuntimeError


def test_the_cpu_is_taken_only_where_asked_for_or_nothing_else_is_there(monkeypatch, two_devices, fault):
    with devices.claim_device("cpu") as device:
        assert device == "cpu"
    monkeypatch.setattr(devices, "visible_devices", list)
    with devices.claim_device("auto") as device:
        assert device == "cpu"
    with fault("device: cuda where there is none", "no working CUDA device"), devices.claim_device("cuda"):
        pass
    monkeypatch.setattr(devices, "_driver_without_torch", lambda: True)
    with fault("A driver that is too old for torch", "driver that torch cannot use"), devices.claim_device("auto"):
        pass


def test_auto_says_what_it_took(monkeypatch, two_devices):
    said = []
    with devices.claim_device("auto", said.append):
        pass
    monkeypatch.setattr(devices, "visible_devices", list)
    with devices.claim_device("auto", said.append), devices.claim_device("cpu", said.append):
        pass
    assert said == ["device: auto takes cuda:0 (GPU-a)", "device: auto takes the CPU, as torch sees no CUDA device"]


def test_devices_that_the_scheduler_hides_are_not_taken(monkeypatch, fault):
    monkeypatch.setattr(devices.torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(devices, "_driver_without_torch", lambda: True)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with devices.claim_device("auto") as device:
        assert device == "cpu"
    with (
        fault("device: cuda where the scheduler hides all devices", "CUDA_VISIBLE_DEVICES hides all of them"),
        devices.claim_device("cuda"),
    ):
        pass


def test_devices_that_do_not_start_are_one_line(monkeypatch, fault):
    def fail(k=None):
        raise RuntimeError("CUDA error: out of memory\nCompile with TORCH_USE_CUDA_DSA")

    monkeypatch.setattr(devices.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(devices.torch.cuda, "device_count", fail)
    with fault("A CUDA device that does not start", "do not start (CUDA error: out of memory)"), devices.claim_device("auto"):
        pass


JOBS, AT_ONCE, DEVICES = 200, 20, 4


def job_on_a_device(k, folder, start):
    """At the start take a device for a moment, note from when to when, and end well, by an exception or by a kill."""
    fate = random.Random(k)
    start.wait()
    try:
        with devices.claim_device("cuda", lambda text: None) as device:
            began = time.monotonic()
            time.sleep(fate.uniform(0.0, 0.03))
            (folder / f"{k}").write_text(f"{device} {began} {time.monotonic()}")
            if k % 3 == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            if k % 3 == 2:
                raise RuntimeError
        (folder / f"{k}").rename(folder / f"{k}.served")
    except RuntimeError:
        os._exit(1)


def test_200_jobs_with_random_deaths_share_four_devices(monkeypatch, tmp_path):
    monkeypatch.setattr(devices, "visible_devices", lambda: [f"GPU-{k}" for k in range(DEVICES)])
    monkeypatch.setattr(devices.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(devices, "POLL", 0.1)
    monkeypatch.setattr(devices.torch.cuda, "device", nullcontext)
    held = tmp_path / "held"
    held.mkdir()
    fork, ended = multiprocessing.get_context("fork"), []
    for first in range(0, JOBS, AT_ONCE):
        start = fork.Event()
        jobs = [fork.Process(target=job_on_a_device, args=(k, held, start)) for k in range(first, first + AT_ONCE)]
        for job in jobs:
            job.start()
        start.set()
        for job in jobs:
            job.join()
        ended += [job.exitcode for job in jobs]
    assert sorted(map(ended.count, (0, 1, -signal.SIGKILL))) == [66, 67, 67]  # nobody was refused or died otherwise
    assert len(list(held.glob("*.served"))) == ended.count(0)
    notes = [path.read_text().split() for path in held.iterdir()]
    assert len(notes) == JOBS and {note[0] for note in notes} == {f"cuda:{k}" for k in range(DEVICES)}
    for k in range(DEVICES):
        intervals = sorted((float(began), float(end)) for device, began, end in notes if device == f"cuda:{k}")
        assert all(end <= began for (_, end), (began, _) in itertools.pairwise(intervals))
    with ExitStack() as holds:
        taken = {holds.enter_context(devices.claim_device("cuda")) for _ in range(DEVICES)}  # no lock is left behind
        assert len(taken) == DEVICES
