"""Element vectors [119, n] as an array, row Z for atomic number Z, so that training needs no chemistry package."""

import numpy as np

from matpretrain.composition import N_ELEMENTS, matscholar_vectors
from matpretrain.crystal import cgcnn_vectors
from matpretrain.elements import element_tables
from matpretrain.files import atomic_path
from matpretrain.jobs import job


def magpie_properties():
    """The 22 elemental properties of Magpie [119, 22] float32, each with mean zero and variance 1/22 over the elements that
    Matscholar has, so that their mean square norm is one, as that of Matscholar's vectors; zero in all other rows."""
    properties, known = element_tables()[0], np.isfinite(matscholar_vectors()).all(axis=1)
    own = properties[known]
    vectors = np.zeros(properties.shape, np.float32)
    vectors[known] = (own - own.mean(axis=0)) / (own.std(axis=0) * properties.shape[1] ** 0.5)
    return vectors


VECTORS = {
    "matscholar": lambda: np.nan_to_num(matscholar_vectors()),
    "matscholar_magpie": lambda: np.hstack([np.nan_to_num(matscholar_vectors()), magpie_properties()]),
    "cgcnn": lambda: np.nan_to_num(cgcnn_vectors()),
    "onehot": lambda: np.eye(N_ELEMENTS + 1, N_ELEMENTS, -1, np.float32),
}

if __name__ == "__main__":
    with job(snakemake), atomic_path(snakemake.output[0]) as temporary:
        np.save(temporary, VECTORS[snakemake.wildcards.elements]())
