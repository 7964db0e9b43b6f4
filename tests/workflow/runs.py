"""A user's CSV of 60 measured formation energies and a fast configuration for it."""

import yaml
from conftest import error_line  # noqa: F401

from matpretrain.sources import read_embedded

FAST = {"epochs": 2}
MODELS = ["roost", "roost-ssl", "rf-magpie", "rf-roost-ssl", "rf-onehot", "dummy"]
SMALL_FORESTS = {m: {"arguments": {"trees": 20}} for m in MODELS if m.startswith("rf-")}
NEW = {"csv": "mine.csv", "dataset": "mine", "model": "roost"}
COLUMNS = ["id", "fold", "seed", "part", "target", "prediction", "aleatoric_std", "epistemic_std"]


def write_csv_of_60(folder, edit=lambda table: table):
    table = read_embedded("pymatgen_exp_formation_energy").sample(60, random_state=1)
    table = edit(table[["formula", "target"]].rename(columns={"target": "energy"}).reset_index(drop=True))
    table.to_csv(folder / "mine.csv", index=False)


def write_config(folder, **changes):
    config = {
        "datasets": {"mine": {"csv": "mine.csv", "target": "energy", "unit": "eV/atom"}},
        "benchmark": {"datasets": ["mine"], "models": MODELS, "seeds": [0, 1], "probes": ["mine"]},
        "recipe": FAST,
        "corpora": {"ours": {"kind": "union", "of": ["mine"]}},
        "pretraining_recipe": {**FAST, "batch_size": 16},
        "pretraining": {"ssl": {"corpus": "ours"}},
        "models": SMALL_FORESTS,
        **changes,
    }
    (folder / "my.yaml").write_text(yaml.safe_dump(config))
    return ["--configfile", "my.yaml"]
