import gzip
import itertools
import json
from importlib.resources import files

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

from matpretrain import crystal
from matpretrain.composition import formula_keys, parse_formulas

FAULTS = "Files of structures"
ROCKSALT = {
    "id": "NaCl",
    "lattice": [3.99, 3.99, 3.99, 60, 60, 60],
    "species": ["Na", "Cl"],
    "frac_coords": [[0, 0, 0], [0.5, 0.5, 0.5]],
}


@pytest.fixture(scope="module")
def prototypes():
    """Every eighth of the 288 AFLOW prototypes in pymatgen, those of at most 40 atoms."""
    path = files("pymatgen.analysis") / "prototypes" / "aflow_prototypes.json.gz"
    found = []
    for k, record in enumerate(json.loads(gzip.decompress(path.read_bytes()))[::8]):
        cell, sites = record["snl"]["lattice"]["matrix"], record["snl"]["sites"]
        if len(sites) <= 40:
            symbols = [site["species"][0]["element"] for site in sites]
            found.append((f"aflow-{k}", Structure(cell, symbols, [site["abc"] for site in sites])))
    return found


def unpack(structures):
    return [(name, s.lattice.matrix, np.array(s.atomic_numbers, np.uint8), s.frac_coords) for name, s in structures]


def entry(**changes):
    return json.dumps({k: v for k, v in {**ROCKSALT, **changes}.items() if v is not None})


def write(folder, *lines):
    path = folder / "some.jsonl"
    path.write_text("\n".join(lines))
    return path


def rocksalt(n):
    """Lattice and coordinates of n x n x n primitive cells."""
    shifts = np.array(list(itertools.product(range(n), repeat=3)))
    frac = (np.array(ROCKSALT["frac_coords"])[:, None] + shifts).reshape(-1, 3) / n
    return n * crystal.lattice_matrix(ROCKSALT["lattice"]), frac


def test_pairs_are_those_of_a_search_over_all_images():
    generator = np.random.default_rng(0)
    cells = [np.eye(3) * 3.1, Lattice.from_parameters(2.9, 4.1, 6.3, 50, 75, 110).matrix, np.diag([2.0, 9.0, 12.0])]
    for lattice, cutoff in itertools.product(cells, (1.5, 4.0, 5.0)):
        frac = generator.uniform(-1, 2, (4, 3))
        expected = set()
        for image in itertools.product(range(-7, 8), repeat=3):
            distance = np.linalg.norm((frac[None] + image - frac[:, None]) @ lattice, axis=-1)
            pairs = np.argwhere((distance <= cutoff) & (distance > 0))
            expected |= {(int(i), int(j), *image) for i, j in pairs}
        centre, neighbour, image, distance = crystal.neighbours(lattice, frac, cutoff)
        found = set(zip(centre.tolist(), neighbour.tolist(), *image.T.tolist(), strict=True))
        assert found == expected and len(centre) == len(expected)
        assert np.allclose(distance, np.linalg.norm((frac[neighbour] + image - frac[centre]) @ lattice, axis=1))
        assert (np.diff(centre) >= 0).all()


def test_the_nearest_twelve_are_those_of_pymatgen(prototypes):
    crystals = crystal.pack(unpack(prototypes))
    assert len(crystals) == len(prototypes) > 25 and crystals.id.tolist() == [name for name, _ in prototypes]
    for s, (name, structure) in enumerate(prototypes):
        atoms = slice(crystals.offset[s], crystals.offset[s + 1])
        assert crystals.number[atoms].tolist() == list(structure.atomic_numbers)
        near = zip(crystals.neighbour[atoms], crystals.distance[atoms], structure.get_all_neighbors(8.0), strict=True)
        for ours, distance, theirs in near:
            theirs = sorted((n.nn_distance, n.index) for n in theirs)
            expected = [d for d, _ in theirs[:12]] + [9.0] * (12 - len(theirs))
            assert np.allclose(distance, expected, rtol=0, atol=crystal.TIE), name
            sure = sum(d < expected[-1] - 1e-3 for d in expected)  # beyond these, ties decide
            assert sorted(ours[:sure]) == sorted(j for _, j in theirs[:sure]), name


def test_free_places_are_padded_as_in_cgcnn():
    neighbour, distance = crystal.nearest(np.diag([7.0, 20, 20]), np.array([[0, 0, 0], [0.5, 0.5, 0.5]]))
    assert np.allclose(distance[:, :2], 7) and (distance[:, 2:] == 9).all()
    assert neighbour[:, :2].tolist() == [[0, 0], [1, 1]] and not neighbour[:, 2:].any()


def test_equal_distances_come_in_one_order_whatever_the_rounding():
    lattice, frac = rocksalt(2)
    neighbour, _ = crystal.nearest(lattice, frac, k=10)
    noise = np.random.default_rng(1).normal(0, 1e-7, frac.shape)
    assert np.array_equal(neighbour, crystal.nearest(lattice, frac + noise, k=10)[0])
    assert np.array_equal(neighbour, crystal.nearest(lattice, frac + np.array([3, -1, 0]), k=10)[0])


