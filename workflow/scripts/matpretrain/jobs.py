"""What every script does around its work: its threads, a log, a progress line, and one line for a user's mistake."""

import sys
import warnings
from contextlib import contextmanager

from threadpoolctl import threadpool_limits

from matpretrain.files import DataError


@contextmanager
def job(snakemake):
    """Yield `say(text)`, which writes a line to the terminal and to the log of the job.

    The libraries that are loaded (torch, BLAS) take as many threads as Snakemake gave the job, however many cores the
    machine has.

    A DataError, or a training that diverged, ends the job with exit status 1 and its one line instead of a traceback.
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
        with threadpool_limits(snakemake.threads):
            yield say
    except (DataError, FloatingPointError) as error:
        say(f"error: {error}")
        sys.exit(1)
