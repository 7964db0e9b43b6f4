"""Variants of pretraining, each pretrained for a few epochs on one corpus and judged without a test row.

The frozen encoder's outputs are fitted by ridge regression on four fifths of every outer training part and scored on the
other fifth (MAE, mean over folds); their effective rank is the exponential of the entropy of the eigenvalues of their
correlations. Prints a row per variant and seed; one thread each.

snakemake -c1 -- results/data/mp_transport/compositions.npz results/features/mp_transport/magpie.npy results/data/elements/matscholar.npy \\
    results/data/matbench_{steels,jdft2d,phonons,dielectric}/{table.csv,compositions.npz}
ssl_variants.py mp_transport matbench_steels matbench_jdft2d matbench_phonons matbench_dielectric
With results/features/materials_project/structure.npy also
ssl_variants.py materials_project DATASETS --variants mml "mml, hidden layers"
"""

import argparse
import itertools
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
import yaml

from matpretrain.files import read_csv
from matpretrain.probes import ridge
from matpretrain.recipe import Recipe
from matpretrain.roost import CompositionInputs
from matpretrain.splits import fold_numbers, inner_split
from matpretrain.weights import embed

PROJECT = Path(__file__).resolve().parents[1]
BARLOW = {"barlow_twins": {}}
VARIANTS = {  # name -> (pretext tasks, keys of the recipe)
    "untrained": ({}, {}),
    "ssl": (BARLOW, {}),
    "released neighbours": ({"barlow_twins": {"masked_view_messages": False}}, {}),
    "both views masked": ({"barlow_twins": {"both_masked": True}}, {}),
    "batches of 1024, twice the rate": (BARLOW, {"batch_size": 1024, "learning_rate": 1e-3}),
    "the released recipe": (BARLOW, {"batch_size": 128, "learning_rate": 1e-4, "schedule": "constant", "warmup": 0.0}),
    **{
        f"ssl and fl, {weight}": (BARLOW | {"magpie": {"scale": "minmax", "weight": weight}}, {})
        for weight in (10**3, 10**4, 10**5)
    },
    "fl": ({"magpie": {"scale": "minmax"}}, {}),
    "ssl, hidden layers": ({"barlow_twins": {"hidden": [1024, 1024]}}, {}),
    "fl, hidden layers": ({"magpie": {"scale": "minmax", "hidden": [1024, 512, 256]}}, {}),
    "mml": ({"structure": {}}, {}),
    "mml, whitened": ({"structure": {"scale": "whitened"}}, {}),
    "mml, hidden layers": ({"structure": {"hidden": [1024, 512, 256]}}, {}),
}
INNER = 0.2


def probe(features, target, fold):
    """MAE of ridge regression on inner validation rows, mean over the outer folds."""
    errors = []
    for k in fold_numbers(fold):
        train, validation = inner_split(np.flatnonzero(fold != k), INNER, 0, k)
        model = ridge().fit(features[train], target[train])
        errors.append(np.abs(model.predict(features[validation]) - target[validation]).mean())
    return np.mean(errors)


def effective_rank(features):
    """exp(entropy) of the normalised eigenvalues of the correlation matrix of features [n, d]."""
    scaled = (features - features.mean(0)) / (features.std(0) + 1e-9)
    values = np.clip(np.linalg.eigvalsh(np.cov(scaled.T)), 1e-12, None)
    share = values / values.sum()
    return np.exp(-(share * np.log(share)).sum())


def main():
    sys.path.insert(0, str(PROJECT / "workflow/scripts"))
    from pretrain import pretrain

    parser = argparse.ArgumentParser()
    parser.add_argument("corpus")
    parser.add_argument("datasets", nargs="+")
    of_formulas = [name for name, (tasks, _) in VARIANTS.items() if "structure" not in tasks]  # mml: a corpus of structures
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=of_formulas)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], help="of weights, order and masks; one says little")
    parser.add_argument("--results", type=Path, default=PROJECT / "results")
    given = parser.parse_args()
    torch.set_num_threads(1)
    recipe = yaml.safe_load((PROJECT / "config/config.yaml").read_text())["pretraining_recipe"] | {"epochs": given.epochs}
    data, folder = {}, given.results / "data"
    for name in given.datasets:
        table = read_csv(folder / name / "table.csv", dtype={"id": str, "formula": str})
        data[name] = (
            CompositionInputs.read(folder / name / "compositions.npz"),
            table["target"].to_numpy(),
            table["fold"].to_numpy(),
        )
    for name, seed in itertools.product(given.variants, given.seeds):
        tasks, keys = VARIANTS[name]
        targets = {task: given.results / f"features/{given.corpus}/{task}.npy" for task in tasks if task != "barlow_twins"}
        with tempfile.TemporaryDirectory() as state:
            encoder, history = pretrain(
                folder / given.corpus / "compositions.npz", folder / "elements/matscholar.npy", targets, "roost", {}, tasks,
                Recipe(**recipe | keys), 0.05, seed, "cpu", Path(state), lambda text: None,
            )  # fmt: skip
        encoder.eval()
        cells = []
        for dataset, (inputs, target, fold) in data.items():
            features = embed(encoder, inputs)
            cells.append(f"{dataset} {probe(features, target, fold):.4g} (rank {effective_rank(features):.1f})")
        print(f"{name}, seed {seed}", *cells, f"loss {history[-1]['loss']:.4g}" if history else "", sep=" | ", flush=True)


if __name__ == "__main__":
    main()
