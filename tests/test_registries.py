"""Entries of the registries that do not fit each other are refused before anything is planned."""

import numpy as np
import pytest
import yaml
from conftest import PROJECT, overlaid
from entries import SSL, model, strategy

from matpretrain.configuration import check
from matpretrain.files import DataError
from matpretrain.registries import recipe_of
from matpretrain.subsets import for_rows

FAULTS = "Registries: what does not fit together"
SPECTRA = {"embedded": "matminer_optical_constants", "energies": [0.5, 12.4, 0.1], "target": "eps", "unit": "unitless"}
PREDICTION = {"csv": str(PROJECT / "README.md"), "dataset": "matbench_jdft2d"}
STUDY = {"datasets": ["matbench_steels"], "sizes": [100], "models": ["roost"], "reference": "dummy"}


def spectra(**entry):
    return {"datasets": {"mine": SPECTRA | entry}}


NAMES = [
    (
        "A dataset to be probed that is not registered",
        {"benchmark": {"probes": ["steels"]}},
        "benchmark.probes: 'steels' is not in",
    ),
    (
        "Seeds of a dataset that is not registered",
        {"benchmark": {"seeds_per_dataset": {"steels": [0]}}},
        "benchmark.seeds_per_dataset: 'steels' is not in the registry of datasets",
    ),
    (
        "A recipe for an encoder that no model has",
        {"encoder_recipes": {"rost": {"epochs": 3}}},
        "encoder_recipes.rost: no model has this encoder; the nearest are roost",
    ),
    (
        "Settings for many rows that do not say how many",
        {"encoder_recipes": {"finder": {"large": {"epochs": 3}}}},
        "encoder_recipes.finder.large: it has no rows; say from how many",
    ),
    (
        "Weights chosen by validation rows where none are held out",
        {"inner_fraction": 0, "encoder_recipes": {"roost": {"select": "best"}}},
        "inner_fraction: roost on matbench_steels has select: best or a patience, which need rows; hold out some",
    ),
    (
        "A dataset without validation rows whose recipe stops early",
        {"datasets": {"matbench_phonons": {"inner_fraction": 0, "recipe": {"patience": 5}}}},
        "datasets.matbench_phonons.inner_fraction: ",
    ),
    (
        "Weights chosen by validation rows in all recipes where none are held out",
        {"inner_fraction": 0, "recipe": {"select": "best"}},
        "inner_fraction: roost on matbench_steels has select: best or a patience, which need rows; hold out some",
    ),
    (
        "A subset of more rows than a dataset has",
        {"subsets": {"huang2024": {"datasets": ["matbench_steels"]}}},
        "subsets.huang2024.sizes: 500 is more than matbench_steels has beside a test part, 80% of 312 rows; make it smaller",
    ),
    ("A reference outside its study", {"subsets": {"mine": STUDY}}, "subsets.mine.reference: dummy is not among the models"),
    (
        "Two models with one label",
        model(label="Roost", encoder="roost"),
        "models.mine.label: roost has the label 'Roost' too; give each",
    ),
    (
        "A model with the name of a dataset",
        {"models": {"matbench_steels": {"label": "Mine", "encoder": "roost"}}},
        "models.matbench_steels: there is a dataset of that name; rename",
    ),
    (
        "A strategy with the name of a feature",
        {"pretraining": {"magpie": SSL}},
        "pretraining.magpie: features have that name already; rename",
    ),
    (
        "A strategy with the name of the embeddings of structures",
        {"pretraining": {"structure": SSL}},
        "pretraining.structure: features have that name already; rename",
    ),
    (
        "A union of itself",
        {"corpora": {"mine": {"kind": "union", "of": ["mine", "mp_seebeck_p"]}}},
        "corpora.mine.of: mine would be made from itself",
    ),
    (
        "Two unions of each other",
        {"corpora": {"mine": {"kind": "union", "of": ["ours"]}, "ours": {"kind": "union", "of": ["mine"]}}},
        "corpora.mine.of: mine would be made from itself",
    ),
    ("A network that starts from itself", model(encoder="finder", initial="mine"), "models.mine.initial: mine would be made"),
    (
        "Every run left out",
        {
            "benchmark": {
                "datasets": ["matbench_steels"],
                "models": ["roost", "dummy"],
                "exclude": {"matbench_steels": ["dummy", "roost"]},
            }
        },
        "benchmark.exclude: no run is left; leave out less",
    ),
]
STRUCTURES = [
    (
        "Predictions of a network of structures",
        {"predict": {"new": PREDICTION | {"model": "finder-structure"}}},
        "predict.new.model: finder-structure reads structures, which formulas have none of; name a network of formulas",
    ),
    (
        "Predictions of a network that starts from structures that are not there",
        {"predict": {"new": PREDICTION | {"dataset": "matbench_steels", "model": "finder-from-structure"}}},
        "predict.new: finder-from-structure reads structures, which matbench_steels has none of",
    ),
    (
        "A network of structures for spectra",
        {"enz": {"models": ["finder-structure"]}},
        "enz: finder-structure reads structures, which optical_constants has none of",
    ),
    (
        "A map of an encoder of structures",
        {"maps": {"pretraining": ["cdssl-aflow"]}},
        "maps.pretraining: cdssl-aflow pretrains an encoder of structures, and rows are embedded by their formulas here; name another",
    ),
    (
        "A baseline on an encoder of structures",
        model(estimator="mean", features="cdssl-aflow"),
        "models.mine.features: cdssl-aflow pretrains an encoder of structures",
    ),
    (
        "A linear probe of an encoder of structures",
        {
            "benchmark": {
                "datasets": ["aflow_density"],
                "models": ["megnet", "megnet-cdssl-aflow"],
                "probes": ["aflow_density"],
            }
        },
        "benchmark.probes: cdssl-aflow pretrains an encoder of structures, and rows are embedded by their formulas here; leave",
    ),
    (
        "A union with structures that have no teacher",
        {"corpora": {"mine": {"kind": "union", "of": ["aflow_prototypes", "mp_seebeck_p"]}}},
        "corpora.mine.of: aflow_prototypes has no compositions without teacher: PATH; add that there or leave it out",
    ),
    (
        "Formulas of structures that have no teacher",
        strategy(corpus="aflow_prototypes"),
        "corpora.aflow_prototypes: pretraining.mine embeds its structures: it needs teacher: PATH; add it",
    ),
    (
        "Embeddings of structures in a corpus of formulas",
        strategy(tasks={"structure": {}}),
        "pretraining.mine.tasks: structure: mp_transport has no structures to embed; name a corpus of kind structures or vectors",
    ),
    (
        "Embeddings of structures in a union that has formulas too",
        {
            "corpora": {"mixed": {"kind": "union", "of": ["materials_project", "mp_seebeck_p"]}},
            **strategy(corpus="mixed", tasks={"structure": {}}),
        },
        "pretraining.mine.tasks: structure: mixed has no structures to embed",
    ),
    (
        "The logarithm of spectra",
        spectra(log10=True),
        "datasets.mine.log10: spectra (id, formula, energy, eps_re, eps_im) have no use for it; remove it",
    ),
    (
        "One spectrum per composition",
        spectra(one_per_composition="median"),
        "datasets.mine.one_per_composition: spectra (id, formula, energy, eps_re, eps_im) have no use for it",
    ),
    ("A column of formulas of spectra", spectra(formula="material"), "datasets.mine.formula: spectra (id, formula, energy"),
    (
        "A column of ids of spectra",
        spectra(id="key"),
        "datasets.mine.id: spectra (id, formula, energy, eps_re, eps_im) have no",
    ),
]


