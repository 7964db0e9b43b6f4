"""Predictions for a CSV of formulas by all seeds of a trained network or a baseline."""

from pathlib import Path

from matpretrain.files import write_csv
from matpretrain.jobs import job
from matpretrain.predict import predict_file

if __name__ == "__main__":
    with job(snakemake) as say:
        p = snakemake.params
        folders = list(dict.fromkeys(Path(path).parent for path in snakemake.input.kept))
        predicted = predict_file(snakemake.input.csv, folders, p.formula, p.unknown_elements, say, snakemake.threads)
        write_csv(predicted, snakemake.output[0])
