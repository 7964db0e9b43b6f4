"""What every script does around its work: its threads, a log, a progress line, one line for a user's mistake, a record."""

import sys
import warnings
from contextlib import ExitStack, contextmanager

from threadpoolctl import threadpool_limits

from matpretrain.files import DataError
from matpretrain.processes import Stopped, heed_signals
from matpretrain.provenance import recorded


@contextmanager
def job(snakemake):
    """Yield `say(text)`, which writes a line to the terminal and to the log of the job.

    The libraries that are loaded (torch, BLAS) take as many threads as Snakemake gave the job, however many cores the
    machine has.

    What the outputs were made from is recorded beside them (provenance.recorded); `say.note(device=...)` adds to it.
    `say.enter(context)` enters a context that is left after the record is written.

    A DataError, a training that diverged, or a signal that asks to stop ends the job with exit status 1 and one line instead
    of a traceback.
    """
    path = snakemake.log[0] if snakemake.log else None
    label = " ".join([snakemake.rule, *(str(w) for w in snakemake.wildcards)])
    if path:
        open(path, "w").close()

    def say(text):
        print(f"[{label}] {text}", file=sys.stderr, flush=True)
        if path:
            with open(path, "a") as log:  # one short append per line: folds in other processes write here too
                log.write(f"{text}\n")

    warnings.filterwarnings("ignore", "No Pauling electronegativity")  # pymatgen, once for every noble gas
    try:
        with heed_signals(), threadpool_limits(snakemake.threads), ExitStack() as outer, recorded(snakemake) as facts:
            say.note, say.enter = facts.update, outer.enter_context
            yield say
    except Stopped as stop:
        say(str(stop))
        sys.exit(1)
    except (DataError, FloatingPointError) as error:
        say(f"error: {error}")
        sys.exit(1)
