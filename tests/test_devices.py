import pytest

from matpretrain import devices
from matpretrain.files import DataError


@pytest.fixture
def two_devices(monkeypatch, tmp_path):
    monkeypatch.setattr(devices, "visible_devices", lambda: ["GPU-a", "GPU-b"])
    monkeypatch.setattr(devices.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(devices, "POLL", 0.01)


def test_jobs_at_the_same_time_hold_different_devices(two_devices):
    with devices.claim_device("auto") as first, devices.claim_device("cuda") as second:
        assert {first, second} == {"cuda:0", "cuda:1"}
    with devices.claim_device("auto") as again:
        assert again == "cuda:0"


def test_a_third_job_waits_and_says_so(two_devices):
    class Waited(Exception):
        pass

    def say(text):
        assert "2 CUDA devices are in use" in text
        raise Waited

    busy = devices.claim_device("cuda"), devices.claim_device("cuda")
    with busy[0], busy[1], pytest.raises(Waited), devices.claim_device("cuda", say):
        pass


def test_a_failed_job_frees_its_device(two_devices):
    for _ in range(3):
        with pytest.raises(RuntimeError), devices.claim_device("cuda"):
            raise RuntimeError


def test_the_cpu_is_taken_only_where_asked_for_or_nothing_else_is_there(monkeypatch, two_devices):
    with devices.claim_device("cpu") as device:
        assert device == "cpu"
    monkeypatch.setattr(devices, "visible_devices", list)
    with devices.claim_device("auto") as device:
        assert device == "cpu"
    with pytest.raises(DataError, match="no working CUDA device"), devices.claim_device("cuda"):
        pass
    monkeypatch.setattr(devices, "_driver_without_torch", lambda: True)
    with pytest.raises(DataError, match="driver that torch cannot use"), devices.claim_device("auto"):
        pass
