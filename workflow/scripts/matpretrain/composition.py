"""Chemical formulas as flat arrays.

A set of compositions is stored without padding: node k is one distinct element of one composition, and composition b
owns the nodes offset[b]:offset[b + 1], in the order in which the formula names its elements.
"""

import re
from dataclasses import dataclass
from math import isfinite

import numpy as np

N_ELEMENTS = 118
LEAST = 1e-30  # atomic fraction; a mole has 6e23 atoms, so that smaller ones are none
MISREAD = re.compile(  # what pymatgen would take for something else, in silence
    r"(?P<hydrate>(?<![A-Za-z)\]}]0)[.*·•]\s*\d[\d.]*\s*\(?(?:[HD]2O|NH3)\)?$)"  # CuSO4.5H2O: it reads O5.5 (Na0.5H2O is none)
    r"|(?P<state>[(\[](?:I{2,3}|IV|VI{1,3}|[IV](?=.(?!\d)))[)\]])"  # Fe(III)O: it reads iodine (as (I)2 is meant)
    r"|(?P<sign>[^A-Za-z0-9.()\[\]{} +-])"  # Y3N@C80: it skips the @
    r"|(?<=[A-Za-z)\]}])(?<!\d[eE])(?P<nothing>0+\.?0*|\.0+)(?![\d.eE])"  # Fe0O: it leaves Fe out
)
BEHIND = re.compile(  # a polytype, space group or number behind a blank, in which pymatgen sees further atoms
    r"\s(?P<digits>\d[\d.]*(?![eE][-+\d])[A-Za-z]\S*)"  # SiC 4H
    r"|(?<!\S)[A-Z][^\s()\[\]{}]*[A-Z][^\s()\[\]{}]*\s+(?P<rest>[PICF]?\d+)$"  # BaTiO3 P4, H2O 2; not Fe 2 O 3
    r"|^\S+\s+(?P<grade>\d{3,}|\d*\.\d+)$"  # Al 6061, Cu2O 99.9; not C 60
)

# The dot of a double salt or an adduct: CaO.2SiO2, in which pymatgen reads O2.2. A share, as in Ba0.5Sr0.5TiO3, has 0 or
# nothing before its dot and is told from it by elements that stand on one side of the dot only; and where an element has several
# sites, as in (Zn0.9Fe0.1)(Fe1.9Zn0.1)O4, other amounts are decimals that cannot be meant so.
ADDED = re.compile(r"(?<=[A-Za-z)\]}])\s*(?!0+\.)\d*\.[1-9]\d?(?=[\s(\[{]*[A-Z])")
DECIMAL = re.compile(r"\d\.\d")
SYMBOL = re.compile(r"[A-Z][a-z]*")


@dataclass(frozen=True)
class Compositions:
    """Arrays of B compositions with M nodes in all.

    Attributes:
        number: [M] uint8 atomic number.
        amount: [M] float64 amount as written in the formula (not normalised).
        offset: [B + 1] int64.
    """

    number: np.ndarray
    amount: np.ndarray
    offset: np.ndarray

    def __len__(self):
        return len(self.offset) - 1

    @property
    def count(self):
        """[B] number of distinct elements."""
        return np.diff(self.offset)

    @property
    def row(self):
        """[M] composition to which each node belongs."""
        return np.repeat(np.arange(len(self)), self.count)

    @property
    def fraction(self):
        """[M] atomic fraction of each node, summing to one within a composition. Raises ValueError where one has no elements."""
        if (self.count == 0).any():
            raise ValueError(f"composition {np.flatnonzero(self.count == 0)[0]} has no elements; parse_formulas says why")
        return self.amount / np.add.reduceat(self.amount, self.offset[:-1])[self.row]

    def arrays(self):
        """The arrays to be saved, by name."""
        return dict(vars(self))

    @classmethod
    def read(cls, path):
        """Those of an .npz file with these arrays."""
        with np.load(path) as arrays:
            return cls(**arrays)