def test_atoms_outside_the_cell_are_those_inside():
    lattice, frac = rocksalt(2)
    frac = frac + 0.0625  # exact in binary also far away
    far = frac + np.random.default_rng(2).choice([-(2.0**26), -200, 0, 300, 2.0**30], frac.shape)
    assert all(
        np.array_equal(*both) for both in zip(crystal.nearest(lattice, frac), crystal.nearest(lattice, far), strict=True)
    )


def test_lattice_has_the_lengths_and_angles_asked_for():
    for parameters in ([3, 4, 5, 90, 90, 90], [2.9, 4.1, 6.3, 50, 75, 110], [3.99, 3.99, 3.99, 60, 60, 60]):
        assert np.allclose(Lattice(crystal.lattice_matrix(parameters)).parameters, parameters)


def test_files_and_folders_give_the_same_structures(tmp_path, prototypes):
    kept = prototypes[:6]
    lines = []
    for name, s in kept:
        s.to(str(tmp_path / f"{name}.cif"), symprec=None)
        symbols = [site.specie.symbol for site in s]
        lines.append(entry(id=name, lattice=list(s.lattice.parameters), species=symbols, frac_coords=s.frac_coords.tolist()))
    plain = crystal.pack(crystal.read_structures(write(tmp_path, *lines, "")))
    packed = tmp_path / "some.jsonl.gz"
    packed.write_bytes(gzip.compress("\n".join(lines).encode()))
    same = crystal.pack(crystal.read_structures(packed))
    assert all(np.array_equal(a, b) for a, b in zip(plain.arrays().values(), same.arrays().values(), strict=True))
    assert crystal.Crystals(**plain.arrays()).id.tolist() == [name for name, _ in kept]
    from_cif = crystal.pack(crystal.read_structures(tmp_path))
    position = {name: s for s, name in enumerate(from_cif.id)}
    for s, (name, _) in enumerate(kept):
        ours, theirs = (
            np.sort(c.distance[c.offset[k] : c.offset[k + 1]].sum(1)) for c, k in ((plain, s), (from_cif, position[name]))
        )
        assert np.allclose(ours, theirs, rtol=1e-4)


def test_compositions_are_those_of_the_structures(prototypes):
    packed = crystal.pack(unpack(prototypes))
    ours = crystal.compositions_of(packed.number, packed.offset)
    theirs, problems = parse_formulas([s.composition.formula.replace(" ", "") for _, s in prototypes])
    assert not problems and formula_keys(ours) == formula_keys(theirs)
    assert ours.amount.sum() == sum(len(s) for _, s in prototypes)


@pytest.mark.parametrize(
    ("what", "line", "words"),
    [
        ("A line that is not JSON", "{", ["line 2", "not JSON"]),
        ("A line that is no JSON object", "[1]", ["line 2", "not a JSON object"]),
        ("A structure without species", entry(id="b", species=None), ["line 2 (id b)", "no key 'species'"]),
        ("A structure without an id", entry(id=None), ["line 2", "no key 'id'"]),
        ("Fewer species than coordinates", entry(id="b", species=["Na"]), ["line 2 (id b)", "1 species", "[2, 3]"]),
        ("A structure without atoms", entry(id="b", species=[]), ["line 2 (id b)", "species is not a list"]),
        ("A dummy species in a structure", entry(id="b", species=["Na", "Xx"]), ["line 2 (id b)", "'Xx' is not an element"]),
        (
            "A coordinate NaN",
            entry(id="b", frac_coords=[[0, 0, 0], [0, float("nan"), 0]]),
            ["line 2 (id b)", "frac_coords", "finite"],
        ),
        ("Two coordinates instead of three", entry(id="b", frac_coords=[[0, 0, 0], [0, 0]]), ["line 2 (id b)"]),
        ("A coordinate that is no number", entry(id="b", frac_coords=[[0, 0, 0], [0, "x", 0]]), ["line 2 (id b)", "'x'"]),
        ("Three lattice parameters", entry(id="b", lattice=[1, 2, 3]), ["line 2 (id b)", "six numbers"]),
        ("An infinite angle", entry(id="b", lattice=[1, 2, 3, 90, 90, float("inf")]), ["line 2 (id b)", "lattice", "finite"]),
        ("Angles that close no cell", entry(id="b", lattice=[1, 2, 3, 90, 30, 30]), ["line 2 (id b)", "no cell"]),
        ("A flat cell", entry(id="b", lattice=[1, 2, 3, 90, 90, 180]), ["line 2 (id b)", "no cell"]),
        ("A lattice shorter than any bond", entry(id="b", lattice=[0.2, 2, 3, 90, 90, 90]), ["line 2 (id b)", "angstrom"]),
        ("A lattice vector of no length", entry(id="b", lattice=[0, 2, 3, 90, 90, 90]), ["line 2 (id b)", "no cell"]),
        ("The id of an earlier structure", entry(), ["line 2 (id NaCl)", "also at", "line 1", "unique"]),
    ],
)
def test_bad_lines_are_named_with_a_remedy(tmp_path, fault, what, line, words):
    path = write(tmp_path, entry(), line)
    with fault(what, str(path), *words) as caught:
        list(crystal.read_structures(path))
    assert any(remedy in str(caught.value) for remedy in ("correct or remove the line", "make ids unique"))


