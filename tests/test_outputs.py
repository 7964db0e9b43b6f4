from types import SimpleNamespace

import numpy as np
import pytest
from small_problem import finetuning, formation_energies, recipe
from snakemake.iocontainers import Namedlist

from matpretrain import supervised
from matpretrain.composition import matscholar_vectors, parse_formulas
from matpretrain.folds import of_job
from matpretrain.outputs import SCALES, decode, learned, n_outputs, smoothing
from matpretrain.sources import read_embedded
from matpretrain.spectra import smoothing_matrix

FAULTS = "Targets"
RNG = np.random.default_rng(0)
ENERGY = [1.0, 1.5, 2.0, 2.5, 3.0]


@pytest.mark.parametrize("loss", ["l1", "mse", "robust_l1"])
def test_numbers_are_scaled_back_and_their_deviation_is_that_of_the_loss(loss):
    record = {"loss": loss, "target_scale": "linear"}
    outputs = RNG.normal(size=(7, n_outputs(record)))
    prediction, deviation = decode(outputs, record, 3.0, 0.5)
    assert prediction.shape == deviation.shape == (7, 1)
    for k in range(7):
        assert prediction[k, 0] == outputs[k, 0] * 0.5 + 3
        assert deviation[k, 0] == np.exp(outputs[k, 1]) * 0.5 if loss == "robust_l1" else np.isnan(deviation[k, 0])
    assert np.array_equal(learned(outputs, record, 3.0, 0.5), prediction)
    assert np.array_equal(smoothing(record)(outputs), outputs)


def test_on_the_scale_log_the_median_and_its_first_order_deviation_are_in_the_unit_of_the_target():
    record, outputs = {"loss": "robust_l1", "target_scale": "log"}, RNG.normal(size=(4000, 2))
    outputs[:, 1] = -4
    prediction, deviation = decode(outputs, record, 3.0, 0.5)
    assert prediction[:, 0] == pytest.approx(np.exp(outputs[:, 0] * 0.5 + 3))
    assert np.array_equal(learned(outputs, record, 3.0, 0.5), prediction)
    draws = np.exp(np.log(prediction) + RNG.laplace(scale=np.exp(-4) * 0.5 / np.sqrt(2), size=(4000, 1000)))
    assert draws.std(1) / deviation[:, 0] == pytest.approx(np.ones(4000), rel=0.2)
    assert (draws.std(1) / deviation[:, 0]).mean() == pytest.approx(1, rel=0.01)


@pytest.mark.parametrize("scale", SCALES)
def test_scales_lead_back_and_have_their_slope(scale):
    apply, restore, slope = SCALES[scale]
    target = np.array([0.3, 1.0, 62.0]) if scale == "log" else np.array([-600.0, -0.3, 0.0, 2.0, 300.0])
    assert restore(apply(target)) == pytest.approx(target)
    assert (restore(apply(target) + 1e-6) - restore(apply(target) - 1e-6)) / 2e-6 == pytest.approx(slope(target), rel=1e-6)


@pytest.mark.parametrize("resolution", [0, 0.4])
def test_spectra_are_smoothed_scaled_back_and_expanded(resolution):
    record = {"loss": "mse", "target_scale": "asinh", "energy": ENERGY, "resolution": resolution}
    outputs = RNG.normal(size=(3, 10))
    assert n_outputs(record) == 10
    kernel = smoothing_matrix(np.array(ENERGY), resolution) if resolution else np.eye(5)
    expected = np.hstack([outputs[:, :5] @ kernel, outputs[:, 5:] @ kernel]) * 0.2 - 0.1
    assert learned(outputs, record, -0.1, 0.2) == pytest.approx(expected)
    prediction, deviation = decode(outputs, record, -0.1, 0.2)
    assert prediction == pytest.approx(np.sinh(expected)) and deviation.shape == (3, 10) and np.isnan(deviation).all()


def test_logarithms_are_learned_and_errors_are_in_the_unit():
    table = formation_energies(62)
    vectors = {"element_vectors": np.nan_to_num(matscholar_vectors())}
    slow = recipe(epochs=3, learning_rate=1e-3, select="last", clip=1.0)

    def train(target, **options):
        own = {"encoder": "roost", "arguments": vectors, "loss": "robust_l1", "recipe": slow, **options}
        own = finetuning(table.assign(target=target), **own)
        return supervised.train_members([(own, 1), (own, 3)], lambda text: None)[1]  # two at once, the second

    predictions, history, kept = train(np.exp(table["target"]), target_scale="log")
    expected, _, as_kept = train(table["target"])
    assert predictions["prediction"].to_numpy() == pytest.approx(np.exp(expected["prediction"]), rel=1e-3)  # rounded otherwise
    deviation = predictions["prediction"] * expected["aleatoric_std"]
    assert predictions["aleatoric_std"].to_numpy() == pytest.approx(deviation, rel=1e-3)
    watched = predictions[predictions["part"] == "validation"]
    assert history["mae"].iloc[-1] == pytest.approx((watched["prediction"] - watched["target"]).abs().mean())
    assert (kept["mean"], kept["std"]) == pytest.approx((as_kept["mean"], as_kept["std"]))


def test_the_scale_of_a_recipe_reaches_the_training_and_refuses_what_has_no_logarithm(fault, tmp_path):
    table = read_embedded("pymatgen_exp_formation_energy").head(6)
    np.savez(tmp_path / "compositions.npz", **parse_formulas(table["formula"].tolist())[0].arrays())
    files = {"table": str(tmp_path / "table.csv"), "compositions": str(tmp_path / "compositions.npz")}
    settings = {**vars(recipe()), "loss": "l1", "target_scale": "log"}
    params = {"arguments": {}, "recipe": settings, "encoder": "roost", "inner_fraction": 0.1, "size": None}
    job = SimpleNamespace(params=Namedlist(fromdict=params), input=Namedlist(fromdict=files))
    own = {"seed": 0, "weights": None}
    table.assign(target=2.0, fold=0).to_csv(files["table"], index=False)
    training = of_job(job, "cpu", **own)
    assert training.target_scale == training.record()["target_scale"] == "log" and training.recipe == recipe()
    assert training.scaled_target == pytest.approx(np.full((6, 1), np.log(2)))
    table.assign(target=[1, 2, 0, 4, -5, 6], fold=0).to_csv(files["table"], index=False)
    with fault("A target without a logarithm", "table.csv: row 3", "(and 1 more rows)", "target 0 has no", "target_scale: log"):
        of_job(job, "cpu", **own)
