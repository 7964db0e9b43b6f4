"""Element vectors [119, n] as an array, row Z for atomic number Z, so that training needs no chemistry package."""

import numpy as np

from matpretrain.composition import N_ELEMENTS, matscholar_vectors
from matpretrain.crystal import cgcnn_vectors
from matpretrain.files import atomic_path
from matpretrain.jobs import job
from matpretrain.magpie import standard_properties

VECTORS = {
    "matscholar": lambda: np.nan_to_num(matscholar_vectors()),
    "matscholar_magpie": lambda: np.hstack([np.nan_to_num(matscholar_vectors()), standard_properties()]),
    "cgcnn": lambda: np.nan_to_num(cgcnn_vectors()),
    "onehot": lambda: np.eye(N_ELEMENTS + 1, N_ELEMENTS, -1, np.float32),
}

if __name__ == "__main__":
    with job(snakemake), atomic_path(snakemake.output[0]) as temporary:
        np.save(temporary, VECTORS[snakemake.wildcards.elements]())
