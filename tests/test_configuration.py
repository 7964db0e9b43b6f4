"""Configuration and registries agree with each other."""

import os
import re
from pathlib import Path

import pytest
from conftest import PROJECT, load, overlaid

from matpretrain.configuration import check, set_environment
from matpretrain.files import DataError
from matpretrain.sources import EMBEDDED, SPECTRA

FAULTS = "Configuration: what does not fit together"


def test_schema_is_closed_and_describes_every_key():
    def walk(node, path):
        for key, value in node.get("properties", {}).items():
            assert value.get("description"), f"{path}.{key} has no description"
            walk(value, f"{path}.{key}")
        inner = node.get("additionalProperties")
        if isinstance(inner, dict):
            walk(inner, f"{path}.*")
        elif node.get("type") == "object":
            assert inner is False, f"{path} is not closed"

    schema = load("workflow/schemas/config.schema.yaml")
    walk(schema, "config")
    embedded = schema["properties"]["datasets"]["additionalProperties"]["properties"]["embedded"]["enum"]
    assert sorted(embedded) == sorted([*EMBEDDED, *SPECTRA])


def test_tasks_of_the_schema_are_those_of_regression_in_matbench():
    from matbench.metadata import mbv01_metadata

    schema = load("workflow/schemas/config.schema.yaml")["properties"]["datasets"]["additionalProperties"]
    tasks = [name for name, task in mbv01_metadata.items() if task.task_type == "regression"]
    assert schema["properties"]["matbench"]["enum"] == sorted(tasks)


def test_every_key_of_the_configuration_is_in_its_reference():
    text = (PROJECT / "config/README.md").read_text()
    config = load("config/config.yaml")
    keys = [*config, *config["benchmark"], *config["maps"], *config["subsets"]["huang2024"], *config["default_recipes"]["all"]]
    schema = load("workflow/schemas/config.schema.yaml")["properties"]
    keys += schema["datasets"]["additionalProperties"]["properties"]
    for registry in ("models", "corpora", "pretraining", "predict"):
        keys += schema[registry]["additionalProperties"]["properties"]
    tasks = schema["pretraining"]["additionalProperties"]["properties"]["tasks"]["properties"]
    keys += [*tasks, *tasks["barlow_twins"]["properties"], *tasks["denoising"]["properties"]]
    missing = [key for key in keys if f"`{key}`" not in text]
    assert not missing


@pytest.mark.parametrize(
    ("what", "changes", "line"),
    [
        (
            "A corpus of formulas for a network of structures",
            {"corpus": "oqmd"},
            "pretraining.mine.corpus: megnet reads structures; name a corpus of kind structures",
        ),
        (
            "A task of formulas for a network of structures",
            {"tasks": {"magpie": {}}},
            "pretraining.mine.tasks: magpie is not a task for megnet, which reads graphs; name denoising",
        ),
        (
            "A task of structures for a network of formulas",
            {"encoder": "roost"},
            "pretraining.mine.tasks: denoising is not a task for roost, which reads compositions; name barlow_twins or magpie or structure",
        ),
        (
            "Structures to be embedded without a teacher",
            {"encoder": "roost", "tasks": {"structure": {}}},
            "corpora.aflow_prototypes: pretraining.mine embeds its structures: it needs teacher: PATH; add it",
        ),
    ],
)
def test_networks_tasks_and_corpora_that_do_not_fit_are_refused(fault, what, changes, line, shipped):
    shipped["pretraining"] = shipped["pretraining"] | {"mine": shipped["pretraining"]["cdssl-aflow"] | changes}
    with fault(what, f"config key {line}"):
        check(shipped, PROJECT)


