"""matminer itself is the oracle of the Magpie fingerprint."""

import warnings

import numpy as np
import pandas as pd
import pytest

from matpretrain import magpie
from matpretrain.composition import parse_formulas
from matpretrain.sources import read_embedded

# Four published steels, ten to thirteen elements each, besides edge cases.
FRACTIONAL = [
    "Fe0.620C0.000953Mn0.000521Si0.00102Cr0.000110Ni0.192Mo0.0176V0.000112Nb0.0000616Co0.146Al0.00318Ti0.0185",
    "Fe0.623C0.00854Mn0.000104Si0.000203Cr0.147Ni0.0000971Mo0.0179V0.00515N0.00163Nb0.0000614Co0.188W0.00729Al0.000845",
    "K0.5Na0.5NbO3",
    "La0.7Sr0.3Mn0.9Co0.1O3",
    "He",
    "HeNe",
    "Lr2O3",
    "NaN",
    "Fe3O4",
    "FeO",
    "D2O",
]


@pytest.fixture(scope="module")
def matminer_featurizer():
    warnings.simplefilter("ignore")
    from matminer.featurizers.base import MultipleFeaturizer
    from matminer.featurizers.composition import ElementProperty, IonProperty, Stoichiometry, ValenceOrbital

    return MultipleFeaturizer(
        [
            Stoichiometry(),
            ElementProperty.from_preset("magpie", impute_nan=True),
            ValenceOrbital(props=["avg"], impute_nan=True),
            IonProperty(fast=True, impute_nan=True),
        ]
    )


def compare(formulas, featurizer):
    from pymatgen.core import Composition

    parsed, problems = parse_formulas(formulas)
    assert not problems
    ours = magpie.magpie_features(parsed)
    reference = np.array([featurizer.featurize(Composition(f)) for f in formulas], float)
    assert ours.shape == (len(formulas), 145)
    scale = np.maximum(1.0, np.abs(reference))
    assert (np.abs(ours - reference) / scale).max() < 1e-9


def test_names_are_those_of_matminer(matminer_featurizer):
    assert magpie.feature_names() == matminer_featurizer.feature_labels()


def test_2000_real_formulas_equal_matminer(matminer_featurizer):
    corpus = pd.concat([read_embedded("matminer_transport_seebeck_p"), read_embedded("pymatgen_exp_formation_energy")])
    formulas = corpus["formula"].sample(2000 - len(FRACTIONAL), random_state=0).tolist() + FRACTIONAL
    compare(formulas, matminer_featurizer)


def test_all_steels_equal_matminer(mirror, matminer_featurizer):
    steels = pd.read_csv(mirror / "tables/matbench_steels.csv.gz", keep_default_na=False)
    compare(steels["formula"].tolist(), matminer_featurizer)


def test_many_oxidation_states_are_searched_in_halves(monkeypatch):
    parsed, _ = parse_formulas(["Fe3O4", "FeO", "LiFePO4", "Mn2O3", "BaTiO3", "CuFeS2", "NaCl2", "KMnO4CrTi"])
    whole = magpie.magpie_features(parsed)
    monkeypatch.setattr(magpie, "MANY_STATES", 0)
    assert np.array_equal(magpie.magpie_features(parsed), whole)


def test_no_compositions_give_no_rows():
    assert magpie.magpie_features(parse_formulas([])[0]).shape == (0, 145)
