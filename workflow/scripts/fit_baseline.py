"""Baselines without a network on all outer folds: random forests and the training mean."""

from functools import partial

import numpy as np
import pandas as pd
from joblib import parallel_config

from matpretrain import estimators
from matpretrain.composition import Compositions, element_fractions
from matpretrain.files import read_csv, write_csv
from matpretrain.jobs import job
from matpretrain.splits import fold_numbers
from matpretrain.subsets import outer_split


def load_features(kind, compositions_path, features_path):
    """Feature matrix [rows, n]: "onehot" and "none" from the compositions, any other kind from its file."""
    if features_path:
        return np.load(features_path)
    compositions = Compositions.read(compositions_path)
    return element_fractions(compositions) if kind == "onehot" else np.zeros((len(compositions), 1))


def fit_baseline(table, features, build, threads, say, size=None):
    """Fit on the outer training part of every fold, or on a subset of a size (subsets.outer_split), and predict its test part.

    Args:
        table: data frame id, target, fold.
        features: [rows, n].
        build: function () -> regressor with scikit-learn's fit() and predict().

    Returns:
        Data frame id, fold, part, target, prediction, aleatoric_std (missing).
    """
    target = table["target"].to_numpy()
    parts = []
    for fold in fold_numbers(table["fold"]):
        train, test = outer_split(table["fold"].to_numpy(), fold, size)
        with parallel_config("threading", n_jobs=threads):
            model = build().fit(features[train], target[train])
        prediction = model.predict(features[test])
        say(f"fold {fold}: {model}, test MAE {np.abs(prediction - target[test]).mean():.5g}")
        parts.append(
            pd.DataFrame(
                {
                    "id": table["id"].to_numpy()[test],
                    "fold": fold,
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
        p = snakemake.params
        table = read_csv(snakemake.input.table, dtype={"id": str, "formula": str})
        features = load_features(p.features, snakemake.input.compositions, snakemake.input.get("features"))
        seed = int(snakemake.wildcards.seed)
        build = partial(getattr(estimators, p.estimator), seed, **p.arguments)
        predictions = fit_baseline(table, features, build, snakemake.threads, say, p.size)
        predictions.insert(2, "seed", seed)
        write_csv(predictions, snakemake.output.predictions)
