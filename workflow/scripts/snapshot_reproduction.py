"""Copy tables and figures of a run into docs/reproduction, with what they were made from."""

import json
import subprocess
from pathlib import Path

from matpretrain.files import copy_file, read_csv, sha256
from matpretrain.jobs import job


def commit():
    """Hash of the checked-out commit, marked where the tree has changes; empty outside git."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


if __name__ == "__main__":
    with job(snakemake) as say:
        p, files, out = snakemake.params, snakemake.input, snakemake.output
        for source, target in zip(files.products, out.copies, strict=True):
            copy_file(source, target)
        runs = {"/".join(Path(path).parts[-4:-1]): json.loads(Path(path).read_text()) for path in files.made}
        encoders = {Path(path).parent.name: json.loads(Path(path).read_text()) for path in files.encoders}
        versions = [record["versions"] for record in (*runs.values(), *encoders.values())]
        say.note(
            inputs={},  # a clone has the tables, not the runs
            params={},
            outputs={path: sha256(path) for path in out.copies},
            tables_made_by_commit=commit(),
            recipes=p.recipes,
            sources=p.sources,
            table_sha256={d: sha256(t) for d, t in zip(p.datasets, files.data, strict=True)},
            versions={k: v for record in versions for k, v in record.items()},
            corpora={Path(path).parent.name: read_csv(path).to_dict("records") for path in files.counts},
            pretraining={k: {x: y for x, y in v.items() if x != "versions"} for k, v in encoders.items()},
            runs={
                name: {key: record[key] for key in ("device", "threads", "wall_seconds", "code_version")}
                for name, record in runs.items()
            },
        )