def parse_formula(formula):
    """Parse one formula into (atomic numbers, amounts), merging repeated elements.

    "NaN" is sodium nitride; parentheses, fractions and scientific notation are understood.

    Raises:
        ValueError: the text is not a formula, could be misread (MISREAD, BEHIND, ADDED), names a dummy species or a charged one, has no
            atoms, or amounts whose sum is not finite or of which one is next to nothing, by itself or beside the others.
    """
    from pymatgen.core import Composition, Element

    misread = MISREAD.search(formula)
    if misread:
        raise ValueError(f"{formula!r} {_why(misread)}")
    behind = BEHIND.search(formula.strip())
    if behind:
        raise ValueError(f"{formula!r} holds {behind[behind.lastgroup]!r} behind a blank, which would be read as atoms")
    for dot in () if DECIMAL.search(ADDED.sub(" ", formula)) else ADDED.finditer(formula):
        if set(SYMBOL.findall(formula[: dot.start()])) & set(SYMBOL.findall(formula[dot.end() :])):
            raise ValueError(
                f"{formula!r} holds {dot[0].strip()!r} between two compounds: write the second one in parentheses and its number "
                "behind, as in CaO(SiO2)2"
            )
    try:
        composition = Composition(formula)
    except Exception as error:  # pymatgen raises several types for bad text
        raise ValueError(f"{formula!r} is not a chemical formula ({error})") from None
    merged = {}
    for species, amount in composition.items():
        if not isinstance(species, Element):
            raise ValueError(f"{formula!r} contains {species.symbol}, which is not an element")
        merged[species.Z] = merged.get(species.Z, 0.0) + amount
    if not merged or not all(isfinite(a) and a > 0 for a in merged.values()):
        raise ValueError(f"{formula!r} holds no atoms")
    gone = set(SYMBOL.findall(formula)) - {species.name for species in composition}
    if gone:  # below pymatgen's tolerance
        raise ValueError(
            f"{formula!r} has an amount of {min(gone)} below {Composition.amount_tolerance:g}: leave the element out, or write "
            "larger amounts in the same ratio"
        )
    total = sum(merged.values())
    if not isfinite(total):
        raise ValueError(f"{formula!r} has amounts whose sum is not finite: write smaller ones in the same ratio")
    least = min(merged, key=merged.get)
    if merged[least] / total < LEAST:
        symbol, fraction = Element.from_Z(least).symbol, merged[least] / total
        raise ValueError(f"{formula!r} has an atomic fraction of {fraction:.2g} of {symbol}: leave the element out")
    return tuple(merged), tuple(merged.values())


def _why(misread):
    """What is wrong with a formula, from a match of MISREAD."""
    found = misread[0]
    if misread.lastgroup == "hydrate":
        return (
            f"ends in {found!r}: write molecules of crystallisation in parentheses and their number behind, as in CuSO4(H2O)5"
        )
    if misread.lastgroup == "state":
        return f"holds {found!r}: leave oxidation states out, and write iodine and vanadium without parentheses"
    if misread.lastgroup == "nothing":
        return f"has an amount of zero ({found!r}): leave the element out"
    return f"is not a chemical formula: it holds {found!r}"


def parse_formulas(formulas):
    """Parse a sequence of B formulas.

    Returns:
        Compositions, and {position: message} of the formulas that could not be parsed (empty compositions there).
    """
    number, amount, offset, problems = [], [], np.zeros(len(formulas) + 1, np.int64), {}
    for position, formula in enumerate(formulas):
        try:
            numbers, amounts = parse_formula(formula)
            number.extend(numbers)
            amount.extend(amounts)
        except ValueError as error:
            problems[position] = str(error)
        offset[position + 1] = len(number)
    return Compositions(np.array(number, np.uint8), np.array(amount, float), offset), problems


def take(compositions, rows):
    """The compositions at `rows`, an integer or boolean array, in that order."""
    rows = np.arange(len(compositions))[rows]
    count = compositions.count[rows]
    offset = np.concatenate([[0], np.cumsum(count)])
    node = np.arange(offset[-1]) + np.repeat(compositions.offset[rows] - offset[:-1], count)
    return Compositions(compositions.number[node], compositions.amount[node], offset)


def concatenate(sets):
    """All compositions of several sets, one after another."""
    counts = np.concatenate([[0], *(c.count for c in sets)])
    number, amount = (np.concatenate([getattr(c, name) for c in sets]) for name in ("number", "amount"))
    return Compositions(number, amount, np.cumsum(counts, dtype=np.int64))


def element_fractions(compositions):
    """[B, 118] atomic fraction of every element: the one-hot composition vector."""
    vector = np.zeros((len(compositions), N_ELEMENTS))
    vector[compositions.row, compositions.number.astype(int) - 1] = compositions.fraction
    return vector


