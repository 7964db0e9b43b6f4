"""Edges that Finder predicts between the atoms of four perovskites, layer by layer (Ihalage and Hao 2022, Figure 4)."""

from pathlib import Path

import numpy as np
import torch

from matpretrain import plots, plots_finder
from matpretrain.composition import parse_formulas
from matpretrain.finder_graphs import GraphInputs
from matpretrain.jobs import job
from matpretrain.members import load_members

FORMULAS = ("SrTiO3", "BaTiO3", "KNbO3", "CsPbI3")


@torch.inference_mode()
def edge_matrices(network, batch):
    """[layers, k, k] edge attribute from each element (row) to each (column) of one composition; NaN for no such pair."""
    rows = []
    v, k = network.encoder.element_vectors[batch.element], len(batch.element)
    for layer in network.encoder.layers:
        matrix = torch.full((k, k), torch.nan, dtype=v.dtype)
        matrix[batch.receiver, batch.sender] = layer.predicted_edges(v, batch)[:, 0]
        rows.append(matrix)
        v = layer(v, batch, None)
    return torch.stack(rows).numpy()


def by_atom(matrix, symbols, atoms):
    """Matrices [layers, k, k] by element and its symbols, repeated for every atom, without the diagonal."""
    index = np.repeat(np.arange(len(atoms)), atoms)
    wide = matrix[:, index][:, :, index]
    wide[:, np.arange(len(index)), np.arange(len(index))] = np.nan
    return wide, [symbols[i] for i in index]


if __name__ == "__main__":
    with job(snakemake):
        from pymatgen.core import Element

        ensemble = load_members([Path(path).parent for path in snakemake.input.records])
        inputs = GraphInputs(parse_formulas(FORMULAS)[0])
        drawn = {}
        for b, formula in enumerate(FORMULAS):
            batch = inputs[torch.tensor([b])]
            symbols = [Element.from_Z(int(z)).symbol for z in batch.element]
            mean = np.mean([edge_matrices(member.network, batch) for member in ensemble.members], 0)
            drawn[formula] = by_atom(mean, symbols, batch.atoms.long().numpy())
        plots.style()
        title = f"{snakemake.params.title}: mean of {len(ensemble.members)} networks"
        plots.save(plots_finder.edge_matrices(drawn, title), snakemake.output[0])
