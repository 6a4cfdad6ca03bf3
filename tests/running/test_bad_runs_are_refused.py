"""A bad argument is refused before the first call, and a bad answer at once. What looks like a mistake is warned of."""

import warnings

import jax
import numpy as np
import pytest
import torch
from array_libraries import LIBRARIES
from conftest import SCHEDULES
from runs import LINEAR, START, smooth

from pndm_solvers import DDPMSolver, ErrorEstimate, PLMSSolver, Prediction, add_noise, initial_noise


def never(x, t):
    pytest.fail("the model was called")


def test_states_that_are_no_floating_batches_are_refused():
    for x, error, message in (
        (np.zeros((2, 3), np.uint8), TypeError, "uint8"),
        (torch.zeros(2, 3, dtype=torch.int64), TypeError, "int64"),
        ([[0.0]], TypeError, "a list; it must be a dense"),
        (np.zeros(()), ValueError, "batch first"),
    ):
        with pytest.raises(error, match=message):
            DDPMSolver(LINEAR).sample(never, x, 4)


def test_options_that_mean_nothing_are_refused():
    generators = [np.random.default_rng(i) for i in range(3)]
    for options, error, message in (
        ({"prediction": "noise"}, ValueError, "prediction is 'noise'"),
        ({"prediction": None}, TypeError, "prediction is None"),
        ({"seed": 1, "generator": generators[0]}, ValueError, "not both"),
        ({"seed": [1, 2]}, ValueError, "2 entries for a batch of 4"),
        ({"seed": -1}, ValueError, "at least 0"),
        ({"seed": 1.5}, ValueError, "seed is 1.5"),
        ({"generator": generators[:1]}, ValueError, "1 entries for a batch of 4"),
        ({"generator": 3}, TypeError, "generator is a int"),
        ({"generator": "abcd"}, TypeError, "generator is a str"),
        ({"generator": [*generators, None]}, TypeError, "is a NoneType"),
        ({"callback": ErrorEstimate}, TypeError, r"callback is the class .*, as ErrorEstimate\(\)"),
        ({"seed": 1, "check_finite": 1}, TypeError, "check_finite is 1; it must be True"),
    ):
        with pytest.raises(error, match=message):
            DDPMSolver(LINEAR).sample(never, START, 4, **options)
    with pytest.raises(TypeError, match="is a NoneType"):
        DDPMSolver(LINEAR).sample(never, torch.tensor(START), 4, generator=[torch.Generator()] * 3 + [None])
    with pytest.raises(TypeError, match=r"seed is .*Array"):
        initial_noise((2, 3), jax.random.key(0))


def test_an_unknown_option_is_named_with_the_nearest_that_there_is():
    solver = PLMSSolver(LINEAR)
    for call, message in (
        (lambda: solver.plan(5, spaceing="trailing"), r"plan\(\) got .* 'spaceing'; did you mean spacing"),
        (lambda: solver.plan(num_steps=5), r"plan\(\) got .* 'num_steps'; did you mean num_inference_steps"),
        (lambda: solver.sample(never, START, steps=5), "'steps'; did you mean num_inference_steps"),
        (lambda: solver.plan(5, data_mean=2.0), "'data_mean'; pass it to Solver.sample, or run the plan from"),
        (lambda: solver.sample(never, START, 4, predict="flow"), "'predict'; did you mean prediction"),
        (lambda: solver.plan(5).run(never, START, zzz=1), r"run\(\) got .* 'zzz'; options are condition, "),
    ):
        with pytest.raises(TypeError, match=message):
            call()


def test_answers_of_another_kind_or_shape_are_refused_before_their_numbers_are_looked_at():
    for answer, error, fault in (
        (START[:1], ValueError, r"of shape \(1, 3\); beside the state it must be of shape \(4, 3\)"),
        (np.ones((4, 3), int), TypeError, "of dtype int64"),
        (np.ones((4, 3), bool), TypeError, "of dtype bool"),
        (None, TypeError, "None; it must be a dense floating array"),
        ((START,), TypeError, ".*, a tuple; it must be a dense floating array"),
    ):
        for check_finite in (False, True):
            with pytest.raises(error, match=f"at t = 673.666, the model's answer is {fault}"):
                PLMSSolver(LINEAR).sample(lambda x, t, a=answer: a, START, 4, check_finite=check_finite)


def test_answers_of_another_array_library_are_refused():
    for library in LIBRARIES:
        for other in LIBRARIES:
            if other is not library:
                answer = other.array(START)
                with pytest.raises(TypeError, match=r"at t = 673.666, the model's answer is a .*; pass arrays of one"):
                    PLMSSolver(LINEAR).sample(lambda x, t, a=answer: a, library.array(START), 3)


