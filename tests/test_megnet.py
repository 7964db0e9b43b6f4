import itertools
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pretrain
import probe_crystals
import pytest
import torch
from matgl.config import DEFAULT_ELEMENTS
from matgl.ext.pymatgen import Structure2Graph
from pymatgen.core import Element, Lattice, Structure
from small_problem import CUBE, FAR, magnify, recipe

from matpretrain import graphs, megnet, megnet_graphs, probes
from matpretrain.files import DataError
from matpretrain.objectives import Denoising, Pretext
from matpretrain.sources import aflow_prototypes
from matpretrain.splits import hold_out

SCRIPTS = Path(__file__).resolve().parents[1] / "workflow/scripts"


@pytest.fixture(scope="module")
def structures():
    return [CUBE, *itertools.islice(aflow_prototypes(), 1, 121, 24)]


def inputs_of(structures):
    packed = graphs.connect(structures)
    return megnet_graphs.CrystalInputs(
        graphs.Graphs(**{name: torch.from_numpy(getattr(packed, name)) for name in graphs.NAMES})
    )


@pytest.fixture
def inputs(structures):
    return inputs_of(structures)


def count(module):
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def test_parameter_counts_are_those_of_the_paper():
    assert count(megnet.Model(size="small")) == 189_521 and count(megnet.Model(size="large")) == 732_945
    assert count(megnet.Encoder("large")) == 610_960
    assert count(megnet.Model(n_outputs=2, size="small")) == 189_521 + 17
    with pytest.raises(ValueError, match="no size 'medium': choose from small, large"):
        megnet.Model(size="medium")


def test_every_activation_is_ours():
    names = {type(module).__name__ for module in megnet.Model(size="small").modules()}
    assert "ShiftedSoftplus" in names and "SoftPlus2" not in names


def test_the_embedding_table_is_that_of_matgl():
    rows = megnet_graphs.element_rows()
    assert (rows >= 0).sum() == len(DEFAULT_ELEMENTS) == 89
    assert [int(rows[Element(symbol).Z]) for symbol in DEFAULT_ELEMENTS] == list(range(89))


@pytest.mark.parametrize("size", megnet.SIZES)
def test_outputs_are_those_of_matgls_own_model_on_its_own_graphs(size, structures, inputs):
    torch.manual_seed(0)
    whole = megnet.matgl_megnet(size)
    magnify(whole)
    model = megnet.Model(size=size)
    body = {f"encoder.{name}": value for name, value in whole.state_dict().items()}
    own = model.state_dict()
    model.load_state_dict({name: body.get(name, whole.state_dict().get(name)) for name in own})
    convert = Structure2Graph(element_types=whole.element_types, cutoff=graphs.CUTOFF)
    output = model.eval()(inputs[torch.arange(len(structures))])
    assert output.shape == (len(structures), 1)
    expected = [
        whole.eval()
        .predict_structure(Structure(Lattice(lattice), number, frac), torch.zeros(1, 2), graph_converter=convert)
        .item()
        for _, lattice, number, frac in structures
    ]
    assert np.std(expected) > 0.1 and output[:, 0].tolist() == pytest.approx(expected, rel=1e-4)


def test_a_crystal_does_not_see_its_batch(inputs):
    torch.manual_seed(0)
    model = megnet.Model(size="small").eval()
    together = model(inputs[torch.arange(len(inputs))])
    for rows in ([0], [5], [3, 1], [2, 2]):
        assert torch.allclose(model(inputs[torch.tensor(rows)]), together[rows], atol=1e-5)
    representation = model.encoder(inputs[torch.tensor([4])])
    node, edge, state = model.encoder.states(inputs[torch.tensor([4])])
    assert representation.shape == (1, model.encoder.width) == (1, 96)
    assert torch.allclose(representation[0], torch.cat([node.mean(0), edge.mean(0), state[0]]), atol=1e-5)


def test_edge_lengths_are_standardised_within_each_crystal(inputs):
    batch = inputs[torch.arange(len(inputs))]
    distance, scaled = batch.distance().double(), batch.standardised_distance()
    row = batch.edge_row[: len(distance)]
    assert distance[row == 0].tolist() == pytest.approx([4.0] * 3)
    assert scaled[row == 0].tolist() == [0.0] * 3
    for k in range(1, len(inputs)):
        own = distance[row == k]
        expected = (own - own.mean()) / own.std(correction=0)
        assert torch.allclose(scaled[row == k].double(), expected, atol=1e-4)


def test_perturbation_moves_atoms_by_the_noise_and_keeps_the_edges():
    grid = np.array(list(itertools.product(range(16), repeat=3)))
    inputs = inputs_of([("large", np.eye(3) * 48.0, np.full(len(grid), 26, np.uint8), grid / 16)])
    torch.manual_seed(0)
    batch = inputs[torch.tensor([0])]
    first, second = batch.perturbed(0.5), batch.perturbed(0.5)
    assert first.edge is batch.edge and first.shift is batch.shift
    moved = first.position - batch.position
    assert moved.std().item() == pytest.approx(0.5, rel=0.03) and abs(moved.mean().item()) < 0.02
    assert np.corrcoef(moved.T.numpy()) == pytest.approx(np.eye(3), abs=0.1)  # each axis by itself
    assert not torch.equal(first.position, second.position)  # new noise at every visit
    assert torch.equal(batch.position, inputs[torch.tensor([0])].position)


