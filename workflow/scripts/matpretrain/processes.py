"""The signals that end a job, and processes that work side by side."""

import ctypes
import gc
import multiprocessing
import os
import signal
import threading
import traceback
from contextlib import contextmanager
from multiprocessing.connection import wait

from matpretrain.files import DataError

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)  # of a scheduler before walltime or preemption, of Ctrl-C
POLL = 1.0  # seconds between two looks whether the parent process still lives
PR_SET_PDEATHSIG = 1  # of Linux' prctl

_received = None  # name of the first signal that came
_deferred = 0  # depth of `deferred`
_parent = None  # the process that started the job, while one runs


class Stopped(BaseException):
    """The job was asked to stop. The message is one line for the user.

    A signal can come anywhere: no `except Exception` may take it for bad input.

    Args:
        reason: what asked for it.
        places: where training stopped and goes on from, in words; none where there is nothing to go on from.
    """

    def __init__(self, reason, places=()):
        super().__init__(reason, places)
        self.reason, self.places = reason, list(places)

    def __str__(self):
        return f"stopped on {self.reason}" + (
            f": {', '.join(self.places)}; the next run goes on from there" if self.places else ""
        )


@contextmanager
def heed_signals():
    """In this block SIGNALS raise Stopped, the first of them only, or wait for the next look at `stop_reason` if `deferred`."""
    global _received, _parent
    _received, _parent = None, os.getppid()
    before = {}
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.getsignal(number) for number in SIGNALS}
        before = {number: handler for number, handler in before.items() if handler is not signal.SIG_IGN}
        for number in before:
            signal.signal(number, _heed)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _received, _parent = None, None


def _heed(number, frame):
    global _received
    if _received:
        return
    _received = signal.Signals(number).name
    if not _deferred:
        raise Stopped(_received)


@contextmanager
def deferred():
    """In this block signals raise nothing: `stop_reason` tells of them."""
    global _deferred
    _deferred += 1
    try:
        yield
    finally:
        _deferred -= 1


def stop_reason():
    """Why the job should stop now, in words: a signal, or the death of the process that started it; None to go on."""
    orphaned = _parent is not None and os.getppid() != _parent
    return _received or ("the death of its parent process" if orphaned else None)


def side_by_side(work, items, workers):
    """Call work(item) for all items in forked processes, `workers` at a time. What they make they leave in files.

    The processes inherit every object, and no thread pool may exist yet that a fork would break. The first failure, or
    a signal to this process, stops them all; if it is killed, they die with it. Linux only.

    Raises:
        Whatever work(item) raised first. Stopped, with the places of all. DataError: a process was killed.
    """
    waiting, running = list(items), {}
    gc.freeze()  # a collection in a process would write to, and so copy, every page of inherited objects
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                # what is raised in the callbacks of a fork is lost, and a process that is not yet known is not stopped
                with deferred():
                    receiver, process = _fork(work, waiting.pop(0))
                    running[receiver] = process
            for receiver in wait(running, POLL):
                error = _outcome(receiver, running.pop(receiver))
                if error:
                    raise error
            if reason := stop_reason():
                raise Stopped(reason)
    except BaseException as first:
        for process in running.values():
            process.terminate()
        others = [_outcome(receiver, process) for receiver, process in running.items()]
        if isinstance(first, Stopped):
            stops = [first, *(error for error in others if isinstance(error, Stopped))]
            raise Stopped(first.reason, [place for stop in stops for place in stop.places]) from None
        raise
    finally:
        gc.unfreeze()


def _fork(work, item):
    """Start work(item). Returns (connection that gives its exception, or ends without one; process)."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(work, item, sender, os.getpid()))
    process.start()
    sender.close()
    return receiver, process


def _child(work, item, sender, parent):
    global _parent, _deferred
    _parent, _deferred = parent, 0
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)  # it died before it could take this process with it
    try:
        work(item)
    except BaseException as error:
        if not isinstance(error, (DataError, FloatingPointError, Stopped)):
            error.add_note(traceback.format_exc())
        with deferred():  # the failure of another process stops this one, which has already failed
            sender.send(error)


def _outcome(receiver, process):
    """The exception with which a process ended, or None."""
    try:
        error = receiver.recv()
    except EOFError:
        error = None
    process.join()
    if process.exitcode and not error:
        killer = signal.Signals(-process.exitcode).name if process.exitcode < 0 else f"exit status {process.exitcode}"
        return DataError(
            f"a process of this job ended by {killer} (out of memory?); finished folds are kept: run again, with more memory "
            "or fewer threads"
        )
    return error
