from collections import namedtuple

import numpy as np
import pytest
import torch
from naive_finder import finder as naive
from naive_finder import network
from plot_edges import by_atom, edge_matrices
from pymatgen.core import Composition, Element, Lattice, Structure
from small_problem import recipe

from matpretrain.cohort import Cohort, level
from matpretrain.composition import atom_counts, parse_formulas
from matpretrain.finder import ATTENTION, Finder
from matpretrain.finder_graphs import GraphInputs
from matpretrain.graphs import connect, save_graphs
from matpretrain.training import fit_cohort

Signal = namedtuple("Signal", "x")
FORMULAS = ["SrTiO3", "O2", "Fe", "LiFePO4", "Fe0.5C0.25N0.25", "K2O2", "H2O"]


def vectors(width=6):
    return torch.randn(119, width, generator=torch.Generator().manual_seed(1)).numpy()


def atoms_of(batch, b):
    """Elements of the atoms of graph b of a batch in composition mode."""
    nodes = (batch.row == b).nonzero().flatten()
    return [int(batch.element[k]) for k in nodes for _ in range(int(batch.atoms[k]))]


def double(inputs):
    for name in ("atoms", "weight", "distance", "degree", "size"):
        setattr(inputs, name, getattr(inputs, name).double())
    return inputs


