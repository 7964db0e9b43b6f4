import numpy as np
import pandas as pd
import pytest
import torch
from prepare_spectra import read
from screen_enz import HULL, crossing, screen, select, summarise

from matpretrain.objectives import l1, robust_l1
from matpretrain.sources import optical_constants
from matpretrain.spectra import (
    GAP,
    crossovers,
    energy_grid,
    kramers_kronig_misfit,
    near_zero,
    on_grid,
    scores,
    smoothing_matrix,
    spectra_of,
)

GRID = energy_grid(0.5, 12.4, 0.1)


def lorentz(energy, centre=4.0, strength=60.0, width=0.5):
    """A causal dielectric function with one oscillator, which crosses zero above its centre."""
    return 1 + strength / (centre**2 - energy**2 - 1j * energy * width)


def test_spectra_are_known_between_points_that_are_close():
    energy = np.array([1.0, 1.2, 1.4, 2.95, 3.2])
    found = on_grid(energy, lorentz(energy), GRID)
    known = np.isfinite(found.real)
    assert np.array_equal(known, np.isfinite(found.imag)), "real and imaginary part are unknown together"
    assert GRID[known].round(1).tolist() == [1.0, 1.1, 1.2, 1.3, 1.4, 3.0, 3.1, 3.2] and GAP < 1.6
    assert found[known][1] == pytest.approx((lorentz(1.0) + lorentz(1.2)) / 2)
    assert not np.isfinite(on_grid(energy[:1], lorentz(energy[:1]), GRID)).any()


@pytest.mark.parametrize("energy", [[1.0, 1.2, 3.0, 3.2], [1.0, 1.2, 3.0, 5.0, 5.2], [1.0, 1.2, 3.0], [1.0, 3.0, 3.2]])
def test_a_tabulated_point_is_known_however_far_its_neighbours_are(energy):
    found = on_grid(np.array(energy), lorentz(np.array(energy)), GRID)
    assert found[25] == pytest.approx(lorentz(3.0)) and GRID[25] == 3.0
    assert set(energy) <= set(GRID[np.isfinite(found)]) and not np.isfinite(found[[10, 24]]).any()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ((0, 1, 0.6), [0, 0.6]),
        ((0, 1, 0.25), [0, 0.25, 0.5, 0.75, 1]),
        ((0.3, 0.9, 0.1), [0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]),
        ((0, 0.99, 0.33), [0, 0.33, 0.66, 0.99]),
    ],
)
def test_a_grid_of_energies_ends_at_its_last_or_before(given, expected):
    assert energy_grid(*given).tolist() == expected
    assert len(GRID) == 120 and GRID[-1] == 12.4


@pytest.mark.parametrize("first", [0.6, 0.7, 1.1])
def test_points_half_an_electronvolt_apart_are_close_whatever_their_rounding(first):
    energy = np.round(first + GAP * np.arange(6), 6)
    inside = (energy[0] <= GRID) & (energy[-1] >= GRID)
    assert np.isfinite(on_grid(energy, lorentz(energy), GRID))[inside].all()


def test_a_crossing_is_found_where_it_is():
    eps = lorentz(GRID)
    at, loss = crossovers(GRID, eps)
    fine = np.linspace(4.2, 12.4, 100_001)
    expected = fine[np.argmin(np.abs(lorentz(fine).real))]
    assert at[-1] == pytest.approx(expected, abs=0.005) and loss[-1] == pytest.approx(lorentz(expected).imag, abs=0.01)
    width = near_zero(GRID, eps, at[-1])
    inside = fine[np.abs(lorentz(fine).real) < 1]
    assert width == pytest.approx(min(inside.max(), 12.4) - inside.min(), abs=0.2)
    steep = np.array([0.5, 0.5, 3.0, -9.0, -0.5]) + 0j
    assert near_zero(np.arange(5.0), steep, crossovers(np.arange(5.0), steep)[0][0]) == 0, (
        "no point beside the crossing is inside"
    )
    gap = np.where((GRID > 8) & (GRID < 9.5), np.nan, eps)
    assert len(crossovers(GRID, gap)[0]) == len(at) - 1, "what is unknown does not cross"


