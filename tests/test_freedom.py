"""A run is a value: thousands at once, forked, undone, pickled, re-noised, turned around, and sharing model calls."""

import pickle
import random
import re
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import array_api_strict
import numpy as np
import pytest
import torch
from conftest import SCHEDULES, all_solvers, named, relative_error
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from pndm_solvers import DDIMSolver, DDPMSolver, PLMSSolver, PNDMSolver, State, advance_together, initial_noise, slerp
from pndm_solvers.analytic import Gaussian
from pndm_solvers.problems import random_mixture

LINEAR = SCHEDULES["linear"]
START = initial_noise((4, 3), seed=0)


def smooth(x, t):
    """Elementwise, of NumPy and of torch."""
    return x / (1 + x * x) + x**0 * t[:, None] / 1000


def finish(state):
    while not state.done:
        state = state.plan.advance(state, smooth(state.x, state.t))
    return state.x


# ------------------------------------------------------------------ many at once


def test_2000_runs_interleaved_in_random_order():
    """On the plans of one solver, each with a start and a seed of its own."""
    solver, chance = DDPMSolver(LINEAR), random.Random(0)
    plans = [solver.plan(steps) for steps in (3, 5, 8)]
    runs = {n: plans[n % 3].start(START[:1] + n / 1000, seed=n) for n in range(2000)}
    going, samples = list(runs), {}
    while going:
        i = chance.randrange(len(going))
        state = runs[going[i]] = finish_one(runs[going[i]])
        if state.done:
            samples[going[i]] = state.x
            going[i] = going[-1]
            going.pop()
    for n, sample in samples.items():
        assert np.array_equal(sample, plans[n % 3].run(smooth, START[:1] + n / 1000, seed=n))


def finish_one(state):
    return state.plan.advance(state, smooth(state.x, state.t))


@pytest.mark.parametrize("solver", all_solvers(LINEAR), ids=named)
def test_undo(solver):
    """Back to any earlier state, another way, and the first way again."""
    plan = solver.plan(max_model_calls=12)
    states = [plan.start(START, seed=1)]
    while not states[-1].done:
        states.append(finish_one(states[-1]))
    for state in states[:-1]:
        detour = plan.advance(state, -smooth(state.x, state.t))
        assert not np.array_equal(finish(detour), states[-1].x)
        assert np.array_equal(finish(state), states[-1].x)


# ------------------------------------------------------------------ turned around, and in between


def test_inversion_returns_at_the_methods_order():
    """x_0 → x_t → x_0: twice the steps, 2^order times nearer to where it began."""
    pictures, mixture = random_mixture(3).sample(8), random_mixture(3)
    model = mixture.model(LINEAR)
    for solver, orders in ((DDIMSolver(LINEAR), 1), (PNDMSolver(LINEAR, 2), 2), (PLMSSolver(LINEAR, 4, "rk4"), 4)):
        steps, errors = (40, 80, 160), []
        for n in steps:
            times = np.linspace(200.0, 900.0, n + 1)
            noise = solver.sample(model, pictures, timesteps=times[:-1], stop=times[-1])
            back = solver.sample(model, noise, timesteps=times[:0:-1], stop=times[0])
            errors.append(relative_error(back, pictures))
        assert -np.polyfit(np.log(steps), np.log(errors), 1)[0] > orders - 0.3


