"""Prediction for new formulas by all networks trained on a dataset, or all folds of a baseline.

python -m matpretrain.predict FORMULAS.csv --model results/finetune/DATASET/MODEL --output predictions.csv
"""

import argparse
import os
import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd

from matpretrain.baselines import is_baseline, load_baselines
from matpretrain.data import encode, read_table
from matpretrain.distance import TrainingSet
from matpretrain.files import DataError, write_csv
from matpretrain.members import load_members, seed_folders
from matpretrain.outputs import n_outputs
from matpretrain.provenance import structures_read
from matpretrain.spectra import PARTS, one_below_another

COLUMN = "name the right column (--formula COLUMN, or the key formula of the prediction)"
DROP = "unknown_elements: drop (on the command line --unknown-elements drop)"


def combine(means, stds):
    """Columns of an ensemble from the predictions of its members, a dictionary.

    prediction: mean over members; aleatoric_std: root of their mean variance; epistemic_std: standard deviation (n - 1)
    over members, NaN for one member.
    """
    spread = means.std(0, ddof=1) if len(means) > 1 else np.full(means.shape[1:], np.nan)
    return {"prediction": means.mean(0), "aleatoric_std": np.sqrt((stds**2).mean(0)), "epistemic_std": spread}


def load(folders, say):
    """What predicts: an Ensemble of networks (members.py), or Baselines (baselines.py).

    Raises:
        DataError: folders that do not hold one model, or one that formulas cannot be read by.
    """
    if is_baseline(folders[0]):
        return load_baselines(folders, say)
    ensemble = load_members(folders)
    if structures_read(ensemble.record):
        raise DataError(
            f"{folders[0]}: {ensemble.record['encoder']} reads structures; formulas need a network of compositions, train one"
        )
    if ensemble.record["n_outputs"] != n_outputs(ensemble.record):
        raise DataError(
            f"{folders[0]}: {ensemble.record['n_outputs']} outputs are not those of the loss and energies in its record "
            "(networks of spectra from an earlier version have no energies); train again"
        )
    unscaled = sum(member.deviation_factor is None for member in ensemble.members)
    if unscaled and ensemble.record["loss"] == "robust_l1":
        say(
            f"the deviations of {unscaled} of {len(ensemble)} networks are as they were trained, often much too small (inner_fraction)"
        )
    return ensemble


def predict_file(path, folders, formula="formula", unknown_elements="error", say=print, threads=1):
    """Predict all formulas of a CSV.

    Args:
        path: CSV with a formula column, and an id column or none.
        folders: seed folders whose networks, or fits, form the ensemble.
        formula: name of the formula column.
        unknown_elements: "error" or "drop" for rows with an element that has no vector.
        say: called with lines on the progress.
        threads: in which the trees of forests grow.

    Returns:
        Data frame id, formula, prediction, aleatoric_std, epistemic_std (in the unit of the target), distance to the
        nearest training composition (module `distance`) and far. Of networks of spectra it has a row per formula, part of the
        dielectric function and energy, with the columns quantity and energy (eV) behind the formula.

    Raises:
        DataError: bad rows, or folders that do not hold one model.
    """
    table = read_table(path, None, formula, remedy=COLUMN)
    ensemble = load(folders, say)
    table, compositions, dropped = encode(table, path, ensemble.known, unknown_elements, drop=DROP)
    for line in dropped:
        say(f"dropped: {line}")
    if not len(table):
        raise DataError(f"{path}: no row is left; every formula has an element without a vector")
    training_set = TrainingSet(ensemble.train)
    distance = training_set.nearest(compositions)
    far = training_set.far(compositions, distance)
    say(
        f"{len(table)} formulas, {len(ensemble)} {ensemble.kind} trained on {ensemble.record['dataset']} "
        f"({ensemble.record['unit']}); {far.sum()} far from training (an unseen element, or distance above {training_set.limit:g})"
    )
    columns = combine(*ensemble.predictions(compositions, threads))
    rows = pd.DataFrame({"id": table["id"], "formula": table["formula"]})
    given = {"distance": distance, "far": far}
    if energy := ensemble.record.get("energy"):
        rows = one_below_another(rows, energy)
        columns = {name: values.ravel() for name, values in columns.items()}
        given = {name: values.repeat(len(PARTS) * len(energy)) for name, values in given.items()}
    return rows.assign(**columns, **given)


def main(arguments=None):
    """The command line. Returns the exit status: 1, after one line, for a user's mistake, or where nobody reads on."""
    parser = argparse.ArgumentParser(prog="python -m matpretrain.predict", description="Predict a property of formulas.")
    parser.add_argument("formulas", metavar="FORMULAS.csv", help="CSV with a column of formulas; a column id is kept")
    parser.add_argument(
        "--model", metavar="DIR", required=True, help="results/finetune/DATASET/MODEL, or one seed folder in it"
    )
    parser.add_argument("--output", metavar="FILE", help="CSV to write (default: the terminal)")
    parser.add_argument("--formula", metavar="COLUMN", default="formula", help="formula column (default: formula)")
    parser.add_argument(
        "--unknown-elements", choices=("error", "drop"), default="error", help="rows with an element that has no vector"
    )
    given = parser.parse_args(arguments)

    def say(text):
        print(text, file=sys.stderr)

    warnings.filterwarnings("ignore", "No Pauling electronegativity")  # pymatgen, once for every noble gas
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    try:
        if given.output and Path(given.output).resolve() == Path(given.formulas).resolve():
            raise DataError(f"{given.output}: this is the file of the formulas; name another --output")
        predicted = predict_file(given.formulas, seed_folders(given.model), given.formula, given.unknown_elements, say, cores)
        if given.output:
            write_csv(predicted, given.output)
        else:
            predicted.to_csv(sys.stdout, index=False)
            sys.stdout.flush()
    except DataError as error:
        say(f"error: {error}")
        return 1
    except BrokenPipeError:  # of `| head`; what is buffered goes nowhere, or Python would complain at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
