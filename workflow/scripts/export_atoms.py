"""Atom features of CGCNN as an array, so that the teacher needs no chemistry package."""

import numpy as np

from matpretrain.crystal import cgcnn_vectors
from matpretrain.files import atomic_path
from matpretrain.jobs import job

if __name__ == "__main__":
    with job(snakemake), atomic_path(snakemake.output[0]) as temporary:
        np.save(temporary, cgcnn_vectors())
