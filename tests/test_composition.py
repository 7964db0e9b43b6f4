import re

import numpy as np
import pytest

from matpretrain.composition import (
    atom_counts,
    element_fractions,
    formula_keys,
    matscholar_vectors,
    parse_formula,
    parse_formulas,
    take,
)


@pytest.mark.parametrize(
    ("formula", "expected"),
    [
        ("NaN", {11: 1, 7: 1}),  # sodium nitride, not a missing value
        ("(NH4)2SO4", {7: 2, 1: 8, 16: 1, 8: 4}),
        ("Fe1e-3C0.5", {26: 0.001, 6: 0.5}),
        ("LiFeO2Li", {3: 2, 26: 1, 8: 2}),
        ("D2O", {1: 2, 8: 1}),
        ("CuSO4(H2O)5", {29: 1, 16: 1, 8: 9, 1: 10}),
        ("Na0.5H2O", {11: 0.5, 1: 2, 8: 1}),
        ("CuSO4.H2O", {29: 1, 16: 1, 8: 5, 1: 2}),
        ("Fe0.05Ni10 O.5", {26: 0.05, 28: 10, 8: 0.5}),
        ("Fe1e0[Ti2]3{O10}2", {26: 1, 22: 6, 8: 20}),
        ("Li 1 Co 1e0 O 2", {3: 1, 27: 1, 8: 2}),
        ("BaO P2 O5", {56: 1, 8: 6, 15: 2}),
        ("Mg3 (PO4)2", {12: 3, 15: 2, 8: 8}),
        (" Li0.5 CoO2 ", {3: 0.5, 27: 1, 8: 2}),
        ("CoCO3Co1e-9", {27: 1, 6: 1, 8: 3}),
        ("HDTO2", {1: 3, 8: 2}),
    ],
)
def test_formulas_are_parsed(formula, expected):
    numbers, amounts = parse_formula(formula)
    assert dict(zip(numbers, amounts, strict=True)) == pytest.approx(expected)


@pytest.mark.parametrize(
    "formula",
    ["Xx2", "hello", "", "Fe-1", "Fe0", "1", "Uue", "FeO1.5.2", "X", "Fe2+", "Fe(O0.0)2", "MgCl2.6D2O", "Fe2O₃", "Fe_2"],
)
def test_what_is_not_a_formula_is_refused(formula):
    with pytest.raises(ValueError, match="formula|element|atoms|in parentheses"):
        parse_formula(formula)


@pytest.mark.parametrize("formula", ["SiC 4H", "C 3C", "Fe2O3 P63", "H2O 2", "MoS2 2H", "Al 6061", "Cu2O 99.9", "Ni 718"])
def test_what_stands_behind_a_blank_is_no_atoms(formula):
    with pytest.raises(ValueError, match=f"holds '{formula.split()[1]}' behind a blank"):
        parse_formula(formula)


@pytest.mark.parametrize(
    ("formula", "dot"),
    [
        ("CaO.2SiO2", ".2"),
        ("K2SO4.2MgSO4", "4.2"),
        ("Fe2O3.2FeO", "3.2"),
        ("CuCl2.2KCl", "2.2"),
        ("AlCl3.6H2O.2HCl", "3.6"),
        ("Ca O .2 Si O2", ".2"),
        ("(NH4)2(SO4)1.10(NH4)(NO3)", "1.10"),
        ("Na2O.3CaO.6SiO2", ".3"),
    ],
)
def test_the_number_of_a_second_compound_is_no_decimal(formula, dot):
    with pytest.raises(
        ValueError, match=re.escape(f"holds '{dot}' between two compounds: write the second one in parentheses")
    ):
        parse_formula(formula)


@pytest.mark.parametrize(
    "formula",
    [
        "LiNi0.8Co0.2O2",
        "Ba0.5Sr0.5TiO3",
        "Ba.5Sr.5TiO3",
        "(CH3NH3)0.5(CH5N2)0.5PbI3",
        "La1.85Sr0.15CuO4",
        "Na1.0C2.0H3.0O2.0C1.05",
        "(Zn0.9Fe0.1)[Fe1.9Zn0.1]O4",
        "Ni0.5Co0.5O1.5(OH)0.5",
        "FeO1.5(OH)0.5",
        "(C4H9NH3)1.5(CH3NH3)0.5PbI4",
    ],
)
def test_shares_are_decimals(formula):
    parse_formula(formula)


@pytest.mark.parametrize(
    ("formula", "match"),
    [
        ("Fe1e50O", "atomic fraction of 1e-50 of O: leave the element out"),
        ("OFe1e33", "of O"),
        ("Fe1e308O1e308", "sum is not finite"),
        ("Fe1e400", "no atoms"),
        ("SiB1e-9", "an amount of B below 1e-08: leave the element out"),
        ("(SiB0.001)0.0000001O", "of B"),
        ("DT1e-9", "of T"),
    ],
)
def test_amounts_that_vanish_or_overflow_are_refused(formula, match):
    with pytest.raises(ValueError, match=match):
        parse_formula(formula)


def test_amounts_may_be_numbers_of_atoms_per_volume():
    parsed, problems = parse_formulas(["Si5e22P1e16", "Fe1e308", "Fe1e25O"])
    assert not problems and np.float32(parsed.fraction).min() > 0
    assert atom_counts(parsed).tolist() == [5_000_000, 1, 1, 1, 0]


def test_problems_carry_their_position():
    parsed, problems = parse_formulas(["Fe", "Xx2", "O2"])
    assert list(problems) == [1] and "Xx" in problems[1]
    assert parsed.count.tolist() == [1, 0, 1]


def test_fractions_rows_and_selection_agree():
    parsed, _ = parse_formulas(["Fe2O3", "Si", "BaTiO3"])
    assert np.allclose(np.add.reduceat(parsed.fraction, parsed.offset[:-1]), 1)
    chosen = take(parsed, np.array([2, 0]))
    assert chosen.number.tolist() == [56, 22, 8, 26, 8] and chosen.offset.tolist() == [0, 3, 5]
    vector = element_fractions(parsed)
    assert vector.shape == (3, 118) and np.allclose(vector.sum(1), 1)
    assert vector[0, 25] == pytest.approx(0.4)


def test_keys_ignore_order_and_size_of_the_formula_unit():
    parsed, _ = parse_formulas(["BaTiO3", "O6Ti2Ba2", "BaTiO2", "Fe1O127", "Fe0.1O12.7"])
    a, b, c, d, e = formula_keys(parsed)
    assert a == b != c and d == e, "1/128 ends in half of the sixth digit"


def test_matscholar_vectors_are_103_unit_vectors():
    vectors = matscholar_vectors()
    known = ~np.isnan(vectors).any(1)
    assert vectors.shape == (119, 200) and np.flatnonzero(known).tolist() == list(range(1, 104))
    assert np.allclose(np.linalg.norm(vectors[known], axis=1), 1, atol=1e-6)
