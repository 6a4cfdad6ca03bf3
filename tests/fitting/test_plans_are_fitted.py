"""A fitted plan errs less than the default on noise that it was not fitted to, with any library and any schedule."""

import warnings

import numpy as np
import pytest
import torch
from array_libraries import LIBRARIES
from conftest import SCHEDULES, named
from problems import error, noise, recorded, ring

from pndm_solvers import NoiseSchedule, Pilot, PLMSSolver, Prediction, fit_plan, initial_noise
from pndm_solvers.analytic import Gaussian

LINEAR = NoiseSchedule.linear()


@pytest.fixture(scope="module")
def pilot():
    return recorded(LINEAR)


@pytest.mark.parametrize("name", SCHEDULES)
def test_it_errs_less_than_the_default_on_fresh_noise(name):
    schedule = SCHEDULES[name]
    prediction = "epsilon" if schedule.level(schedule.t_max).alpha else "v_prediction"
    pilot = recorded(schedule, prediction)
    fit = pilot.fit(ring(schedule, prediction), 5)
    assert fit.plan.model_calls == 5
    assert fit.plan.levels[0] == pilot.plan.levels[0]
    default = PLMSSolver(schedule).plan(5, prediction=prediction, sample_shape=(2,))
    assert error(fit.plan, schedule, prediction) < error(default, schedule, prediction) / 4
    assert fit.gain < 1 / 4


def test_the_samples_that_judge_are_not_fitted_to(pilot):
    fitted, held_out = pilot.parts()
    rows = [np.concatenate([part.rows for part in parts]) for parts in (fitted, held_out)]
    assert sorted(np.concatenate(rows)) == list(range(64))
    seen = []

    def counted(x, t):
        seen.append(len(x))
        return ring(LINEAR)(x, t)

    fit = pilot.fit(counted, 4)
    assert fit.samples == (32, 32)
    assert sum(seen) == fit.calls
    assert all(len(errors) == 32 for errors in fit.errors.values())
    again = [
        np.sqrt(((fit.plan.run(ring(LINEAR), noise(LINEAR)[part.rows]) - part.ends) ** 2).mean(1)) for part in held_out
    ]
    np.testing.assert_allclose(np.concatenate(again), fit.errors["fitted"], rtol=1e-6)


@pytest.mark.parametrize("library", LIBRARIES, ids=named)
def test_any_array_library_and_its_condition(library):
    """A network that is moved by its condition: without the condition's rows every fit would be of other samples."""

    def moved(x, t, by):
        values = ring(LINEAR)(np.asarray(x, np.float64) - np.asarray(by), np.asarray(t, np.float64))
        return library.namespace.asarray(values, dtype=x.dtype)

    x, by = noise(LINEAR), 0.01 * np.arange(128.0).reshape(64, 2) / 64
    given = {"by": library.array(by)}
    plans = [
        fit_plan(moved, LINEAR, library.array(x), 4, condition=given, levels=48, batch_size=batch)
        for batch in (None, 24)
    ]
    for plan in plans:
        assert error(plan, LINEAR) < 0.5 * error(PLMSSolver(LINEAR).plan(4, sample_shape=(2,)), LINEAR)
    # Only the order of sums differs between the batches.
    np.testing.assert_allclose(plans[0].times, plans[1].times, rtol=0.02)


def test_torch_records_nothing():
    weight = torch.nn.Parameter(torch.ones(()))

    def network(x, t):
        assert not torch.is_grad_enabled()
        return weight * torch.from_numpy(ring(LINEAR)(x.double().numpy(), t.double().numpy())).float()

    plan = fit_plan(network, LINEAR, torch.from_numpy(noise(LINEAR)).float(), 4, levels=32)
    assert plan.model_calls == 4


def test_a_clipped_prediction_and_another_end():
    schedule, prediction = LINEAR, Prediction("epsilon", clip=2.0)
    pilot = Pilot.record(ring(schedule), schedule, noise(schedule), prediction=prediction, final="first", levels=48)
    fit = pilot.fit(ring(schedule), 5)
    assert fit.plan.end == schedule.level(0)
    assert fit.gain < 0.5


