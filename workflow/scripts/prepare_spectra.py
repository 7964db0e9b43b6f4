"""Any source -> table.csv (id, formula, fold), compositions.npz and spectra.npz (energy [G], eps [n, G]), validated."""

import numpy as np
import pandas as pd

from matpretrain.composition import distinct_numbers
from matpretrain.data import check_columns, check_count, encode_known, read_rows, with_folds
from matpretrain.files import DataError, atomic_path, check_hash, place, write_csv
from matpretrain.jobs import job
from matpretrain.sources import SPECTRA
from matpretrain.spectra import ABOVE_HULL, PARTS, energy_grid, spectra_of


def read(entry, path):
    """Long table id, formula, energy (eV), eps_re, eps_im of a registry entry, with energy_above_hull where the file has it."""
    if not path:
        return SPECTRA[entry["embedded"]]()
    if "sha256" in entry:
        check_hash(path, entry["sha256"])
    table = read_rows(path)
    needed = ["id", "formula", "energy", *PARTS]
    remedy = f"a table of spectra has {', '.join(needed)}"
    needed += [ABOVE_HULL] * (ABOVE_HULL in table)
    check_columns(table, path, needed, remedy)
    table = table[needed].apply(lambda column: column.str.strip())
    if ABOVE_HULL not in table:
        return table
    hull = pd.to_numeric(table[ABOVE_HULL], errors="coerce")
    bad = np.flatnonzero(hull.isna() & (table[ABOVE_HULL] != ""))
    if len(bad):
        raise DataError(
            f"{place(table, path, bad)}: {ABOVE_HULL} is no number; correct it, or leave it empty where it is unknown"
        )
    return table.assign(**{ABOVE_HULL: hull})


def prepare_spectra(name, entry, path, unknown_elements, outputs, say):
    """Validate spectra, put them on one grid of energies, assign outer folds and encode the formulas."""
    where = path or f"dataset {name}"
    energy = energy_grid(*entry["energies"])
    table, eps = spectra_of(read(entry, path), energy, where)
    check_count(table, where, entry.get("n_samples"))
    table["position"] = np.arange(len(table))
    table, compositions = encode_known(table, where, unknown_elements, say)
    eps = eps[table.pop("position")]
    groups = distinct_numbers(compositions)  # samples of one composition fall into one fold
    table = with_folds(table, where, entry, groups)
    known = np.isfinite(eps)
    say(
        f"{len(table)} materials, {groups.max() + 1} distinct compositions, {len(energy)} energies, {known.mean():.0%} of the "
        f"points known, {sum((row.real[ok] < 0).any() for row, ok in zip(eps, known, strict=True))} with negative eps_re"
    )
    with atomic_path(outputs.compositions) as temporary:
        np.savez(temporary, **compositions.arrays())
    with atomic_path(outputs.spectra) as temporary:
        np.savez(temporary, energy=energy, eps=eps.astype(np.complex64))
    write_csv(table, outputs.table)


if __name__ == "__main__":
    with job(snakemake) as say:
        prepare_spectra(
            name=snakemake.wildcards.dataset,
            entry=snakemake.params.entry,
            path=str(snakemake.input.raw) if snakemake.input.get("raw") else None,
            unknown_elements=snakemake.params.unknown_elements,
            outputs=snakemake.output,
            say=say,
        )
