"""Representations [rows, 256] of a dataset by a frozen, pretrained encoder: its output before the last ReLU."""

import importlib
from pathlib import Path

import numpy as np

from matpretrain.files import atomic_path
from matpretrain.jobs import job
from matpretrain.weights import embed, load_encoder

if __name__ == "__main__":
    with job(snakemake) as say:
        encoder, record = load_encoder(Path(snakemake.input.record).parent)
        network = importlib.import_module(f"matpretrain.{record['encoder']}")
        features = embed(encoder, network.Inputs.read(snakemake.input.compositions))
        say(f"{features.shape[0]} rows, {features.shape[1]} features, encoder trained on {record['corpus']}")
        with atomic_path(snakemake.output[0], size=features.nbytes) as temporary:
            np.save(temporary, features)
