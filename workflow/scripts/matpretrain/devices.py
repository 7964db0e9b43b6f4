"""Which device a job computes on."""

import os
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import torch
from filelock import FileLock, Timeout

from matpretrain.files import DataError

POLL = 2.0  # seconds between two looks for a free device


@contextmanager
def claim_device(requested, say=print):
    """Hold a device for the length of a job: "cpu", or "cuda:k" with a lock that no other job of this user and machine holds.

    Snakemake's gpu resource counts jobs but assigns no device, so jobs agree through one lock file per device, which
    the system frees when a process dies. CUDA_VISIBLE_DEVICES, as set by Slurm, limits the choice.

    Args:
        requested: "cpu", "cuda", or "auto" for CUDA where the machine has it, else the CPU.
        say: called with a line while all devices are busy, and with what "auto" took.

    Raises:
        DataError: "cuda" was asked for, or a driver is there, but torch cannot use it; nothing falls back silently.
    """
    devices = [] if requested == "cpu" else visible_devices()
    if not devices:
        hidden = _assigned() == ""
        if requested == "cuda":
            reason = "CUDA_VISIBLE_DEVICES hides all of them" if hidden else "torch finds no working CUDA device"
            raise DataError(f"device: cuda was asked for, but {reason}; ask for a GPU, install a driver or set device: auto")
        if requested == "auto" and not hidden and _driver_without_torch():
            raise DataError("there is an NVIDIA driver that torch cannot use (too old?); update it or set device: cpu")
        if requested == "auto":
            say("device: auto takes the CPU, as torch sees no CUDA device")
        yield "cpu"
        return
    with _lock_one(devices, say) as k:
        if requested == "auto":
            say(f"device: auto takes cuda:{k} ({devices[k]})")
        with torch.cuda.device(k):  # where libraries start their kernels
            yield f"cuda:{k}"


@contextmanager
def _lock_one(devices, say):
    """Hold the lock of the first free one of some devices; yields its position."""
    folder = Path(tempfile.gettempdir()) / f"matpretrain-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    told = False
    while True:
        for k, identity in enumerate(devices):
            lock = FileLock(folder / f"{identity}.lock")
            try:
                lock.acquire(blocking=False)
            except Timeout:
                continue
            try:
                yield k
            finally:
                lock.release()
            return
        if not told:
            say(f"all {len(devices)} CUDA devices are in use by other jobs: waiting")
            told = True
        time.sleep(POLL)


def visible_devices():
    """Identity of every CUDA device that torch can use, in torch's order.

    Raises:
        DataError: there are some, but they do not start.
    """
    if not torch.cuda.is_available():
        return []
    try:
        return [str(torch.cuda.get_device_properties(k).uuid) for k in range(torch.cuda.device_count())]
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"the CUDA devices do not start ({reason}); see nvidia-smi, or set device: cpu") from None


def _assigned():
    """The devices that a scheduler or user left visible: None where nothing was said, "" where none is."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    return "" if given in ("", "-1", "NoDevFiles") else given


def _driver_without_torch():
    gpus = Path("/proc/driver/nvidia/gpus")
    return torch.version.cuda is not None and gpus.is_dir() and any(gpus.iterdir()) and not torch.cuda.is_available()


def describe(device):
    """Name of the device for provenance."""
    from matpretrain.provenance import processor

    return processor() if device == "cpu" else torch.cuda.get_device_name(device)
