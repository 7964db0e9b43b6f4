"""A raw file in its place: downloaded where a loader offers it, hash-checked."""

from matpretrain.jobs import job
from matpretrain.sources import fetch

if __name__ == "__main__":
    with job(snakemake) as say:
        fetch(snakemake.output[0], say, **snakemake.params.source)
