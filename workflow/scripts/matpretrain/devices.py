"""Which device a job computes on."""

import torch

from matpretrain.data import DataError


def pick_device(requested):
    """Device for a job: "cpu", "cuda", or "auto" for CUDA where it works, else the CPU.

    Raises:
        DataError: "cuda" was asked for and there is no working CUDA device; nothing falls back silently.
    """
    if requested == "cpu":
        return "cpu"
    if torch.cuda.is_available():
        return "cuda"
    if requested == "cuda":
        raise DataError(
            "device: cuda was asked for, but torch finds no working CUDA device; install a driver or set device: auto"
        )
    return "cpu"


def describe(device):
    """Name of the device for provenance."""
    from matpretrain.provenance import processor

    return torch.cuda.get_device_name() if device == "cuda" else processor()
