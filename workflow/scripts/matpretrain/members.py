"""Trained networks kept for prediction: a folder per seed, in it a member per outer fold.

weights.safetensors holds the tensors fold{k}.{parameter}, once the fixed element_vectors, and the compositions of the
dataset (train.number, train.amount, train.offset); model.json says how to build the networks, the mean and standard
deviation of the target that scaled each fold, and the factor of its predicted deviations (calibration.py). A copy of the folder
is all that prediction needs.
"""

import importlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from matpretrain import training
from matpretrain.composition import Compositions, known_elements
from matpretrain.files import DataError
from matpretrain.objectives import SUPERVISED
from matpretrain.outputs import SCALES, decode, smoothing
from matpretrain.provenance import write_json
from matpretrain.recipe import Recipe
from matpretrain.weights import save_weights

WEIGHTS, RECORD = "weights.safetensors", "model.json"
VECTORS = "element_vectors"
TRAIN = ("train.number", "train.amount", "train.offset")
SAME = ("encoder", "n_outputs", "loss", "target_scale", "dataset")  # keys in which all seeds agree
TRAINED = ("data_sha256", "recipe", "arguments", "size", "inner_fraction")  # and, where a record has them, these
SPECTRAL = ("energy", "resolution")  # those that networks of spectra have in addition


@dataclass(frozen=True)
class Member:
    """A network, trained without the rows of one outer fold on targets (y - mean) / std.

    Its predicted deviations are multiplied by deviation_factor (calibration.py); None: not scaled.
    """

    seed: int
    fold: int
    mean: float
    std: float
    network: torch.nn.Module
    deviation_factor: float | None = None


@dataclass(frozen=True)
class Ensemble:
    """Members of one model on one dataset.

    Attributes:
        record: model.json of the first seed.
        recipe: Recipe of its training.
        known: [Z] bool, which atomic numbers have an element vector; all for a network that takes none.
        train: Compositions of the dataset.
        members: list of Member, seed by seed, fold by fold.
    """

    kind = "networks"

    record: dict
    recipe: Recipe
    known: np.ndarray
    train: Compositions
    members: list

    def __len__(self):
        return len(self.members)

    def predictions(self, compositions, threads=None):
        """Mean [members, B] and aleatoric standard deviation [members, B] of every member, in the unit of the target.

        The standard deviation is NaN where the loss predicts none. Of networks of spectra [members, B, 2 G], eps_re before
        eps_im, and NaN.

        Args:
            threads: torch has been told.
        """
        inputs = importlib.import_module(f"matpretrain.{self.record['encoder']}").Inputs(compositions, "cpu")
        rows = torch.arange(len(compositions))
        found = [
            decode(training.predict(member.network, inputs, rows, self.recipe), self.record, member.mean, member.std)
            for member in self.members
        ]
        means, stds = (np.stack(values) for values in zip(*found, strict=True))
        stds *= np.array([member.deviation_factor or 1 for member in self.members])[:, None, None]
        return (means, stds) if "energy" in self.record else (means[..., 0], stds[..., 0])


def _own(state):
    """The tensors of a state dict that differ between folds: all but the element vectors."""
    return {name: tensor for name, tensor in state.items() if name.split(".")[-1] != VECTORS}


def keep(network, fold, mean, std, deviation_factor=None):
    """What is kept of a trained fold: a dictionary of numbers and of numpy arrays, which travel between processes."""
    weights = {name: tensor.detach().cpu().numpy() for name, tensor in _own(network.state_dict()).items()}
    return {
        "fold": int(fold),
        "mean": float(mean),
        "std": float(std),
        "deviation_factor": deviation_factor,
        "weights": weights,
    }


def save_members(kept, arguments, compositions, record, folder):
    """Write weights.safetensors and model.json of one seed.

    Args:
        kept: what `keep` returned, fold by fold.
        arguments: those from which the networks were built, besides the number of outputs: an array element_vectors
            [Z, n], and words and numbers.
        compositions: Compositions of the rows that trained.
        record: the keys encoder, n_outputs, loss, target_scale, recipe, dataset, unit and seed, and whatever else should be said.
    """
    folder = Path(folder)
    vectors = {name: array for name, array in arguments.items() if name == VECTORS}  # stored once, not fold by fold
    shapes = {name: list(array.shape) for name, array in vectors.items()}
    arrays = dict(vectors)
    arrays |= {f"train.{name}": array for name, array in compositions.arrays().items()}
    for member in kept:
        arrays |= {f"fold{member['fold']}.{name}": array for name, array in member["weights"].items()}
    folds = [{name: member[name] for name in ("fold", "mean", "std", "deviation_factor")} for member in kept]
    save_weights({name: torch.from_numpy(np.asarray(array)) for name, array in arrays.items()}, folder / WEIGHTS)
    arguments = {name: value for name, value in arguments.items() if name not in vectors}
    write_json({**record, **shapes, "arguments": arguments, "folds": folds}, folder / RECORD)