@pytest.mark.parametrize("convert", [np.asarray, torch.from_numpy, array_api_strict.asarray, None])
def test_slerp(convert):
    """Along the great circle through both ends, evenly, each sample by itself."""
    a, b = initial_noise((5, 4, 6), seed=0), initial_noise((5, 4, 6), seed=1)
    a, b = (x / np.sqrt((x**2).sum((1, 2), keepdims=True)) for x in (a, b))
    b[0], b[1] = a[0], 0.01 * b[1] - a[1]  # parallel, and almost opposite
    b[1] /= np.sqrt((b[1] ** 2).sum())
    if convert is None:
        import jax

        with jax.enable_x64(True):
            between = [np.asarray(slerp(jax.numpy.asarray(a), jax.numpy.asarray(b), w / 8)) for w in range(9)]
    else:
        between = [np.asarray(slerp(convert(a), convert(b), w / 8)) for w in range(9)]
    assert np.array_equal(between[0][2:], a[2:])
    np.testing.assert_allclose(between[8], b, atol=1e-12)
    np.testing.assert_allclose([(x**2).sum((1, 2)) for x in between], 1, rtol=1e-9)
    whole = np.arccos(np.clip((a * b).sum((1, 2)), -1, 1))
    for here, there in pairwise(between):
        angle = 2 * np.arcsin(np.sqrt(((here - there) ** 2).sum((1, 2))) / 2)
        np.testing.assert_allclose(angle, whole / 8, atol=1e-7)
    alone = slerp(a[3:4], b[3:4], 0.25)
    np.testing.assert_allclose(alone, between[2][3:4], rtol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_slerp_keeps_dtype_and_length(dtype):
    a, b = (initial_noise((3, 4096), seed, like=torch.empty(3, 4096, dtype=dtype)) for seed in (0, 1))
    middle = slerp(a, b, 0.5)
    assert middle.dtype == dtype
    for x in (a, b):
        assert torch.all((middle.double().norm(dim=1) / x.double().norm(dim=1) - 1).abs() < 0.05)
    exact = slerp(a.double(), b.double(), 0.5)
    # Computed in float32 at least, and rounded once.
    eps = max(torch.finfo(dtype).eps, 1e-6 if dtype != torch.float64 else 0)
    torch.testing.assert_close(middle.double(), exact, rtol=eps, atol=eps / 8)


@pytest.mark.parametrize("size", [1e-30, 1e-15, 1e15, 1e37])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_arc_does_not_depend_on_how_long_its_ends_are(dtype, size):
    """Whose squares may be no numbers any more."""
    a, b = (torch.randn(3, 50, generator=torch.Generator().manual_seed(n), dtype=dtype) for n in (0, 1))
    expected = slerp(a, b, 0.3)
    torch.testing.assert_close(slerp(size * a, size * b, 0.3) / size, expected)
    ends = slerp(size * a, 0 * b, 0.3), slerp(size * a, b, 0.3)
    torch.testing.assert_close(ends[0] / size, slerp(a, 0 * b, 0.3))
    alike, partly = torch.full((1, 4096), size, dtype=dtype), torch.ones(1, 4096, dtype=dtype)
    partly[:, :1024] = -1
    torch.testing.assert_close(slerp(alike, size * partly, 0.5)[0, -1] / size, torch.tensor(2 / 3**0.5, dtype=dtype))
    exact = slerp(size * a.double(), b.double(), 0.3)
    torch.testing.assert_close(ends[1].double() / exact.abs().max(), exact / exact.abs().max(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("b", "weight", "error", "message"),
    [
        (-START, 0.5, ValueError, "opposite of its partner"),
        (np.full_like(START, np.nan), 0.5, ValueError, "infinity or NaN"),
        (START[::-1], float("nan"), ValueError, "weight is nan"),
        (START[:2], 0.5, ValueError, r"b is of shape \(2, 3\), and beside a it must be of shape \(4, 3\)"),
        (START.astype(np.float32), 0.5, ValueError, "b is of dtype float32, and beside a it must be of dtype float64"),
        (torch.from_numpy(START), 0.5, TypeError, "a is a ndarray and b a Tensor"),
        (START > 0, 0.5, TypeError, "dtype bool"),
    ],
)
def test_what_slerp_refuses(b, weight, error, message):
    with pytest.raises(error, match=message):
        slerp(START, b, weight)


# ------------------------------------------------------------------ one model call for several runs


@pytest.mark.parametrize("convert", [np.asarray, torch.from_numpy], ids=["numpy", "torch"])
def test_shared_calls_give_what_runs_alone_give(convert):
    """Bit for bit: of every solver, at different rows, of different batch sizes; in as many calls as the longest."""
    plans = [solver.plan(max_model_calls=4 + n % 7) for n, solver in enumerate(all_solvers(LINEAR))]
    starts = [convert(initial_noise((1 + n % 3, 3), seed=n)) for n in range(len(plans))]
    states = [plan.start(x, seed=n) for n, (plan, x) in enumerate(zip(plans, starts, strict=True))]
    states[0] = states[0].plan.advance(states[0], smooth(states[0].x, states[0].t))  # one is ahead
    batches = []

    def model(x, t):
        assert x.shape[:1] == t.shape
        batches.append(x.shape[0])
        return smooth(x, t)

    while not all(state.done for state in states):
        before = states
        states = advance_together(model, states)
        assert all(new is old for new, old in zip(states, before, strict=True) if old.done)
    assert len(batches) == max(plan.model_calls for plan in plans)
    assert batches[0] == sum(x.shape[0] for x in starts)
    for n, (plan, x, state) in enumerate(zip(plans, starts, states, strict=True)):
        assert (state.x == plan.run(smooth, x, seed=n)).all()
    calls = len(batches)
    assert advance_together(model, states) == states
    assert len(batches) == calls  # nobody to ask for


def test_shared_calls_of_any_library_of_the_standard():
    plan = PLMSSolver(LINEAR).plan(4)
    states = [plan.start(array_api_strict.asarray(START[n : n + 2])) for n in (0, 2)]
    while not states[0].done:
        states = advance_together(lambda x, t: x / (1 + x * x), states)
    expected = plan.run(lambda x, t: x / (1 + x * x), START)
    np.testing.assert_allclose(np.concatenate([np.asarray(state.x) for state in states]), expected, rtol=1e-12)


def test_shared_answers_are_not_kept_by_each_run():
    plan = PLMSSolver(LINEAR).plan(5)
    states = advance_together(smooth, [plan.start(torch.from_numpy(START)) for _ in range(3)])
    for state in states:
        assert all(x.untyped_storage().nbytes() == START.nbytes for x in state.answers.values())


def test_shared_times_are_integers_only_where_all_are():
    whole, real = DDIMSolver(LINEAR).plan(4, spacing="trailing"), DDIMSolver(LINEAR).plan(4)
    seen = []

    def model(x, t):
        seen.append((t.dtype, *t))
        return smooth(x, t)

    advance_together(model, [whole.start(START[:1]), whole.start(START[:1])])
    advance_together(model, [whole.start(START[:1]), real.start(START[:1])])
    assert seen == [(np.int64, 999, 999), (np.float64, 999.0, 999.0)]


@pytest.mark.parametrize(
    ("other", "options", "model", "error", "message"),
    [
        (START[:, :2], {}, smooth, ValueError, r"of shape \(4, 2\), and beside .* must be of shape \(4, 3\)"),
        (START.astype(np.float32), {}, smooth, ValueError, "of dtype float32"),
        (torch.from_numpy(START), {}, smooth, TypeError, "state 1 a Tensor"),
        (START, {"prediction": "v_prediction"}, smooth, ValueError, "'epsilon' and for 'v_prediction'"),
        (START, {}, lambda x, t: x[:4], ValueError, r"answered shape \(4, 3\)"),
        (START, {}, lambda x, t: None, ValueError, "answered a NoneType"),
    ],
)
def test_what_cannot_share_a_call(other, options, model, error, message):
    plan = DDIMSolver(LINEAR).plan(3)
    with pytest.raises(error, match=message):
        advance_together(model, [plan.start(START), plan.start(other, **options)])


@pytest.mark.filterwarnings("error:::recipes")
def test_the_recipes_run():
    recipes = (Path(__file__).parents[1] / "docs" / "recipes.md").read_text(encoding="utf-8")
    namespace = {}
    blocks = re.findall(r"```python\n(.*?)```", recipes, re.DOTALL)
    assert len(blocks) >= 6
    for block in blocks:
        exec(compile(block, "recipes.md", "exec"), namespace)


# ------------------------------------------------------------------ RePaint


def test_repaint():
    """Lugmayr et al. (2022), algorithm 1, where the right answer is known: half of a Gaussian is given.

    Each step: the known half is drawn from the forward process, the other by DDPM; then back by one step of the
    forward process and again. The known half stays; the other has the mean and covariance that it has given the known.
    """
    covariance = np.array([[1.0, 0.0, 0.7, 0.2], [0.0, 0.8, -0.3, 0.4], [0.7, -0.3, 0.9, 0.1], [0.2, 0.4, 0.1, 0.6]])
    gaussian, known, count = Gaussian(np.zeros(4), covariance), np.array([0.6, -0.8]), 4000
    model, generator = gaussian.model(LINEAR), np.random.default_rng(0)
    plan = DDPMSolver(LINEAR).plan(60)
    x = generator.standard_normal((count, 4))
    for k, (here, there) in enumerate(pairwise(plan.levels)):
        step = DDPMSolver(LINEAR).plan(timesteps=[here.t], stop=there.t)
        for again in reversed(range(10)):
            x = step.run(model, x, generator=generator)
            x[:, :2] = there.alpha * known + there.sigma * generator.standard_normal((count, 2))
            if again and k < plan.model_calls - 1:
                keep = here.alpha / there.alpha
                fresh = np.sqrt(here.sigma**2 - (keep * there.sigma) ** 2)
                x = keep * x + fresh * generator.standard_normal(x.shape)
    gain = covariance[2:, :2] @ np.linalg.inv(covariance[:2, :2])
    expected = covariance[2:, 2:] - gain @ covariance[:2, 2:]
    assert np.array_equal(x[:, :2], np.tile(known, (count, 1)))
    np.testing.assert_allclose(x[:, 2:].mean(0), gain @ known, atol=0.05)
    np.testing.assert_allclose(np.cov(x[:, 2:].T), expected, atol=0.05)


# ------------------------------------------------------------------ push mode in any order

PLANS = [
    plan
    for solver in (DDIMSolver(LINEAR), DDPMSolver(LINEAR), PLMSSolver(LINEAR), PNDMSolver(LINEAR))
    for plan in (solver.plan(max_model_calls=3), solver.plan(max_model_calls=13))
]


def straight_run(plan, start, seed):
    """The bytes of each state's x, from x_T to the sample."""
    points = []
    state = plan.start(start, seed=seed)
    while not state.done:
        points.append(state.x.tobytes())
        state = finish_one(state)
    return [*points, state.x.tobytes()]


class PushMode(RuleBasedStateMachine):
    """Runs advanced, forked, undone, interleaved, pickled and saved in any order stand where straight runs stand."""

    runs = Bundle("runs")  # each a history of states, its last the current one, and what a straight run visits

    def __init__(self):
        super().__init__()
        self.histories = []

    def keep(self, history, straight):
        self.histories.append((history, straight))
        return history, straight

    @initialize(target=runs, seed=st.integers(0, 3))
    def first(self, seed):
        return self.start(PLANS[0], seed)

    @rule(target=runs, plan=st.sampled_from(PLANS), seed=st.integers(0, 3))
    def begin(self, plan, seed):
        return self.start(plan, seed)

    def start(self, plan, seed):
        x = initial_noise((2, 2), seed)
        return self.keep([plan.start(x, seed=seed)], straight_run(plan, x, seed))

    @rule(run=runs, rows=st.integers(1, 5))
    def advance(self, run, rows):
        for _ in range(rows):
            if not run[0][-1].done:
                run[0].append(finish_one(run[0][-1]))

    @rule(several=st.lists(runs, min_size=1, max_size=4))
    def advance_several(self, several):
        several = list({id(history): history for history, _ in several}.values())
        after = advance_together(smooth, [history[-1] for history in several])
        for history, state in zip(several, after, strict=True):
            history.append(state)

    @rule(target=runs, run=runs)
    def fork(self, run):
        return self.keep(list(run[0]), run[1])

    @rule(run=runs, back=st.integers(1, 20))
    def undo(self, run, back):
        del run[0][max(1, len(run[0]) - back) :]

    @rule(run=runs)
    def pickle_and_back(self, run):
        run[0][-1] = pickle.loads(pickle.dumps(run[0][-1]))

    @rule(run=runs)
    def save_and_load(self, run):
        with TemporaryDirectory() as folder:
            run[0][-1].save(f"{folder}/state")
            run[0][-1] = State.load(f"{folder}/state", like=START)

    @rule(run=consumes(runs))
    def drop(self, run):
        self.histories = [pair for pair in self.histories if pair[0] is not run[0]]

    @invariant()
    def each_stands_where_a_straight_run_stands(self):
        for history, straight in self.histories:
            for state in history[-2:]:
                assert state.x.tobytes() == straight[state.row]
                assert len(state.states) + len(state.answers) <= state.plan.max_stored


TestPushMode = PushMode.TestCase
TestPushMode.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
