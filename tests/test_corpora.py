import re
import runpy
from types import SimpleNamespace

import group_structures
import numpy as np
import pandas as pd
import prepare_corpus
import pretrain
import pytest
import select_embeddings
import torch
from conftest import PROJECT, load
from safetensors.torch import load_file
from small_problem import recipe
from snakemake.iocontainers import Namedlist

from matpretrain.composition import Compositions, element_fractions, formula_keys, matscholar_vectors, parse_formulas
from matpretrain.splits import hold_out

FAULTS = "Corpora"


def parsed(*formulas):
    compositions, problems = parse_formulas(list(formulas))
    assert not problems
    return compositions


def test_compositions_are_the_same_by_elements_and_fractions():
    sources = {"a": parsed("Fe2O3", "NaCl", "O6Fe4"), "b": parsed("ClNa", "KCl", "Na2Cl2"), "c": parsed("KCl", "Si", "MgO")}
    removed = set(formula_keys(parsed("Si2")))
    merged, counts = prepare_corpus.merge(sources, removed)
    assert formula_keys(merged) == formula_keys(parsed("Fe2O3", "NaCl", "KCl", "MgO"))
    assert counts.to_numpy().tolist() == [["a", 3, 2, 0, 0, 2], ["b", 3, 2, 1, 0, 1], ["c", 3, 3, 1, 1, 1]]
    assert list(counts) == ["source", "formulas", "distinct", "in_earlier_sources", "removed", "added"]


def test_a_corpus_holds_one_composition_to_train_on_and_one_to_validate(fault):
    with fault("A corpus of one composition", "mine: 1 distinct compositions are left", "at least 2; name other sources"):
        prepare_corpus.merge({"mine": parsed("Fe2O3", "Fe4O6")}, set())
    with fault("A corpus without what the datasets hold", "a, b: 0 distinct compositions are left"):
        prepare_corpus.merge({"a": parsed("NaCl"), "b": parsed("ClNa")}, set(formula_keys(parsed("NaCl"))))
    assert [len(part) for part in hold_out(2, 0.5, 0)] == [1, 1]
    with fault("One structure to pretrain on", "1 examples cannot be split", "name a larger corpus"):
        hold_out(1, 0.05, 0)


def test_the_job_of_a_corpus_removes_what_the_corpora_named_without_hold(tmp_path):
    (tmp_path / "mine.csv").write_text("formula\nNaCl\nFe2O3\nKCl\nMgO\n")
    for name, formulas in (("a", ["ClNa"]), ("b", ["Mg2O2", "Si"])):
        np.savez(tmp_path / f"{name}.npz", **parsed(*formulas).arrays())
    files = Namedlist(str(tmp_path / name) for name in ("mine.csv", "a.npz", "b.npz"))
    files.sources, files.without = files[:1], files[1:]
    made = {"compositions": str(tmp_path / "compositions.npz"), "counts": str(tmp_path / "counts.csv")}
    snakemake = SimpleNamespace(
        log=[],
        rule="prepare_corpus",
        wildcards=Namedlist(fromdict={"corpus": "mine"}),
        threads=1,
        input=files,
        output=Namedlist(fromdict=made),
        params=Namedlist(fromdict={"names": ["mine"], "entry": {}, "sha256": None, "unknown_elements": "error"}),
    )
    runpy.run_path(prepare_corpus.__file__, {"snakemake": snakemake}, "__main__")
    assert formula_keys(Compositions.read(made["compositions"])) == formula_keys(parsed("Fe2O3", "KCl"))


