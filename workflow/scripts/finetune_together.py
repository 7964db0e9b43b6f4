"""Train all seeds and initialisations of a network on all outer folds of a dataset, as cohorts with stacked weights.

Leaves MODEL/seedN/foldK.pt, what finetune.py makes results of.
"""

from dataclasses import replace
from pathlib import Path

from matpretrain.devices import claim_device, describe
from matpretrain.files import copy_file
from matpretrain.folds import TOGETHER, cohorts, finetune, of_job, read_fold, result_file
from matpretrain.jobs import job
from matpretrain.provenance import write_json
from matpretrain.splits import fold_numbers
from matpretrain.states import kept_state

if __name__ == "__main__":
    with job(snakemake) as say:
        p, files, out = snakemake.params, snakemake.input, Path(snakemake.output[0])
        with claim_device(snakemake.config["device"], say) as device:
            state = say.enter(kept_state(snakemake, out.parent, device, say))
            pretrained = [(model, seed) for model, seed, _ in p.pretrained]
            weights = dict(zip(pretrained, files.get("weights", []), strict=True))
            first = of_job(snakemake, device, seed=0, weights=None, cohort=p.cohort)
            trainings = [
                replace(first, seed=seed, weights=weights.get((model, seed)), name=f"{model}/seed{seed}")
                for model, seed in p.runs
            ]
            finetune(trainings, snakemake.threads, say, state)
            say.note(device=describe(device))
            for training in trainings:
                for fold in fold_numbers(training.table["fold"]):
                    copy_file(result_file(state, training, fold), result_file(out, training, fold))
            seconds = sum(  # of interrupted runs, too; of a cohort those of the member that trained longest
                max(read_fold(fold, own, result_file(out, own, fold))[1]["seconds"].iloc[-1] for own, fold in cohort)
                for cohort in cohorts(trainings)
            )
            write_json({"device": describe(device), "wall_seconds": round(seconds, 1), "runs": len(trainings)}, out / TOGETHER)
