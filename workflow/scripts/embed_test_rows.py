"""Representations [rows, d] of the test rows of the first outer fold by the network that was trained without them: its encoder's
output. Networks of other folds have spaces of their own, which one map cannot hold."""

import importlib
from pathlib import Path

import numpy as np
import torch

from matpretrain.composition import Compositions
from matpretrain.files import DataError, atomic_path, read_csv
from matpretrain.jobs import job
from matpretrain.members import load_members
from matpretrain.weights import embed


def encoder_of(model, name):
    """The part of a network of the module `name` whose outputs are its representations.

    Raises:
        DataError: it has none under that name.
    """
    if not hasattr(model, "encoder"):
        raise DataError(
            f"config key modes.models: Model of matpretrain/{name}.py has no encoder, whose output is mapped; give that part of it "
            "this name, or leave the network out"
        )
    return model.encoder


if __name__ == "__main__":
    with job(snakemake) as say:
        files = snakemake.input
        ensemble = load_members([Path(files.weights).parent])
        member, network = ensemble.members[0], importlib.import_module(f"matpretrain.{ensemble.record['encoder']}")
        table = read_csv(files.table, dtype={"id": str, "formula": str})
        test = np.flatnonzero(table["fold"] == member.fold)
        compositions = Compositions.read(files.compositions)
        inputs = network.Inputs.read(files.structures) if files.get("structures") else network.Inputs(compositions, "cpu")
        features = embed(encoder_of(member.network, ensemble.record["encoder"]), inputs, torch.as_tensor(test))
        say(f"{len(features)} test rows of fold {member.fold}, seed {member.seed}, {features.shape[1]} features")
        with atomic_path(snakemake.output[0]) as temporary:
            np.savez(temporary, id=table["id"].to_numpy(str)[test], features=features)