def test_bad_files_and_folders_are_named(tmp_path, fault):
    def fails(what, path, *words):
        with fault(what, str(path), *words):
            list(crystal.read_structures(path))

    fails("A file of structures that is not there", tmp_path / "absent.jsonl", "no such file")
    fails("A file without structures", write(tmp_path, "", ""), "no structures")
    damaged = tmp_path / "damaged.jsonl.gz"
    damaged.write_bytes(gzip.compress((entry() + "\n").encode() * 50)[:60])
    fails("A compressed file of structures that is cut off", damaged, "not a readable file")
    table = tmp_path / "cifs.csv"
    table.write_bytes(b"id,cif\na,data\nb,da\0ta\n")
    fails("A NUL byte in a CSV of CIF texts", table, "line 3 holds a NUL byte")
    folder = tmp_path / "cifs"
    folder.mkdir()
    fails("A folder without CIF files", folder, "no structures", ".cif")
    (folder / "bad.cif").write_text("data_\nnothing\n")
    fails("A CIF file that cannot be read", folder, "bad.cif", "not a readable CIF", "correct or remove")
    Structure(np.eye(3) * 3, [{"Fe": 0.5, "Ni": 0.5}], [[0, 0, 0]]).to(str(folder / "bad.cif"))
    fails("A disordered site", folder, "bad.cif", "partial occupancy")
    cell = Structure(np.eye(3) * 3, ["Fe"], [[0, 0, 0]]).to(fmt="cif")
    (folder / "bad.cif").write_text(cell + cell.replace("Fe", "Ni"))
    fails("A CIF file with two structures", folder, "bad.cif: 2 data blocks with atoms", "of its own")
    (folder / "bad.cif").write_text("\ufeffdata_global\n_journal_year 2024\n" + cell)
    (folder / "B.CIF").write_text(cell)
    assert [name for name, *_ in crystal.read_structures(folder)] == ["B", "bad"]


def test_blanks_around_ids_and_byte_order_marks_are_taken_off(tmp_path):
    path = tmp_path / "some.jsonl"
    path.write_text("\ufeff" + entry(id=" a ") + "\n")
    cif = Structure(np.eye(3) * 3, ["Fe"], [[0, 0, 0]]).to(fmt="cif")
    (tmp_path / "some.csv").write_text(f'\ufeffid,cif\n b ,"{cif}"\n'.replace("'", ""))
    packed = tmp_path / "cifs.CSV.gz"
    packed.write_bytes(gzip.compress((tmp_path / "some.csv").read_bytes()))
    assert [identity for identity, *_ in crystal.read_structures(packed)] == ["b"]
    assert [[s[0] for s in crystal.read_structures(tmp_path / f"some.{end}")] for end in ("jsonl", "csv")] == [["a"], ["b"]]
    packed = tmp_path / "some.jsonl.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert [s[0] for s in crystal.read_structures(packed)] == ["a"]


def test_elements_without_features_stop_or_are_dropped(fault):
    def structures():
        yield from unpack(
            [("a", Structure(np.eye(3) * 4, ["Fe"], [[0, 0, 0]])), ("b", Structure(np.eye(3) * 4, ["Lr"], [[0, 0, 0]]))]
        )

    known = np.isfinite(crystal.cgcnn_vectors()).all(1), "CGCNN"
    with fault("A structure with an element that CGCNN does not know", "file: id b", "Lr", "unknown_elements: drop"):
        list(crystal.check_elements(structures(), "file", "error", [], *known))
    dropped = []
    kept = crystal.check_elements(structures(), "file", "drop", dropped, *known)
    assert [s[0] for s in kept] == ["a"] and dropped == ["b (Lr)"]
    with fault("No structure that CGCNN knows", "file: no structure has only elements that CGCNN knows"):
        list(crystal.check_elements(itertools.islice(structures(), 1, 2), "file", "drop", [], *known))


def test_atom_features_cover_the_first_hundred_elements():
    vectors = crystal.cgcnn_vectors()
    assert vectors.shape == (119, 92)
    assert np.flatnonzero(np.isfinite(vectors).all(1)).tolist() == list(range(1, 101))
    assert set(np.unique(vectors[1:101])) == {0.0, 1.0}
