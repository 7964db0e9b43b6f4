"""Edges that Finder predicts between the atoms of four perovskites, layer by layer (Ihalage and Hao 2022, Figure 4).

Of one network: which number stands for which bond is learned anew, with any sign and scale, so that a mean over networks says
nothing.
"""

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

        first = load_members([Path(snakemake.input.record).parent]).members[0]
        inputs = GraphInputs(parse_formulas(FORMULAS)[0])
        drawn = {}
        for b, formula in enumerate(FORMULAS):
            batch = inputs[torch.tensor([b])]
            symbols = [Element.from_Z(int(z)).symbol for z in batch.element]
            drawn[formula] = by_atom(edge_matrices(first.network, batch), symbols, batch.atoms.long().numpy())
        plots.style()
        title = f"{snakemake.params.title}: network of seed {first.seed}, fold {first.fold}"
        plots.save(plots_finder.edge_matrices(drawn, title), snakemake.output[0])
