"""Linear probes of frozen encoders."""

import numpy as np
import pandas as pd
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from matpretrain.splits import fold_numbers
from matpretrain.statistics import spread
from matpretrain.weights import embed

PENALTIES = np.logspace(-6, 5, 23)  # ridge penalties, chosen on the training rows by leave-one-out


def ridge():
    """Ridge regression on standardised features; one singular value decomposition serves all penalties."""
    return make_pipeline(StandardScaler(), RidgeCV(PENALTIES, gcv_mode="svd"))


def probe(features, target, fold):
    """MAE [folds] on each outer fold of a ridge regression, fitted on the others, of standardised features [n, d]."""
    scores = []
    for k in fold_numbers(fold):
        train, test = fold != k, fold == k
        model = ridge().fit(features[train], target[train])
        scores.append(np.abs(model.predict(features[test]) - target[test]).mean())
    return np.array(scores)


def probe_all(encoders, inputs, table, say):
    """Probe several encoders on one dataset.

    Args:
        encoders: iterable of (epoch, seed, encoder in evaluation mode).
        inputs: the rows of the dataset in the form that they read.
        table: data frame with the columns target and fold.
        say: function of a line of progress.

    Returns:
        Data frame epoch, seed, mae_mean and mae_std (over the outer folds), in the unit of the target.
    """
    rows = []
    for epoch, seed, encoder in encoders:
        mae = probe(embed(encoder, inputs), table["target"].to_numpy(), table["fold"].to_numpy())
        rows.append({"epoch": epoch, "seed": seed, "mae_mean": mae.mean(), "mae_std": spread(mae)})
        say("epoch {epoch}, seed {seed}: MAE {mae_mean:.4g} ± {mae_std:.2g}".format(**rows[-1]))
    return pd.DataFrame(rows)
