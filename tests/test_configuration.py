"""Configuration, environments and registries agree with each other."""

import os
import re

import pytest
import yaml
from conftest import PROJECT

from matpretrain.configuration import check, set_environment
from matpretrain.files import DataError
from matpretrain.sources import EMBEDDED, SPECTRA


def load(path):
    return yaml.safe_load((PROJECT / path).read_text())


def pins():
    lines = (PROJECT / "requirements.txt").read_text() + (PROJECT / "requirements-nodeps.txt").read_text()
    found = dict(line.split("==") for line in lines.splitlines() if "==" in line and not line.startswith("#"))
    return {name.lower().replace("_", "-"): version for name, version in found.items()}


@pytest.mark.parametrize("path", sorted(p.relative_to(PROJECT) for p in (PROJECT / "envs").glob("*.yaml")))
def test_conda_environments_hold_the_versions_of_requirements(path):
    known, seen = pins(), 0
    for item in load(path)["dependencies"]:
        for requirement in item["pip"] if isinstance(item, dict) else [item]:
            if requirement == "pip" or requirement.startswith("python="):
                continue
            name, version = re.fullmatch(r"([\w.-]+?)==?([\w.]+)", requirement).groups()
            name = {"pytorch": "torch", "matplotlib-base": "matplotlib", "python-safetensors": "safetensors"}.get(name, name)
            assert known[name.lower()] == version, requirement
            seen += 1
    assert seen


def test_what_is_installed_after_an_environment_has_the_same_version():
    known = pins()
    for script in (PROJECT / "envs").glob("*.post-deploy.sh"):
        found = re.findall(r"([\w-]+)==([\w.]+)", script.read_text())
        assert found and all(known[name] == version for name, version in found)


def test_every_rule_names_an_environment_that_exists():
    for rules in (PROJECT / "workflow/rules").glob("*.smk"):
        for name in re.findall(r'"\.\./\.\./(envs/\w+\.yaml)"', rules.read_text()):
            assert (PROJECT / name).is_file(), name
        blocks = re.split(r"^rule ", rules.read_text(), flags=re.MULTILINE)[1:]
        for block in blocks:
            if "script:" in block:
                assert "conda:" in block and "log:" in block, block.splitlines()[0]


def test_requirements_pin_everything_that_is_installed():
    from importlib.metadata import distributions

    ours = {d.metadata["Name"].lower().replace("_", "-"): d.version.split("+")[0] for d in distributions()}
    known = pins()
    # torch pins its own CUDA packages exactly; which of them a machine gets depends on its wheel
    free = ("pip", "wheel", "matpretrain", "nvidia", "cuda", "triton")
    missing = {n: v for n, v in ours.items() if known.get(n) != v and not n.startswith(free)}
    assert not missing


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


def test_every_key_of_the_configuration_is_in_its_reference():
    text = (PROJECT / "config/README.md").read_text()
    config = load("config/config.yaml")
    keys = [*config, *config["benchmark"], *config["maps"], *config["subsets"]["huang2024"], *config["recipe"]]
    schema = load("workflow/schemas/config.schema.yaml")["properties"]
    keys += schema["datasets"]["additionalProperties"]["properties"]
    for registry in ("models", "corpora", "pretraining", "predict"):
        keys += schema[registry]["additionalProperties"]["properties"]
    tasks = schema["pretraining"]["additionalProperties"]["properties"]["tasks"]["properties"]
    keys += [*tasks, *tasks["barlow_twins"]["properties"], *tasks["denoising"]["properties"]]
    missing = [key for key in keys if f"`{key}`" not in text]
    assert not missing


