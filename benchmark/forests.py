"""Random forests on Magpie features: ours (scikit-learn-intelex) beside scikit-learn's, one thread, in one process."""

import argparse
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.ensemble import RandomForestRegressor

sys.path.insert(0, str(Path(__file__).parents[1] / "workflow" / "scripts"))

from fit_baseline import random_forest

from matpretrain.composition import parse_formulas
from matpretrain.magpie import magpie_features
from matpretrain.splits import outer_folds

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("table", help="CSV with columns formula, target")
    parser.add_argument("--trees", type=int, default=50)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    table = pd.read_csv(options.table, keep_default_na=False)
    features, target = magpie_features(parse_formulas(table["formula"].tolist())[0]), table["target"].to_numpy()
    test = outer_folds(len(table)) == 0
    forests = {"scikit-learn": RandomForestRegressor(options.trees, random_state=0), "ours": random_forest(0, options.trees)}
    seconds = {}
    print(f"forests of {options.trees} trees on {features.shape[1]} Magpie features, {(~test).sum()} rows, first fold:")
    for name, model in forests.items():
        model.n_jobs = 1
        started = time.perf_counter()
        model.fit(features[~test], target[~test])
        seconds[name] = time.perf_counter() - started
        error = np.abs(model.predict(features[test]) - target[test]).mean()
        ratio = seconds["scikit-learn"] / seconds[name]
        print(f"  {name:13s} {seconds[name]:6.1f} s, {ratio:5.2f}x, test MAE {error:.4g}", flush=True)
