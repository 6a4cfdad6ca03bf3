"""A run that begins below pure noise needs the data's mean, and says so where it was not told."""

import warnings

import numpy as np
import pytest
import torch

from pndm_solvers import NoiseSchedule, PLMSSolver, initial_noise
from pndm_solvers.analytic import Gaussian
from pndm_solvers.latents import around

SCHEDULE = NoiseSchedule.cosine()
MEAN = np.array([8.0, -3.0, 0.0])
DATA = Gaussian(mean=MEAN, covariance=0.09 * np.eye(3))
MODEL = DATA.model(SCHEDULE)
X = initial_noise((400, 3), seed=1)


def off(samples):
    """How far the mean of the samples is from the data's, in their deviations."""
    return np.abs(np.mean(samples, axis=0) - MEAN).max() / 0.3


def test_a_known_mean_makes_a_low_start_exact():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        samples = PLMSSolver(SCHEDULE).sample(MODEL, X, 10, data_mean=MEAN)
    assert off(samples) < 0.2  # by chance alone it is up to 3/√400 = 0.15
    assert np.std(samples, axis=0) == pytest.approx(0.3, rel=0.1)


def test_an_unknown_mean_is_left_out_and_said():
    with pytest.warns(
        UserWarning, match=r"means by channel are \[7.* began at σ/α = 10 from noise around 0.*as data_mean="
    ):
        samples = PLMSSolver(SCHEDULE).sample(MODEL, X, 10)
    assert off(samples) > 0.5


@pytest.mark.parametrize(("mean", "warned"), [(0.9, False), (3.0, True)])
def test_many_numbers_leave_out_more_than_one(mean, warned):
    """Of 1,024 numbers of mean 3 a start at σ/α = 53 leaves out 0.02 deviations each, but 1.8 of the noise of all."""
    data = Gaussian(np.full(1024, mean), np.full(1024, 2.5**2))
    x = initial_noise((8, 1, 32, 32), seed=1)
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        PLMSSolver(SCHEDULE).sample(data.model(SCHEDULE), x, 10)
        PLMSSolver(SCHEDULE).sample(data.model(SCHEDULE), x, 10, data_mean=mean)
        PLMSSolver(NoiseSchedule.scaled_linear()).sample(data.model(NoiseSchedule.scaled_linear()), x, 10)  # at its top
    assert ["as data_mean=" in str(w.message) for w in heard] == [True] * warned


def test_the_top_needs_no_mean():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        samples = PLMSSolver(SCHEDULE).sample(MODEL, X, 20, start="top")
    assert off(samples) < 0.2


@pytest.mark.parametrize("options", [{"check_finite": None}, {"trajectory": True}, {"start": "top"}, {"spacing": None}])
def test_nobody_is_warned_where_the_library_does_not_look_or_the_data_are_centred(options):
    centred = Gaussian(mean=np.zeros(3), covariance=np.eye(3)).model(SCHEDULE)
    model = centred if options.pop("spacing", "") is None else MODEL
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        PLMSSolver(SCHEDULE).sample(model, X, 20, **options)


def test_means_of_any_kind_are_added():
    level = SCHEDULE.level_at(10.0)
    for mean in (2.0, [2.0, 2.0, 2.0], np.full((3,), 2.0), np.full((1, 3), 2.0)):
        np.testing.assert_allclose(around(mean, X, level), level.sigma * X + level.alpha * 2.0, rtol=1e-12)
    half = torch.from_numpy(X).half()
    for mean in ([2.0, 2.0, 2.0], np.full((1, 3), 2.0), torch.full((3,), 2.0)):
        expected = level.sigma * half.float() + level.alpha * 2.0
        torch.testing.assert_close(around(mean, half, level), expected.half())
    assert around(torch.full((3,), 2.0), half, level).dtype == torch.float16
    with pytest.raises(ValueError, match=r"^data_mean is of shape \(400, 1, 3\), which does not broadcast"):
        around(np.zeros((400, 1, 3)), X, level)


def test_a_state_has_its_mean_already():
    with pytest.raises(ValueError, match=r"^start is 500, so x_T counts as a state of that level, which has its"):
        PLMSSolver(SCHEDULE).sample(MODEL, X, 10, start=500, data_mean=MEAN)