@pytest.fixture
def shipped():
    """The configuration as it is shipped."""
    config = {}
    for name in ("config", "datasets", "models", "pretraining"):
        config |= load(f"config/{name}.yaml")
    return config


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"corpus": "oqmd"}, "pretraining.mine.corpus: megnet reads structures; name a corpus of kind structures"),
        ({"tasks": {"magpie": {}}}, "pretraining.mine.tasks: magpie is not a task for megnet, which reads graphs"),
        ({"encoder": "roost"}, "pretraining.mine.tasks: denoising is not a task for roost, which reads compositions"),
        (
            {"encoder": "roost", "tasks": {"structure": {}}},
            "corpora.aflow_prototypes: pretraining.mine embeds its structures: it needs teacher: PATH; add it",
        ),
    ],
)
def test_networks_tasks_and_corpora_that_do_not_fit_are_refused(changes, line, shipped):
    shipped["pretraining"] = shipped["pretraining"] | {"mine": shipped["pretraining"]["cdssl-aflow"] | changes}
    with pytest.raises(DataError) as refused:
        check(shipped, PROJECT)
    assert str(refused.value) == f"config key {line}"


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (
            {"enz": {"datasets": ["mp_seebeck_p"]}},
            "enz.datasets: mp_seebeck_p has no spectra; give it energies: [first, last, step] or",
        ),
        ({"enz": {"models": ["dummy"]}}, "enz.models: dummy is a baseline; name a network"),
        ({"enz": {"recipe": {"loss": "robust_l1"}}}, "enz.recipe.loss: spectra are learned with l1 or mse"),
        ({"benchmark": {"datasets": ["optical_constants"]}}, "benchmark.datasets: optical_constants holds spectra"),
        (
            {"datasets": {"optical_constants": {"energies": [5.0, 1.0, 0.1]}}},
            "datasets.optical_constants.energies: give first, last",
        ),
        ({"models": {"finder": {"arguments": {"mode": "both"}}}}, "models.finder.arguments.mode: 'both' is not one of"),
    ],
)
def test_spectra_and_modes_that_do_not_fit_are_refused(changes, line, shipped):
    def merge(into, changes):
        for key, value in changes.items():
            into[key] = merge(dict(into[key]), value) if isinstance(value, dict) and key in into else value
        return into

    with pytest.raises(DataError) as refused:
        check(merge(shipped, changes), PROJECT)
    assert str(refused.value).startswith(f"config key {line}")


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


def test_networks_of_structures_meet_datasets_with_structures_only(shipped):
    shipped["subsets"] = {
        "mine": {"datasets": ["matbench_steels"], "sizes": [100], "models": ["megnet"], "reference": "megnet"}
    }
    with pytest.raises(DataError, match="config key subsets.mine: megnet reads structures, which matbench_steels has none of"):
        check(shipped, PROJECT)
    shipped["subsets"]["mine"]["models"] = ["roost"]
    check(shipped, PROJECT)
    entry = {"csv": str(PROJECT / "README.md"), "target": "gap", "unit": "eV", "structures": "absent"}
    shipped["datasets"] = shipped["datasets"] | {"mine": entry}
    with pytest.raises(DataError, match="config key datasets.mine.structures: absent: no such file or folder"):
        check(shipped, PROJECT)


@pytest.mark.parametrize(
    ("entry", "missing"),
    [
        ({"kind": "union"}, "of: "),
        ({"kind": "formulas"}, "csv: PATH"),
        ({"kind": "vectors", "formula": "f"}, "csv: PATH"),
        ({"kind": "structures"}, "csv: PATH"),
    ],
)
def test_a_corpus_without_its_source_is_refused(entry, missing, shipped):
    check(shipped, PROJECT)
    config = shipped
    config["corpora"] = config["corpora"] | {"mine": entry}
    with pytest.raises(DataError, match=f"config key corpora.mine: a corpus of kind {entry['kind']} needs {missing}"):
        check(config, PROJECT)


def test_tasks_of_the_schema_are_those_of_the_code():
    from matpretrain.objectives import PRETEXT

    schema = load("workflow/schemas/config.schema.yaml")["properties"]["pretraining"]["additionalProperties"]
    assert sorted(schema["properties"]["tasks"]["properties"]) == sorted(PRETEXT)


def test_registered_models_exist():
    import importlib

    import fit_baseline

    for entry in load("config/models.yaml")["models"].values():
        if "encoder" in entry:
            network = importlib.import_module(f"matpretrain.{entry['encoder']}")
            assert network.Model and network.Inputs
        else:
            assert entry["estimator"] in fit_baseline.ESTIMATORS
