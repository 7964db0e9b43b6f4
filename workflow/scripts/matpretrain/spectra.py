"""Dielectric functions eps = eps_re + i eps_im on a grid of photon energies, and where they are near zero."""

import numpy as np
import pandas as pd

from matpretrain.files import DataError, place

PARTS = ("eps_re", "eps_im")
ABOVE_HULL = "energy_above_hull"  # eV/atom, a column of a table of spectra that may be missing
UNKNOWN = complex(np.nan, np.nan)
SAME = 1e-9  # relative to a step, or eV; energies are written with few digits, and sums of steps miss them by less
GAP = 0.5  # eV; between tabulated points further apart than this a spectrum is unknown
NOISE = 0.01  # relative: up to it two values at one energy are the same (the first stays), and a negative eps_im is none
KK_WINDOW = (1.0, 6.0)  # eV; far enough from the ends of the grid, beyond which the integral is cut off


def energy_grid(first, last, step):
    """[G] photon energies in eV from first to last, or to the last step before it."""
    return np.round(first + step * np.arange(int((last - first) / step + SAME) + 1), 6)


def smoothing_matrix(grid, width):
    """[G, G] matrix that, multiplied from the right, averages over neighbouring energies with a Gaussian of `width` eV."""
    kernel = np.exp(-0.5 * ((grid[:, None] - grid) / width) ** 2)
    return kernel / kernel.sum(0)


def smoother(grid, width):
    """Function from outputs [B, n G] of a network, spectra side by side on a grid [G], to the smoothed ones; arrays or tensors.

    Without a width it is the identity.
    """
    if not width:
        return lambda output: output
    kernel = smoothing_matrix(grid, width)

    def smoothed(output):
        matrix = kernel if isinstance(output, np.ndarray) else output.new_tensor(kernel, dtype=output.dtype)
        return (output.reshape(-1, len(kernel)) @ matrix).reshape(output.shape)

    return smoothed


def on_grid(energy, eps, grid):
    """Complex [G]: a tabulated spectrum (energy [n] in eV, ascending; eps [n] complex) interpolated, NaN where it is unknown:
    between two points further than GAP apart, and beyond the first and last."""
    if len(energy) < 2:
        return np.full(len(grid), UNKNOWN)
    after = np.clip(np.searchsorted(energy, grid), 1, len(energy) - 1)
    inside = (grid >= energy[0]) & (grid <= energy[-1]) & (energy[after] - energy[after - 1] <= GAP + SAME)
    known = inside | (np.abs(energy[[after - 1, after]] - grid) <= SAME).any(0)  # what is tabulated is known
    values = np.interp(grid, energy, eps.real) + 1j * np.interp(grid, energy, eps.imag)
    return np.where(known, values, UNKNOWN)


def spectra_of(rows, grid, where):
    """One spectrum per id of a long table.

    Args:
        rows: data frame id, formula, energy (eV), eps_re, eps_im, and energy_above_hull (eV/atom) or not.
        grid: [G] eV.
        where: source, for messages.

    Returns:
        Data frame with one row per id in order of first appearance, and complex [n, G], NaN where unknown.

    Raises:
        DataError: an empty id, numbers that are not finite, an id with two formulas, with two values at one energy, with a
            negative eps_im on average, with two values of energy_above_hull, or without two energies on the grid's range.
    """
    unnamed = np.flatnonzero(rows["id"].astype(str) == "")
    if len(unnamed):
        raise DataError(f"{place(rows, where, unnamed)}: the id is empty; fill it in")
    numbers = rows[["energy", *PARTS]].apply(pd.to_numeric, errors="coerce")
    bad = np.flatnonzero(~np.isfinite(numbers.to_numpy(float)).all(1))
    if len(bad):
        raise DataError(
            f"{place(rows, where, bad)}: energy, eps_re and eps_im must be finite numbers; correct or remove the row"
        )
    rows = rows.assign(**numbers)
    kept, spectra = [], []
    for identity, group in rows.groupby("id", sort=False):
        if group["formula"].nunique() > 1:
            raise DataError(f"{where}: id {identity} has {group['formula'].nunique()} formulas; make ids unique")
        group = group.sort_values("energy", kind="stable")
        energy, eps = group["energy"].to_numpy(), group["eps_re"].to_numpy() + 1j * group["eps_im"].to_numpy()
        again = np.append(False, energy[1:] == energy[:-1])
        other = np.flatnonzero(again & (np.abs(np.diff(eps, prepend=eps[:1])) > NOISE * np.abs(eps)))
        if len(other):
            at = energy[other[0]]
            raise DataError(f"{place(group, where, other)}: a second value at {at:g} eV; give every sample an id of its own")
        if eps.imag.mean() < -NOISE * np.abs(eps).mean():
            raise DataError(
                f"{where}: id {identity}: eps_im is {eps.imag.mean():g} on average, as if the material gave off light; "
                "change its sign (eps = eps_re + i eps_im, absorption positive)"
            )
        values = on_grid(energy[~again], eps[~again], grid)
        if np.isfinite(values).sum() < 2:
            raise DataError(
                f"{where}: id {identity} has no two known energies between {grid[0]:g} and {grid[-1]:g} eV "
                f"(points at most {GAP:g} eV apart); remove it or change energies"
            )
        material = group.iloc[0].drop(["energy", *PARTS])
        if ABOVE_HULL in group:
            given = group[ABOVE_HULL].dropna().unique()
            if len(given) > 1:
                raise DataError(
                    f"{where}: id {identity} has {len(given)} values of {ABOVE_HULL}; give one, in one row or in all"
                )
            material[ABOVE_HULL] = given[0] if len(given) else np.nan
        kept.append(material)
        spectra.append(values)
    return pd.DataFrame(kept).reset_index(drop=True), np.array(spectra)


