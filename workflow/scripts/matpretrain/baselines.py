"""Baselines kept for prediction: a folder per seed with what its folds were fitted to, from which they are fitted again.

training.npz holds the compositions of all rows (number, amount, offset), their targets and test folds, and the groups that a
split keeps together; model.json the estimator, its arguments, the features and the seed. A forest of 500 trees on 8,790 rows
takes 350 MB, its rows 80 kB, and the same version of scikit-learn grows it again to the same bits. A copy of the folder is all
that prediction needs.
"""

import json
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from inspect import signature
from pathlib import Path

import numpy as np

from matpretrain import estimators
from matpretrain.composition import Compositions, element_fractions, known_elements, take
from matpretrain.files import NO_NPZ, DataError, atomic_path
from matpretrain.magpie import magpie_features
from matpretrain.provenance import fingerprint, write_json
from matpretrain.splits import fold_numbers
from matpretrain.subsets import outer_split, trained_rows

ROWS, RECORD = "training.npz", "model.json"
LIBRARY, RULE = "scikit-learn", "fit_baseline"  # what fits them
SAME = ("estimator", "features", "arguments", "size", "dataset", "unit", "data_sha256")  # keys in which all seeds agree
ARRAYS = ("number", "amount", "offset", "target", "fold")
GROUP = "group"  # a further one, where the split has groups

# Functions from Compositions to features [rows, n] by the name of the kind; other kinds are outputs of a frozen encoder.
FEATURES = {
    "magpie": magpie_features,
    "onehot": element_fractions,
    "none": lambda compositions: np.zeros((len(compositions), 1)),
}


def builder(estimator, seed, arguments):
    """Function () -> regressor, from a registry entry and a seed."""
    return partial(getattr(estimators, estimator), seed, **arguments)


def all_arguments(estimator, arguments):
    """Those of a registry entry with the defaults of the others, which a later version may change."""
    parameters = list(signature(getattr(estimators, estimator)).parameters.values())[1:]
    return {p.name: p.default for p in parameters if p.default is not p.empty} | arguments


def fitted_folds(features, target, folds, size, build, threads, groups=None):
    """Fit a regressor to the outer training part of every fold, or to a subset of a size (subsets.outer_split).

    Args:
        features: [rows, n].
        target: [rows].
        folds: [rows] test fold of every row.
        build: function () -> regressor.
        threads: in which the trees of a forest grow; they change no bit.
        groups: [rows] labels of rows that folds keep together, or None.

    Yields:
        (fold, positions of the rows of its test part, fitted regressor).
    """
    from joblib import parallel_config

    for fold in fold_numbers(folds):
        train, test = outer_split(folds, fold, size)
        model = build()
        grouped = groups is not None and "groups" in signature(model.fit).parameters
        with parallel_config("threading", n_jobs=threads):
            model.fit(features[train], target[train], **({"groups": groups[train]} if grouped else {}))
        yield fold, test, model
        del model  # before the next one grows


@dataclass(frozen=True)
class Baselines:
    """The folds of one or more seeds of a baseline, fitted when they predict.

    Attributes:
        record: model.json of the first seed.
        seeds: numbers of the seeds.
        rows: Compositions of the dataset.
        target: [rows].
        folds: [rows] test fold of every row.
        groups: [rows] labels of rows that folds keep together, or None.
    """

    kind = "baselines"

    record: dict
    seeds: list
    rows: Compositions
    target: np.ndarray
    folds: np.ndarray
    groups: np.ndarray | None = None

    def __len__(self):
        return len(self.seeds) * len(fold_numbers(self.folds))

    @property
    def known(self):
        """[119] bool, which atomic numbers formulas may have: those of every table."""
        return known_elements()

    @property
    def train(self):
        """Compositions of the rows that train in some fold."""
        return take(self.rows, trained_rows(self.folds, self.record["size"]))

    def predictions(self, compositions, threads):
        """Predictions and deviations, both [members, B], seed by seed, fold by fold, in the unit of the target.

        Args:
            compositions: Compositions of B formulas.
            threads: as of `fitted_folds`.
        """
        record, found = self.record, []
        old, new = (FEATURES[record["features"]](each) for each in (self.rows, compositions))
        for seed in self.seeds:
            build = builder(record["estimator"], seed, record["arguments"])
            fits = fitted_folds(old, self.target, self.folds, record["size"], build, threads, self.groups)
            found += [estimators.predicted(model, new) for _, _, model in fits]
        return tuple(np.stack(values) for values in zip(*found, strict=True))