def test_a_corpus_is_read_from_a_csv_and_bad_rows_are_named(tmp_path, fault):
    path = tmp_path / "corpus.csv"
    path.write_text("composition\nNaN\nFe2O3\nNO\n")
    read = prepare_corpus.read_source(path, print, {"formula": "composition"})
    assert formula_keys(read) == formula_keys(parsed("NaN", "Fe2O3", "NO"))
    for what, content, *words in (
        ("A corpus entry with a dummy species", "formula\nFe2O3\nXx2\n", "corpus.csv: line 3", "not an element"),
        ("A corpus entry with an unknown element", "formula\nFe2O3\nRfO2\n", "line 3", "Rf in 'RfO2'", "set unknown_elements"),
        ("A corpus without rows", "formula\n", "no rows below the header"),
        ("A corpus without a column of formulas", "material\nFe2O3\n", "no column 'formula'"),
    ):
        path.write_text(content)
        with fault(what, *words):
            prepare_corpus.read_source(path, print, {})
    path.write_text("formula\nFe2O3\nRfO2\n")
    lines = []
    assert len(prepare_corpus.read_source(path, lines.append, {}, unknown_elements="drop")) == 1
    assert len(lines) == 1 and "RfO2 (Rf)" in lines[0]
    with fault("A corpus of the mirror with another hash", "sha256"):
        prepare_corpus.read_source(path, print, {}, expected_hash="0" * 64)


def test_structures_of_one_composition_share_the_mean_of_their_embeddings():
    compositions = parsed("TiO2", "NaCl", "Ti2O4", "O2Ti", "Cl4Na4")
    embedding = np.array([[1.0, 0.0], [5.0, 5.0], [2.0, 0.0], [6.0, 3.0], [7.0, 1.0]])
    distinct, mean, spread, count = group_structures.group(compositions, embedding)
    assert formula_keys(distinct) == formula_keys(parsed("TiO2", "NaCl"))
    assert count.tolist() == [3, 2] and mean.tolist() == [[3.0, 1.0], [6.0, 3.0]]
    assert np.allclose(spread, [[np.std([1, 2, 6]), np.std([0, 0, 3])], [1.0, 2.0]])


def test_the_spread_within_compositions_is_that_of_all_where_compositions_say_nothing():
    draw = np.random.default_rng(0)
    compositions = parsed(*draw.choice([f"Ti{a}O{b}" for a in range(1, 40) for b in range(40, 80)], 1500))
    _, _, spread, count = group_structures.group(compositions, draw.normal(size=(1500, 64)))
    assert (count == 1).sum() > 400 and group_structures.std_within(spread, count) == pytest.approx(1, abs=0.01)
    assert np.isnan(group_structures.std_within(np.zeros((3, 2)), np.ones(3, int)))


def test_released_vectors_are_read_with_their_formulas(tmp_path, fault):
    path = tmp_path / "vectors.npz"
    good = {"id": np.array(["a", "b"]), "composition": np.array(["Zn4O13C24H12", "CuN2"]), "embedding": np.ones((2, 256))}
    np.savez(path, **good)
    compositions, embedding = group_structures.read_vectors(path, None, 2, "error", print)
    assert len(compositions) == 2 and embedding.shape == (2, 256) and embedding.dtype == np.float32
    for what, change, word in (
        ("More embeddings than formulas", {"embedding": np.ones((3, 256))}, "must be an array [2, n]"),
        ("Embeddings that are not finite", {"embedding": np.diag([1, np.nan])}, "row 2 (id b): embedding is not finite"),
        ("A bad formula beside an embedding", {"composition": np.array(["Zn", "Qq"])}, "row 2 (id b)"),
    ):
        np.savez(path, **{**good, **change})
        with fault(what, word):
            group_structures.read_vectors(path, None, 2, "error", print)
    np.savez(path, **{name: array[:1] for name, array in good.items()})
    with fault("Fewer vectors than the registry says", "vectors.npz: 1 rows, the registry says n_samples: 2"):
        group_structures.read_vectors(path, None, 2, "error", print)
    twice = {"id": np.array(["a", "a"]), "composition": np.array(["Zn", "Rf"]), "embedding": np.array([[1.0], [2.0]])}
    np.savez(path, **twice)
    compositions, embedding = group_structures.read_vectors(path, None, None, "drop", print)
    assert len(compositions) == 1 and embedding.tolist() == [[1.0]]
    with fault("Embeddings named as formulas", "vectors.npz: not an .npz of compositions", "kind: vectors"):
        prepare_corpus.read_source(path, print, {"kind": "formulas"})
    cut = path.read_bytes()[:-20]
    np.save(tmp_path / "array.npy", good["embedding"])
    for content in (cut, (tmp_path / "array.npy").read_bytes(), b"text", b""):
        path.write_bytes(content)
        with fault("A file of embeddings of another format", "not an .npz with arrays"):
            group_structures.read_vectors(path, None, 2, "error", print)