# Written with twice the reduced amounts, as in pymatgen's formulas: molecules of two atoms, and peroxides.
DIATOMIC = np.array([1, 7, 8, 9, 17])  # H, N, O, F, Cl
OXYGEN, PEROXIDE = 8, np.array([1, 3, 11, 19, 37, 55])  # H2O2, Li2O2, Na2O2, K2O2, Rb2O2, Cs2O2
MOST = 1e15  # atoms of one element in a reduced formula, exact in float64 and int64
TOLERANCE = 1e-4  # amounts are multiples of a common unit up to this (pymatgen: largest denominator 10,000)


def atom_counts(compositions):
    """[M] number of atoms of each node in the reduced integer formula: whole numbers in the ratio of the amounts.

    The same numbers as pymatgen's `get_integer_formula_and_factor`; Fe0.62C0.38 has 31 and 19 atoms. An element whose
    amount rounds to nothing at that precision (0.00006 in a few steels) has no atom, nor has one beside MOST of another.
    """
    amount, offset, count = compositions.amount, compositions.offset, compositions.count
    unit = amount[offset[:-1]].copy()
    for k in range(1, count.max(initial=0)):
        rows = np.flatnonzero(count > k)
        a, b = unit[rows], amount[offset[rows] + k]
        while (b > TOLERANCE).any():  # Euclid's algorithm for real numbers
            a, b = np.where(b > TOLERANCE, b, a), np.where(b > TOLERANCE, a % np.where(b > TOLERANCE, b, 1), b)
        unit[rows] = a
    unit = np.maximum(unit, np.maximum.reduceat(amount, offset[:-1]) / MOST)
    atoms = np.rint(amount / unit[compositions.row]).astype(np.int64)
    atoms //= np.gcd.reduceat(atoms, offset[:-1])[compositions.row]
    number = compositions.number
    doubled = np.isin(number, DIATOMIC) & (count == 1)[compositions.row]
    pair = offset[:-1][count == 2]
    ends, other = np.stack([number[pair], number[pair + 1]]), np.stack([number[pair + 1], number[pair]])
    peroxide = ((ends == OXYGEN) & np.isin(other, PEROXIDE)).any(0) & (atoms[pair] == atoms[pair + 1])
    doubled[pair[peroxide]] = doubled[pair[peroxide] + 1] = True
    return atoms * np.where(doubled, 2, 1)


def formula_keys(compositions):
    """Hashable key of each composition: its elements by atomic number and fractions rounded to six digits.

    To twelve before, lest the last bit decides at half a digit: Fe1O127 is Fe0.1O12.7.
    """
    keys = []
    fraction = np.round(np.round(compositions.fraction, 12), 6)
    for start, stop in zip(compositions.offset[:-1], compositions.offset[1:], strict=True):
        keys.append(tuple(sorted(zip(compositions.number[start:stop].tolist(), fraction[start:stop].tolist(), strict=True))))
    return keys


def distinct_numbers(compositions):
    """[B] number of each composition, counted in order of first appearance; equal compositions (formula_keys) share it."""
    return _numbers(formula_keys(compositions))


def system_numbers(compositions):
    """[B] number of each chemical system, the set of its elements, counted in order of first appearance."""
    return _numbers(frozenset(elements.tolist()) for elements in np.split(compositions.number, compositions.offset[1:-1]))


def _numbers(keys):
    """[B] int64 number of each of B hashable keys, counted in order of first appearance."""
    number_of = {}
    return np.array([number_of.setdefault(key, len(number_of)) for key in keys], np.int64)


def known_elements():
    """[119] bool, which atomic numbers have a Matscholar vector: the elements that a table may hold."""
    return ~np.isnan(matscholar_vectors()).any(1)


def matscholar_vectors():
    """[119, 200] float32 Matscholar element vectors, row Z for atomic number Z; NaN rows where there is none.

    103 elements, H to Lr, unit norm (Weston et al., J. Chem. Inf. Model. 59, 3692 (2019)), as packaged in matminer.
    """
    import json
    from importlib.resources import files

    from pymatgen.core import Element

    table = json.loads((files("matminer.utils.data_files") / "matscholar_els.json").read_text())
    vectors = np.full((N_ELEMENTS + 1, len(next(iter(table.values())))), np.nan, np.float32)
    for symbol, vector in table.items():
        vectors[Element(symbol).Z] = vector
    return vectors