def fold_weights(path, fold):
    """{parameter: tensor} of one fold in the weights of a seed folder."""
    prefix = f"fold{fold}."
    with safe_open(path, "pt") as tensors:
        names = tensors.keys()
        return {name.removeprefix(prefix): tensors.get_tensor(name) for name in names if name.startswith(prefix)}


def seed_folders(folder):
    """The seed folders of a model's folder, by number; the folder itself where it is one.

    Raises:
        DataError: there is no such folder, or no model in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; give results/finetune/DATASET/MODEL")
    if (folder / RECORD).is_file():
        return [folder]
    found = [path.parent for path in folder.glob(f"seed*/{RECORD}")]
    if not found:
        raise DataError(
            f"{folder}: no trained model ({RECORD}) in it or in its seed folders; give results/finetune/DATASET/MODEL"
        )
    return sorted(found, key=lambda path: (len(path.name), path.name))


def load_members(folders):
    """The Ensemble of all folds of one or more seed folders, in evaluation mode on the CPU.

    Raises:
        DataError: a folder holds no model, weights that do not fit its record, or another model than the first folder.
    """
    loaded = [_load_seed(Path(folder)) for folder in folders]
    (record, recipe, shared, _), first = loaded[0], folders[0]
    for (other_record, _, other_shared, _), other in zip(loaded[1:], folders[1:], strict=True):
        differs = [key for key in (*SAME, *SPECTRAL, *TRAINED) if other_record.get(key) != record.get(key)]
        differs += [name for name, array in shared.items() if not np.array_equal(array, other_shared[name])]
        if differs:
            raise DataError(f"{other}: {differs[0]} is not that of {first}; train all seeds again, or give one seed folder")
    return Ensemble(
        record,
        recipe,
        known=(shared[VECTORS] != 0).any(1) if VECTORS in shared else known_elements(),
        train=Compositions(*(shared[name] for name in TRAIN)),
        members=[member for *_, members in loaded for member in members],
    )


def _load_seed(folder):
    """(record, recipe, {name: array} that all members share, members) of a seed folder."""
    path = folder / WEIGHTS
    try:
        tensors = load_file(path)
        shared = {name: tensors.pop(name).numpy() for name in TRAIN}
        if VECTORS in tensors:
            shared[VECTORS] = tensors.pop(VECTORS).numpy()
    except (OSError, SafetensorError, KeyError) as error:
        raise DataError(f"{path}: not the weights of a trained network ({error}); train again or correct the path") from None
    path = folder / RECORD
    try:
        record = json.loads(path.read_text())
        record.setdefault("target_scale", "asinh" if "energy" in record else "linear")  # as older networks learned
        recipe = Recipe(**record["recipe"])
        build = importlib.import_module(f"matpretrain.{record['encoder']}").Model
        arguments = record["arguments"] | ({VECTORS: shared[VECTORS]} if VECTORS in shared else {})
        networks = {int(fold["fold"]): build(**arguments, n_outputs=record["n_outputs"]).eval() for fold in record["folds"]}
        members = [
            Member(
                int(record["seed"]),
                int(fold["fold"]),
                float(fold["mean"]),
                float(fold["std"]),
                networks[fold["fold"]],
                fold.get("deviation_factor"),
            )
            for fold in record["folds"]
        ]
        missing = [key for key in (*SAME, "unit") if key not in record]
        if missing:
            raise KeyError(missing[0])
        for key, known in (("loss", SUPERVISED), ("target_scale", SCALES)):
            if record[key] not in known:
                raise ValueError(f"its {key} is {record[key]}")
        smoothing(record)  # its energies and resolution can be read
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError) as error:
        raise DataError(f"{path}: no record of a trained network ({error}); train again or correct the path") from None
    own = {f"fold{fold}.{name}": tensor for fold, net in networks.items() for name, tensor in _own(net.state_dict()).items()}
    found, expected = ({(name, tensor.shape) for name, tensor in side.items()} for side in (tensors, own))
    wrong = {name for name, _ in found ^ expected}
    if wrong:
        more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        raise DataError(
            f"{folder / WEIGHTS}: {min(wrong)}{more} missing, unexpected or of another shape: not the network of {RECORD} "
            "beside it; train again"
        )
    for name, tensor in own.items():
        tensor.copy_(tensors[name])
    return record, recipe, shared, members
