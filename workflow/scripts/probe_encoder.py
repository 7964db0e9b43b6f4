"""Linear probe on the frozen encoder after every epoch of pretraining: how much of a target does it hold?"""

import importlib
from pathlib import Path

from matpretrain.files import read_csv, write_csv
from matpretrain.jobs import job
from matpretrain.probes import probe_all
from matpretrain.weights import load_encoder, load_weights

if __name__ == "__main__":
    with job(snakemake) as say:
        encoder, record = load_encoder(Path(snakemake.input.record).parent)

        def after(path):
            """The encoder after the epoch of a file."""
            load_weights(encoder, path)
            return int(path.stem), record["seed"], encoder

        inputs = importlib.import_module(f"matpretrain.{record['encoder']}").Inputs.read(snakemake.input.compositions)
        table = read_csv(snakemake.input.table, dtype={"id": str, "formula": str})
        epochs = map(after, sorted(Path(snakemake.input.epochs).glob("*.safetensors")))
        write_csv(probe_all(epochs, inputs, table, say), snakemake.output[0])
