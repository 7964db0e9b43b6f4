import numpy as np
import pandas as pd
from runs import error_line, write_config

from matpretrain.files import read_csv
from matpretrain.sources import optical_constants

FOLDER = "results/enz/mine/rescnn"


def write_spectra(folder, n, edit=lambda table: table):
    """A user's CSV of measured spectra of n materials."""
    table = optical_constants()
    chosen = pd.Series(table["id"].unique()).sample(n, random_state=1)
    edit(table[table["id"].isin(chosen)]).to_csv(folder / "mine.csv", index=False)


def test_spectra_of_a_csv_are_learned_and_screened(checkout):
    write_spectra(checkout.folder, 30)
    entry = {"csv": "mine.csv", "energies": [1.0, 6.0, 0.25], "target": "eps", "unit": "1", "n_folds": 2}
    enz = {"datasets": ["mine"], "models": ["rescnn"], "recipe": {"epochs": 2}}
    config = write_config(
        checkout.folder, datasets={"mine": entry}, benchmark={"datasets": ["exp_formation_energy"], "seeds": [0, 1]}, enz=enz, corpora={}, pretraining={}
    )  # fmt: skip
    done = checkout.snakemake(*config, "--", "enz")
    assert done.returncode == 0, done.text
    predictions = read_csv(checkout.folder / "results/finetune/mine/rescnn/predictions.csv", dtype={"id": str})
    assert list(predictions.columns[:4]) == ["id", "quantity", "energy", "fold"]
    test = predictions[predictions["part"] == "test"]
    assert len(test) == 30 * 2 * 21 * 2, "30 materials, two parts, 21 energies, two seeds"
    assert test.groupby(["id", "quantity", "energy"])["fold"].nunique().eq(1).all()
    with np.load(checkout.folder / "results/data/mine/spectra.npz") as arrays:
        known = np.isfinite(arrays["eps"].real).sum()
    assert test["target"].notna().sum() == known * 2 * 2 and test["prediction"].notna().all()
    assert (test["epistemic_std"] > 0).all() and test["aleatoric_std"].isna().all()
    screening = read_csv(checkout.folder / f"{FOLDER}/screening.csv")
    candidates = read_csv(checkout.folder / f"{FOLDER}/candidates.csv")
    assert len(screening) == 30 and set(candidates["id"]) <= set(screening.query("predicted and confirmed")["id"])
    scores = read_csv(checkout.folder / f"{FOLDER}/scores.csv").set_index(["quantity", "metric"])["value"]
    error = (
        test.groupby(["id", "quantity", "energy"])["prediction"].mean()
        - test.groupby(["id", "quantity", "energy"])["target"].first()
    )
    assert np.isclose(scores["eps_im", "mae"], error.xs("eps_im", level="quantity").abs().mean(), rtol=1e-4)
    assert (checkout.folder / "results/figures/enz/mine/rescnn.png").stat().st_size > 20_000

    before = (checkout.folder / "results/data/mine/table.csv").read_bytes()
    write_spectra(checkout.folder, 30, lambda table: table.assign(eps_im=table["eps_im"].mask(table.index == table.index[3])))
    done = checkout.snakemake(*config, "--", "results/data/mine/spectra.npz")
    assert done.returncode == 1 and all(word in error_line(done) for word in ("mine.csv", "row 4", "finite"))
    assert (checkout.folder / "results/data/mine/table.csv").read_bytes() == before
