import array_api_strict as xp
import numpy as np
import pytest
import torch
from conftest import SCHEDULES, deterministic_solvers, named, relative_error
from hypothesis import given
from hypothesis import strategies as st

from pndm_solvers import DDIMSolver, PLMSSolver, Prediction, classifier_free_guidance
from pndm_solvers.prediction import PREDICTIONS
from pndm_solvers.problems import random_mixture

LINEAR = SCHEDULES["linear"]
MIXTURE = random_mixture(3)
PURE_NOISE = [SCHEDULES["zero_terminal_snr"], SCHEDULES["rectified_flow"]]
START = np.random.default_rng(3).standard_normal((5, 3))


# The definitions, which PREDICTIONS states as two weights; the score is ∇ log p(x | x_0).
DEFINITIONS = {
    "epsilon": lambda x0, epsilon, alpha, sigma: epsilon,
    "sample": lambda x0, epsilon, alpha, sigma: x0,
    "v_prediction": lambda x0, epsilon, alpha, sigma: alpha * epsilon - sigma * x0,
    "score": lambda x0, epsilon, alpha, sigma: -epsilon / sigma,
    "flow": lambda x0, epsilon, alpha, sigma: epsilon - x0,
}


@given(st.sampled_from(sorted(PREDICTIONS)), st.floats(0.01, 1), st.floats(0.01, 3), st.integers(0, 2**32))
def test_every_prediction_gives_back_picture_and_noise(name, alpha, sigma, seed):
    x0, epsilon = np.random.default_rng(seed).standard_normal((2, 3, 4))
    x, answer = alpha * x0 + sigma * epsilon, DEFINITIONS[name](x0, epsilon, alpha, sigma)
    prediction = Prediction(name)
    np.testing.assert_allclose(prediction.convert("epsilon", x, answer, alpha, sigma), epsilon, atol=1e-10)
    np.testing.assert_allclose(prediction.convert("sample", x, answer, alpha, sigma), x0, atol=1e-10)


@pytest.mark.parametrize("solver", deterministic_solvers(LINEAR), ids=named)
@pytest.mark.parametrize("spacing", ["trailing", "quadratic"])
def test_one_model_in_five_forms_gives_one_sample(solver, spacing):
    plan = solver.plan(12, spacing=spacing)
    samples = [plan.run(MIXTURE.model(LINEAR, name), START, prediction=name) for name in PREDICTIONS]
    for other in samples[1:]:
        assert relative_error(other, samples[0]) < 1e-10


@pytest.mark.parametrize("name", ["sample", "v_prediction", "flow"])
@pytest.mark.parametrize("schedule", PURE_NOISE, ids=str)
def test_from_pure_noise_the_mean_picture_comes_out_first(name, schedule):
    """At α = 0 the answer is the mean of the data, and one step to the clean level ends there."""
    mean = sum(w * part.mean for w, part in zip(MIXTURE.weights, MIXTURE.parts, strict=True))
    once = DDIMSolver(schedule).sample(MIXTURE.model(schedule, name), START, 1, prediction=name)
    np.testing.assert_allclose(once, np.broadcast_to(mean, once.shape), rtol=1e-12)


@pytest.mark.parametrize("schedule", PURE_NOISE, ids=str)
def test_from_pure_noise_to_the_end_of_the_flow(schedule):
    exact = MIXTURE.flow(START, schedule.level(schedule.t_max), schedule.clean)
    for solver in deterministic_solvers(schedule):
        for name in ("v_prediction", "sample", "flow") if solver.name == "F-PNDM" else ("v_prediction",):
            sample = solver.sample(MIXTURE.model(schedule, name), START, 200, spacing="linspace", prediction=name)
            assert np.median(np.abs(sample - exact)) < 0.02, solver.name


@pytest.mark.parametrize("name", ["epsilon", "score"])
def test_epsilon_is_refused_at_pure_noise_before_any_call(name):
    plan = PLMSSolver(SCHEDULES["zero_terminal_snr"]).plan(5)
    with pytest.raises(ValueError, match="does not determine 'sample' at α = 0"):
        plan.run(lambda x, t: pytest.fail("the model was called"), START, prediction=name)


def test_a_score_tells_nothing_of_a_clean_state():
    with pytest.raises(ValueError, match="does not determine 'epsilon' at α = 1, σ = 0"):
        Prediction("score").weights("epsilon", 1.0, 0.0)


@pytest.mark.parametrize("convert", [np.asarray, torch.from_numpy, xp.asarray], ids=["numpy", "torch", "standard"])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_clipping_and_thresholding(convert, prediction):
    x0 = np.array([[0.5, -3.0, 2.0, 0.1], [0.2, 0.4, -0.6, 0.1]])
    noise = np.random.default_rng(0).standard_normal(x0.shape)
    alpha, sigma = 0.6, 0.8
    a, b = PREDICTIONS[prediction](alpha, sigma)
    x, answer = convert(alpha * x0 + sigma * noise), convert(a * x0 + b * noise)

    def picture(**options):
        epsilon = Prediction(prediction, **options).convert("epsilon", x, answer, alpha, sigma)
        return np.asarray((x - sigma * epsilon) / alpha)

    np.testing.assert_allclose(picture(), x0, atol=1e-12)
    np.testing.assert_allclose(picture(clip=1), np.clip(x0, -1, 1), atol=1e-12)
    # the first sample's largest value is 3: divided by it; the second stays inside ±1: untouched
    np.testing.assert_allclose(picture(threshold=1.0), x0 / [[3], [1]], atol=1e-12)
    s = np.quantile(np.abs(x0[0]), 0.5)
    np.testing.assert_allclose(picture(threshold=0.5)[0], np.clip(x0[0], -s, s) / s, atol=1e-12)
    np.testing.assert_allclose(picture(threshold=1.0, clip=2)[0], x0[0] * 2 / 3, atol=1e-12)


def test_guidance_mixes_two_models():
    up, down = (lambda x, t: x + 1), (lambda x, t: x - 1)
    x, t = np.zeros((2, 3)), np.zeros(2)
    assert np.all(classifier_free_guidance(up, down, 3.0)(x, t) == 5)
    assert classifier_free_guidance(up, down, 1) is up
    assert classifier_free_guidance(up, down, 0) is down


def test_guidance_names_the_model_whose_answer_is_none():
    good, bad = (lambda x, t: x), (lambda x, t: (x,))
    for models, message in (((bad, good), "^conditional's answer is"), ((good, bad), "^unconditional's answer is")):
        with pytest.raises(TypeError, match=message):
            classifier_free_guidance(*models, 3.0)(np.zeros((2, 3)), np.zeros(2))


@pytest.mark.parametrize("convert", [np.asarray, torch.from_numpy], ids=["numpy", "torch"])
def test_guidance_by_models_that_write_into_what_they_share(convert):
    """In place on x and t, and into one buffer for both answers."""
    x, t, buffer = (convert(np.full(shape, 4.0)) for shape in ((2, 3), 2, (2, 3)))

    def model(factor):
        def careless(x, t):
            x *= factor
            t /= 2
            buffer[:] = x + t[:, None]
            return buffer

        return careless

    mixed = classifier_free_guidance(model(2.0), model(1.0), 3.0)(x, t)
    assert (mixed == 3 * (8 + 2) - 2 * (4 + 2)).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"type": "eps"}, "known are 'epsilon'"),
        ({"clip": 0}, "clip is 0"),
        ({"clip": float("nan")}, "clip is nan"),
        ({"threshold": 1.5}, "threshold is 1.5"),
        ({"threshold": 0}, "threshold is 0"),
    ],
)
def test_bad_predictions_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Prediction(**options)
