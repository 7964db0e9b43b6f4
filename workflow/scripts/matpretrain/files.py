"""Files that are whole or absent, and one-line errors about them."""

import errno
import hashlib
import os
from contextlib import contextmanager, suppress
from pathlib import Path

import pandas as pd


class DataError(ValueError):
    """Bad input; the message is one line for the user."""


class HashError(DataError):
    """A file is not the one that was expected."""


@contextmanager
def atomic_path(path):
    """Yield a temporary path beside `path`; on success it is flushed and renamed to `path`, else removed.

    Raises:
        DataError: the folder or the file cannot be written to, or the disk is full.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp{''.join(path.suffixes)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch()
        mode = temporary.stat().st_mode
        yield temporary
        temporary.chmod(mode)  # safetensors writes files that only their owner can read
        with open(temporary, "rb") as handle:
            os.fsync(handle.fileno())
        os.replace(temporary, path)
    except OSError as error:
        ours = error.filename is None or Path(error.filename) in (path, path.parent, temporary)
        if error.errno is None or not ours:
            raise  # trouble of the network or of another file
        remedy = "free space" if error.errno == errno.ENOSPC else "make the folder writable or choose another"
        raise DataError(f"{path}: cannot be written ({error.strerror}); {remedy}") from None
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_csv(table, path):
    """Write a data frame as CSV, atomically; floats keep all digits."""
    with atomic_path(path) as temporary:
        table.to_csv(temporary, index=False)


def read_csv(path, **options):
    """Read a CSV of this workflow. "NaN" is a formula; only empty cells are missing."""
    return pd.read_csv(path, keep_default_na=False, na_values=[""], **options)


def sha256(path):
    """Hexadecimal SHA-256 of a file."""
    digest = hashlib.sha256()
    with open(path, "rb") as handle:
        while block := handle.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def check_hash(path, expected):
    """Raise HashError unless the file has the expected SHA-256."""
    found = sha256(path)
    if found != expected:
        raise HashError(
            f"{path}: sha256 is {found[:12]}..., expected {expected[:12]}...; the file is damaged or another version: fetch it again"
        )
