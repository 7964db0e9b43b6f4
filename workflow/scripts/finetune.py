"""Train a network on all outer folds of one dataset and seed; predict validation and test rows; keep the weights.

Where its folds were trained together with those of other seeds and initialisations (finetune_together.py), they are only written.
"""

import json
from pathlib import Path

from matpretrain.composition import Compositions, take
from matpretrain.devices import claim_device, describe
from matpretrain.files import sha256, write_csv
from matpretrain.folds import TOGETHER, finetune, of_job, read_folds
from matpretrain.jobs import job
from matpretrain.members import save_members
from matpretrain.selection import overtrained
from matpretrain.states import kept_state

if __name__ == "__main__":
    with job(snakemake) as say:
        p, files, out, named = snakemake.params, snakemake.input, snakemake.output, snakemake.wildcards
        folder, seed = Path(out.weights).parent, int(named.seed)
        own = {"seed": seed, "weights": files.get("weights"), "initial": files.get("initial"), "cohort": p.cohort}
        if files.get("together"):  # the folds are trained: their files are read as those of an interrupted job
            made = json.loads((Path(files.together) / TOGETHER).read_text())
            shared = round(made["wall_seconds"] / made["runs"], 1)
            say.note(device=made["device"], wall_seconds=shared, trained_together=made)
            training = of_job(snakemake, "cpu", name=f"{named.model}/seed{seed}", **own)
            again = f"delete the folder {files.together} to train them again"
            predictions, history, kept = read_folds(training, Path(files.together), remedy=again)
        else:
            with claim_device(snakemake.config["device"], say) as device:
                state = say.enter(kept_state(snakemake, folder, device, say))
                say.note(device=describe(device))
                training = of_job(snakemake, device, **own)
                finetune([training], snakemake.threads, say, state)
                predictions, history, kept = read_folds(training, state)
        if training.recipe.select == "last" and (advice := overtrained(history)):
            say(advice)
        write_csv(history, out.history)
        save_members(
            kept,
            training.arguments,
            take(Compositions.read(files.compositions), training.trained_rows()),
            {
                "dataset": named.dataset,
                "model": named.model,
                "unit": snakemake.config["datasets"][named.dataset]["unit"],  # no parameter: another word trains nothing
                "data_sha256": sha256(files.get("spectra") or files.table),
                "code_version": p.code,
                **training.record(),
            },
            folder,
        )
        write_csv(predictions, out.predictions)