def test_causal_spectra_satisfy_kramers_kronig_and_others_do_not():
    eps = np.stack([lorentz(GRID), lorentz(GRID).real + 1j * lorentz(GRID, centre=6.0).imag])
    good, bad = kramers_kronig_misfit(GRID, eps)
    assert good < 0.02 and bad > 0.5


def test_scores_are_those_of_the_known_points():
    target = np.array([[1.0, np.nan, 3.0], [5.0, 7.0, np.nan]])
    found = scores(target, np.array([[2.0, 99.0, 3.0], [4.0, 7.0, 99.0]]))
    assert found["mae"] == pytest.approx(0.5) and found["rmse"] == pytest.approx(np.sqrt(0.5))
    assert found["r2"] == pytest.approx(1 - 2 / 20) and found["mad_mae"] == pytest.approx(2 / 0.5)


def test_smoothing_keeps_constants_and_means():
    matrix = smoothing_matrix(GRID, 0.2)
    torch.testing.assert_close(torch.ones(1, len(GRID)).double() @ torch.as_tensor(matrix), torch.ones(1, len(GRID)).double())
    spike = np.eye(len(GRID))[60] @ matrix
    assert spike.argmax() == 60 and 0.15 < np.sqrt((spike * (GRID - GRID[60]) ** 2).sum()) < 0.25


def test_unknown_targets_give_neither_error_nor_gradient():
    output = torch.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    value = l1(output, torch.tensor([[1.5, torch.nan], [torch.nan, 2.0]]))
    value.backward()
    assert value.item() == pytest.approx(1.25)
    assert output.grad.tolist() == [[-0.5, 0.0], [0.0, 0.5]]
    full = torch.tensor([[1.0, 0.3], [2.0, -0.2]])
    target = torch.tensor([[1.5], [1.0]])
    one = [np.sqrt(2) * 0.5 * np.exp(-0.3) + 0.3, np.sqrt(2) * 1.0 * np.exp(0.2) - 0.2]
    assert robust_l1(full, target).item() == pytest.approx(np.mean(one), rel=1e-6)


def test_candidates_cross_zero_in_measurement_with_a_small_predicted_loss():
    cross, metal, flat = lorentz(GRID, width=0.2), lorentz(GRID, strength=200.0, width=6.0), np.full(len(GRID), 2.0 + 0.1j)
    table = pd.DataFrame({"id": list("abcde"), "formula": ["Ag", "Au", "Al", "Cu", "K"]})
    table["energy_above_hull"] = [0.0, 0.0, 0.0, HULL * 2, np.nan]
    predicted = np.stack([cross, cross, metal, cross, cross])
    measured = np.stack([cross, flat, cross, cross, cross])
    screening = screen(GRID, predicted, measured, table)
    assert screening["confirmed"].tolist() == [True, False, True, True, True] and screening["predicted"].all()
    assert screening["loss"][2] > 2
    assert sorted(select(screening, 2.0)["id"]) == ["a", "e"]
    assert len(select(screening.drop(columns="energy_above_hull"), 2.0)) == 3
    counts = summarise(GRID, predicted, measured, screening).set_index(["quantity", "metric"])["value"]["crossing"]
    assert counts.to_dict() == pytest.approx(
        {"materials": 5, "share_measured": 0.8, "precision": 0.8, "recall": 1.0, "median_energy_error": 0.0}
    )
    blind = screening.assign(predicted=[True, True, False, False, False])
    counts = summarise(GRID, predicted, measured, blind).set_index(["quantity", "metric"])["value"]["crossing"]
    assert counts["precision"] == 0.5 and counts["recall"] == 0.25
    gain = screening.assign(loss=-screening["loss"])  # of no passive material: its size counts
    assert sorted(select(gain, 2.0)["id"]) == ["a", "e"]


def test_of_several_crossings_that_of_the_smallest_loss_is_taken():
    real = np.interp(GRID, [1.0, 3.0, 5.0], [1.0, -1.0, 1.0])  # zero at 2 and 4 eV
    for low, high in ((0.5, -3.0), (-0.5, 3.0)):
        eps = real + 1j * np.where(GRID < 3.0, high, low)
        assert crossing(GRID, eps)[:2] == (pytest.approx(4.0), pytest.approx(low))


