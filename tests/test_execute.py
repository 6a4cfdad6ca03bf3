import gc
import pickle
import warnings

import array_api_strict as xp
import jax
import numpy as np
import pytest
import torch
from conftest import SCHEDULES, all_solvers, deterministic_solvers, named

from pndm_solvers import (
    DDIMSolver,
    DDPMSolver,
    ErrorEstimate,
    PLMSSolver,
    PNDMSolver,
    Prediction,
    execute,
    initial_noise,
)
from pndm_solvers.noise import NoiseSource
from pndm_solvers.problems import random_mixture

LINEAR = SCHEDULES["linear"]
START = initial_noise((4, 3), seed=0)


def smooth(x, t):
    """Any smooth model, of NumPy and of torch."""
    return x / (1 + x * x) + x**0 * t[:, None] / 1000


@pytest.mark.parametrize("solver", all_solvers(LINEAR), ids=named)
def test_calls_and_times_are_as_the_plan_says(solver):
    for steps in (*range(1, 11), 60):
        plan = solver.plan(steps)
        seen = []
        expected = np.int64 if plan.integer_times else np.float64

        def model(x, t, seen=seen, expected=expected):
            assert t.shape == (4,)
            assert t.dtype == expected
            seen.append(t[0])
            return smooth(x, t)

        result = plan.run(model, START, seed=1)
        assert len(seen) == plan.model_calls
        assert tuple(seen) == plan.times
        assert np.isfinite(result).all()


@pytest.mark.parametrize(("name", "calls"), [("DDIM", 0), ("DDPM (fixed small)", 0), ("F-PNDM", 9), ("S-PNDM", 1)])
def test_what_n_steps_cost(name, calls):
    solver = next(s for s in all_solvers(LINEAR) if s.name == name)
    for steps in (5, 6, 7, 8, 60):
        assert solver.plan(steps).model_calls == steps + calls


@pytest.mark.parametrize("solver", all_solvers(LINEAR), ids=named)
def test_push_is_pull_to_the_last_bit(solver):
    plan = solver.plan(9)
    state = plan.start(START, seed=7)
    while not state.done:
        state = plan.advance(state, smooth(state.x, state.t))
    assert np.array_equal(state.x, plan.run(smooth, START, seed=7))
    assert np.array_equal(state.x, solver.sample(smooth, START, 9, seed=7))


@pytest.mark.parametrize("solver", all_solvers(LINEAR), ids=named)
def test_states_are_values(solver):
    """Two runs interleaved, and a third that forks from the first, do not disturb each other."""
    plan = solver.plan(8)
    a, b = plan.start(START, seed=1), plan.start(-2 * START, seed=2)
    fork = None
    while not a.done:
        a = plan.advance(a, smooth(a.x, a.t))
        b = plan.advance(b, smooth(b.x, b.t))
        fork = a if a.row == 4 else fork
    while fork is not None and not fork.done:
        fork = plan.advance(fork, smooth(fork.x, fork.t))
    assert np.array_equal(a.x, plan.run(smooth, START, seed=1))
    assert np.array_equal(b.x, plan.run(smooth, -2 * START, seed=2))
    assert np.array_equal(fork.x, a.x)


@pytest.mark.parametrize("convert", [np.array, torch.tensor], ids=["numpy", "torch"])
@pytest.mark.parametrize("solver", all_solvers(LINEAR), ids=named)
def test_what_others_write_into_their_arrays_does_not_touch_a_run(solver, convert):
    """A model that works in place and answers in one buffer, a callback that scribbles, a caller who reuses x_T."""
    plan, x, buffer = solver.plan(6), convert(START), convert(START)

    def careless(x, t):
        buffer[:] = smooth(x, t)
        x *= 0
        return buffer

    def scribble(step):
        for array in (step.x, step.answer, step.state.x):
            array *= 0

    for prediction in ("epsilon", "v_prediction", Prediction("sample", clip=1.0)):
        expected = plan.run(smooth, convert(START), prediction=prediction, seed=1)
        result = plan.run(careless, x, prediction=prediction, seed=1, callback=scribble)
        assert (result == expected).all()
        assert (x == convert(START)).all()
        state = plan.start(x, prediction=prediction, seed=1)
        x *= 0
        while not state.done:
            state = plan.advance(state, careless(state.x, state.t))
        assert (state.x == expected).all()
        x[:] = convert(START)