@pytest.mark.parametrize(
    ("what", "changes", "line"),
    [
        (
            "A search for near-zero permittivity without spectra",
            {"enz": {"datasets": ["mp_seebeck_p"]}},
            "enz.datasets: mp_seebeck_p has no spectra; give it energies: [first, last, step] or",
        ),
        ("A baseline for spectra", {"enz": {"models": ["dummy"]}}, "enz.models: dummy is a baseline; name a network"),
        (
            "A loss that spectra do not have",
            {"enz": {"recipe": {"loss": "robust_l1"}}},
            "enz.recipe.loss: spectra are learned with l1 or mse",
        ),
        (
            "A loss that one dataset of spectra does not have",
            {"datasets": {"optical_constants": {"recipe": {"loss": "robust_l1"}}}},
            "datasets.optical_constants.recipe.loss: spectra are learned with l1 or mse",
        ),
        (
            "Logarithms of spectra",
            {"datasets": {"optical_constants": {"recipe": {"target_scale": "log"}}}},
            "datasets.optical_constants.recipe.target_scale: spectra have negative parts",
        ),
        (
            "Spectra in the benchmark",
            {"benchmark": {"datasets": ["optical_constants"]}},
            "benchmark.datasets: optical_constants holds spectra",
        ),
        (
            "A grid of energies that ends before it begins",
            {"datasets": {"optical_constants": {"energies": [5.0, 1.0, 0.1]}}},
            "datasets.optical_constants.energies: give first, last",
        ),
        (
            "A column of folds beside a number of folds",
            {"datasets": {"mine": {"csv": "README.md", "target": "t", "unit": "eV", "fold": "part", "n_folds": 3}}},
            "datasets.mine.n_folds: the column 'part' (fold) splits the rows; remove one of the two",
        ),
        (
            "A column of groups of what is no CSV",
            {"datasets": {"matbench_steels": {"group": "alloy"}}},
            "datasets.matbench_steels.group: it names a column of a CSV of yours; add csv: PATH or remove it",
        ),
        (
            "A mode that Finder does not have",
            {"models": {"finder": {"arguments": {"mode": "both"}}}},
            "models.finder.arguments.mode: 'both' is not one of",
        ),
        (
            "A statistic that no forest predicts",
            {"models": {"rf-magpie": {"arguments": {"prediction": "mode"}}}},
            "models.rf-magpie.arguments.prediction: 'mode' is not one of",
        ),
        (
            "A share of the features above one",
            {"models": {"rf-magpie": {"arguments": {"max_features": 30}}}},
            "models.rf-magpie.arguments.max_features: 30 is greater than",
        ),
        (
            "Braces in a path",
            {"datasets": {"mine": {"csv": "gap{1}.csv", "target": "gap", "unit": "eV"}}},
            "datasets.mine.csv: gap{1}.csv: Snakemake reads braces",
        ),
        (
            "A file in place of embedded structures",
            {"corpora": {"aflow_prototypes": {"csv": str(PROJECT / "README.md")}}},
            "corpora.aflow_prototypes.csv: it has the structures of aflow_prototypes; give your own",
        ),
    ],
)
def test_spectra_and_arguments_that_do_not_fit_are_refused(fault, what, changes, line, shipped):
    with fault(what, f"config key {line}"):
        check(overlaid(shipped, changes), PROJECT)


@pytest.mark.parametrize(
    ("what", "changes", "line"),
    [
        (
            "A rate that is not finite",
            {"recipe": {"learning_rate": float("inf")}},
            "recipe.learning_rate: inf is not of type 'number'",
        ),
        (
            "A seed that some generators cannot take",
            {"benchmark": {"seeds": [2**32]}},
            "benchmark.seeds.0: 4294967296 is greater than",
        ),
        (
            "A target without a name",
            {"datasets": {"mine": {"csv": "mine.csv", "target": "", "unit": "eV"}}},
            "datasets.mine.target: '' should be non-empty",
        ),
        (
            "A task of Matbench that sorts into classes",
            {"datasets": {"mine": {"matbench": "matbench_glass", "target": "gfa", "unit": "unitless"}}},
            "datasets.mine.matbench: 'matbench_glass' is not one of ['matbench_dielectric',",
        ),
        ("A cohort of no known kind", {"cohort": "every"}, "cohort: 'every' is not one of auto, all, a whole number from 1"),
        ("A cohort of no fold", {"cohort": 0}, "cohort: 0 is not one of auto, all, a whole number from 1"),
        ("A key that is misspelt", {"mirorr": "raw"}, "(top level): there is no key 'mirorr' here; the nearest are mirror,"),
        (
            "A key that is misspelt where another is missing",
            {"datasets": {"mine": {"csv": "mine.csv", "target": "gap", "units": "eV"}}},
            "datasets.mine: there is no key 'units' here; the nearest are unit,",
        ),
    ],
)
def test_values_out_of_range_are_refused(fault, what, changes, line, shipped):
    with fault(what, f"config key {line}"):
        check(overlaid(shipped, changes), PROJECT)


def test_a_key_that_stands_twice_is_refused(fault, shipped, tmp_path):
    path = tmp_path / "my.yaml"
    path.write_text("recipe: &recipe\n  epochs: 3\nother:\n  <<: *recipe\n  epochs: 4\n")
    check(shipped, PROJECT, [path])
    path.write_text('{\n\t"recipe": {"epochs": 3}\n}')  # JSON, with a tab, which is no YAML
    check(shipped, PROJECT, [path])
    path.write_text("1: a\n'1': b\nlist: [{b: 1}, {b: 2}]\n")
    check(shipped, PROJECT, [path])
    path.write_text("datasets:\n  mine:\n    csv: a.csv\n    unit: eV\n  mine:\n    csv: b.csv\n")
    with fault("A key twice in one file", "my.yaml: line 5: datasets.mine stands in line 2 too"):
        check(shipped, PROJECT, [path])


