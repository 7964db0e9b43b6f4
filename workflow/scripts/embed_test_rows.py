"""Representations [rows, d] of the test rows of the first outer fold by the network that was trained without them: its encoder's
output. Networks of other folds have spaces of their own, which one map cannot hold."""

import importlib
from pathlib import Path

import numpy as np
import torch

from matpretrain.composition import Compositions
from matpretrain.files import atomic_path, read_csv
from matpretrain.jobs import job
from matpretrain.members import load_members
from matpretrain.weights import embed

if __name__ == "__main__":
    with job(snakemake) as say:
        files = snakemake.input
        ensemble = load_members([Path(files.weights).parent])
        member, network = ensemble.members[0], importlib.import_module(f"matpretrain.{ensemble.record['encoder']}")
        table = read_csv(files.table, dtype={"id": str, "formula": str})
        test = np.flatnonzero(table["fold"] == member.fold)
        compositions = Compositions.read(files.compositions)
        inputs = network.Inputs.read(files.structures) if files.get("structures") else network.Inputs(compositions, "cpu")
        features = embed(member.network.encoder, inputs, torch.as_tensor(test))
        say(f"{len(features)} test rows of fold {member.fold}, seed {member.seed}, {features.shape[1]} features")
        with atomic_path(snakemake.output[0]) as temporary:
            np.savez(temporary, id=table["id"].to_numpy(str)[test], features=features)
