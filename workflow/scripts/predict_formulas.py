"""Predictions for a CSV of formulas by all seeds of a trained network."""

from pathlib import Path

from matpretrain.files import write_csv
from matpretrain.jobs import job
from matpretrain.predict import predict_file

if __name__ == "__main__":
    with job(snakemake) as say:
        p = snakemake.params
        folders = [Path(path).parent for path in snakemake.input.weights]
        write_csv(predict_file(snakemake.input.csv, folders, p.formula, p.unknown_elements, say), snakemake.output[0])
