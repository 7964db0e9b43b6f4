"""Linear probes on untrained encoders of one network with other initial weights: what one pretrained encoder is compared with."""

import importlib

import numpy as np
import torch

from matpretrain.files import read_csv, write_csv
from matpretrain.jobs import job
from matpretrain.probes import probe_all
from matpretrain.statistics import DRAWS


def untrained(network, vectors, arguments, seed):
    """Encoder of a network as pretraining with this seed finds it, in evaluation mode."""
    torch.manual_seed(seed)
    return network.Encoder(**vectors, **arguments).eval()


if __name__ == "__main__":
    with job(snakemake) as say:
        p, files = snakemake.params, snakemake.input
        network = importlib.import_module(f"matpretrain.{p.encoder}")
        vectors = {"element_vectors": np.load(files.elements)} if files.get("elements") else {}
        table = read_csv(files.table, dtype={"id": str, "formula": str})
        encoders = ((0, seed, untrained(network, vectors, p.arguments, seed)) for seed in range(DRAWS))
        write_csv(probe_all(encoders, network.Inputs.read(files.compositions), table, say), snakemake.output[0])
