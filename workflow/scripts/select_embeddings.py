"""Embeddings of the compositions of a union: those of the first of its parts that has the composition."""

import numpy as np

from matpretrain.composition import Compositions, formula_keys
from matpretrain.files import DataError, atomic_path
from matpretrain.jobs import job


def select(compositions, parts):
    """Embeddings [rows, n] of the compositions of a union.

    Args:
        parts: {file of embeddings: (Compositions, embeddings [rows, n])} of what the union is made of.

    Raises:
        DataError: the parts have embeddings of different lengths.
    """
    widths = {path: embedding.shape[1] for path, (_, embedding) in parts.items()}
    if len(set(widths.values())) > 1:
        found = ", ".join(f"{path} {width}" for path, width in widths.items())
        raise DataError(f"numbers per embedding: {found}; a union needs corpora of one teacher, name such in `of`")
    row = {}
    for part, embedding in parts.values():
        for key, vector in zip(formula_keys(part), embedding, strict=True):
            row.setdefault(key, vector)
    return np.stack([row[key] for key in formula_keys(compositions)])


if __name__ == "__main__":
    with job(snakemake) as say:
        files = snakemake.input
        parts = {
            path: (Compositions.read(compositions), np.load(path))
            for path, compositions in zip(files.embeddings, files.parts, strict=True)
        }
        embedding = select(Compositions.read(files.compositions), parts)
        say(f"embeddings of {len(embedding)} compositions, {embedding.shape[1]} numbers each")
        with atomic_path(snakemake.output[0]) as temporary:
            np.save(temporary, embedding)