def test_denoising_compares_the_edges_with_a_plain_loop(inputs):
    torch.manual_seed(0)
    model = Pretext(megnet.Encoder("small"), {"denoising": {"noise": 0.3}}, {})
    rows = torch.tensor([0, 2, 4])
    torch.manual_seed(7)
    loss = model(inputs, rows)
    torch.manual_seed(7)
    batch = inputs[rows]
    noisy = batch.position + 0.3 * torch.randn(batch.position.shape)
    lengths = [(noisy[j] + s - noisy[i]).norm() for (i, j), s in zip(batch.edge.T.tolist(), batch.shift, strict=False)]
    other = megnet_graphs.Batch(batch.element, noisy, batch.edge, batch.shift, batch.node_row, batch.edge_row, batch.rows)
    assert torch.allclose(other.distance(), torch.stack(lengths), atol=1e-5)
    predicted = model.tasks["denoising"].projector(model.encoder.states(other)[1])[:, 0]
    residual = predicted - torch.cat([batch.standardised_distance()] * 2)
    assert loss.item() == pytest.approx(residual.square().mean().item(), rel=1e-5)
    assert model.tasks["denoising"].error.item() == pytest.approx(residual.abs().mean().item(), rel=1e-5)
    loss.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_the_losses_of_pretraining_are_means_over_edges(structures, tmp_path):
    """Of a network that stands still, whose batches of crystals with other numbers of edges weigh as much as these."""
    graphs.save_graphs(graphs.connect(structures), tmp_path / "graphs.safetensors")
    _, (row,) = pretrain.pretrain(
        tmp_path / "graphs.safetensors", None, {}, "megnet", {"size": "small"}, {"denoising": {"noise": 0.0}},
        recipe(epochs=1, batch_size=2, learning_rate=1e-12), 0.5, 0, "cpu", tmp_path, lambda text: None,
    )  # fmt: skip
    torch.manual_seed(0)
    model, inputs = Pretext(megnet.Encoder("small"), {"denoising": {"noise": 0.0}}, {}), inputs_of(structures)
    for names, rows in zip((("loss", "training_mae"), ("validation_loss", "mae")), hold_out(6, 0.5, 0), strict=True):
        loss = model(inputs, torch.as_tensor(rows)).item()
        error = model.tasks["denoising"].error.item()
        assert [row[names[0]], row[f"denoising_{names[1]}"]] == pytest.approx([loss, error], rel=1e-4)


def test_a_probe_of_noise_explains_nothing_on_rows_that_it_has_not_seen(monkeypatch):
    monkeypatch.setattr(probes, "PENALTIES", [1e-6])
    generator = np.random.default_rng(0)
    assert probe_crystals.r2(generator.normal(size=(50, 100)), generator.normal(size=50)) < 0.5


def test_atoms_and_crystals_without_edges_have_finite_outputs_and_gradients(structures):
    inputs = inputs_of([FAR, CUBE])
    torch.manual_seed(0)
    model = megnet.Model(size="small")
    model(inputs[torch.tensor([0, 1])]).sum().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)
    assert model(inputs[torch.tensor([0])]).isfinite().all()
    for rows in ([0], [0, 1]):
        views = SimpleNamespace(encoder=model.encoder, batch=inputs[torch.tensor(rows)])
        assert Denoising(model.encoder)(views).isfinite()


def test_an_element_without_an_embedding_is_named():
    with pytest.raises(DataError, match="structure 2 holds an element of atomic number 84, which MEGNet does not know"):
        inputs_of([CUBE, ("po", np.eye(3) * 4, np.array([84], np.uint8), np.zeros((1, 3)))])


def test_dgl_gives_the_same_outputs(inputs, tmp_path):
    pytest.importorskip("dgl")
    torch.manual_seed(0)
    model = megnet.Model(size="small").eval()
    magnify(model)
    torch.save(model.state_dict(), tmp_path / "model.pt")
    expected = model(inputs[torch.arange(len(inputs))]).flatten().tolist()
    program = (
        "import itertools, sys, torch; from test_megnet import *; from matgl.config import BACKEND\n"
        "inputs = inputs_of([CUBE, *itertools.islice(aflow_prototypes(), 1, 121, 24)])\n"
        "model = megnet.Model(size='small').eval()\n"
        "state = torch.load(sys.argv[1], weights_only=True)\n"
        "names = {n.replace('set2set.', ''): n for n in model.state_dict()}\n"
        "model.load_state_dict({names.get(n, n): v for n, v in state.items()})\n"
        "print(BACKEND, *model(inputs[torch.arange(len(inputs))]).flatten().tolist())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path / "model.pt"],
        env=os.environ | {"MATGL_BACKEND": "dgl", "PYTHONPATH": f"{SCRIPTS}:{Path(__file__).parent}"},
        capture_output=True,
        text=True,
    )
    backend, *values = done.stdout.split()[-len(expected) - 1 :]
    assert backend == "DGL", done.stderr
    assert np.std(expected) > 0.1 and [float(v) for v in values] == pytest.approx(expected, rel=1e-4)