# ------------------------------------------------------------------ numbers that are not finite


@pytest.mark.parametrize("prediction", ["sample", "epsilon", "v_prediction"])
def test_an_infinity_is_seen_before_it_is_clipped(prediction):
    plan = PLMSSolver(LINEAR).plan(4)

    def overflowing(x, t):
        return x + np.where(t[:, None] == plan.times[2], np.inf, 0)

    clipped = Prediction(prediction, clip=1.0)
    with pytest.raises(FloatingPointError, match="the network's answer at row 2"):
        plan.run(overflowing, START, prediction=clipped, check_finite=True)


def test_an_x_that_is_not_finite_is_refused_before_the_first_call():
    with pytest.raises(FloatingPointError, match="the state x is not finite at the start"):
        PLMSSolver(LINEAR).sample(never, START * np.nan, 4)
    assert np.isnan(PLMSSolver(LINEAR).sample(smooth, START * np.nan, 4, check_finite=None)).all()


# ------------------------------------------------------------------ warnings


def test_noise_that_was_not_scaled_is_warned_of_at_the_callers_line():
    """On a variance-exploding schedule a state is as large as σ."""
    schedule = SCHEDULES["ve"]
    plan = PLMSSolver(schedule).plan(6)
    noise, picture = initial_noise((4, 16), seed=0), np.full((4, 16), 0.5)
    small = PLMSSolver(schedule).plan(6, start=20.0)
    for start in (
        lambda: plan.run(smooth, noise),
        lambda: plan.start(torch.from_numpy(noise)),
        lambda: small.start(picture),
        lambda: PLMSSolver(schedule).sample(smooth, noise, 6),
    ):
        with pytest.warns(UserWarning, match=r"root mean square of .*, where its noise alone has σ = ") as told:
            start()
        assert [warning.filename for warning in told] == [__file__]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plan.start(plan.rows[0].sigma * noise)
        plan.start(0 * noise)  # the middle of all starts
        plan.start(noise[:1, :4])  # too few numbers to tell
        small.start(add_noise(schedule, picture, noise, 20.0))
        plan.start(torch.from_numpy(noise).to("meta"))
        PLMSSolver(LINEAR).plan(6).start(0.1 * noise)
        jax.jit(lambda x: plan.run(lambda x, t: x, x))(noise)


def test_an_error_of_a_network_is_told_how_it_was_called():
    plan, weights = PLMSSolver(LINEAR).plan(5), torch.ones(2, 2)
    with pytest.raises(RuntimeError) as raised:
        plan.run(lambda x, t: torch.nn.functional.linear(x, weights), torch.zeros(4, 2, dtype=torch.float64))
    (note,) = raised.value.__notes__
    assert note == "pndm_solvers called the network with x (4, 2) torch.float64 and t (4,) torch.float64"
    network = torch.nn.Linear(2, 2)
    with pytest.raises(TypeError) as raised:
        plan.run(lambda x, t: network(x), np.ones((4, 2)))
    assert raised.value.__notes__[0].endswith("pass tensors: `torch.from_numpy(x).float()`")
    with pytest.raises(ValueError, match="the model's answer") as raised:  # this library's own says it all
        plan.run(lambda x, t: x[:, :1], np.ones((3, 2)))
    assert not hasattr(raised.value, "__notes__")


def test_a_table_of_times_is_told_to_round():
    table, plan = np.ones((1000, 2)), PLMSSolver(LINEAR).plan(5)
    with pytest.raises(IndexError) as raised:
        plan.run(lambda x, t: table[t], np.ones((3, 2)))
    (note,) = raised.value.__notes__
    assert "at times between the integers. If it looks times up in a table, round them" in note
    rounded = plan.run(lambda x, t: table[t.round().astype(int)], np.ones((3, 2)))
    assert np.isfinite(rounded).all()
    with pytest.raises(IndexError) as raised:  # whole times, so a fault of another kind
        PLMSSolver(LINEAR).plan(5, spacing="trailing").run(lambda x, t: table[float(t[0])], np.ones((3, 2)))
    assert "between the integers" not in raised.value.__notes__[0]


def test_a_sample_of_recorded_gradients_warns_of_its_mean_alone():
    """Not of a tensor that is read although torch records it."""
    scale = torch.ones((), requires_grad=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sample = PLMSSolver(LINEAR).sample(lambda x, t: scale * x, torch.randn(64, 2), 5)
    assert sample.requires_grad