def test_the_range_of_targets_is_that_of_the_training_rows():
    values = np.array([[0.0, 5.0], [4.0, 5.0], [8.0, 7.0]])
    scaled = pretrain.scaled(values, np.array([0, 1]), "minmax")
    assert scaled.tolist() == [[0.0, 0.0], [1.0, 0.0], [2.0, 2.0]]  # no range in the second column: only shifted
    assert pretrain.scaled(values, np.array([0, 1]), "none") is values


def test_whitened_targets_are_uncorrelated_directions_of_the_training_rows():
    """Without constants and copies; rows that do not train are expressed in the same directions."""
    draw = np.random.default_rng(0)
    free = draw.normal(size=(500, 3)) * [1.0, 1e3, 1e-3]
    values = np.column_stack([free, free[:, 0] + free[:, 1] / 1e3, np.full(500, 7.1), free[:, 2] * 2]).astype(np.float32)
    train = np.arange(400)
    white = pretrain.scaled(values, train, "whitened")
    assert white.shape == (500, 3)
    np.testing.assert_allclose(white[train].T @ white[train] / 400, np.eye(3), atol=1e-4)
    np.testing.assert_allclose(white[train].mean(0), 0, atol=1e-4)
    standard = (free - free[train].mean(0)) / free[train].std(0)
    weights, residual, *_ = np.linalg.lstsq(standard, white, rcond=None)
    assert residual.max() < 1e-3  # of 500 for each column: they span what the features do
    assert np.abs(white[400:] - standard[400:] @ weights).max() < 1e-2


def test_the_weights_kept_of_an_epoch_are_those_that_were_evaluated(tmp_path):
    """Where the recipe averages, not those of the last step: the last epoch's are those of the encoder that is returned."""
    compositions = parsed("Fe2O3", "NaCl", "KCl", "MgO", "Si", "BaTiO3", "LiFePO4", "GaAs")
    np.savez(tmp_path / "compositions.npz", **compositions.arrays())
    np.save(tmp_path / "elements.npy", np.nan_to_num(matscholar_vectors()))
    encoder, history = pretrain.pretrain(
        tmp_path / "compositions.npz", tmp_path / "elements.npy", {}, "roost", {}, {"barlow_twins": {}},
        recipe(epochs=2, average=0.5, batch_size=4, select="last"), 0.25, 0, "cpu", tmp_path, lambda text: None,
    )  # fmt: skip
    kept = [load_file(tmp_path / f"epochs/{epoch:04d}.safetensors") for epoch in range(3)]
    assert len(history) == 2
    for name, tensor in encoder.state_dict().items():
        assert torch.equal(kept[2][name], tensor), name
    assert any(not torch.equal(kept[1][name], kept[2][name]) for name in kept[1])


def test_a_corpus_too_small_for_correlations_over_batches_is_refused(tmp_path, fault):
    np.savez(tmp_path / "compositions.npz", **parsed("Fe2O3", "NaCl", "KCl", "MgO", "Si", "BaTiO3", "LiFePO4", "GaAs").arrays())
    np.save(tmp_path / "elements.npy", np.nan_to_num(matscholar_vectors()))
    line = "6 examples to train on make batches of 2, and barlow_twins needs 4 rows; name a larger"
    with fault("A corpus too small for correlations over batches", line):
        pretrain.pretrain(
            tmp_path / "compositions.npz", tmp_path / "elements.npy", {}, "roost", {}, {"barlow_twins": {}},
            recipe(epochs=1, batch_size=128, min_steps=3), 0.25, 0, "cpu", tmp_path, lambda text: None,
        )  # fmt: skip
    with fault("Batches too small for correlations over them", "batches of 2, and barlow_twins needs 4 rows; raise batch_size"):
        pretrain.pretrain(
            tmp_path / "compositions.npz", tmp_path / "elements.npy", {}, "roost", {}, {"barlow_twins": {}},
            recipe(epochs=1, batch_size=2), 0.25, 0, "cpu", tmp_path, lambda text: None,
        )  # fmt: skip


