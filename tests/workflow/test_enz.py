import numpy as np
import pandas as pd
import pytest
from runs import error_line, write_config

from matpretrain.composition import parse_formulas
from matpretrain.files import DataError, read_csv
from matpretrain.members import load_members, seed_folders
from matpretrain.predict import predict_file
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
        checkout.folder, datasets={"mine": entry}, benchmark={"datasets": ["exp_formation_energy"], "seeds": [0, 1]}, enz=enz, corpora={}, pretraining={},
        predict={"new": {"csv": "new.csv", "dataset": "mine", "model": "rescnn"}},
    )  # fmt: skip
    (checkout.folder / "new.csv").write_text("id,formula\na,AgAu\nb,TiN\n")
    done = checkout.snakemake(*config, "--", "enz", "results/predict/new.csv")
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
    assert (checkout.folder / "results/figures/enz/mine/rescnn.png").exists()

    folder = checkout.folder / "results/finetune/mine/rescnn"
    networks = load_members(seed_folders(folder))
    table = read_csv(checkout.folder / "results/data/mine/table.csv", dtype={"id": str, "formula": str})
    means, _ = networks.predictions(parse_formulas(table["formula"].tolist())[0])
    for member, mean in zip(networks.members, means, strict=True):
        own = test.query(f"seed == {member.seed} and fold == {member.fold}")["prediction"].to_numpy().reshape(-1, 42)
        np.testing.assert_allclose(mean[table["fold"] == member.fold], own, rtol=1e-3, atol=1e-4)
    new = read_csv(checkout.folder / "results/predict/new.csv")
    columns = ["id", "formula", "quantity", "energy", "prediction", "aleatoric_std", "epistemic_std", "distance", "far"]
    assert list(new.columns) == columns and (new["epistemic_std"] > 0).all()
    assert new["id"].tolist() == ["a"] * 42 + ["b"] * 42 and new["energy"].tolist() == [*np.arange(1, 6.1, 0.25)] * 4
    assert new["quantity"].tolist() == (["eps_re"] * 21 + ["eps_im"] * 21) * 2
    both, _ = networks.predictions(parse_formulas(["AgAu", "TiN"])[0])
    np.testing.assert_allclose(new["prediction"], both.mean(0).ravel())
    record = folder / "seed0/model.json"
    record.write_text(record.read_text().replace('"energy"', '"formerly"'))
    with pytest.raises(DataError, match="no energies"):
        predict_file(checkout.folder / "new.csv", [folder / "seed0"])

    before = (checkout.folder / "results/data/mine/table.csv").read_bytes()
    write_spectra(checkout.folder, 30, lambda table: table.assign(eps_im=table["eps_im"].mask(table.index == table.index[3])))
    done = checkout.snakemake(*config, "--", "results/data/mine/spectra.npz")
    assert done.returncode == 1 and all(word in error_line(done) for word in ("mine.csv", "line 5", "finite"))
    assert (checkout.folder / "results/data/mine/table.csv").read_bytes() == before
