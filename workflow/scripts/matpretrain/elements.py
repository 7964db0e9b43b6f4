"""Data of the elements from matminer: what Magpie's fingerprint is made of, and networks may take as input.

Apart from the fingerprint, so that another formula there trains no network again.
"""

from functools import cache

import numpy as np

from matpretrain.composition import N_ELEMENTS

PROPERTIES = (
    "Number", "MendeleevNumber", "AtomicWeight", "MeltingT", "Column", "Row", "CovalentRadius", "Electronegativity",
    "NsValence", "NpValence", "NdValence", "NfValence", "NValence",
    "NsUnfilled", "NpUnfilled", "NdUnfilled", "NfUnfilled", "NUnfilled",
    "GSvolume_pa", "GSbandgap", "GSmagmom", "SpaceGroupNumber",
)  # fmt: skip
ORBITALS = ("s", "p", "d", "f")


@cache
def element_tables():
    """Element data of matminer: properties [119, 22], valence electrons [119, 4], electronegativity [119] (Pauling),
    and a tuple of 119 tuples of oxidation states. Row Z belongs to atomic number Z."""
    from matminer.utils.data import MagpieData, PymatgenData
    from pymatgen.core import Element

    magpie, pymatgen = MagpieData(impute_nan=True), PymatgenData(impute_nan=True)
    properties = np.full((N_ELEMENTS + 1, len(PROPERTIES)), np.nan)
    valence = np.full((N_ELEMENTS + 1, len(ORBITALS)), np.nan)
    electronegativity = np.full(N_ELEMENTS + 1, np.nan)
    states = [()] * (N_ELEMENTS + 1)
    for z in range(1, N_ELEMENTS + 1):
        element = Element.from_Z(z)
        properties[z] = [magpie.get_elemental_property(element, p) for p in PROPERTIES]
        valence[z] = [magpie.get_elemental_property(element, f"N{o}Valence") for o in ORBITALS]
        electronegativity[z] = pymatgen.get_elemental_property(element, "X")
        states[z] = tuple(float(s) for s in pymatgen.get_oxidation_states(element))
    return properties, valence, electronegativity, tuple(states)
