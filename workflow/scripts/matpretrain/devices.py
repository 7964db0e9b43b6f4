"""Which device a job computes on."""

import getpass
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
    """Hold a device for the length of a job: "cpu", or "cuda:k" with a lock that no other job on this machine holds.

    Snakemake's gpu resource counts jobs but assigns no device, so jobs agree through one lock file per device, which
    the system frees when a process dies. CUDA_VISIBLE_DEVICES, as set by Slurm, limits the choice.

    Args:
        requested: "cpu", "cuda", or "auto" for CUDA where the machine has it, else the CPU.
        say: called with a line while all devices are busy.

    Raises:
        DataError: "cuda" was asked for, or a driver is there, but torch cannot use it; nothing falls back silently.
    """
    devices = [] if requested == "cpu" else visible_devices()
    if not devices:
        if requested == "cuda":
            raise DataError(
                "device: cuda was asked for, but torch finds no working CUDA device; install a driver or set device: auto"
            )
        if requested == "auto" and _driver_without_torch():
            raise DataError("there is an NVIDIA driver that torch cannot use (too old?); update it or set device: cpu")
        yield "cpu"
        return
    folder = Path(tempfile.gettempdir()) / f"matpretrain-{getpass.getuser()}"
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
                yield f"cuda:{k}"
            finally:
                lock.release()
            return
        if not told:
            say(f"all {len(devices)} CUDA devices are in use by other jobs: waiting")
            told = True
        time.sleep(POLL)


def visible_devices():
    """Identity of every CUDA device that torch can use, in torch's order."""
    if not torch.cuda.is_available():
        return []
    return [str(torch.cuda.get_device_properties(k).uuid) for k in range(torch.cuda.device_count())]


def _driver_without_torch():
    gpus = Path("/proc/driver/nvidia/gpus")
    return torch.version.cuda is not None and gpus.is_dir() and any(gpus.iterdir()) and not torch.cuda.is_available()


def describe(device):
    """Name of the device for provenance."""
    from matpretrain.provenance import processor

    return processor() if device == "cpu" else torch.cuda.get_device_name(device)
