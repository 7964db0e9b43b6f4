"""Train a network on all outer folds of one dataset and seed; predict validation and test rows."""

import importlib
import multiprocessing
import sys
import time
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pandas as pd
import torch

from matpretrain.composition import Compositions
from matpretrain.devices import claim_device, describe
from matpretrain.files import read_csv, write_csv
from matpretrain.jobs import job
from matpretrain.objectives import SUPERVISED
from matpretrain.provenance import environment, write_json
from matpretrain.splits import inner_split
from matpretrain.training import Recipe, fit, predict

PROGRESS = 10  # progress lines per fold


def train_fold(fold, seed, encoder, recipe, inner_fraction, table, compositions, element_vectors, device, say):
    """Train one outer fold. Returns its prediction rows and history as data frames."""
    if device == "cpu":
        torch.set_num_threads(1)  # folds run side by side, one thread each
    network = importlib.import_module(f"matpretrain.{encoder}")
    target = table["target"].to_numpy()
    test = np.flatnonzero(table["fold"] == fold)
    train, validation = inner_split(np.flatnonzero(table["fold"] != fold), inner_fraction, seed, fold)
    mean, std = target[train].mean(), target[train].std(ddof=1)
    std = std if std > 0 else 1.0

    loss, n_outputs = SUPERVISED[recipe.loss]
    torch.manual_seed(1000 * seed + fold)
    model = network.Model(element_vectors, n_outputs).to(device)
    inputs = network.Inputs(compositions, device)
    scaled = torch.as_tensor((target - mean) / std, dtype=torch.float32, device=device)

    def outputs(model, rows):
        return predict(model, inputs, torch.as_tensor(rows, device=device), recipe)

    def evaluate(model):
        error = outputs(model, validation)[:, 0] * std + mean - target[validation]
        return {"mae": float(np.abs(error).mean())}

    def report(row):
        if row["epoch"] % max(1, recipe.epochs // PROGRESS) == 0:
            say(
                f"fold {fold}: epoch {row['epoch']}/{recipe.epochs}, loss {row['loss']:.4f}, "
                f"validation MAE {row['mae']:.4g}, {row['seconds']:.0f} s"
            )

    history = fit(
        model,
        lambda model, rows: loss(model(inputs[rows]), scaled[rows]),
        torch.as_tensor(train, device=device),
        evaluate,
        recipe,
        seed=1000 * seed + fold,
        report=report,
    )
    parts = []
    for part, rows in (("validation", validation), ("test", test)):
        output = outputs(model, rows)
        aleatoric = np.exp(output[:, 1]) * std if n_outputs == 2 else np.nan
        parts.append(
            pd.DataFrame(
                {
                    "id": table["id"].to_numpy()[rows],
                    "fold": fold,
                    "seed": seed,
                    "part": part,
                    "target": target[rows],
                    "prediction": output[:, 0] * std + mean,
                    "aleatoric_std": aleatoric,
                }
            )
        )
    return pd.concat(parts), pd.DataFrame(history).assign(fold=fold, seed=seed)


def finetune(table_path, compositions_path, elements_path, encoder, recipe, inner_fraction, seed, device, threads, say):
    """Train all outer folds of a dataset, side by side on a CPU. Returns predictions and history."""
    table = read_csv(table_path, dtype={"id": str, "formula": str})
    with np.load(compositions_path) as arrays:
        compositions = Compositions(**arrays)
    element_vectors = np.load(elements_path)
    folds = np.unique(table["fold"]).tolist()
    job_arguments = (seed, encoder, Recipe(**recipe), inner_fraction, table, compositions, element_vectors, device, say)
    forks = sys.platform.startswith("linux")  # elsewhere forking is unsafe: folds run one after another
    workers = min(threads, len(folds)) if device == "cpu" and forks else 1
    say(f"{len(table)} rows, {len(folds)} folds, {workers} at a time on {describe(device)}")
    if workers == 1:
        results = [train_fold(fold, *job_arguments) for fold in folds]
    else:
        results = _side_by_side(folds, job_arguments, workers)
    predictions, histories = zip(*results, strict=True)
    return pd.concat(predictions), pd.concat(histories)


def _side_by_side(folds, job_arguments, workers):
    """Folds in forked processes: the arrays and `say` are inherited, and no thread pool exists yet to be broken."""
    global _inherited
    _inherited = job_arguments
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("fork")) as pool:
        return list(pool.map(_inherited_fold, folds))


def _inherited_fold(fold):
    return train_fold(fold, *_inherited)


if __name__ == "__main__":
    with job(snakemake) as say:
        started = time.perf_counter()
        p = snakemake.params
        with claim_device(p.device, say) as device:
            predictions, history = finetune(
                snakemake.input.table,
                snakemake.input.compositions,
                snakemake.input.elements,
                encoder=p.encoder,
                recipe=p.recipe,
                inner_fraction=p.inner_fraction,
                seed=int(snakemake.wildcards.seed),
                device=device,
                threads=snakemake.threads,
                say=say,
            )
        write_csv(history, snakemake.output.history)
        write_json(
            {
                "device": describe(device),
                "threads": snakemake.threads,
                "wall_seconds": round(time.perf_counter() - started, 1),
                "code_version": p.code,
                "recipe": dict(p.recipe),
                "versions": environment(),
            },
            snakemake.output.provenance,
        )
        write_csv(predictions, snakemake.output.predictions)
