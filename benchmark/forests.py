"""How a random forest should predict, judged on out-of-bag rows of the outer training parts: no test row is looked at.

Prints a CSV: MAE of the mean and of the median of the trees that have not seen a row (or one of its group, where the split has
groups), with all or a third of the features per split, for each fold. Needs tables and features of the workflow:

snakemake -c1 -- results/data/matbench_steels/{table.csv,compositions.npz} results/features/matbench_steels/{magpie,fl}.npy
forests.py matbench_steels:magpie matbench_steels:fl matbench_steels:onehot
"""

import argparse
from pathlib import Path

import numpy as np
from joblib import parallel_config

from matpretrain.baselines import FEATURES
from matpretrain.composition import Compositions
from matpretrain.estimators import out_of_bag_errors, random_forest
from matpretrain.files import read_csv
from matpretrain.splits import fold_numbers

PROJECT = Path(__file__).resolve().parents[1]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("tables", nargs="+", metavar="DATASET:FEATURES")
    parser.add_argument("--trees", type=int, default=100)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--results", type=Path, default=PROJECT / "results")
    given = parser.parse_args()
    print("dataset,features,max_features,fold,mean,median")
    for name in given.tables:
        dataset, kind = name.split(":")
        folder = given.results / "data" / dataset
        table = read_csv(folder / "table.csv", dtype={"id": str, "formula": str})
        path = given.results / f"features/{dataset}/{kind}.npy"
        features = np.load(path) if path.exists() else FEATURES[kind](Compositions.read(folder / "compositions.npz"))
        target, fold = table["target"].to_numpy(), table["fold"].to_numpy()
        group = table["group"].to_numpy() if "group" in table else None
        for k in fold_numbers(fold):
            train = fold != k
            groups = None if group is None else group[train]
            for share in (1.0, 1 / 3):
                forest = random_forest(0, given.trees, "median", share)
                with parallel_config("threading", n_jobs=given.threads):
                    forest.fit(features[train], target[train], groups)
                    trees = forest.unseen(features[train], target[train], groups)
                errors, _ = out_of_bag_errors(trees, target[train])
                mean, median = (errors[statistic].mean() for statistic in ("mean", "median"))
                print(f"{name.replace(':', ',')},{share:.3g},{k},{mean:.5g},{median:.5g}", flush=True)


if __name__ == "__main__":
    main()