def test_numbers_within_a_value_of_the_command_line_are_read(shipped):
    text = {"recipe": {"epochs": "3", "learning_rate": "1.0e-3"}, "benchmark": {"seeds": ["0", "1"]}}
    changed = overlaid(
        shipped, text | {"datasets": {"mine": {"csv": "README.md", "target": "7", "unit": "eV", "log10": "true"}}}
    )
    check(changed, PROJECT)
    assert changed["recipe"]["epochs"] == 3 and changed["recipe"]["learning_rate"] == 0.001
    assert changed["benchmark"]["seeds"] == [0, 1]
    assert changed["datasets"]["mine"]["target"] == "7" and changed["datasets"]["mine"]["log10"] is True
    subset = {"datasets": ["matbench_steels"], "sizes": ["20", "10%"], "models": ["roost", "dummy"], "reference": "dummy"}
    changed = overlaid(shipped, {"subsets": {"mine": subset}})
    check(changed, PROJECT)
    assert changed["subsets"]["mine"]["sizes"] == [20, "10%"]
    for bad in ("three", "{3", "3.5"):
        with pytest.raises(DataError, match=r"config key recipe\.epochs: .* is not of type 'integer'"):
            check(overlaid(shipped, {"recipe": {"epochs": bad}}), PROJECT)


