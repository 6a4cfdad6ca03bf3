"""What others write into their arrays does not touch a run, and a run keeps no more arrays than its plan says."""

import gc

import pytest
import torch
from array_libraries import LIBRARIES, same
from conftest import all_solvers, named
from runs import LINEAR, ONE_OF_EACH_KIND, START, smooth
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from pndm_solvers import (
    DDIMSolver,
    DDPMSolver,
    DPMMultistepSolver,
    PLMSSolver,
    Prediction,
    UniPCSolver,
    advance_together,
)


@pytest.mark.parametrize("library", [library for library in LIBRARIES if library.mutable], ids=named)
@pytest.mark.parametrize("solver", ONE_OF_EACH_KIND, ids=named)
def test_what_others_write_into_their_arrays_does_not_touch_a_run(solver, library):
    """The model works in place and answers in one buffer, the callback scribbles, and the caller reuses x_T."""
    plan, x, buffer = solver.plan(6), library.array(START), library.array(START)

    def careless(x, t):
        buffer[:, :] = smooth(x, t)
        x *= 0
        return buffer

    def scribble(step):
        for array in (step.x, step.answer, step.state.x):
            array *= 0

    for prediction in ("epsilon", "v_prediction", Prediction("sample", clip=1.0)):
        expected = plan.run(smooth, library.array(START), prediction=prediction, seed=1)
        result = plan.run(careless, x, prediction=prediction, seed=1, callback=scribble)
        assert same(result, expected)
        assert same(x, library.array(START))
        state = plan.start(x, prediction=prediction, seed=1)
        x *= 0
        while not state.done:
            state = plan.advance(state, careless(state.x, state.t))
        assert same(state.x, expected)
        x[:, :] = library.array(START)


class LiveArrays(TorchDispatchMode):
    """The most arrays of one size that lie in memory at once, counted after each operation of torch."""

    def __init__(self, numel):
        super().__init__()
        self.numel, self.live, self.most = numel, {}, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and result.numel() == self.numel:
            storage = result.untyped_storage()
            self.live[storage.data_ptr()] = StorageWeakRef(storage)
        self.live = {place: storage for place, storage in self.live.items() if not storage.expired()}
        self.most = max(self.most, len(self.live))
        return result


def test_live_arrays_never_exceed_max_stored_nor_fall_far_below_it():
    """The network is a single operation, and nothing checks whether numbers are finite: neither adds arrays."""
    start = torch.randn((2, 5), dtype=torch.float64)
    for solver in all_solvers(LINEAR):
        for steps in (1, 2, 12):
            plan = solver.plan(steps)
            with LiveArrays(start.numel()) as arrays:
                plan.run(lambda x, t: x.sin(), start, generator=torch.Generator().manual_seed(0), check_finite=None)
            # One more where the network's own answer lies beside its copy.
            assert plan.max_stored - 1 <= arrays.most <= plan.max_stored + 1, (solver.name, steps)


def test_max_stored_by_hand():
    assert DDIMSolver(LINEAR).plan(9).max_stored == 3  # x, ε and the new x
    assert DDPMSolver(LINEAR).plan(9).max_stored == 4  # and z
    assert PLMSSolver(LINEAR, 4, weights="classical").plan(9).max_stored == 6  # three older ε
    assert DPMMultistepSolver(LINEAR).plan(9).max_stored == 4  # x, two pictures and the new x: no older state
    # The corrector of order p needs the answers of p + 1 levels.
    assert [UniPCSolver(LINEAR, order).plan(9).max_stored for order in (1, 2, 3)] == [4, 5, 6]


def test_runs_that_share_a_call_do_not_keep_each_others_answers():
    plan = PLMSSolver(LINEAR).plan(5)
    states = advance_together(smooth, [plan.start(torch.from_numpy(START)) for _ in range(3)])
    for state in states:
        assert all(x.untyped_storage().nbytes() == START.nbytes for x in state.answers.values())


@pytest.mark.parametrize("watched", [False, True])
def test_no_row_leaves_a_tensor_behind(watched):
    """Small tensors that outlive their rows lie between the large ones: a run of 128 rows grew tenfold by them."""
    plan = PLMSSolver(LINEAR, order=2).plan(24, start=0.987 * LINEAR.t_max)  # with weights that no other test has
    for prediction in ("epsilon", "v_prediction"):
        times, alive = [], []

        def model(x, t, times=times, alive=alive):
            times.append(float(t[0]))
            if len(times) in (5, 23):
                alive.append(sum(isinstance(thing, torch.Tensor) for thing in gc.get_objects()))
            return smooth(x, t)

        plan.run(model, torch.zeros(2, 3), prediction=prediction, callback=(lambda step: None) if watched else None)
        assert alive[0] == alive[1]