def agree(model, found, expected):
    """Values and the gradients of all parameters."""
    parameters = list(model.parameters())
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-10)
    weight = torch.randn(found.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    for a, b in zip(
        torch.autograd.grad((found * weight).sum(), parameters, allow_unused=True),
        torch.autograd.grad((expected * weight).sum(), parameters, allow_unused=True),
        strict=True,
    ):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("options", [{}, {"layers": 3}, {"layers": 1}, {"attention": "pooling"}, {"attention": "none"}])
def test_elements_with_multiplicities_are_the_graph_of_atoms(options):
    torch.manual_seed(0)
    model = Finder(vectors(), 2, **options).double()
    batch = double(GraphInputs(parse_formulas(FORMULAS)[0]))[torch.arange(len(FORMULAS))]
    expected = []
    for b in range(len(FORMULAS)):
        element = atoms_of(batch, b)
        everyone = range(len(element))
        expected.append(naive(model, element, [[j for j in everyone if j != i] for i in everyone]))
    agree(model, model(batch), torch.stack(expected))


def rock_salt_and_others():
    cell = Lattice.cubic(3.9)
    perovskite = Structure(
        cell, ["Sr", "Ti", "O", "O", "O"], [[0, 0, 0], [0.5] * 3, [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]
    )
    lonely = Structure(Lattice.cubic(12), ["Ne"], [[0, 0, 0]])
    small = Structure(Lattice.hexagonal(2.5, 3.1), ["B", "N"], [[0.1, 0.2, 0.0], [0.4, 0.5, 0.55]])
    return [perovskite, lonely, small]


def rock_salt_graphs(path):
    structures = enumerate(rock_salt_and_others())
    arrays = [(str(k), s.lattice.matrix, np.array(s.atomic_numbers, np.uint8), s.frac_coords) for k, s in structures]
    save_graphs(connect(arrays), path)
    return double(GraphInputs.read(path))


@pytest.mark.parametrize("options", [{}, {"attention": "none", "readout": False}])
def test_structure_mode_takes_the_nearest_image_below_the_cutoff(options, tmp_path):
    torch.manual_seed(0)
    structures = rock_salt_and_others()
    inputs = rock_salt_graphs(tmp_path / "graphs.safetensors")
    model = Finder(vectors(), 1, mode="structure", **options).double()
    expected = []
    for structure in structures:
        matrix = structure.distance_matrix
        n = len(structure)
        neighbours = [[j for j in range(n) if j != i and matrix[i, j] < 4.0] for i in range(n)]
        distance = {(i, j): float(matrix[i, j]) for i in range(n) for j in neighbours[i]}
        expected.append(naive(model, structure.atomic_numbers, neighbours, distance or {}))
    found = model(inputs[torch.arange(len(structures))])
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-5, atol=1e-6)  # graphs are stored in float32
    assert len(inputs) == 3 and inputs.pair_offset.diff().tolist()[1] == 0


def test_atoms_are_those_of_pymatgens_integer_formula(mirror):
    import pandas as pd

    for task in ("steels", "phonons", "dielectric"):
        table = pd.read_csv(mirror / f"tables/matbench_{task}.csv.gz", dtype=str, keep_default_na=False)
        formulas = table["formula"].tolist()[:700]
        compositions, _ = parse_formulas(formulas)
        atoms = atom_counts(compositions)
        for k, formula in enumerate(formulas):
            nodes = slice(compositions.offset[k], compositions.offset[k + 1])
            found = {
                Element.from_Z(int(z)).symbol: n for z, n in zip(compositions.number[nodes], atoms[nodes], strict=True) if n
            }
            assert found == Composition(Composition(formula).get_integer_formula_and_factor()[0]).get_el_amt_dict()


def test_numbers_of_parameters_are_those_of_the_released_code():
    for mode, n in (("composition", 13_025_140), ("structure", 12_910_706)):
        assert sum(p.numel() for p in Finder(vectors(200), 2, mode=mode).parameters()) == n


@pytest.mark.parametrize("options", [{}, {"attention": "none"}, {"mode": "structure"}])
def test_networks_of_a_cohort_are_those_that_they_are_alone(options, tmp_path):
    """Their outputs, gradients and constraints; rows of several lengths, so that nodes and pairs are padded, up to none of their own."""
    torch.manual_seed(0)
    structured = options.get("mode") == "structure"
    inputs = rock_salt_graphs(tmp_path / "graphs") if structured else double(GraphInputs(parse_formulas(FORMULAS)[0]))
    rows = torch.tensor([[0, 2, 1], [1, 1, 1], [2, 1, 0]])  # the second one has no pairs with structures, few in the other mode
    models = [Finder(vectors(), 2, **options).double() for _ in rows]
    for model in models:
        for parameter in model.parameters():
            parameter.data.mul_(1.5)
    cohort, weight = Cohort(models), torch.randn(3, 3, 2, dtype=torch.float64)
    found = cohort(inputs, rows)
    (found * weight).sum().backward()
    gradients = {name: p.grad.clone() for name, p in cohort.network.named_parameters() if p.grad is not None}
    cohort.constrain()
    for k, model in enumerate(models):
        output = model(inputs[rows[k]])
        torch.testing.assert_close(found[k], output, rtol=1e-9, atol=1e-10)
        (output * weight[k]).sum().backward()
        model.constrain()
        for (name, parameter), own in zip(model.named_parameters(), cohort.member(k).parameters(), strict=True):
            torch.testing.assert_close(own, parameter, rtol=1e-12, atol=0)
            if parameter.grad is not None:
                torch.testing.assert_close(gradients[name][k], parameter.grad, rtol=1e-7, atol=1e-9)
    assert not torch.equal(models[0].encoder.layers[0].value.weight, models[1].encoder.layers[0].value.weight)


def test_a_cohort_trains_as_its_networks_do_alone():
    """With the L2 terms and constraints, clipped gradients, and a last step of fewer rows."""
    inputs, target = double(GraphInputs(parse_formulas(FORMULAS * 3)[0])), torch.linspace(-1, 1, 21, dtype=torch.float64)
    trains, settings = [torch.arange(14), torch.arange(7, 21)], recipe(epochs=3, batch_size=4, clip=1.0, select="last")

    def networks():
        torch.manual_seed(0)
        return [Finder(vectors(), 1).double() for _ in trains]

    def losses(cohort, rows):
        rows, _ = level(rows)
        return (cohort(inputs, rows)[..., 0] - target[rows]).square().mean(1)

    together, alone = Cohort(networks()), networks()
    nothing = [{"mae": 0.0}] * 2
    histories = fit_cohort(together, losses, trains, lambda cohort: nothing, settings, seeds=[1, 2])
    for k, model in enumerate(alone):
        own = fit_cohort(Cohort([model]), losses, trains[k : k + 1], lambda cohort: nothing[:1], settings, seeds=[k + 1])
        assert [row["loss"] for row in histories[k]] == pytest.approx([row["loss"] for row in own[0]], rel=1e-9)
        for a, b in zip(together.member(k).parameters(), model.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-9)


def test_compositions_without_pairs_have_room_for_none():
    inputs = GraphInputs(parse_formulas(["Fe", "NaCl", "SrTiO3"])[0])
    steps = [torch.tensor([[1, 2], [2, 2]]), torch.tensor([[0], [0]])]
    assert inputs.reserve(steps) == [{2: 16, 1: 16}, {2: 16, 1: 0}]
    assert inputs.stacked(steps[1]).weight.shape == (2, 0)
    alone = GraphInputs(parse_formulas(["Fe"])[0])
    assert alone.reserve(steps[1:]) == [{1: 16}, {1: 0}] and len(alone[torch.tensor([0])].sender) == 0


def test_convolutions_of_a_cohort_are_those_of_torch():
    class Convolved(torch.nn.Module):
        def __init__(self, **options):
            super().__init__()
            self.layer = torch.nn.Conv1d(2, 3, **options)

        def forward(self, batch):
            return self.layer(batch.x)

    class Signals:
        x = torch.randn(2, 4, 2, 9)

        def __getitem__(self, rows):
            return Signal(self.x[0])

        def stacked(self, rows):
            return Signal(self.x)

    for options in ({"kernel_size": 3, "padding": 1}, {"kernel_size": 5, "padding": "same"}, {"kernel_size": 3, "stride": 2},
                    {"kernel_size": 3, "padding": "same", "bias": False}, {"kernel_size": 2}, {"kernel_size": 3, "dilation": 2},
                    {"kernel_size": 3, "padding": "same", "padding_mode": "circular"}):  # fmt: skip
        torch.manual_seed(0)
        models = [Convolved(**options), Convolved(**options)]
        found = Cohort(models)(Signals(), torch.zeros(2, 4, dtype=torch.int64))
        for own, model, x in zip(found, models, Signals.x, strict=True):
            torch.testing.assert_close(own, model.layer(x))


def test_constraints_clip_and_penalties_name_every_kernel_once():
    model = Finder(vectors(), 1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(50)
    value, update = model.encoder.layers[0].value.weight.clone(), model.encoder.layers[0].update.weight.clone()
    model.constrain()
    layer, pooling = model.encoder.layers[0], model.encoder.pooling[1]
    for linear, largest in ((layer.query, 1), (layer.key, 1), (layer.value, 2), (pooling.gate[0], 1), (pooling.gate[1], 1)):
        assert linear.weight.norm(dim=1).max().item() == pytest.approx(largest, rel=1e-5)
    torch.testing.assert_close(
        layer.value.weight, value * (2 / value.norm(dim=1, keepdim=True)).clamp(max=1), rtol=1e-5, atol=0
    )
    torch.testing.assert_close(layer.update.weight, update)
    listed = [id(p) for group in model.penalised().values() for p in group]
    assert len(listed) == len(set(listed)) == 6 + 2 * 4 + 2 * 2 + 5


def test_a_network_adopts_all_of_the_other_mode_that_does_not_act_on_edges():
    torch.manual_seed(0)
    structure, model = Finder(vectors(), 2, mode="structure"), Finder(vectors(), 2)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    taken = model.adopt(structure.state_dict())
    of_edges = [name for name in before if ".edge." in name]
    for name, value in model.state_dict().items():
        if name in of_edges:
            assert torch.equal(value, before[name])
        elif name.endswith("message.0.weight") and "layers" in name:
            assert torch.equal(value[:, :6], structure.state_dict()[name][:, :6]) and torch.equal(
                value[:, 6:], before[name][:, 6:]
            )
        else:
            assert torch.equal(value, structure.state_dict()[name])
    own = sum(value.numel() for name, value in model.named_parameters() if name not in of_edges)
    assert len(of_edges) == 2 * 6 and taken == own - 2 * 128


def test_edge_matrices_hold_the_predicted_edges_of_atoms():
    torch.manual_seed(0)
    model = Finder(vectors(), 1).double()
    batch = double(GraphInputs(parse_formulas(["SrTiO3"])[0]))[torch.tensor([0])]
    found, symbols = by_atom(edge_matrices(model, batch), ["Sr", "Ti", "O"], batch.atoms.long().numpy())
    assert symbols == ["Sr", "Ti", "O", "O", "O"] and found.shape == (2, 5, 5)
    v = model.encoder.element_vectors[torch.tensor([38, 22, 8, 8, 8])].double()
    for i, j in ((0, 1), (1, 0), (2, 4), (3, 1)):
        mean = torch.stack([(v[i] + v[k]) / 2 for k in range(5) if k != i]).mean(0)
        expected = network(torch.cat([(v[i] + v[j]) / 2, mean]), model.encoder.layers[0].edge)
        assert found[0, i, j] == pytest.approx(expected.item(), abs=1e-6)
    assert np.isnan(found[:, range(5), range(5)]).all() and np.isfinite(found[:, ~np.eye(5, dtype=bool)]).all()


def test_modes_and_attentions_of_another_name_are_refused():
    for options in ({"mode": "both"}, {"attention": "some"}):
        with pytest.raises(ValueError, match="composition, structure and the attentions all, pooling, none"):
            Finder(vectors(), **options)


@pytest.mark.parametrize("attention", ATTENTION)
def test_bfloat16_stays_close(attention):
    torch.manual_seed(0)
    model = Finder(vectors(), 1, attention=attention)
    batch = GraphInputs(parse_formulas(["SrTiO3", "NaCl", "Si"])[0])[torch.arange(3)]
    exact = model(batch)
    with torch.autocast("cpu", torch.bfloat16):
        rough = model(batch)
    rough.sum().backward()
    assert (rough - exact).abs().max() < 0.05 * max(1.0, exact.abs().max().item())


def test_steels_are_whole(mirror):
    import pandas as pd

    table = pd.read_csv(mirror / "tables/matbench_steels.csv.gz", dtype=str, keep_default_na=False)
    inputs = GraphInputs(parse_formulas(table["formula"].tolist())[0])
    batch = inputs[torch.arange(len(inputs))]
    assert len(inputs) == 312 and torch.bincount(batch.row, batch.atoms).median() > 9000
    with torch.inference_mode():
        assert Finder(vectors(), 1)(batch).isfinite().all()
