import pickle

import numpy as np
import pytest
import torch
from embed_structures import embed_structures
from encode_structures import encode_structures
from naive_cgcnn import naive_cgcnn
from pymatgen.core import Lattice

from matpretrain import cgcnn, crystal
from matpretrain.composition import Compositions

FAULTS = "The teacher of MML"
FEATURES = crystal.cgcnn_vectors()


@pytest.fixture(scope="module")
def crystals():
    """Rock salt, perovskite, two random cells and one with fewer than twelve neighbours within 8 angstrom."""
    generator = np.random.default_rng(0)
    cells = [
        ("NaCl", Lattice.rhombohedral(3.99, 60), [11, 17], [[0, 0, 0], [0.5, 0.5, 0.5]]),
        ("BaTiO3", Lattice.cubic(4.0), [56, 22, 8, 8, 8], [[0, 0, 0], [0.5] * 3, [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]),
        ("large", Lattice.from_parameters(6, 7, 8, 80, 95, 110), generator.integers(1, 100, 20), generator.random((20, 3))),
        ("small", Lattice.from_parameters(2, 3, 4, 70, 80, 90), [100], [[0.1, 0.2, 0.3]]),
        ("sparse", Lattice.cubic(7.9), [10, 2], [[0, 0, 0], [0, 0, 0.3]]),
    ]
    return crystal.pack((name, cell.matrix, np.array(z, np.uint8), np.array(frac)) for name, cell, z, frac in cells)


def random_teacher(seed=0, **sizes):
    """A teacher in evaluation mode with random weights and batch statistics."""
    torch.manual_seed(seed)
    model = cgcnn.CGCNN(FEATURES, **sizes)
    for name, buffer in model.named_buffers():
        if "running" in name:
            buffer.uniform_(0.5, 1.5)
    for name, parameter in model.named_parameters():
        if ".bn" in name:
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    return model.eval()


def per_crystal(c):
    bounds = zip(c.offset[:-1], c.offset[1:], strict=True)
    return [(c.number[a:b], c.neighbour[a:b], c.distance[a:b].astype(float)) for a, b in bounds]


def test_parameter_count_is_the_published_one():
    encoder = cgcnn.CGCNN(FEATURES, embedding=128)
    assert sum(p.numel() for p in encoder.parameters()) + 128 + 1 == 80_833  # with the linear output of supervised CGCNN


def test_the_supervised_network_is_the_encoder_and_a_linear_output_on_any_rows(crystals):
    torch.manual_seed(0)
    model = cgcnn.Model(np.nan_to_num(FEATURES)).eval()
    assert sum(p.numel() for p in model.parameters()) == 80_833
    inputs = cgcnn.Inputs(crystals)
    rows = torch.tensor([4, 0, 2])
    expected = torch.as_tensor(cgcnn.embed(model.encoder, crystals))[rows]
    torch.testing.assert_close(model(inputs[rows]), model.fc_out(expected), rtol=1e-4, atol=1e-5)
    assert inputs.cost.tolist() == [2, 5, 20, 1, 2] and len(inputs) == 5


def test_inputs_of_a_file_are_those_of_its_crystals(crystals, tmp_path):
    np.savez(tmp_path / "neighbours.npz", **crystals.arrays())
    read, given = cgcnn.Inputs.read(tmp_path / "neighbours.npz"), cgcnn.Inputs(crystals)
    for name in vars(given):
        assert torch.equal(getattr(read, name), getattr(given, name)), name


def test_a_crystal_of_one_atom_can_be_a_step_of_its_own(crystals):
    torch.manual_seed(0)
    model = cgcnn.SupervisedCGCNN(np.nan_to_num(FEATURES))
    inputs = cgcnn.CrystalInputs(crystals)
    alone = torch.tensor([int(inputs.cost.argmin())])
    assert inputs.cost[alone].item() == 1
    model(inputs[alone]).sum().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_embeddings_equal_the_naive_edge_list_form(crystals):
    model = random_teacher().double()
    weights = {name: value.numpy() for name, value in model.state_dict().items()}
    expected = naive_cgcnn(weights, FEATURES.astype(float), per_crystal(crystals))
    found = cgcnn.embed(model, crystals)
    assert found.shape == (5, 256) and np.abs(found - expected).max() < 1e-10
    assert np.abs(expected - expected[0]).max(1)[1:].min() > 1e-3  # the crystals differ
    single = cgcnn.embed(random_teacher(), crystals)
    assert single.dtype == np.float32 and np.allclose(single, expected, rtol=1e-5, atol=1e-5)


def test_batches_do_not_matter(crystals, monkeypatch):
    model = random_teacher().double()
    whole, done = cgcnn.embed(model, crystals), []
    monkeypatch.setitem(cgcnn.BATCH_ATOMS, "cpu", 7)  # less than the third structure
    assert np.abs(cgcnn.embed(model, crystals, report=done.append) - whole).max() < 1e-12 and done == [2, 3, 5]


def test_order_of_atoms_does_not_matter(crystals):
    a, b = crystals.offset[2:4]
    order = np.random.default_rng(1).permutation(b - a)
    place = np.argsort(order).astype(np.int32)
    arrays = (
        crystals.number[a:b][order],
        np.array([0, b - a]),
        place[crystals.neighbour[a:b]][order],
        crystals.distance[a:b][order],
    )
    shuffled = crystal.Crystals(*arrays, np.array(["shuffled"]))
    model = random_teacher().double()
    assert np.abs(cgcnn.embed(model, shuffled)[0] - cgcnn.embed(model, crystals)[2]).max() < 1e-12


def test_sizes_are_read_from_the_weights_and_the_head_is_left_out(tmp_path, crystals):
    model = random_teacher(width=32, layers=2, embedding=10)
    torch.save(model.state_dict() | {"fc_head.0.weight": torch.zeros(3, 10)}, tmp_path / "teacher.pth")
    loaded = cgcnn.load_teacher(tmp_path / "teacher.pth", FEATURES)
    assert not loaded.training
    assert np.array_equal(cgcnn.embed(loaded, crystals), cgcnn.embed(model, crystals))


class Foreign:
    """An object that torch must not unpickle."""


@pytest.mark.parametrize(
    ("what", "content", "words"),
    [
        ("A teacher file that is not there", None, "no such file"),
        ("A teacher file that is empty", b"", "not weights that torch can load"),
        ("A teacher file of another kind", b"some text", "not weights that torch can load"),
        ("A teacher file that would run code", pickle.dumps(Foreign(), protocol=2), "not weights that torch can load"),
        ("A teacher file with a list", [1, 2], "not a state dict"),
        ("A teacher file with a dictionary of dictionaries", {"state": {"a": torch.zeros(1)}}, "not a state dict"),
        ("The weights of another network as the teacher", {"a": torch.zeros(1)}, "no CGCNN"),
        ("A teacher without a layer", {"convs.1.bn1.bias": None}, "convs.1.bn1.bias has the shape absent, CGCNN [128]"),
        ("A teacher with a layer more", {"extra": torch.zeros(2)}, "extra has the shape [2], CGCNN absent"),
        (
            "A teacher of another shape",
            {"convs.0.fc_full.weight": torch.zeros(128, 170)},
            "fc_full.weight has the shape [128, 170], CGCNN [128, 169]",
        ),
        (
            "A teacher for other element vectors",
            {"embedding.weight": torch.zeros(64, 91)},
            "embedding.weight has the shape [64, 91], CGCNN [64, 92]",
        ),
        (
            "A teacher whose weights are not finite",
            {"conv_to_fc.bias": torch.full((256,), torch.nan)},
            "conv_to_fc.bias holds numbers that are not finite",
        ),
    ],
)
def test_other_files_are_refused_in_one_line(tmp_path, fault, what, content, words):
    path = tmp_path / "teacher.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif isinstance(content, dict) and not content.keys() & {"a", "state"}:
        state = {**random_teacher().state_dict(), **content}
        torch.save({name: value for name, value in state.items() if value is not None}, path)
    elif content is not None:
        torch.save(content, path)
    with fault(what, str(path), words):
        cgcnn.load_teacher(path, FEATURES)


def test_from_structures_to_embeddings(tmp_path):
    (tmp_path / "some.jsonl").write_text(
        '{"id": "a", "lattice": [3.99, 3.99, 3.99, 60, 60, 60], "species": ["Na", "Cl"], "frac_coords": [[0, 0, 0], [0.5, 0.5, 0.5]]}\n'
        '{"id": "b", "lattice": [2.87, 2.87, 2.87, 90, 90, 90], "species": ["Fe", "Fe"], "frac_coords": [[0, 0, 0], [0.5, 0.5, 0.5]]}\n'
    )
    said = []
    outputs = (tmp_path / "neighbours.npz", tmp_path / "compositions.npz")
    encode_structures(tmp_path / "some.jsonl", None, None, "error", *outputs, said.append)
    np.save(tmp_path / "atoms.npy", FEATURES)
    model = random_teacher()
    torch.save(model.state_dict(), tmp_path / "teacher.pth")
    identity, embedding = embed_structures(outputs[0], tmp_path / "teacher.pth", tmp_path / "atoms.npy", "cpu", said.append)
    assert identity.tolist() == ["a", "b"] and embedding.shape == (2, 256) and embedding.dtype == np.float32
    compositions = Compositions.read(outputs[1])
    assert compositions.number.tolist() == [11, 17, 26] and compositions.amount.tolist() == [1, 1, 2]
    assert "2 structures, 4 atoms, 0 dropped" in said[0] and "256 dimensions" in said[-1]


def test_released_teacher_gives_positive_vectors_in_the_range_of_the_released_ones(mirror, crystals):
    model = cgcnn.load_teacher(mirror / "teachers" / "crystal_twins_CGCNNSimSiam.pth", FEATURES)
    embedding = cgcnn.embed(model, crystals)
    with np.load(mirror / "teachers" / "hmof_sample.npz") as arrays:
        released = arrays["embedding"]
    assert embedding.shape[1] == released.shape[1] == 256 and embedding.min() > 0
    assert 0.5 * released.mean() < embedding.mean() < 2 * released.mean() and embedding.max() < 3 * released.max()