def test_whole_times_alone_where_the_spacing_is_of_whole_times():
    def network(x, t):
        assert t.dtype.kind == "i"
        return ring(LINEAR)(x, t)

    fit = Pilot.record(network, LINEAR, noise(LINEAR), spacing="linspace", levels=64).fit(network, 6)
    assert fit.plan.integer_times
    assert fit.gain < 0.1


def test_data_far_from_zero_are_fitted_about_their_mean():
    def network(x, t):
        return ring(LINEAR)(x - 5 * LINEAR.alpha(t)[:, None], t)

    pilot = Pilot.record(network, LINEAR, noise(LINEAR), data_mean=5.0, levels=64)
    assert abs(pilot.ends.mean() - 5) < 0.3
    assert pilot.fit(network, 5).gain < 0.25


def test_where_nothing_beats_the_default_its_plan_comes_back_with_a_warning():
    """An idle network: ε = 0 everywhere, so that every plan is exact."""
    pilot = Pilot.record(lambda x, t: 0 * x, LINEAR, noise(LINEAR), levels=32)
    with pytest.warns(UserWarning, match="nothing fitted was better than the default"):
        fit = pilot.fit(lambda x, t: 0 * x, 5)
    assert fit.plan == PLMSSolver(LINEAR).plan(5, sample_shape=(2,))
    assert fit.gain == 1
    assert "default" in str(fit)


def test_an_interrupted_fit_returns_the_best_so_far(pilot):
    def interrupted(most):
        calls = []

        def model(x, t):
            calls.append(t)
            if len(calls) > most:
                raise KeyboardInterrupt
            return ring(LINEAR)(x, t)

        return model

    with pytest.warns(UserWarning, match="interrupted: the plan is the best until then"):
        fit = pilot.fit(interrupted(600), 5)
    assert fit.interrupted
    assert "interrupted" in str(fit)
    assert fit.gain < 1

    with pytest.warns(UserWarning, match="interrupted before anything fitted was better"):
        fit = pilot.fit(interrupted(8), 5)  # in the second of its runs, the first plain rule's
    assert fit.plan.levels == PLMSSolver(LINEAR).plan(5, sample_shape=(2,)).levels

    def at_once(x, t):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pilot.fit(at_once, 5)


def test_a_saved_pilot_fits_the_same_plan(pilot, tmp_path):
    pilot.save(tmp_path / "pilot.npz")
    loaded = Pilot.load(tmp_path / "pilot.npz")
    assert loaded.schedule == pilot.schedule
    assert loaded.fit(ring(LINEAR), 4).plan == pilot.fit(ring(LINEAR), 4).plan
    for name, schedule in SCHEDULES.items():
        prediction = "flow" if schedule.level(schedule.t_max).alpha == 0 else "score"
        short = recorded(schedule, prediction, levels=12)
        short.save(tmp_path / name)
        again = Pilot.load(tmp_path / name)
        assert again.schedule == schedule
        assert again.plan == short.plan
        assert np.array_equal(again.states, short.states)


def test_a_table_is_printed_with_the_errors_and_the_cost(pilot):
    text = str(pilot.fit(ring(LINEAR), 4))
    for word in ("4 model calls", "32 samples", "median", "fitted", "default", "best plain rule", "called for"):
        assert word in text


def test_a_short_budget_has_fewer_numbers(pilot):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # one call may have nothing to gain
        for calls in (1, 2, 3):
            assert pilot.fit(ring(LINEAR), calls).plan.model_calls == calls


def test_a_short_plan_for_large_samples_begins_where_its_pilot_did():
    """The default begins such a run lower, and the pilot's states are those of its own start."""
    schedule = NoiseSchedule.cosine()
    model, x = Gaussian(np.zeros(3072), np.full(3072, 0.25)).model(schedule), initial_noise((64, 3, 32, 32), 0)

    def network(x, t):
        return model(x.reshape(len(x), -1), t).reshape(x.shape)

    pilot = Pilot.record(network, schedule, x, levels=16)
    found = pilot.fit(network, 4)
    assert found.plan.levels[0] == pilot.plan.levels[0]
    assert found.plan.levels[0].ratio > PLMSSolver(schedule).plan(4, sample_shape=(3, 32, 32)).levels[0].ratio
    assert found.plan.model_calls == 4
