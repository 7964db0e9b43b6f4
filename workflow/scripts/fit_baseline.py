"""Baselines without a network on all outer folds: random forests and the training mean."""

from pathlib import Path

import numpy as np
import pandas as pd

from matpretrain.baselines import FEATURES, builder, fitted_folds, save_baseline
from matpretrain.composition import Compositions
from matpretrain.estimators import predicted
from matpretrain.files import read_csv, sha256, write_csv
from matpretrain.jobs import job


def fit_baseline(table, features, build, threads, say, size=None):
    """Fit on the outer training part of every fold, or on a subset of a size (subsets.outer_split), and predict its test part.

    Args:
        table: data frame id, target, fold and, where the split keeps rows together, group.
        features: [rows, n].
        build: function () -> regressor with scikit-learn's fit() and predict().

    Returns:
        Data frame id, fold, part, target, prediction, aleatoric_std (NaN where the regressor predicts none).
    """
    target, parts = table["target"].to_numpy(), []
    groups = table["group"].to_numpy() if "group" in table else None
    for fold, test, model in fitted_folds(features, target, table["fold"].to_numpy(), size, build, threads, groups):
        prediction, deviation = predicted(model, features[test])
        say(f"fold {fold}: {model}, test MAE {np.abs(prediction - target[test]).mean():.5g}")
        parts.append(
            pd.DataFrame(
                {
                    "id": table["id"].to_numpy()[test],
                    "fold": fold,
                    "part": "test",
                    "target": target[test],
                    "prediction": prediction,
                    "aleatoric_std": deviation,
                }
            )
        )
    return pd.concat(parts)


if __name__ == "__main__":
    with job(snakemake) as say:
        p, files, named = snakemake.params, snakemake.input, snakemake.wildcards
        table = read_csv(files.table, dtype={"id": str, "formula": str})
        compositions, seed = Compositions.read(files.compositions), int(named.seed)
        features = np.load(files.features) if files.get("features") else FEATURES[p.features](compositions)
        build = builder(p.estimator, seed, p.arguments)
        predictions = fit_baseline(table, features, build, snakemake.threads, say, p.size)
        predictions.insert(2, "seed", seed)
        record = {
            "estimator": p.estimator,
            "features": p.features,
            "arguments": dict(p.arguments),
            "size": p.size,
            "seed": seed,
            "dataset": named.dataset,
            "model": named.model,
            "unit": snakemake.config["datasets"][named.dataset]["unit"],
            "data_sha256": sha256(files.table),
            "code_version": p.code,
        }
        save_baseline(compositions, table, record, Path(snakemake.output.record).parent)
        write_csv(predictions, snakemake.output.predictions)
