"""How a call ends with a line for the user, and where Snakemake has to be started."""

import os
import sys


def refuse(line):
    """End the call with one line for the user. An error that a function of inputs raises would be passed over in silence where
    the file that needs them is there from an earlier run."""
    print(line, file=sys.stderr)
    raise SystemExit(1)


if not os.path.samefile(os.curdir, workflow.basedir):
    refuse(
        f"start Snakemake in the folder of the project ({workflow.basedir}), without --directory: inputs and results are there"
    )