def one_below_another(rows, energy):
    """A row per row of a data frame, part and energy [G] in eV, as values [n, 2 G] lie in memory: quantity and energy come last."""
    long = rows.loc[rows.index.repeat(len(PARTS) * len(energy))].reset_index(drop=True)
    return long.assign(
        quantity=np.tile(np.repeat(PARTS, len(energy)), len(rows)), energy=np.tile(energy, len(PARTS) * len(rows))
    )


def side_by_side(predictions, column):
    """Ids, energies [G] and complex [n, G] of one column of predictions (id, quantity, energy), NaN where it is missing."""
    wide = predictions.pivot(index="id", columns=["quantity", "energy"], values=column)
    real, imaginary = (wide[part] for part in PARTS)
    return wide.index, real.columns.to_numpy(float), real.to_numpy() + 1j * imaginary.to_numpy()


def crossovers(grid, eps):
    """Where eps_re changes sign between two known points of one spectrum (complex [G]).

    Returns:
        Energies [c] in eV (linear interpolation) and eps_im there [c].
    """
    left, right = eps[:-1], eps[1:]
    at = np.flatnonzero(np.isfinite(left) & np.isfinite(right) & ((left.real > 0) != (right.real > 0)))
    share = left.real[at] / (left.real[at] - right.real[at])
    return grid[at] + share * np.diff(grid)[at], left.imag[at] + share * (right.imag - left.imag)[at]


def near_zero(grid, eps, at):
    """Width in eV of the region around the energy `at` in which |eps_re| < 1 at every known point; 0 where the nearest has more."""
    inside = np.abs(eps.real) < 1
    k = int(np.argmin(np.abs(grid - at)))
    if not inside[k]:
        return 0.0
    low = high = k
    while low > 0 and inside[low - 1]:
        low -= 1
    while high < len(grid) - 1 and inside[high + 1]:
        high += 1
    return float(grid[high] - grid[low])


def scores(target, prediction):
    """MAE, RMSE, R2 and MAD:MAE over the known points of one part of the spectra (real [n, G]).

    R2 = 1 - sum (target - prediction)^2 / sum (target - mean target)^2; MAD is the mean absolute deviation of the targets.
    """
    known = np.isfinite(target)
    t, p = target[known], prediction[known]
    mae = np.abs(t - p).mean()
    return {
        "mae": mae,
        "rmse": float(np.sqrt(((t - p) ** 2).mean())),
        "r2": 1 - ((t - p) ** 2).sum() / ((t - t.mean()) ** 2).sum(),
        "mad_mae": np.abs(t - t.mean()).mean() / mae,
    }


def kramers_kronig(grid, eps_im):
    """Real part minus one [..., G] that an imaginary part [..., G] on an even grid implies, cut off at its ends.

    Maclaurin's formula, which leaves out every second point and with it the pole (Ohta and Ishida, Appl. Spectrosc. 42,
    952 (1988)).
    """
    step, n = grid[1] - grid[0], np.arange(len(grid))
    other = (n[:, None] - n) % 2 == 1
    kernel = np.where(other, grid / np.where(other, grid**2 - grid[:, None] ** 2, 1), 0)
    return 4 * step / np.pi * eps_im @ kernel.T


def kramers_kronig_misfit(grid, eps):
    """[n] distance between the real parts of complex [n, G] and those that their imaginary parts imply.

    Root mean square over KK_WINDOW after the best constant is taken off (what lies beyond the grid adds nearly one),
    relative to the standard deviation of the real part there: 0 is consistent, 1 no better than a constant. NaN where the
    grid has no two energies in the window.
    """
    inside = (grid >= KK_WINDOW[0]) & (grid <= KK_WINDOW[1])
    if inside.sum() < 2:
        return np.full(len(eps), np.nan)
    difference = (eps.real - kramers_kronig(grid, eps.imag))[:, inside]
    return difference.std(1) / eps.real[:, inside].std(1)