@pytest.mark.parametrize("solver", all_solvers(LINEAR), ids=named)
@pytest.mark.parametrize("steps", [1, 2, 5, 12])
def test_live_tensors_never_exceed_max_stored(solver, steps, monkeypatch):
    """Counted by the garbage collector at the moment each new state has been made."""
    plan = solver.plan(steps)
    start = torch.randn((2, 5), dtype=torch.float64)
    most = 0
    combine = execute.combine

    def counting(*arguments, **options):
        nonlocal most
        result = combine(*arguments, **options)
        live = [o for o in gc.get_objects() if type(o) is torch.Tensor and o.shape == start.shape]
        most = max(most, len(live))
        return result

    monkeypatch.setattr(execute, "combine", counting)
    gc.freeze()  # what was there before, x_T included, is passed over: hundreds of thousands of objects
    try:
        plan.run(lambda x, t: x.sin(), start, seed=0)
    finally:
        gc.unfreeze()
    assert most <= plan.max_stored
    if steps == 12:
        # not by a wide margin either: x_T itself is the caller's and was not counted
        assert most >= plan.max_stored - 1


def test_max_stored_by_hand():
    assert DDIMSolver(LINEAR).plan(9).max_stored == 3  # x, ε and the new x
    assert DDPMSolver(LINEAR).plan(9).max_stored == 4  # and z
    assert PLMSSolver(LINEAR, 4, weights="classical").plan(9).max_stored == 6  # three older ε


