"""Weights as safetensors, with a JSON record beside them; nothing is unpickled.

from matpretrain.weights import load_encoder
encoder, record = load_encoder("results/pretrain/ssl")
"""

import importlib
import json
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from matpretrain.files import DataError, atomic_path
from matpretrain.provenance import write_json
from matpretrain.training import in_parts


def save_weights(tensors, path):
    """Write {name: tensor} to a safetensors file, atomically."""
    with atomic_path(path, size=sum(tensor.nbytes for tensor in tensors.values())) as temporary:
        # not save_file, which writes to a temporary of its own, that a killed job would leave behind
        temporary.write_bytes(save({k: v.detach().cpu().contiguous() for k, v in tensors.items()}))


def load_weights(module, path, say=None):
    """Load a safetensors file into a module, every tensor or none.

    Raises:
        DataError: unreadable file, missing or unexpected names, other shapes.
    """
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise DataError(f"{path}: not a readable safetensors file ({error}); pretrain again or correct the path") from None
    expected = module.state_dict()
    for problem, names in (
        ("lacks", expected.keys() - tensors.keys()),
        ("has in addition", tensors.keys() - expected.keys()),
        ("has another shape of", {k for k in expected.keys() & tensors.keys() if expected[k].shape != tensors[k].shape}),
    ):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise DataError(
                f"{path}: {problem} {min(names)}{more}: not the weights of this {type(module).__name__}; "
                "pretrain again with the same encoder and element vectors"
            )
    module.load_state_dict(tensors)
    if say:
        say(f"loaded all {len(tensors)} tensors ({sum(t.numel() for t in tensors.values()):,} numbers) of {path}")


def save_encoder(encoder, name, folder, record):
    """Write encoder.safetensors and encoder.json.

    Args:
        encoder: module made by `Encoder` of the package module `name`.
        record: dictionary that says what it was trained on and how; its `arguments` rebuild the encoder, with the
            element vectors where it has some.
    """
    folder = Path(folder)
    save_weights(encoder.state_dict(), folder / "encoder.safetensors")
    vectors = {"element_vectors": list(encoder.element_vectors.shape)} if hasattr(encoder, "element_vectors") else {}
    write_json({"encoder": name, **vectors, **record}, folder / "encoder.json")


def corpus_inputs(network):
    """The class in whose form a network's module reads a corpus: CorpusInputs, where it has one, or Inputs."""
    return getattr(network, "CorpusInputs", network.Inputs)


def load_encoder(folder):
    """Load a pretrained encoder. Returns (module in evaluation mode on the CPU, its record).

    Raises:
        DataError: the folder holds no encoder, or one that does not fit its record.
    """
    path = Path(folder) / "encoder.json"
    try:
        record = json.loads(path.read_text())
        module = importlib.import_module(f"matpretrain.{record['encoder']}")
        arguments = dict(record.get("arguments", {}))
        if "element_vectors" in record:
            arguments["element_vectors"] = torch.zeros(record["element_vectors"])
        encoder = module.Encoder(**arguments)
    except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
        raise DataError(f"{path}: no record of an encoder ({error}); pretrain again or correct the path") from None
    load_weights(encoder, path.with_suffix(".safetensors"))
    return encoder.eval(), record


def embed(encoder, inputs, rows=None):
    """[rows, d] float32 output of an encoder for rows of its inputs, by default all: its representation before the last ReLU."""
    rows = torch.arange(len(inputs)) if rows is None else rows
    with torch.inference_mode():
        return torch.cat(in_parts(lambda inputs, rows: encoder(inputs[rows]), inputs, rows)).numpy()
