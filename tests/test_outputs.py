import numpy as np
import pytest

from matpretrain.outputs import decode, learned, n_outputs, smoothing
from matpretrain.spectra import smoothing_matrix

RNG = np.random.default_rng(0)
ENERGY = [1.0, 1.5, 2.0, 2.5, 3.0]


@pytest.mark.parametrize("loss", ["l1", "mse", "robust_l1"])
def test_numbers_are_scaled_back_and_their_deviation_is_that_of_the_loss(loss):
    outputs = RNG.normal(size=(7, n_outputs({"loss": loss})))
    prediction, deviation = decode(outputs, {"loss": loss}, 3.0, 0.5)
    assert prediction.shape == deviation.shape == (7, 1)
    for k in range(7):
        assert prediction[k, 0] == outputs[k, 0] * 0.5 + 3
        assert deviation[k, 0] == np.exp(outputs[k, 1]) * 0.5 if loss == "robust_l1" else np.isnan(deviation[k, 0])
    assert np.array_equal(learned(outputs, {"loss": loss}, 3.0, 0.5), prediction)
    assert np.array_equal(smoothing({"loss": loss})(outputs), outputs)


@pytest.mark.parametrize("resolution", [0, 0.4])
def test_spectra_are_smoothed_scaled_back_and_expanded(resolution):
    record = {"loss": "mse", "energy": ENERGY, "resolution": resolution}
    outputs = RNG.normal(size=(3, 10))
    assert n_outputs(record) == 10
    kernel = smoothing_matrix(np.array(ENERGY), resolution) if resolution else np.eye(5)
    expected = np.hstack([outputs[:, :5] @ kernel, outputs[:, 5:] @ kernel]) * 0.2 - 0.1
    assert learned(outputs, record, -0.1, 0.2) == pytest.approx(expected)
    prediction, deviation = decode(outputs, record, -0.1, 0.2)
    assert prediction == pytest.approx(np.sinh(expected)) and deviation.shape == (3, 10) and np.isnan(deviation).all()
