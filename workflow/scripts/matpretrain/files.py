"""Files that are whole or absent, and one-line errors about them."""

import errno
import hashlib
import os
import platform
import re
import shutil
import time
import zipfile
import zlib
from contextlib import contextmanager, suppress
from pathlib import Path

import pandas as pd
from pandas.io.common import get_handle

HOST = platform.node()  # in the names of temporaries, since machines can share a folder
ABANDONED = 7 * 24 * 3600  # seconds after which a temporary of another machine is one that nobody finishes
DISK_FULL = ("inline_container.cc", "requested and")  # torch and numpy when the disk is full


class DataError(ValueError):
    """Bad input; the message is one line for the user."""


def refuse(key, message):
    """Raise the DataError of a configuration key."""
    raise DataError(f"config key {key}: {message}")


OFFICE = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")  # what .xlsx and other archives, and .xls, begin with

# What np.load raises for a file that is no .npz of these arrays, or a part of one.
NO_NPZ = (OSError, EOFError, KeyError, ValueError, TypeError, zipfile.BadZipFile, zlib.error)


def unpacked(path):
    """Bytes of a text file of the user, unpacked as its suffix says (.gz, .bz2, .zip, .xz, .zst, .tar).

    Raises:
        DataError: it is a workbook, or holds a NUL byte, at which pandas would end a cell in silence, or other text than UTF-8.
        OSError, ValueError, ...: what is raised for a file that is not what its suffix says.
    """
    with get_handle(path, "rb", compression="infer", is_text=False) as source:
        content = source.handle.read()
    if content.startswith(OFFICE):
        raise DataError(f"{path}: this is an Excel workbook or an archive; save it as CSV")
    nul = content.find(b"\0")
    if nul >= 0:
        line = len((content[:nul] + b".").splitlines())
        raise DataError(f"{path}: line {line} holds a NUL byte; remove it, or save the file as UTF-8 if it is UTF-16")
    try:
        content.decode()
    except UnicodeDecodeError as error:
        line = len((content[: error.start] + b".").splitlines())
        raise DataError(f"{path}: line {line} holds a character that is not UTF-8; save the file as UTF-8") from None
    return content


def place(table, path, rows):
    """Where the first of some row positions of a table with ids is, for messages, and how many more there are.

    Args:
        table: data frame with a column id; an index `line` holds lines of the file, else the row is named.
    """
    first = rows[0]
    where = f"line {table.index[first]}" if table.index.name == "line" else f"row {first + 1}"
    more = f" (and {len(rows) - 1} more rows)" if len(rows) > 1 else ""
    return f"{path}: {where} (id {table['id'].iloc[first]}){more}"


def absent(path, sha256=None, instead=""):
    """The line on a raw file that is not there and no loader offers: its hash where it is known, what else the user may do."""
    which = f" (sha256 {sha256})" if sha256 else ""
    return f"{path}: no loader offers this file{which}; put it there{instead and f', or {instead}'}"


def no_such(path, what="file"):
    """The words on a path of the configuration that leads to nothing: relative ones count from the project folder, where jobs run."""
    counts = "" if Path(path).is_absolute() else " (paths count from the project folder)"
    return f"{Path(path).absolute()}: no such {what}{counts}; correct the path"


class HashError(DataError):
    """A file is not the one that was expected."""


@contextmanager
def atomic_path(path, size=0):
    """Yield a temporary path beside `path`; on success it is flushed and renamed to `path`, else removed.

    Temporaries that processes left behind when they were killed go as well.

    Args:
        size: bytes that will be written at least, where they are known and many.

    Raises:
        DataError: the folder or the file cannot be written to, or the disk is full.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{HOST}.{os.getpid()}.tmp{''.join(path.suffixes)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(path)
        free = shutil.disk_usage(path.parent).free
        if size > free:
            raise OSError(errno.ENOSPC, f"{size / 1e9:.3g} GB needed, {free / 1e9:.3g} GB free")
        temporary.touch()
        yield temporary
        with open(temporary, "rb") as handle:
            os.fsync(handle.fileno())
        os.replace(temporary, path)
    except Exception as error:
        number = getattr(error, "errno", None)
        if number is None and any(words in str(error) for words in DISK_FULL):
            number = errno.ENOSPC
        name = getattr(error, "filename", None)
        if number is None or (name is not None and Path(name) not in (path, path.parent, temporary)):
            raise  # trouble of the network, of another file, or none of this file
        reason = error.strerror if getattr(error, "strerror", None) else "no space left"
        remedy = "free space" if number in (errno.ENOSPC, errno.EDQUOT) else "make the folder writable or choose another"
        raise DataError(f"{path}: cannot be written ({reason}); {remedy}") from None
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def _remove_abandoned(path):
    """Remove the temporaries of `path` whose processes on this machine are dead, and those of other machines that are a week old."""
    pattern = re.compile(rf"\.{re.escape(path.name)}\.(.+)\.(\d+)\.tmp")
    for entry in os.scandir(path.parent):
        found = pattern.match(entry.name)
        with suppress(OSError):
            if found and not (_alive(int(found[2])) if found[1] == HOST else time.time() - entry.stat().st_mtime < ABANDONED):
                os.unlink(entry.path)


def _alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass  # of another user
    return True


def write_csv(table, path):
    """Write a data frame as CSV, atomically; `read_csv` reads the same floats."""
    with atomic_path(path) as temporary:
        table.to_csv(temporary, index=False)


def write_text(text, path):
    """Write a text file, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text)


def copy_file(source, path):
    """Copy a file, atomically."""
    with atomic_path(path, size=Path(source).stat().st_size) as temporary:
        shutil.copyfile(source, temporary)


def read_csv(path, **options):
    """Read a CSV of this workflow. "NaN" is a formula; only empty cells are missing; datasets and models may be called 2024."""
    dtype = options.pop("dtype", {})
    dtype = dict.fromkeys(("dataset", "model"), str) | dtype if isinstance(dtype, dict) else dtype
    return pd.read_csv(path, keep_default_na=False, na_values=[""], dtype=dtype, float_precision="round_trip", **options)


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
