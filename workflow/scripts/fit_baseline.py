"""Baselines without a network on all outer folds: random forests and the training mean."""

import time

import numpy as np
import pandas as pd

from matpretrain.composition import Compositions, element_fractions
from matpretrain.files import DataError, read_csv, write_csv
from matpretrain.jobs import job
from matpretrain.provenance import environment, processor, write_json
from matpretrain.splits import fold_numbers
from matpretrain.subsets import outer_split


def random_forest(seed, threads):
    """500 trees, otherwise scikit-learn's defaults, as in the Matbench reference."""
    from sklearn.ensemble import RandomForestRegressor

    return RandomForestRegressor(500, random_state=seed, n_jobs=threads)


def training_mean(seed, threads):
    """Predicts the mean of the training targets."""
    from sklearn.dummy import DummyRegressor

    return DummyRegressor()


ESTIMATORS = {"random_forest": random_forest, "mean": training_mean}


def load_features(kind, compositions_path, features_path):
    """Feature matrix [rows, n]: "onehot" and "none" from the compositions, any other kind from its file."""
    if features_path:
        return np.load(features_path)
    with np.load(compositions_path) as arrays:
        compositions = Compositions(**arrays)
    return element_fractions(compositions) if kind == "onehot" else np.zeros((len(compositions), 1))


def fit_baseline(table, features, estimator, seed, threads, say, size=None):
    """Fit on the outer training part of every fold, or on a subset of a size (subsets.outer_split), and predict its test part."""
    target = table["target"].to_numpy()
    parts = []
    for fold in fold_numbers(table["fold"]):
        train, test = outer_split(table["fold"].to_numpy(), fold, size)
        model = ESTIMATORS[estimator](seed, threads).fit(features[train], target[train])
        prediction = model.predict(features[test])
        say(f"fold {fold}: test MAE {np.abs(prediction - target[test]).mean():.5g}")
        parts.append(
            pd.DataFrame(
                {
                    "id": table["id"].to_numpy()[test],
                    "fold": fold,
                    "seed": seed,
                    "part": "test",
                    "target": target[test],
                    "prediction": prediction,
                    "aleatoric_std": np.nan,
                }
            )
        )
    return pd.concat(parts)


if __name__ == "__main__":
    with job(snakemake) as say:
        started = time.perf_counter()
        p = snakemake.params
        if p.estimator not in ESTIMATORS:
            raise DataError(f"estimator {p.estimator!r} is not in ESTIMATORS of fit_baseline.py ({', '.join(ESTIMATORS)})")
        table = read_csv(snakemake.input.table, dtype={"id": str, "formula": str})
        features = load_features(p.features, snakemake.input.compositions, snakemake.input.get("features"))
        seed = int(snakemake.wildcards.seed)
        predictions = fit_baseline(table, features, p.estimator, seed, snakemake.threads, say, p.size)
        write_json(
            {
                "device": processor(),
                "threads": snakemake.threads,
                "wall_seconds": round(time.perf_counter() - started, 1),
                "code_version": p.code,
                "versions": environment(),
            },
            snakemake.output.provenance,
        )
        write_csv(predictions, snakemake.output.predictions)
