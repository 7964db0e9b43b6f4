"""A mend of Snakemake 9: outputs that a failed job got back are not those of its new settings.

When a job fails, Snakemake restores outputs marked update(), and then records them as made with the parameters and from the
inputs of the job that failed, so that the next call would take them for up to date.
"""

from snakemake.io import is_flagged
from snakemake.jobs import Job

_settle = Job.postprocess


async def _settle_unfinished(job, *arguments, error=False, **options):
    await _settle(job, *arguments, error=error, **options)
    if error and any(is_flagged(output, "update") for output in job.output):
        job.dag.workflow.persistence.started(job)


def keep_unfinished():
    """From now on restored outputs of failed jobs count as incomplete: `rerun-incomplete` (profiles/default) makes them again."""
    Job.postprocess = _settle_unfinished
