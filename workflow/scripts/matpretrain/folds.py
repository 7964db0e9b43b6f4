"""Finetuning jobs: which outer folds train together, and the files in which a job keeps those that are finished."""

import hashlib
import sys

import numpy as np
import pandas as pd
import torch

from matpretrain.composition import Compositions
from matpretrain.data import check_logarithms
from matpretrain.devices import describe
from matpretrain.files import read_csv
from matpretrain.processes import Stopped, side_by_side
from matpretrain.provenance import stacks
from matpretrain.recipe import Recipe
from matpretrain.run import Diverged
from matpretrain.splits import fold_numbers
from matpretrain.states import check_history, load_state, save_state
from matpretrain.subsets import for_rows
from matpretrain.supervised import Spectra, Training, crowded, train_members

NAMED = 20  # folds in the name of a file, which file systems limit
TOGETHER = "together.json"  # beside the folds of a job of several Trainings: device, seconds of all, and how many runs


def of_job(snakemake, device, **own):
    """The Training of a job; `own` are its seed, cohort and what else single ones of several have.

    Raises:
        DataError: as data.check_logarithms, where they are learned.
    """
    p, files = snakemake.params, snakemake.input
    table, arguments = read_csv(files.table, dtype={"id": str, "formula": str}), dict(p.arguments)
    recipe = for_rows(p.recipe, table["fold"].to_numpy(), p.size)
    loss, scale = recipe.pop("loss"), recipe.pop("target_scale")  # pretraining has recipes without them
    if files.get("elements"):
        arguments["element_vectors"] = np.load(files.elements)
    if scale == "log":
        check_logarithms(table, files.table, "target_scale: log")
    return Training(
        table,
        files.get("structures") or Compositions.read(files.compositions),
        encoder=p.encoder,
        arguments=arguments,
        loss=loss,
        target_scale=scale,
        recipe=Recipe(**recipe),
        inner_fraction=p.inner_fraction,
        size=p.size,
        device=device,
        spectra=Spectra.read(files.spectra, p.resolution) if files.get("spectra") else None,
        **own,
    )


def cohorts(trainings):
    """Lists of (Training, outer fold) that train together: those with steps of the same size and number."""
    first = trainings[0]
    folds, size = fold_numbers(first.table["fold"]), first.cohort
    if not stacks(first.encoder):
        size = 1
    elif size == "all":
        size = len(trainings) * len(folds)
    elif size == "auto":
        size = 1 if first.device == "cpu" else len(trainings) * len(folds)
    groups = {}
    for training in trainings:
        for fold in folds:
            groups.setdefault(first.recipe.batches_for([training.split(fold)[0]]), []).append((training, fold))
    return [group[k : k + size] for group in groups.values() for k in range(0, len(group), size)]


def finetune(trainings, threads, say, state):
    """Train all outer folds of a dataset in one or several Trainings: cohorts of them, on a CPU side by side.

    Args:
        trainings: list of Training that differ at most in seed, weights, initial and name.
        threads: on a CPU as many cohorts train side by side, one thread each; a single one has all of them.
        state: folder with a file per cohort, its training state, and a file per finished fold, its result (result_file). Finished
            cohorts are not trained again.

    Raises:
        Stopped: a signal asked for it; the states of all folds are written.
    """
    first, together = trainings[0], cohorts(trainings)
    n_folds = sum(map(len, together))
    forks = sys.platform.startswith("linux")  # elsewhere forking is unsafe: cohorts run one after another
    workers = min(threads, len(together)) if first.device == "cpu" and forks else 1
    sizes = f", in cohorts of {', '.join(str(len(cohort)) for cohort in together)}" if len(together) < n_folds else ""
    schedule = f"{first.recipe.epochs} epochs, rate {first.recipe.learning_rate:g}"
    say(f"{len(first.table)} rows, {n_folds} folds{sizes}, {workers} at a time on {describe(first.device)}; {schedule}")
    if advice := crowded(first.target, first.loss):
        say(advice)
    left = [cohort for cohort in together if not all(result_file(state, *member).exists() for member in cohort)]

    def work(cohort):
        finish_members(cohort, say, state)

    if workers == 1:
        if first.device == "cpu":
            torch.set_num_threads(threads)
        for cohort in left:
            work(cohort)
    elif left:  # side by side, one thread each
        load_once(first)
        side_by_side(work, left, workers)