TABLE = {"target": "gap", "unit": "eV"}
SOURCES = [
    (
        "Embedded spectra without energies",
        {"datasets": {"mine": TABLE | {"embedded": "matminer_optical_constants"}}},
        "datasets.mine: matminer_optical_constants holds spectra; give it energies: [first, last, step]",
    ),
    (
        "Structures of an embedded dataset that has none",
        {"datasets": {"mine": TABLE | {"embedded": "pymatgen_exp_formation_energy", "structures": True}}},
        "datasets.mine.structures: pymatgen_exp_formation_energy holds none; remove it, or name aflow_prototypes",
    ),
    (
        "A path of structures for a download",
        {"datasets": {"mine": TABLE | {"matminer": "jarvis_dft_2d", "structures": "cifs"}}},
        "datasets.mine.structures: a path goes with csv: PATH; write structures: true",
    ),
    (
        "Rows of a CSV that may have no structure",
        {
            "datasets": {
                "mine": TABLE | {"csv": str(PROJECT / "README.md"), "structures": str(PROJECT), "missing_structures": "drop"}
            }
        },
        "datasets.mine.missing_structures: rows of a CSV have the structures of their ids, all of them; remove it",
    ),
    (
        "A number of samples of structures",
        {"corpora": {"aflow_prototypes": {"n_samples": 288}}},
        "corpora.aflow_prototypes.n_samples: a corpus of kind structures has no use for it; remove it",
    ),
    (
        "Test parts that overlap",
        {"datasets": {"mine": TABLE | {"csv": str(PROJECT / "README.md"), "test_fraction": 0.3}}},
        "datasets.mine.test_fraction: 5 test parts of 0.3 of the rows overlap; set a smaller n_folds or test_fraction",
    ),
    (
        "A subset larger than a training part",
        {"subsets": {"ihalage2022": {"sizes": ["10%", "90%"]}}},
        "subsets.ihalage2022.sizes: 90% is more than matbench_mp_e_form has beside a test part, 80%; make it smaller",
    ),
    (
        "A dataset named as a folder of probes",
        {"datasets": {"crystals": TABLE | {"embedded": "pymatgen_exp_formation_energy"}}},
        "datasets.crystals: tables and files of results have that name already; choose another",
    ),
    (
        "A model named as the submissions",
        {"models": {"published": {"encoder": "roost", "label": "mine"}}},
        "models.published: tables and files of results have that name already; choose another",
    ),
    (
        "A map of spectra",
        {"maps": {"datasets": ["optical_constants"]}},
        "maps.datasets: optical_constants holds spectra, which have tables of their own; name it in enz.datasets",
    ),
    (
        "Structures without those of a dataset",
        {"corpora": {"materials_project": {"without": ["matbench_steels"]}}},
        "corpora.materials_project.without: a corpus of kind structures has no use for it; remove it",
    ),
    (
        "A file of formulas that is a union too",
        {"corpora": {"oqmd": {"of": ["matbench_steels"]}}},
        "corpora.oqmd.of: a corpus of kind formulas has no use for it; remove it",
    ),
    (
        "A dataset named as the mean of all",
        {"datasets": {"all": TABLE | {"embedded": "pymatgen_exp_formation_energy"}}},
        "datasets.all: tables and files of results have that name already; choose another",
    ),
    (
        "A model named as an ensemble",
        {"models": {"roost-ensemble": {"encoder": "roost", "label": "mine"}}},
        "models.roost-ensemble: tables and files of results have that name already; choose another",
    ),
    (
        "A name that YAML reads as a number",
        {"datasets": {123: TABLE | {"embedded": "pymatgen_exp_formation_energy"}}},
        "datasets: 123 is not of type 'string'",
    ),
]


