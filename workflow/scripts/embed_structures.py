"""Graphs and a teacher -> embeddings.npz (id, embedding)."""

import time

import numpy as np

from matpretrain.cgcnn import embed, load_teacher
from matpretrain.crystal import Crystals
from matpretrain.devices import claim_device, describe
from matpretrain.files import atomic_path, check_hash
from matpretrain.jobs import job

PROGRESS = 10  # progress lines


def embed_structures(neighbours_path, teacher_path, atoms_path, device, say):
    """Ids [S] and embeddings [S, n] float32 of all structures."""
    with np.load(neighbours_path) as arrays:
        crystals = Crystals(**arrays)
    model = load_teacher(teacher_path, np.load(atoms_path)).to(device)
    started, told = time.perf_counter(), 0

    def report(done):
        nonlocal told
        if done * PROGRESS // len(crystals) > told:
            told = done * PROGRESS // len(crystals)
            say(f"{done}/{len(crystals)} structures, {time.perf_counter() - started:.0f} s")

    embedding = embed(model, crystals, device, report)
    rate = len(crystals) / (time.perf_counter() - started)
    say(
        f"{len(crystals)} structures ({rate:.0f} per second) on {describe(device)}; {embedding.shape[1]} dimensions from "
        f"{embedding.min():.3f} to {embedding.max():.3f}, mean {embedding.mean():.3f}, standard deviation {embedding.std():.3f}"
    )
    return crystals.id, embedding


if __name__ == "__main__":
    with job(snakemake) as say:
        if snakemake.params.sha256:
            check_hash(snakemake.input.teacher, snakemake.params.sha256)
        with claim_device(snakemake.config["device"], say) as device:
            identity, embedding = embed_structures(
                snakemake.input.neighbours,
                str(snakemake.input.teacher),
                snakemake.input.atoms,
                device=device,
                say=say,
            )
        say.note(device=describe(device))
        with atomic_path(snakemake.output[0]) as temporary:
            np.savez(temporary, id=identity, embedding=embedding)