def finish_members(members, say, state):
    """Train a cohort of (Training, outer fold) and leave their results in the folder `state`, in place of its training state."""
    folds = list(dict.fromkeys(fold for _, fold in members))
    names = "".join(dict.fromkeys(training.name for training, _ in members))
    of = f"{_digest(names)}-" if names else ""
    numbers = "-".join(map(str, folds))
    under_way = state / f"training{of}{numbers if len(folds) <= NAMED else _digest(numbers)}.pt"
    try:
        results = train_members(members, say, under_way)
    except Diverged as error:
        training, fold = members[error.member]
        raise FloatingPointError(f"{training.name + ' ' * bool(training.name)}fold {fold}: {error}") from None
    except Stopped as stop:
        named = f"fold{'s' * (len(folds) > 1)} {', '.join(map(str, folds))}"
        raise Stopped(stop.reason, [f"{named} {place}" for place in stop.places]) from None
    for (training, fold), (predictions, history, kept) in zip(members, results, strict=True):
        kept["weights"] = {name: torch.from_numpy(array) for name, array in kept["weights"].items()}
        columns = {"predictions": predictions.to_dict("list"), "history": history.to_dict("records")}
        save_state({"of": _identity(fold, training), **columns, "kept": kept}, result_file(state, training, fold))
    under_way.unlink(missing_ok=True)


def _digest(text):
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def load_once(training):
    """Predict a row and make an optimiser, so that what libraries load on first use is there before the folds fork, and shared."""
    torch.set_num_threads(1)  # a process that has started threads must not fork
    model = training.network().Model(**training.arguments, n_outputs=1).eval()
    with torch.inference_mode():
        model(training.inputs[torch.arange(1)])
    torch.optim.AdamW(model.parameters(), fused=True)


def result_file(state, training, fold):
    """The file of a finished fold in the folder of a job's state."""
    return state / training.name / f"fold{fold}.pt"


def read_folds(training, state, **remedy):
    """What `finetune` left of all outer folds of a Training: predictions and history as data frames, and what is kept of each fold
    (members.keep).

    Args:
        remedy: as of `load_state`.

    Raises:
        DataError: as load_state, of the file of a fold.
    """
    folds = fold_numbers(training.table["fold"])
    finished = [read_fold(fold, training, result_file(state, training, fold), **remedy) for fold in folds]
    predictions, histories, kept = zip(*finished, strict=True)
    return pd.concat(predictions), pd.concat(histories), kept


def read_fold(fold, training, path, **remedy):
    """What `train_members` returned of a fold, from the file that `finish_members` wrote."""

    def check(saved):
        check_history(saved["history"], training.recipe.epochs)
        _, _, test = training.split(fold)
        predicted = saved["predictions"]
        n_test, finite = predicted["part"].count("test"), np.isfinite(np.asarray(predicted["prediction"], float))
        if n_test != len(test) * training.target.shape[1] or not finite.all():
            raise ValueError(f"{n_test} predictions of {len(test)} test rows, {(~finite).sum()} of them not finite")
        if saved["kept"]["fold"] != fold:
            raise ValueError(f"weights of fold {saved['kept']['fold']}")

    saved = load_state(path, _identity(fold, training), check, **remedy)
    kept = saved["kept"]
    kept["weights"] = {name: tensor.numpy() for name, tensor in kept["weights"].items()}
    return pd.DataFrame(saved["predictions"]), pd.DataFrame(saved["history"]), kept


def _identity(fold, training):
    return {
        "fold": fold,
        "seed": training.seed,
        "loss": training.loss,
        "target_scale": training.target_scale,
        "recipe": vars(training.recipe),
    }
