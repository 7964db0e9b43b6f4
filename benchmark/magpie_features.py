"""Magpie fingerprints: our rate beside matminer's in one process; prints both and the ratio."""

import argparse
import time
import warnings

import numpy as np
import pandas as pd

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("table", help="CSV with a column formula")
    parser.add_argument("--peer-rows", type=int, default=1000)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    from matminer.featurizers.base import MultipleFeaturizer
    from matminer.featurizers.composition import ElementProperty, IonProperty, Stoichiometry, ValenceOrbital
    from pymatgen.core import Composition

    from matpretrain.composition import parse_formulas
    from matpretrain.elements import element_tables
    from matpretrain.magpie import magpie_features

    formulas = pd.read_csv(options.table, keep_default_na=False)["formula"].tolist()
    element_tables()
    started = time.perf_counter()
    compositions, _ = parse_formulas(formulas)
    parsing = time.perf_counter() - started
    started = time.perf_counter()
    features = magpie_features(compositions)
    featurising = time.perf_counter() - started
    peer = MultipleFeaturizer(
        [
            Stoichiometry(),
            ElementProperty.from_preset("magpie", impute_nan=True),
            ValenceOrbital(props=["avg"], impute_nan=True),
            IonProperty(fast=True, impute_nan=True),
        ]
    )
    chosen = np.random.default_rng(0).choice(len(formulas), min(options.peer_rows, len(formulas)), replace=False)
    parsed = [Composition(formulas[i]) for i in chosen]
    started = time.perf_counter()
    reference = np.array([peer.featurize(c) for c in parsed], float)
    peer_seconds = time.perf_counter() - started
    ours, theirs = len(formulas) / featurising, len(chosen) / peer_seconds
    difference = np.abs(features[chosen] - reference).max()
    print(
        f"Magpie, {len(formulas):,} formulas: parsing {parsing:.1f} s, features {featurising:.1f} s = {ours:,.0f}/s; "
        f"matminer {theirs:,.0f}/s; ratio {ours / theirs:.0f}; largest difference {difference:.1e}"
    )
