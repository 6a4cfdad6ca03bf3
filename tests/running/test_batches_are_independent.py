"""A sample does not depend on the batch that it stands in, nor a run on those that share its model calls."""

import numpy as np
import pytest
import torch
from array_libraries import LIBRARIES, same
from conftest import all_solvers, named
from runs import LINEAR, ONE_OF_EACH_KIND, START, smooth, step
from torch.utils._python_dispatch import TorchDispatchMode

from pndm_solvers import DDIMSolver, DDPMSolver, PLMSSolver, Prediction, advance_together, initial_noise

STOCHASTIC = (DDPMSolver(LINEAR, "fixed_large"), DDIMSolver(LINEAR, eta=0.5))


@pytest.mark.parametrize("library", LIBRARIES, ids=named)
def test_a_sample_with_its_own_seed_does_not_depend_on_its_batch(library):
    start, seeds, order = initial_noise((16, 3), seed=0), np.arange(100, 116), np.random.default_rng(0).permutation(16)
    parts = (slice(0, 1), slice(5, 6), slice(3, 10), slice(None, None, 3))
    for solver in (*ONE_OF_EACH_KIND, *STOCHASTIC):
        plan = solver.plan(8)
        together = plan.run(smooth, library.array(start), seed=seeds)
        for part in parts:
            sample = plan.run(smooth, library.array(start[part]), seed=seeds[part])
            assert same(sample, together[part, ...]), solver.name
        moved = plan.run(smooth, library.array(start[order]), seed=seeds[order])
        assert np.array_equal(np.asarray(moved), np.asarray(together)[order]), solver.name
        if plan.is_stochastic:
            assert not same(plan.run(smooth, library.array(start), seed=seeds[order]), together)


@pytest.mark.parametrize("library", LIBRARIES, ids=named)
def test_runs_that_share_calls_end_as_each_alone(library):
    """They are of several solvers (on NumPy of all), at different rows, and of different batch sizes."""
    solvers = all_solvers(LINEAR) if library.namespace is np else ONE_OF_EACH_KIND
    plans = [solver.plan(max_model_calls=14 + n % 7) for n, solver in enumerate(solvers)]
    starts = [library.array(initial_noise((1 + n % 3, 3), seed=n)) for n in range(len(plans))]
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
        assert same(state.x, plan.run(smooth, x, seed=n)), plan.name
    calls = len(batches)
    assert advance_together(model, states) == states
    assert len(batches) == calls  # every run is done


@pytest.mark.parametrize("library", LIBRARIES, ids=named)
def test_runs_of_every_kind_that_share_calls_end_as_each_alone(library):
    """Predictions that are converted, clipped and thresholded, states of other dtypes, and noise of several kinds."""
    narrow = [{"state_dtype": library.dtype(name)} for name in library.dtypes]
    solvers = (DDIMSolver(LINEAR), PLMSSolver(LINEAR, space="sample"), *ONE_OF_EACH_KIND, *STOCHASTIC)
    for kind in ("epsilon", "v_prediction"):
        predictions = [kind, Prediction(kind, clip=1.0), Prediction(kind, clip=0.5), Prediction(kind, threshold=0.8)]
        options = [{"prediction": p} | more for p in predictions for more in ({}, {"noise": "brownian"}, *narrow)]
        options = options[:: 5 if library.name == "jax.numpy" else 1]  # which compiles each sum for each shape
        runs = [(solvers[n % len(solvers)].plan(max_model_calls=13), own) for n, own in enumerate(options)]
        starts = [library.array(initial_noise((1 + n % 3, 3), seed=n)) for n in range(len(runs))]
        states = [plan.start(x, seed=n, **own) for n, ((plan, own), x) in enumerate(zip(runs, starts, strict=True))]
        while not all(state.done for state in states):
            states = advance_together(smooth, states)
        for n, ((plan, own), x, state) in enumerate(zip(runs, starts, states, strict=True)):
            assert same(state.x, plan.run(smooth, x, seed=n, check_finite=None, **own)), (plan.name, own)


def test_a_row_of_many_runs_is_as_many_operations_as_a_row_of_few():
    class Counted(TorchDispatchMode):
        def __torch_dispatch__(self, operation, types, arguments=(), keywords=None):
            self.count += 1
            return operation(*arguments, **(keywords or {}))

    def count(runs):
        plans = [PLMSSolver(LINEAR).plan(9 + n % 5) for n in range(runs)]
        kinds = ["v_prediction", Prediction("v_prediction", clip=1.0)]
        states = [
            plan.start(torch.from_numpy(START), prediction=kinds[n % 2], condition={"label": torch.zeros(4)})
            for n, plan in enumerate(plans)
        ]
        for n in range(runs):  # to other rows
            for _ in range(n % 4):
                states[n] = step(states[n])
        counted = Counted()
        counted.count = 0
        with counted:
            advance_together(lambda x, t, label: x, states)
        return counted.count

    assert count(40) == count(8) <= 40


def test_a_run_that_is_kept_does_not_keep_the_others():
    states = [PLMSSolver(LINEAR).plan(6).start(torch.zeros(5, 1000)) for _ in range(20)]
    for _ in range(3):
        states = advance_together(lambda x, t: x, states)
    for x in (*states[0].states.values(), *states[0].answers.values()):
        assert x.untyped_storage().nbytes() == x.nbytes


def test_gradients_of_runs_that_share_calls_are_those_of_each_alone():
    weight = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    runs = [(PLMSSolver(LINEAR).plan(n), torch.from_numpy(initial_noise((2, 3), n))) for n in (5, 6, 8)]

    def model(x, t):
        return weight * smooth(x, t)

    states = [plan.start(x, prediction="v_prediction") for plan, x in runs]
    while not all(state.done for state in states):
        states = advance_together(model, states)
    sum(state.x.square().sum() for state in states).backward()
    together, weight.grad = weight.grad, None
    sum(plan.run(model, x, prediction="v_prediction").square().sum() for plan, x in runs).backward()
    assert torch.isclose(together, weight.grad, rtol=1e-12)


def test_shared_times_are_integers_only_where_all_are():
    whole, real = DDIMSolver(LINEAR).plan(4, spacing="trailing"), DDIMSolver(LINEAR).plan(4, start="top")
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
        (START[:, :2], {}, smooth, ValueError, r"of shape \(4, 2\); beside .* must be of shape \(4, 3\)"),
        (START.astype(np.float32), {}, smooth, ValueError, "of dtype float32"),
        (torch.from_numpy(START), {}, smooth, TypeError, "state 1 is a Tensor"),
        (START, {"prediction": "v_prediction"}, smooth, ValueError, "'epsilon' and for 'v_prediction'"),
        (START, {}, lambda x, t: x[:4], ValueError, r"the model's answer is of shape \(4, 3\)"),
        (START, {}, lambda x, t: None, TypeError, "the model's answer is None"),
    ],
    ids=["shape", "dtype", "library", "prediction", "short answer", "no answer"],
)
def test_what_cannot_share_a_call_is_refused(other, options, model, error, message):
    plan = DDIMSolver(LINEAR).plan(3)
    with pytest.raises(error, match=message):
        advance_together(model, [plan.start(START), plan.start(other, **options)])


def test_what_is_no_list_of_states_cannot_share_a_call():
    state = PLMSSolver(LINEAR).plan(3).start(START)
    for wrong in (state, [state, START], {state}):
        with pytest.raises(TypeError, match="it must be a list of states"):
            advance_together(smooth, wrong)