@pytest.mark.parametrize("solver", deterministic_solvers(LINEAR), ids=named)
def test_torch_as_numpy(solver):
    plan = solver.plan(6)
    expected = plan.run(smooth, START)
    result = plan.run(smooth, torch.from_numpy(START))
    assert result.dtype == torch.float64
    np.testing.assert_allclose(result.numpy(), expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_any_library_of_the_array_api_standard(dtype):
    """array_api_strict has what the standard names and nothing more."""
    start = xp.asarray(START, dtype=getattr(xp, dtype))
    plan = DDPMSolver(LINEAR).plan(6)

    def model(x, t):
        assert t.dtype == start.dtype
        return x / (1 + x * x) + xp.reshape(t, (-1, 1)) / 1000

    result = plan.run(model, start, seed=2)
    assert result.dtype == start.dtype
    expected = plan.run(smooth, START.astype(dtype), seed=2)
    np.testing.assert_allclose(np.asarray(result), expected, rtol=1e-10 if dtype == "float64" else 1e-3, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_torch_keeps_dtype_and_hands_over_times(dtype):
    def model(x, t):
        assert x.dtype == dtype
        assert t.dtype == (torch.int64 if plan.integer_times else wide)
        return torch.zeros_like(x)

    wide = torch.float64 if dtype == torch.float64 else torch.float32
    for plan in (PNDMSolver(LINEAR).plan(4), PNDMSolver(LINEAR).plan(4, spacing="quadratic")):
        assert plan.run(model, torch.zeros(3, 2, dtype=dtype)).dtype == dtype


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_numpy_keeps_dtype(dtype):
    result = PLMSSolver(LINEAR).sample(smooth, START.astype(dtype), 5)
    assert result.dtype == dtype


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_eight_bits_are_enough_for_what_the_network_sees(dtype):
    x, rounding = torch.from_numpy(START).to(dtype), torch.finfo(dtype).eps

    def model(x, t):
        return (x.float() / 2).to(dtype)

    for options in ({}, {"check_finite": True}, {"prediction": Prediction("sample", clip=1.0)}):
        result = PLMSSolver(LINEAR).sample(model, x, 5, **options)
        exact = PLMSSolver(LINEAR).sample(lambda x, t: model(x.to(dtype), t).double(), x.double(), 5, **options)
        assert result.dtype == dtype
        torch.testing.assert_close(result.double(), exact, rtol=rounding, atol=rounding / 8)


def test_half_precision_is_summed_in_float32():
    """8·ε₀ − 7·ε₁ and the like: the products must not round before they meet."""
    arrays = [torch.full((1, 1), value, dtype=torch.bfloat16) for value in (1.0, 1.0078125)]
    assert execute.combine(arrays, [-100.0, 100.0]).item() == 0.78125


def test_gradients_flow_through_a_run():
    start = torch.randn(2, 2, dtype=torch.float64, requires_grad=True)
    plan = PLMSSolver(LINEAR).plan(5)
    assert torch.autograd.gradcheck(lambda x: plan.run(smooth, x), start)


def test_noise_free_plans_draw_nothing():
    generator = torch.Generator().manual_seed(0)
    before, global_before = generator.get_state(), torch.get_rng_state()
    DDIMSolver(LINEAR).sample(smooth, torch.from_numpy(START), 5, generator=generator)
    assert torch.equal(generator.get_state(), before)
    assert torch.equal(torch.get_rng_state(), global_before)


def test_noise_of_a_sample_does_not_depend_on_its_batch():
    plan = DDPMSolver(LINEAR).plan(6)
    together = plan.run(smooth, START, seed=5)
    assert np.array_equal(plan.run(smooth, START[:2], seed=5), together[:2])
    assert not np.any(plan.run(smooth, START, seed=6) == together)
    seeds = [11, 12, 13, 14]
    each = plan.run(smooth, START, seed=seeds)
    for i, seed in enumerate(seeds):
        assert np.array_equal(plan.run(smooth, START[i : i + 1], seed=[seed]), each[i : i + 1])
    assert np.array_equal(initial_noise((2, 3), seed=np.int64(0)), START[:2])
    in_torch = plan.run(smooth, torch.from_numpy(START), seed=5)
    np.testing.assert_allclose(in_torch.numpy(), together, rtol=1e-12)


def test_generators():
    plan = DDPMSolver(LINEAR).plan(6)
    x = torch.from_numpy(START)

    def run(generator):
        return plan.run(smooth, x, generator=generator)

    assert torch.equal(run(torch.Generator().manual_seed(3)), run(torch.Generator().manual_seed(3)))
    assert not torch.equal(run(torch.Generator().manual_seed(3)), run(torch.Generator().manual_seed(4)))
    several = run([torch.Generator().manual_seed(i) for i in range(4)])
    alone = plan.run(smooth, x[2:3], generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(several[2:3], alone, rtol=0, atol=0)
    numpy_run = plan.run(smooth, START, generator=np.random.default_rng(1))
    np.testing.assert_allclose(run(np.random.default_rng(1)).numpy(), numpy_run, rtol=1e-12)
    torch.manual_seed(0)
    first = plan.run(smooth, x)
    torch.manual_seed(0)
    assert torch.equal(first, plan.run(smooth, x))


def test_each_row_adds_its_own_noise():
    """A stochastic run replayed by hand, from the numbers of the plan and the noise of each row."""
    for solver in (DDPMSolver(LINEAR), DDPMSolver(LINEAR, "fixed_large"), DDIMSolver(LINEAR, eta=0.7)):
        plan = solver.plan(7)
        x = START
        for k, row in enumerate(plan.rows):
            z = NoiseSource(seed=9).draw(k, like=x)
            epsilon = smooth(x, np.full(4, row.t))
            x = row.states[0][1] * x + row.answers[0][1] * epsilon + row.noise * z
        np.testing.assert_allclose(plan.run(smooth, START, seed=9), x, rtol=1e-12)


def test_initial_noise_is_none_of_the_rows():
    like = np.float32(START)
    start = initial_noise(like.shape, seed=0, like=like)
    assert start.dtype == np.float32
    assert not np.any([start == NoiseSource(seed=0).draw(row, like) for row in range(3)])
    for message, options in (
        ("2 entries for a batch of 4", {"seed": [1, 2]}),
        ("like has", {"seed": 0, "like": like.T}),
    ):
        with pytest.raises(ValueError, match=message):
            initial_noise(like.shape, **options)


def test_noise_is_standard_normal():
    draws = np.concatenate([NoiseSource(seed=0).draw(row, np.empty((50, 400))) for row in range(5)])
    assert abs(draws.mean()) < 4 / draws.size**0.5
    assert abs(draws.var() - 1) < 4 * (2 / draws.size) ** 0.5
    assert abs(np.corrcoef(draws[:50].ravel(), draws[50:100].ravel())[0, 1]) < 0.03


@pytest.mark.parametrize("convert", [np.asarray, torch.from_numpy], ids=["numpy", "torch"])
def test_a_run_survives_being_pickled(convert):
    start = convert(START)
    for plan in (PNDMSolver(LINEAR).plan(6), DDPMSolver(LINEAR).plan(6)):
        state = plan.start(start, seed=3)
        while not state.done:
            state = pickle.loads(pickle.dumps(state))
            state = plan.advance(state, smooth(state.x, state.t))
        assert (state.x == plan.run(smooth, start, seed=3)).all()


@pytest.mark.parametrize("answer", [torch.float16, torch.float64])
def test_the_dtype_is_the_states_not_the_networks(answer):
    def model(x, t):
        return x.to(answer)

    start = torch.from_numpy(START).float()
    flow = SCHEDULES["rectified_flow"]
    upwards = DDIMSolver(flow).plan(timesteps=[0.1, 0.5], stop=1)  # its last row has no state among its terms
    for plan in (PLMSSolver(LINEAR).plan(3), upwards):
        for prediction in ("epsilon", "flow", Prediction("flow", clip=1.0)):
            assert plan.run(model, start, prediction=prediction).dtype == torch.float32


@pytest.mark.parametrize("shape", [(0, 3), (5,), (0,), (2, 0)])
def test_odd_shapes(shape):
    for x in (np.ones(shape), torch.ones(shape)):
        result = DDPMSolver(LINEAR).sample(lambda x, t: x, x, 3, seed=1)
        assert tuple(result.shape) == shape
        each = [np.random.default_rng(i) for i in range(shape[0])]
        assert tuple(DDPMSolver(LINEAR).sample(lambda x, t: x, x, 3, generator=each).shape) == shape
        assert initial_noise(shape, 0).shape == shape


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_callback_sees_every_call_and_previews_the_picture(prediction):
    mixture = random_mixture(3)
    steps = []
    plan = PNDMSolver(LINEAR).plan(6)
    plan.run(mixture.model(LINEAR, prediction), START, prediction=prediction, callback=steps.append)
    assert [step.row for step in steps] == list(range(plan.model_calls))
    assert tuple(step.t for step in steps) == plan.times
    for step in steps:
        level = LINEAR.level(step.t)
        np.testing.assert_allclose(step.x0, mixture.posterior(step.x, *level[1:])[0], atol=1e-8)
        assert step.state.row == step.row + 1


def test_trajectory_holds_the_points_of_the_solution():
    plan = PNDMSolver(LINEAR).plan(6)
    points = plan.run(smooth, START, trajectory=True)
    assert len(points) == 7  # x_T, then one a step, however many stages it took
    assert np.array_equal(points[0], START)
    assert not any(np.shares_memory(point, START) for point in points)
    assert np.array_equal(points[-1], plan.run(smooth, START))


def test_progress_bar(capsys):
    DDIMSolver(LINEAR).sample(smooth, START, 3, progress=True)
    assert "3/3" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("x", "model", "options", "error", "message"),
    [
        (np.zeros((2, 3), np.uint8), smooth, {}, TypeError, "uint8"),
        (torch.zeros(2, 3, dtype=torch.int64), smooth, {}, TypeError, "int64"),
        ([[0.0]], smooth, {}, TypeError, "not a list"),
        (np.zeros(()), smooth, {}, ValueError, "batch first"),
        (START, lambda x, t: x[:1], {}, ValueError, r"answered shape \(1, 3\)"),
        (START, lambda x, t: None, {}, ValueError, "answered a NoneType"),
        (START, smooth, {"prediction": "noise"}, ValueError, "prediction is 'noise'"),
        (START, smooth, {"seed": 1, "generator": np.random.default_rng()}, ValueError, "not both"),
        (START, smooth, {"seed": [1, 2]}, ValueError, "2 entries for a batch of 4"),
        (START, None, {"seed": [1, 2]}, ValueError, "2 entries for a batch of 4"),
        (START, None, {"seed": -1}, ValueError, "at least 0"),
        (START, None, {"seed": 1.5}, ValueError, "seed is 1.5"),
        (START, None, {"prediction": None}, TypeError, "prediction is None"),
        (START, smooth, {"generator": [np.random.default_rng()]}, ValueError, "1 entries for a batch of 4"),
        (START, smooth, {"generator": 3}, TypeError, "generator is a int"),
        (START, smooth, {"generator": "abcd"}, TypeError, "generator is a str"),
        (START, smooth, {"generator": [*map(np.random.default_rng, range(3)), None]}, TypeError, "is a NoneType"),
        (torch.tensor(START), smooth, {"generator": [torch.Generator()] * 3 + [None]}, TypeError, "is a NoneType"),
        (START, smooth, {"callback": ErrorEstimate}, TypeError, r"callback is the class .*, as ErrorEstimate\(\)"),
        (START, smooth, {"seed": 1, "check_finite": 1}, TypeError, "check_finite is 1; it must be True, False or None"),
    ],
)
def test_bad_runs_are_refused(x, model, options, error, message):
    with pytest.raises(error, match=message):
        DDPMSolver(LINEAR).sample(model, x, 4, **options)


def test_a_state_belongs_to_its_plan():
    plan, other = PLMSSolver(LINEAR).plan(4), PNDMSolver(LINEAR).plan(4)
    state = plan.start(START)
    assert repr(state) == "<State of PLMS 4 (exact, ramp), row 0 of 4, t = 999, x (4, 3)>"
    with pytest.raises(ValueError, match=r"<Plan PLMS 4 .exact, ramp., 4 model calls>, not of <Plan F-PNDM, 13"):
        other.advance(state, START)
    assert PLMSSolver(LINEAR).plan(4).advance(state, START).row == 1  # an equal plan is the same plan


def test_a_run_that_is_done_cannot_go_on():
    plan = DDIMSolver(LINEAR).plan(1)
    done = plan.advance(plan.start(START), START)
    for further in (lambda: done.t, lambda: plan.advance(done, START)):
        with pytest.raises(ValueError, match="is done"):
            further()


@pytest.mark.parametrize("prediction", ["sample", "epsilon", "v_prediction"])
def test_an_infinity_is_seen_before_it_is_clipped(prediction):
    plan = PLMSSolver(LINEAR).plan(4)

    def overflowing(x, t):
        return x + np.where(t[:, None] == plan.times[2], np.inf, 0)

    clipped = Prediction(prediction, clip=1.0)
    with pytest.raises(FloatingPointError, match="what the network answered at row 2"):
        plan.run(overflowing, START, prediction=clipped, check_finite=True)


@pytest.mark.parametrize("answer", [np.ones((4, 3), int), np.ones((4, 3), bool), None, (START,), START[:1]])
def test_what_is_no_answer_is_not_looked_at(answer):
    with pytest.raises(ValueError, match=r"the model answered .* at t = 999"):
        PLMSSolver(LINEAR).sample(lambda x, t: answer, START, 4, check_finite=True)


def test_an_x_that_is_not_finite_is_refused_before_the_first_call():
    with pytest.raises(FloatingPointError, match="x is not finite as it is handed in"):
        PLMSSolver(LINEAR).sample(lambda x, t: pytest.fail("was asked"), START * np.nan, 4)
    assert np.isnan(PLMSSolver(LINEAR).sample(smooth, START * np.nan, 4, check_finite=None)).all()


def test_what_a_compiled_function_cannot_do_is_refused():
    """Noise that would be the same at each call though no seed says so, and looks at numbers that are none as yet."""
    x, noisy = np.zeros((2, 2), np.float32), DDPMSolver(LINEAR).plan(4)
    for options in ({}, {"generator": np.random.default_rng(0)}):
        with pytest.raises(ValueError, match=r"drawn while JAX transforms .* pass seed="):
            jax.jit(lambda x, options=options: noisy.run(smooth, x, **options))(x)
    seeded = jax.jit(lambda x: noisy.run(smooth, x, seed=1))(x)
    np.testing.assert_allclose(seeded, noisy.run(smooth, jax.numpy.asarray(x), seed=1), rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="check_finite is True, but x has no numbers"):
        jax.jit(lambda x: noisy.run(smooth, x, seed=1, check_finite=True))(x)
    with pytest.raises(ValueError, match="check_finite is True, but x has no numbers"):
        torch.func.vmap(lambda x: noisy.run(smooth, x, seed=1, check_finite=True))(torch.zeros(1, 2, 2))


def test_arrays_of_two_libraries_are_told_apart():
    with pytest.raises(ValueError, match="the model answered a ndarray at"):
        PLMSSolver(LINEAR).sample(lambda x, t: np.asarray(x), jax.numpy.ones((2, 2)), 3)
    with pytest.raises(TypeError, match=r"seed is .*Array"):
        initial_noise((2, 3), jax.random.key(0))


def test_noise_that_was_not_scaled_is_warned_of():
    """On a variance-exploding schedule, where a state is as large as σ; at the caller's own line."""
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
        plan.start(noise[:1, :4])  # of so few numbers nothing can be said
        small.start(schedule.add_noise(picture, noise, 20.0))
        plan.start(torch.from_numpy(noise).to("meta"))
        PLMSSolver(LINEAR).plan(6).start(0.1 * noise)
        jax.jit(lambda x: plan.run(lambda x, t: x, x))(noise)