def test_a_path_counts_from_home_or_from_the_project(shipped, fault, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine.csv").touch()
    mine = {"target": "gap", "unit": "eV"}
    config = overlaid(shipped, {"datasets": {"mine": mine | {"csv": "~/mine.csv"}}, "mirror": "~"})
    check(config, PROJECT)
    assert config["datasets"]["mine"]["csv"] == str(tmp_path / "mine.csv") and config["mirror"] == str(tmp_path)
    monkeypatch.chdir(tmp_path)
    with fault("A path that counts from another folder", f"{tmp_path}/other.csv: no such file (paths count from the project"):
        check(overlaid(shipped, {"datasets": {"mine": mine | {"csv": "other.csv"}}}), PROJECT)


def test_jobs_inherit_the_backend_and_sleeping_threads(shipped, monkeypatch):
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    monkeypatch.delenv("MATGL_BACKEND", raising=False)
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    set_environment(shipped | {"structure_backend": "dgl"})
    assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE" and os.environ["MATGL_BACKEND"] == "dgl"
    assert "mmap_max=0" in os.environ["GLIBC_TUNABLES"]
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.check=0")
    set_environment(shipped)
    assert os.environ["OMP_WAIT_POLICY"] == "ACTIVE" and os.environ["MATGL_BACKEND"] == "pyg"
    assert os.environ["GLIBC_TUNABLES"] == "glibc.malloc.check=0"


def test_networks_of_structures_meet_datasets_with_structures_only(shipped, fault):
    shipped["subsets"] = {
        "mine": {"datasets": ["matbench_steels"], "sizes": [100], "models": ["megnet"], "reference": "megnet"}
    }
    with fault("A network of structures on a dataset of formulas", "subsets.mine: megnet reads structures", "has none of"):
        check(shipped, PROJECT)
    shipped["subsets"]["mine"] |= {"models": ["roost"], "reference": "roost"}
    check(shipped, PROJECT)
    entry = {"csv": str(PROJECT / "README.md"), "target": "gap", "unit": "eV", "structures": "absent"}
    shipped["datasets"] = shipped["datasets"] | {"mine": entry}
    with fault(
        "A folder of structures that is not there", f"datasets.mine.structures: {Path('absent').absolute()}: no such file"
    ):
        check(shipped, PROJECT)
    entry["structures"] = True
    with fault("Structures of a CSV without their file", "datasets.mine.structures: a CSV holds none; name the file"):
        check(shipped, PROJECT)


@pytest.mark.parametrize(
    ("what", "entry", "missing"),
    [
        ("A union of nothing", {"kind": "union"}, "of: "),
        ("Formulas without a file", {"kind": "formulas"}, "csv: PATH"),
        ("Embeddings without a file", {"kind": "vectors", "formula": "f"}, "csv: PATH"),
        ("Structures without a file", {"kind": "structures"}, "csv: PATH"),
    ],
)
def test_a_corpus_without_its_source_is_refused(fault, what, entry, missing, shipped):
    check(shipped, PROJECT)
    config = shipped
    config["corpora"] = config["corpora"] | {"mine": entry}
    with fault(what, f"config key corpora.mine: a corpus of kind {entry['kind']} needs {missing}"):
        check(config, PROJECT)


def test_tasks_of_the_schema_are_those_of_the_code():
    from matpretrain.objectives import PRETEXT

    schema = load("workflow/schemas/config.schema.yaml")["properties"]["pretraining"]["additionalProperties"]
    assert sorted(schema["properties"]["tasks"]["properties"]) == sorted(PRETEXT)


def test_registered_models_exist():
    import importlib

    from matpretrain import estimators

    for entry in load("config/models.yaml")["models"].values():
        if "encoder" in entry:
            network = importlib.import_module(f"matpretrain.{entry['encoder']}")
            assert network.Model and network.Inputs
        else:
            assert callable(getattr(estimators, entry["estimator"]))


def test_what_downloads_runs_on_the_machine_with_the_network():
    scripts = [path.stem for path in (PROJECT / "workflow/scripts").glob("*.py") if "fetch" in path.read_text()]
    local = re.search(r"^localrules:\n((?:    \w+,\n)+)", (PROJECT / "workflow/rules/data.smk").read_text(), re.MULTILINE)
    assert scripts == local[1].replace(",", "").split()


def test_splits_that_fit_but_for_rounding_are_accepted(shipped):
    mine = {"target": "gap", "unit": "eV", "csv": str(PROJECT / "README.md")}
    study = {"datasets": ["mine"], "sizes": ["67%"], "models": ["roost", "dummy"], "reference": "dummy"}
    check(overlaid(shipped, {"datasets": {"mine": mine | {"n_folds": 3}}, "subsets": {"mine": study}}), PROJECT)
    check(overlaid(shipped, {"datasets": {"mine": mine | {"n_folds": 6, "test_fraction": 0.1667}}}), PROJECT)


def test_subsets_beside_a_share_of_groups_are_left_to_the_job(shipped):
    """Two test parts of a fifth of the groups may hold a tenth of the rows."""
    mine = {"target": "gap", "unit": "eV", "csv": str(PROJECT / "README.md"), "n_folds": 2, "test_fraction": 0.2}
    study = {"datasets": ["mine"], "sizes": ["90%"], "models": ["roost", "dummy"], "reference": "dummy"}
    for split in ({"group": "lab"}, {"split": "group_by_chemical_system"}):
        check(overlaid(shipped, {"datasets": {"mine": mine | split}, "subsets": {"mine": study}}), PROJECT)
    with pytest.raises(DataError, match="90% is more than mine has beside a test part, 80%"):
        check(overlaid(shipped, {"datasets": {"mine": mine}, "subsets": {"mine": study}}), PROJECT)


def test_networks_of_structures_do_not_count_where_none_are(shipped):
    mine = {"mine": {"target": "gap", "unit": "eV", "csv": str(PROJECT / "README.md"), "inner_fraction": 0}}
    check(overlaid(shipped, {"datasets": mine, "encoder_recipes": {"cgcnn": {"patience": 20}}}), PROJECT)
    with pytest.raises(DataError, match="select: best or a patience"):
        check(overlaid(shipped, {"datasets": mine, "encoder_recipes": {"finder": {"patience": 20}}}), PROJECT)


def test_a_file_of_the_user_takes_the_place_of_one_that_no_loader_offers(shipped, tmp_path):
    (tmp_path / "mine.csv").touch()
    config = overlaid(shipped, {"datasets": {"no_polymorph_e_form": {"csv": str(tmp_path / "mine.csv"), "target": "gap"}}})
    check(config, PROJECT)
    left = config["datasets"]["no_polymorph_e_form"]
    assert not {"n_samples", "structures", "missing_structures", "mirror_file"} & left.keys() and left["n_folds"] == 3
    assert shipped["datasets"]["no_polymorph_e_form"]["n_samples"] == 84295, "that of the registry"


MINE = """
class Model:
    def __init__(self, element_vectors, n_outputs, size=3, *, width=64):
        pass


class Inputs:
    pass
"""


def test_a_network_of_the_user_has_arguments_of_its_own(shipped, fault, tmp_path, own_package):
    (own_package / "mine.py").write_text(MINE)

    def checked(**arguments):
        check(overlaid(shipped, {"models": {"own": {"encoder": "mine", "label": "own", "arguments": arguments}}}), tmp_path)

    checked(size=256, width=32)
    with pytest.raises(DataError, match="models.own.arguments.depth: mine has no such argument, it has size, width"):
        checked(depth=1)
    (own_package / "broken.py").write_text("class Model:\n    def __init__(self:\n        pass\n")
    broken = {"models": {"own": {"encoder": "broken", "label": "own"}}}
    with fault("A network's module that is no Python", "matpretrain/broken.py: line 2: no Python (", "correct it"):
        check(overlaid(shipped, broken), tmp_path)