def test_embedded_optical_constants_are_the_tabulated_ones():
    table, eps = spectra_of(optical_constants(), GRID, "embedded")
    assert len(table) == 160 and set(table.columns) == {"id", "formula"}
    gold = eps[table["id"].tolist().index("Au")]
    assert crossovers(GRID, gold)[0].min() == pytest.approx(2.75, abs=0.1), "gold is a metal below 2.7 eV"
    assert np.isfinite(eps).any(1).all()
    covers = (np.isfinite(eps[:, (GRID > 0.99) & (GRID < 4.01)])).all(1)
    assert covers.sum() > 80


FAULTS = "Spectra"


def test_bad_tables_of_spectra_are_refused(tmp_path, fault):
    rows = pd.DataFrame({"id": "a", "formula": "Au", "energy": [1.0, 1.2], "eps_re": [1.0, 2.0], "eps_im": [0.1, 0.2]})
    rows.index = pd.RangeIndex(2, 4, name="line")
    spectra_of(rows, GRID, "my.csv")
    for what, change, *words in (
        ("A dielectric function that is not finite", {"eps_im": [0.1, np.inf]}, "line 3 (id a)", "finite"),
        ("Two formulas under one id", {"formula": ["Au", "Ag"]}, "id a", "2 formulas"),
        ("Two values at one energy", {"energy": [1.0, 1.0]}, "line 3 (id a)", "a second value at 1 eV", "an id of its own"),
        (
            "The other sign of the imaginary part",
            {"eps_im": [-0.1, -0.2]},
            "id a: eps_im is -0.15 on average",
            "change its sign",
        ),
        ("A spectrum without an id", {"id": ["a", ""]}, "line 3 (id )", "the id is empty"),
        ("Energies outside the grid", {"energy": [20.0, 21.0]}, "id a", "no two known energies"),
    ):
        with fault(what, "my.csv", *words):
            spectra_of(rows.assign(**change), GRID, "my.csv")
    with fault("Two energies above the hull of one material", "my.csv", "id a has 2 values of energy_above_hull; give one"):
        spectra_of(rows.assign(energy_above_hull=[0.0, 0.5]), GRID, "my.csv")
    for given in ([np.nan, 0.5], [0.5, np.nan], [0.5, 0.5]):
        assert spectra_of(rows.assign(energy_above_hull=given), GRID, "my.csv")[0]["energy_above_hull"].tolist() == [0.5]
    again = pd.concat([rows, rows.assign(eps_im=[0.1004, 0.2])])
    assert spectra_of(again, GRID, "my.csv")[1].tolist()[0][5] == 1 + 0.1j, "the first of two values that agree"
    path = tmp_path / "my.csv"
    rows.drop(columns="eps_im").to_csv(path)
    with fault("A table of spectra without a column", "my.csv: no column 'eps_im'"):
        read({}, path)
    rows.assign(energy_above_hull=["", "low"]).to_csv(path)
    with fault("An energy above the hull that is no number", "line 3 (id a)", "energy_above_hull is no number"):
        read({}, path)


def test_tables_of_spectra_are_read_like_other_tables(tmp_path):
    path = tmp_path / "my.csv"
    path.write_text(
        "id, formula,energy,eps_re,eps_im,energy_above_hull\na ,Au,1,1,0.1,\n\na,Au ,1.2,2,0.2,\nb,Ag,1,1,0.1,0.5\n"
    )
    table = read({}, path)
    assert table["id"].tolist() == ["a", "a", "b"] and table["formula"].tolist() == ["Au", "Au", "Ag"]
    assert table.index.tolist() == [2, 4, 5] and table["energy_above_hull"].tolist()[2] == 0.5
    assert table["energy_above_hull"].isna().tolist() == [True, True, False]


def test_a_grid_without_the_window_of_kramers_and_kronig_has_no_misfit(recwarn):
    for grid in (energy_grid(0.1, 0.9, 0.1), energy_grid(0.1, 1.0, 0.1)):
        assert np.isnan(kramers_kronig_misfit(grid, np.stack([lorentz(grid), lorentz(grid)]))).tolist() == [True, True]
        assert np.isnan(np.median(kramers_kronig_misfit(grid, lorentz(grid)[None])))
    assert not recwarn.list