def test_a_union_has_the_embeddings_of_the_first_part_with_the_composition(fault):
    ours, theirs = (parsed("NaCl", "MgO", "Si"), np.arange(6.0).reshape(3, 2)), (parsed("KCl", "Mg2O2"), -np.ones((2, 2)))
    union, _ = prepare_corpus.merge({"ours": ours[0], "theirs": theirs[0]}, set(formula_keys(parsed("SiSi"))))
    assert select_embeddings.select(union, {"a.npy": ours, "b.npy": theirs}).tolist() == [[0, 1], [2, 3], [-1, -1]]
    line = "numbers per embedding: a.npy 2, b.npy 3; a union needs corpora of one teacher, name such in `of`"
    with fault("A union of embeddings of several teachers", line):
        select_embeddings.select(union, {"a.npy": ours, "b.npy": (theirs[0], np.ones((2, 3)))})


def test_targets_that_are_all_the_same_cannot_be_whitened(tmp_path, fault):
    np.savez(tmp_path / "compositions.npz", **parsed("Fe2O3", "NaCl", "KCl", "MgO").arrays())
    np.save(tmp_path / "structure.npy", np.full((4, 3), 0.3, np.float32))
    line = "structure.npy: the same values in all rows that train leave nothing to whiten; name another corpus, or scale: none"
    with fault("Embeddings that are all the same", line):
        pretrain.pretrain(
            tmp_path / "compositions.npz", None, {"structure": tmp_path / "structure.npy"}, "roost", {},
            {"structure": {"scale": "whitened"}}, recipe(epochs=1), 0.25, 0, "cpu", tmp_path, lambda text: None,
        )  # fmt: skip


def test_validation_losses_of_all_epochs_have_the_same_masks(tmp_path):
    """A network that stands still has one validation loss, though every step of its training draws masks of its own."""
    np.savez(tmp_path / "compositions.npz", **parsed(*(f"Fe{a}Ni{b}Co" for a in range(1, 5) for b in range(1, 9))).arrays())
    np.save(tmp_path / "elements.npy", np.nan_to_num(matscholar_vectors()))
    still = recipe(epochs=3, batch_size=8, learning_rate=1e-12, schedule="constant", select="last")
    _, history = pretrain.pretrain(
        tmp_path / "compositions.npz", tmp_path / "elements.npy", {}, "roost", {}, {"barlow_twins": {}}, still, 0.5, 0, "cpu",
        tmp_path, lambda text: None,
    )  # fmt: skip
    losses = [row["validation_loss"] for row in history]
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-5)
    assert np.ptp([row["loss"] for row in history]) > 5e-5 * losses[0]


def test_a_held_out_row_is_never_stepped_on(tmp_path, monkeypatch):
    seen = {True: [], False: []}
    losses = pretrain.Pretext.losses

    def watched(model, inputs, rows):
        seen[model.training] += rows.tolist()
        return losses(model, inputs, rows)

    monkeypatch.setattr(pretrain.Pretext, "losses", watched)
    np.savez(tmp_path / "compositions.npz", **parsed(*(f"Fe{a}Ni{b}Co" for a in range(1, 3) for b in range(1, 9))).arrays())
    np.save(tmp_path / "elements.npy", np.nan_to_num(matscholar_vectors()))
    pretrain.pretrain(
        tmp_path / "compositions.npz", tmp_path / "elements.npy", {}, "roost", {}, {"barlow_twins": {}},
        recipe(epochs=2, batch_size=8), 0.5, 3, "cpu", tmp_path, lambda text: None,
    )  # fmt: skip
    train, validation = (part.tolist() for part in hold_out(16, 0.5, 3))
    assert sorted(seen[True]) == sorted(2 * train) and sorted(seen[False]) == sorted(2 * validation)