def save_baseline(compositions, table, record, folder):
    """Write training.npz and model.json of one seed.

    Args:
        compositions: Compositions of all rows.
        table: data frame target, fold and, where rows are kept together, group.
        record: the keys SAME, seed and code_version, and whatever else should be said.
    """
    folder = Path(folder)
    with atomic_path(folder / ROWS) as temporary:
        rows = {name: table[name].to_numpy() for name in ("target", "fold", GROUP) if name in table}
        np.savez_compressed(temporary, **compositions.arrays(), **rows)
    arguments = all_arguments(record["estimator"], record["arguments"])
    write_json({**record, "arguments": arguments, LIBRARY: version(LIBRARY)}, folder / RECORD)


def is_baseline(folder):
    """Whether a seed folder holds a baseline."""
    return (Path(folder) / ROWS).is_file()


def load_baselines(folders, say):
    """The Baselines of one or more seed folders.

    Args:
        say: called with a line where other code or another version of scikit-learn made them.

    Raises:
        DataError: a folder holds no baseline, one that formulas cannot be read by, or another one than the first folder.
    """
    loaded = [_load(Path(folder)) for folder in folders]
    (record, arrays), first = loaded[0], folders[0]
    for (other_record, other_arrays), other in zip(loaded[1:], folders[1:], strict=True):
        differs = [key for key in SAME if other_record[key] != record[key]]
        differs += [name for name in (*ARRAYS, GROUP) if not np.array_equal(other_arrays.get(name), arrays.get(name))]
        if differs:
            raise DataError(f"{other}: {differs[0]} is not that of {first}; fit all seeds again, or give one seed folder")
    for name, now in ((LIBRARY, version(LIBRARY)), ("code_version", fingerprint(RULE))):
        if record.get(name) != now:
            say(f"fitted with {name} {record.get(name)}, and now again with {now}: predictions may differ")
    rows = Compositions(*(arrays[name] for name in ARRAYS[:3]))
    seeds = [int(each["seed"]) for each, _ in loaded]
    return Baselines(record, seeds, rows, arrays["target"], arrays["fold"], arrays.get(GROUP))


def _load(folder):
    """(record, {name: array}) of a seed folder."""
    path = folder / ROWS
    try:
        with np.load(path) as kept:
            arrays = {name: kept[name] for name in (*ARRAYS, GROUP) if name in (*ARRAYS, *kept)}
        if not len(arrays["target"]) == len(arrays["fold"]) == len(arrays["offset"]) - 1:
            raise ValueError("arrays of different lengths")
    except NO_NPZ as error:
        raise DataError(f"{path}: not the rows of a baseline ({error}); fit it again or correct the path") from None
    path = folder / RECORD
    try:
        record = json.loads(path.read_text())
        missing = [key for key in (*SAME, "seed") if key not in record]
        if missing:
            raise KeyError(missing[0])
        builder(record["estimator"], int(record["seed"]), record["arguments"])()
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: no record of a baseline ({error}); fit it again or correct the path") from None
    if record["features"] not in FEATURES:
        raise DataError(
            f"{path}: fitted to the outputs of the frozen encoder {record['features']}; predict with a network, "
            f"or a baseline on {', '.join(list(FEATURES)[:-1])} or {list(FEATURES)[-1]}"
        )
    return record, arrays
