"""Download a Matbench file through matminer, hash-checked."""

from matpretrain.jobs import job
from matpretrain.sources import download

if __name__ == "__main__":
    with job(snakemake) as say:
        say(f"downloading {snakemake.params.name}")
        download(snakemake.params.name, snakemake.output[0])
