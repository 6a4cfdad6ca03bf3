"""Every prediction determines picture and noise; at α = 0 or σ = 0 it does so or is refused by name."""

import array_api_strict as xp
import numpy as np
import pytest
import torch
from conftest import SCHEDULES, assert_refused, deterministic_solvers, named, relative_error
from hypothesis import given
from hypothesis import strategies as st

from pndm_solvers import DDIMSolver, PLMSSolver, Prediction, convert
from pndm_solvers.prediction import PREDICTIONS, conversion
from pndm_solvers.problems import random_mixture

LINEAR = SCHEDULES["linear"]
MIXTURE = random_mixture(3)
START = np.random.default_rng(3).standard_normal((5, 3))


# The field's definitions, which PREDICTIONS states as two weights; the score is ∇ log p(x | x_0).
DEFINITIONS = {
    "epsilon": lambda x0, epsilon, alpha, sigma: epsilon,
    "sample": lambda x0, epsilon, alpha, sigma: x0,
    "v_prediction": lambda x0, epsilon, alpha, sigma: alpha * epsilon - sigma * x0,
    "score": lambda x0, epsilon, alpha, sigma: -epsilon / sigma,
    "flow": lambda x0, epsilon, alpha, sigma: epsilon - x0,
}


@pytest.mark.parametrize("name", DEFINITIONS)
def test_a_prediction_is_what_the_field_calls_by_its_name(name):
    x0, epsilon = np.random.default_rng(1).standard_normal((2, 3, 4))
    for alpha, sigma in ((0.6, 0.8), (1.0, 3.0), (0.01, 0.99)):
        a, b = PREDICTIONS[name](alpha, sigma)
        np.testing.assert_allclose(a * x0 + b * epsilon, DEFINITIONS[name](x0, epsilon, alpha, sigma), rtol=1e-15)


@given(st.sampled_from(sorted(PREDICTIONS)), st.floats(0.01, 1), st.floats(0.01, 3), st.integers(0, 2**32))
def test_every_prediction_gives_back_picture_and_noise(name, alpha, sigma, seed):
    x0, epsilon = np.random.default_rng(seed).standard_normal((2, 3, 4))
    a, b = PREDICTIONS[name](alpha, sigma)
    x, answer, prediction = alpha * x0 + sigma * epsilon, a * x0 + b * epsilon, Prediction(name)
    np.testing.assert_allclose(convert(prediction, "epsilon", x, answer, alpha, sigma), epsilon, atol=1e-10)
    np.testing.assert_allclose(convert(prediction, "sample", x, answer, alpha, sigma), x0, atol=1e-10)


@pytest.mark.parametrize("solver", deterministic_solvers(LINEAR), ids=named)
def test_one_model_in_all_forms_gives_one_sample(solver):
    for spacing in ("trailing", "quadratic"):
        plan = solver.plan(12, spacing=spacing)
        first, *others = (plan.run(MIXTURE.model(LINEAR, name), START, prediction=name) for name in PREDICTIONS)
        for other in others:
            assert relative_error(other, first) < 1e-10


# ------------------------------------------------------------------ where α = 0 or σ = 0


@pytest.mark.parametrize("schedule", ["zero_terminal_snr", "rectified_flow"])
def test_from_pure_noise_the_mean_picture_comes_out_first(schedule):
    """At α = 0 the answer is the mean of the data, and one step to the clean level ends there."""
    mean = sum(w * part.mean for w, part in zip(MIXTURE.weights, MIXTURE.parts, strict=True))
    for name in ("sample", "v_prediction", "flow"):
        model = MIXTURE.model(SCHEDULES[schedule], name)
        once = DDIMSolver(SCHEDULES[schedule]).sample(model, START, 1, prediction=name)
        np.testing.assert_allclose(once, np.broadcast_to(mean, once.shape), rtol=1e-12)


@pytest.mark.parametrize("name", ["epsilon", "score"])
def test_epsilon_is_refused_at_pure_noise_before_any_call(name):
    plan = PLMSSolver(SCHEDULES["zero_terminal_snr"]).plan(5, start="top")
    message = f"at t = .*: prediction is '{name}', which does not determine 'sample' at α = 0"
    with pytest.raises(ValueError, match=message):
        plan.run(lambda x, t: pytest.fail("the model was called"), START, prediction=name)


def test_a_score_does_not_determine_a_clean_state():
    with pytest.raises(ValueError, match="does not determine 'epsilon' at α = 1, σ = 0"):
        conversion("score", "epsilon", 1.0, 0.0)


# ------------------------------------------------------------------ the picture kept in range


@pytest.mark.parametrize("array", [np.asarray, torch.from_numpy, xp.asarray], ids=["numpy", "torch", "standard"])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_the_picture_is_clipped_or_thresholded(array, prediction):
    x0 = np.array([[0.5, -3.0, 2.0, 0.1], [0.2, 0.4, -0.6, 0.1]])
    noise = np.random.default_rng(0).standard_normal(x0.shape)
    alpha, sigma = 0.6, 0.8
    a, b = PREDICTIONS[prediction](alpha, sigma)
    x, answer = array(alpha * x0 + sigma * noise), array(a * x0 + b * noise)

    def picture(**options):
        epsilon = convert(Prediction(prediction, **options), "epsilon", x, answer, alpha, sigma)
        return np.asarray((x - sigma * epsilon) / alpha)

    np.testing.assert_allclose(picture(), x0, atol=1e-12)
    np.testing.assert_allclose(picture(clip=1), np.clip(x0, -1, 1), atol=1e-12)
    # The largest value of the first sample is 3, and the sample is divided by it. The second one stays as it is.
    np.testing.assert_allclose(picture(threshold=1.0), x0 / [[3], [1]], atol=1e-12)
    s = np.quantile(np.abs(x0[0]), 0.5)
    np.testing.assert_allclose(picture(threshold=0.5)[0], np.clip(x0[0], -s, s) / s, atol=1e-12)
    np.testing.assert_allclose(picture(threshold=1.0, clip=2)[0], x0[0] * 2 / 3, atol=1e-12)


def test_bad_predictions_are_refused():
    assert_refused(
        (lambda options=options: Prediction(**options), ValueError, message)
        for options, message in (
            ({"type": "eps"}, "known are 'epsilon'"),
            ({"clip": 0}, "clip is 0"),
            ({"clip": float("nan")}, "clip is nan"),
            ({"threshold": 1.5}, "threshold is 1.5"),
            ({"threshold": 0}, "threshold is 0"),
        )
    )