@pytest.mark.parametrize(("what", "changes", "line"), [*NAMES, *STRUCTURES, *SOURCES])
def test_entries_that_do_not_fit_are_refused(fault, what, changes, line, shipped):
    with fault(what, f"config key {line}"):
        check(overlaid(shipped, changes), PROJECT)


@pytest.mark.parametrize(
    "overlay", ["config/demo.yaml", *sorted(p.name for p in (PROJECT / "docs/reproduction").glob("*.yaml"))]
)
def test_shipped_overlays_are_accepted(shipped, overlay):
    path = PROJECT / overlay if "/" in overlay else PROJECT / "docs/reproduction" / overlay
    check(overlaid(shipped, yaml.safe_load(path.read_text())), PROJECT)


def test_an_overlay_takes_a_study_away(shipped):
    config = overlaid(shipped, {"subsets": {"huang2024": None}})
    check(config, PROJECT)
    assert config["subsets"].keys() == shipped["subsets"].keys() - {"huang2024"}


def test_what_holds_for_many_rows(shipped):
    many = {name: recipe_of(shipped, name, "roost")["large"] for name in ("matbench_log_kvrh", "matbench_perovskites")}
    assert many["matbench_log_kvrh"] == {"rows": 3000, "epochs": 150, "learning_rate": 3e-4}
    assert many["matbench_perovskites"] == {"rows": 3000}, "the dataset's own keys win"
    assert "large" not in recipe_of(shipped, "matbench_log_kvrh", "finder")
    few, enough = (
        for_rows(recipe_of(shipped, "matbench_log_kvrh", "roost"), np.repeat([0, 1, 1], n_rows)) for n_rows in (2999, 3000)
    )
    assert (few["learning_rate"], few["epochs"]) == (1e-3, 300) and (enough["learning_rate"], enough["epochs"]) == (3e-4, 150)
    assert few.keys() == enough.keys() == shipped["default_recipes"]["all"].keys()
    shorter = recipe_of(overlaid(shipped, {"recipe": {"epochs": 2}}), "matbench_log_kvrh", "roost")
    assert for_rows(shorter, np.repeat([0, 1, 1], 3000)) == enough | {"epochs": 2}, "what is asked for in the recipe wins"
    own = overlaid(shipped, {"datasets": {"matbench_log_kvrh": {"recipe": {"large": {"rows": 9000}}}}})
    assert recipe_of(own, "matbench_log_kvrh", "roost")["large"] == {"rows": 9000, "epochs": 150, "learning_rate": 3e-4}


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"default_recipes": {"finder": {"large": {"epochs": 3}}}}, "default_recipes.finder.large: it has no rows"),
        ({"encoder_recipes": {"all": {"epochs": 3}}}, "encoder_recipes.all: no model has this encoder"),
    ],
)
def test_keys_of_a_recipe_that_nothing_would_read_are_refused(shipped, changes, line):
    with pytest.raises(DataError, match=line):
        check(overlaid(shipped, changes), PROJECT)


def test_keys_of_a_dataset_win_over_those_of_an_encoder_and_of_spectra(shipped):
    shipped["datasets"]["optical_constants"]["recipe"] = {"epochs": 7}
    epochs = {
        (dataset, encoder): recipe_of(shipped, dataset, encoder)["epochs"]
        for dataset in (None, "matbench_phonons", "matbench_perovskites", "new2024_perovskites", "optical_constants")
        for encoder in ("roost", "finder", "megnet")
    }
    general, of_finder, of_megnet = (epochs[None, encoder] for encoder in ("roost", "finder", "megnet"))
    assert len({general, of_finder, of_megnet}) == 3
    assert [epochs["matbench_phonons", e] for e in ("roost", "finder")] == [general, of_finder]
    assert {epochs["matbench_perovskites", e] for e in ("roost", "finder")} == {15}
    assert epochs["new2024_perovskites", "megnet"] == of_megnet
    assert epochs["optical_constants", "finder"] == 7
    assert (
        recipe_of(shipped, "optical_constants", "finder")["loss"]
        == shipped["enz"]["recipe"]["loss"]
        != shipped["default_recipes"]["all"]["loss"]
    )
