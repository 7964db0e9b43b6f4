"""Magpie fingerprints [rows, 145] of a dataset or a corpus."""

import time

import numpy as np

from matpretrain.composition import Compositions
from matpretrain.files import atomic_path
from matpretrain.jobs import job
from matpretrain.magpie import magpie_features

if __name__ == "__main__":
    with job(snakemake) as say:
        compositions = Compositions.read(snakemake.input.compositions)
        started = time.perf_counter()
        features = magpie_features(compositions)
        say(f"{len(features)} fingerprints in {time.perf_counter() - started:.1f} s")
        with atomic_path(snakemake.output.features, size=features.nbytes) as temporary:
            np.save(temporary, features)