def test_progress_lines_carry_a_bar_and_the_rate(monkeypatch):
    clock = iter(np.arange(0, 1e4, 20.0))
    monkeypatch.setattr(pretrain.time, "perf_counter", lambda: next(clock))
    lines = []
    progress = pretrain.progress_bar(1000, 2, lines.append)
    for step in range(1, 11):
        progress(1, step, 10)
    assert lines[0] == "epoch 1/2 [####................]  20%, 5 examples/s, 6 min left"
    assert len(lines) == 5


def test_one_hot_element_vectors_hold_one_row_per_element():
    import export_elements

    vectors = export_elements.VECTORS["onehot"]()
    fractions = element_fractions(parsed("Fe"))
    assert vectors.shape == (119, 118) and not vectors[0].any()
    assert np.array_equal(vectors[26], fractions[0]) and (vectors[1:].sum(0) == 1).all()


def test_magpie_properties_of_elements_stand_beside_matscholar_s_vectors():
    import export_elements

    vectors = export_elements.VECTORS["matscholar_magpie"]()
    assert vectors.shape == (119, 222) and not vectors[0].any() and not vectors[104:].any()
    assert np.array_equal(vectors[:, :200], export_elements.VECTORS["matscholar"]())
    properties = vectors[1:104, 200:]
    assert np.allclose(properties.mean(0), 0, atol=1e-6) and np.isclose((properties**2).sum(1).mean(), 1)
    electronegativity = properties[:, 7]  # of Magpie's table
    assert electronegativity.argmax() + 1 == 9 and electronegativity[25] > electronegativity[18]  # F; Fe above K


def test_element_vectors_of_the_schema_can_be_exported():
    import export_elements

    schema = load("workflow/schemas/config.schema.yaml")["properties"]
    models, strategies = (
        schema[k]["additionalProperties"]["properties"]["elements"]["enum"] for k in ("models", "pretraining")
    )
    assert set(models) == set(export_elements.VECTORS) > set(strategies)
    rule = (PROJECT / "workflow/rules/data.smk").read_text()
    assert set(re.search(r'elements="(.*)"', rule)[1].split("|")) == set(export_elements.VECTORS)


def test_probe_of_a_linear_target_is_near_zero_and_of_noise_is_not():
    from matpretrain import probes

    generator = np.random.default_rng(0)
    features = generator.normal(size=(200, 10)) * np.logspace(-3, 3, 10)
    fold = np.arange(200) % 5
    linear = features @ np.logspace(3, -3, 10)
    assert probes.probe(features, linear, fold).max() < 0.02 * np.abs(linear - linear.mean()).mean()
    noise = generator.normal(size=200)
    assert probes.probe(features, noise, fold).mean() > 0.7 * np.abs(noise).mean()


def test_a_probe_of_noise_that_can_be_fitted_exactly_has_not_seen_its_test_rows(monkeypatch):
    from matpretrain import probes

    monkeypatch.setattr(probes, "PENALTIES", [1e-6])
    generator = np.random.default_rng(0)
    features, noise = generator.normal(size=(50, 100)), generator.normal(size=50)
    assert probes.probe(features, noise, np.arange(50) % 5).min() > 0.5 * np.abs(noise).mean()


def test_a_probe_on_one_fold_has_no_spread(monkeypatch):
    from matpretrain import probes

    monkeypatch.setattr(probes, "embed", lambda encoder, inputs: inputs)
    features, table = (
        np.random.default_rng(0).normal(size=(20, 3)),
        pd.DataFrame({"target": range(20), "fold": [0] * 5 + [-1] * 15}),
    )
    assert np.isnan(probes.probe_all([(0, 0, None)], features, table, print)["mae_std"]).all()
