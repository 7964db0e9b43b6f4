"""What an interrupted job leaves behind so that its next run goes on from there: undeclared files beside its results.

Snakemake deletes declared outputs before a rerun. The folder of a state is named by a hash of all that decides the
result, so a job with other parameters, inputs or code never sees it.
"""

import errno
import hashlib
import json
import math
import os
import pickle
import shutil
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from filelock import FileLock, Timeout

from matpretrain.files import DataError, atomic_path, sha256
from matpretrain.provenance import write_json
from matpretrain.recipe import rounding

STATES = "[!.]*.pt"  # without the temporaries of a process that was killed
MINUTES = "MATPRETRAIN_CHECKPOINT_MINUTES"  # set from the configuration (configuration.set_environment)
POLL = 0.5  # seconds between two tries to lock
LOCK, RUNS = "lock", "runs.json"


def interval():
    """Seconds between two states of a training; 0: one after every step."""
    return 60 * float(os.environ.get(MINUTES, 5))


def state_key(snakemake, device):
    """Twelve hexadecimal digits of the rule, its wildcards and parameters, its input files, the kind of device and what its matrix
    products round to."""
    kind = device.split(":")[0]
    made_from = {
        "rule": snakemake.rule,
        "wildcards": dict(snakemake.wildcards.items()),
        "params": dict(snakemake.params.items()),
        "input": [sha256(path) for path in snakemake.input],
        "device": kind,
        "factors": rounding(snakemake.params.recipe["precision"], kind),
        "torch": torch.__version__,
    }
    return hashlib.sha256(json.dumps(made_from, sort_keys=True, default=str).encode()).hexdigest()[:12]


@contextmanager
def kept_state(snakemake, folder, device, say):
    """Yield the folder of a job's state, {folder}/.state/{key}, which holds something where an earlier run was interrupted.

    Another process that still works on the same results is waited for. If the block succeeds, the states of this job go,
    those of other parameters too; if it fails, they stay.

    Args:
        folder: the folder of the job's results.
        device: "cpu" or "cuda:k"; a state does not move from one kind to the other.
        say: called with a line about what is there; its `note` takes earlier_seconds, the time that interrupted runs took.
    """
    home = Path(folder) / ".state"
    state = home / state_key(snakemake, device)
    lock = _locked(home, say)
    try:
        if any(state.rglob(STATES)):
            say(f"goes on from {state}")
        say.note(earlier_seconds=_begin(state))
        yield state
        for old in home.iterdir():
            if old.is_dir():
                shutil.rmtree(old)
    finally:
        if state.is_dir() and not any(state.rglob(STATES)):
            shutil.rmtree(state)
        with suppress(OSError):
            if not any(path.is_dir() for path in home.iterdir()):
                (home / LOCK).unlink(missing_ok=True)  # before it is released: who waits for it then takes a new one
                home.rmdir()
        lock.release()


def _begin(state):
    """Note that a run begins. Returns the seconds that earlier ones took, each until it left its last state."""
    earlier = 0.0
    with suppress(OSError, ValueError, LookupError, TypeError):
        last = json.loads((state / RUNS).read_text())
        left = max((path.stat().st_mtime for path in state.rglob(STATES)), default=0.0)
        earlier = last["earlier_seconds"] + max(0.0, left - last["began"])
    write_json({"earlier_seconds": earlier, "began": time.time()}, state / RUNS)
    return earlier


def _locked(home, say):
    """A held lock of a folder of states, which is made."""
    told = False
    while True:
        with suppress(FileExistsError):  # also raised where the other process removes the folder within mkdir
            home.mkdir(parents=True, exist_ok=True)
        # Where a file system has no locks, the other kind, a file that is there or not, would outlive a killed job.
        lock = FileLock(home / LOCK, fallback_to_soft=False)
        try:
            lock.acquire(blocking=False)
            return lock
        except FileNotFoundError:
            continue  # the other process is done and removed the folder
        except Timeout:
            pass
        except OSError as error:
            if error.errno != errno.ENOSYS:
                raise
            say(f"{home}: this file system has no locks: see to it that no other process works on these results")
            return lock
        if not told:
            say(f"another process works on {home.parent}: waiting until it ends")
            told = True
        time.sleep(POLL)


def save_state(record, path):
    """Write a dictionary of tensors, numbers, text, lists and dictionaries, atomically."""
    with atomic_path(path, size=sum(tensor.nbytes for tensor in _tensors(record))) as temporary:
        torch.save(record, temporary)


def load_state(path, of, check, remedy="delete it to start again"):
    """Read what save_state wrote; tensors are on the CPU.

    Args:
        of: dictionary that says which training this is: the state holds the same one as `of`.
        check: function (record) that raises ValueError, or an error of access, where it makes no sense.
        remedy: end of the line where it cannot be used.

    Raises:
        DataError: the file is missing, damaged, of another training, or holds what no training leaves.
    """
    try:
        record = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise _refused(path, "there is no such file", remedy) from None
    except (OSError, EOFError, RuntimeError, LookupError, TypeError, ValueError, AttributeError, pickle.UnpicklingError):
        raise _refused(path, "the file is damaged", remedy) from None  # torch's own words advise to trust it
    try:
        differing = [key for key in of if record["of"][key] != of[key]]
        if differing:
            raise ValueError(f"of another training: {', '.join(differing)} differs")
        if not all(tensor.isfinite().all() for tensor in _tensors(record) if tensor.is_floating_point()):
            raise ValueError("a number in it is not finite")
        check(record)
    except ValueError as error:
        raise _refused(path, error, remedy) from None
    except (RuntimeError, LookupError, TypeError, AttributeError) as error:
        raise _refused(path, f"{type(error).__name__}: {error}".splitlines()[0].rstrip(":"), remedy) from None
    return record


def _refused(path, reason, remedy):
    return DataError(f"{path}: not a state this training can go on from ({reason}); {remedy}")


def check_history(history, epochs):
    """Raise ValueError unless a history is what `training.fit` leaves: epochs 1, 2, ... and numbers, finite where they must be."""
    if not isinstance(history, list) or len(history) > epochs:
        raise ValueError(f"its history is no list of at most {epochs} epochs")
    for number, row in enumerate(history, 1):
        if not isinstance(row, dict) or row.get("epoch") != number or row.keys() != history[0].keys():
            raise ValueError(f"record {number} of its history is not that of epoch {number}")
        for name in row:
            if not isinstance(row[name], (int, float)):
                raise ValueError(f"{name} of epoch {number} in its history is no number")
        for name in ("learning_rate", "loss", "seconds"):
            if not math.isfinite(row[name]):
                raise ValueError(f"{name} of epoch {number} in its history is {row[name]}")


def _tensors(record):
    """All tensors in nested dictionaries and lists."""
    if isinstance(record, torch.Tensor):
        yield record
    elif isinstance(record, dict | list):
        for value in record.values() if isinstance(record, dict) else record:
            yield from _tensors(value)
