"""Maps of crystals that pretraining has not seen, by the encoder before and after it, coloured by density.

New et al. 2024, Figure 5.
"""

import numpy as np

from matpretrain import plots
from matpretrain.jobs import job
from matpretrain.maps import METHODS, check_size, neighbour_r2, standardise

METHOD = "UMAP"

if __name__ == "__main__":
    with job(snakemake) as say:
        path = snakemake.input[0]
        with np.load(path) as arrays:
            first, last, density, group, epochs = (arrays[name] for name in ("first", "last", "density", "group", "epochs"))
        check_size(path, group, "enlarge the corpus or take a smaller sample", "unseen structures")
        target = np.log10(density)
        columns = {}
        for heading, features in (("Untrained", first), (f"After {epochs} epochs", last)):
            features = standardise(features)
            points = METHODS[METHOD](features)
            scores = {"features": neighbour_r2(features, target, group), METHOD: neighbour_r2(points, target, group)}
            say(f"{heading}: R2 of neighbours {scores['features']:.3f}, in the map {scores[METHOD]:.3f}")
            columns[heading] = {"maps": {METHOD: points}, "scores": scores, "n_features": features.shape[1]}
        plots.style()
        title = f"{snakemake.params.title}: {len(density):,} structures not trained on"
        plots.save(plots.maps(columns, target, "log10 density (g/cm³)", title), snakemake.output[0])
