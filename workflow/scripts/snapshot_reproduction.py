"""Copy tables and figures of a run into docs/reproduction, with what they were made from."""

import shutil
import subprocess
from pathlib import Path

from matpretrain.data import atomic_path, sha256
from matpretrain.jobs import job
from matpretrain.provenance import environment, processor, write_json


def commit():
    """Hash of the checked-out commit, marked where the tree has changes; empty outside git."""
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"], capture_output=True, text=True, check=True
        )
        return found.stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def copy(source, folder, name=None):
    """Copy one file into the folder, whole or not at all."""
    with atomic_path(Path(folder) / (name or Path(source).name)) as temporary:
        shutil.copyfile(source, temporary)


if __name__ == "__main__":
    with job(snakemake):
        p, files = snakemake.params, snakemake.input
        for source in (files.csv, files.md, files.comparisons, files.scores, files.mae):
            copy(source, p.folder)
        for source in files.parity:
            copy(source, p.folder, f"parity_{'_'.join(Path(source).with_suffix('').parts[-2:])}.png")
        for source in files.curves:
            copy(source, p.folder, f"learning_curves_{Path(source).name}")
        write_json(
            {
                "commit": commit(),
                "recipe": p.recipe,
                "seeds": p.seeds,
                "sources": p.sources,
                "sha256": {d: sha256(t) for d, t in zip(p.datasets, files.tables, strict=True)},
                "processor": processor(),
                "versions": environment(),
            },
            snakemake.output.provenance,
        )
