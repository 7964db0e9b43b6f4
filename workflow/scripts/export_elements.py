"""Element vectors as an array, so that training needs no chemistry package."""

import numpy as np

from matpretrain.composition import matscholar_vectors
from matpretrain.files import atomic_path
from matpretrain.jobs import job

if __name__ == "__main__":
    with job(snakemake), atomic_path(snakemake.output[0]) as temporary:
        np.save(temporary, np.nan_to_num(matscholar_vectors()))
