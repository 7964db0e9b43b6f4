"""Training MEGNet: our loop against matgl's Lightning trainer and data loader, same model, structures and threads.

Prints structures per second of the fastest epoch after the first. `orbits` (ours), `atoms` (ours on the whole graphs, as in
pretraining) or `matgl` as the first argument, then the file of structures (.jsonl.gz) or the word aflow_prototypes.
"""

import argparse
import itertools
import tempfile
import time
import warnings

import torch

from matpretrain import graphs, megnet
from matpretrain.crystal import read_structures
from matpretrain.megnet_graphs import CrystalInputs, OrbitInputs
from matpretrain.recipe import Recipe
from matpretrain.sources import STRUCTURES
from matpretrain.training import fit

warnings.filterwarnings("ignore")
BATCH, EPOCHS = 128, 3


def read(source, number):
    structures = STRUCTURES[source]() if source in STRUCTURES else read_structures(source)
    return list(itertools.islice((s for s in structures if graphs.KNOWN[s[2]].all()), number))


def ours(structures, size, merged):
    """Seconds of every epoch."""
    packed = graphs.connect(structures)
    if merged:
        inputs = OrbitInputs(packed)
    else:
        inputs = CrystalInputs(graphs.Graphs(**{name: torch.from_numpy(getattr(packed, name)) for name in graphs.NAMES}))
    target = torch.randn(len(inputs))
    torch.manual_seed(0)
    model = megnet.Model(size=size)
    recipe = Recipe(
        epochs=EPOCHS, batch_size=BATCH, min_steps=1, learning_rate=1e-3, weight_decay=0.0, schedule="constant", warmup=0.0,
        clip=0.0, average=0.0, select="last", patience=0, precision="float32",
    )  # fmt: skip
    ends = [time.perf_counter()]
    fit(
        model,
        lambda model, rows: torch.nn.functional.mse_loss(model(inputs[rows])[:, 0], target[rows]),
        torch.arange(len(inputs)),
        lambda model: {"mae": 0.0},
        recipe,
        seed=0,
        cost=inputs.cost,
        report=lambda row: ends.append(time.perf_counter()),
    )
    return [b - a for a, b in itertools.pairwise(ends)]


def matgl(structures, size):
    """Seconds of every epoch."""
    import lightning
    from matgl.ext.pymatgen import Structure2Graph
    from matgl.graph.data import MGLDataLoader, MGLDataset, collate_fn_graph
    from matgl.utils.training import ModelLightningModule
    from pymatgen.core import Lattice, Structure

    torch.manual_seed(0)
    model = megnet.matgl_megnet(size)
    data = MGLDataset(
        structures=[Structure(Lattice(lattice), number, frac) for _, lattice, number, frac in structures],
        labels={"target": torch.randn(len(structures)).tolist()},
        converter=Structure2Graph(element_types=model.element_types, cutoff=graphs.CUTOFF),
        root=tempfile.mkdtemp(),
        save_cache=False,
    )
    loader, _ = MGLDataLoader(
        train_data=data, val_data=data, collate_fn=collate_fn_graph, batch_size=BATCH, num_workers=0, persistent_workers=False
    )

    class Clock(lightning.Callback):
        def __init__(self):
            self.seconds = []

        def on_train_epoch_start(self, *_):
            self.started = time.perf_counter()

        def on_train_epoch_end(self, *_):
            self.seconds.append(time.perf_counter() - self.started)

    clock = Clock()
    lightning.Trainer(
        max_epochs=EPOCHS, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, inference_mode=False, callbacks=[clock],
    ).fit(ModelLightningModule(model, lr=1e-3), loader)  # fmt: skip
    return clock.seconds


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("implementation", choices=("orbits", "atoms", "matgl"))
    parser.add_argument("structures")
    parser.add_argument("--size", choices=megnet.SIZES, default="large")
    parser.add_argument("--number", type=int, default=256)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    structures = read(options.structures, options.number)
    if options.implementation == "matgl":
        seconds = matgl(structures, options.size)
    else:
        seconds = ours(structures, options.size, options.implementation == "orbits")
    print(len(structures) / min(seconds[1:]))
