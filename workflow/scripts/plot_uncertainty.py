"""Error of the rows of which a model is surest, by their share, a panel per dataset."""

from pathlib import Path

from matpretrain import plots, plots_uncertainty
from matpretrain.files import read_csv
from matpretrain.jobs import job
from matpretrain.uncertainty import absolute_errors, confidence_curve

if __name__ == "__main__":
    with job(snakemake):
        p, curves = snakemake.params, {}
        for path in snakemake.input:
            dataset, model = Path(path).parts[-3:-1]
            errors = absolute_errors(read_csv(path, dtype={"id": str}))
            if len(errors):
                curves.setdefault(dataset, {})[model] = confidence_curve(errors)
        plots.style()
        plots.save(plots_uncertainty.confidence(curves, p.labels, p.models), snakemake.output[0])
