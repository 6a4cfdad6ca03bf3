"""A run that nobody watches goes in arrays that it uses again: it allocates nothing, and no bit differs.

The plain way is `plan.advance`, which makes each state anew.
"""

import tracemalloc
from itertools import pairwise

import numpy as np
import pytest
import torch
from conftest import all_solvers, named
from runs import LINEAR
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from pndm_solvers import DDIMSolver, DDPMSolver, PLMSSolver, PNDMSolver, Prediction, SASolver, UniPCSolver
from pndm_solvers.in_place import written

PREDICTIONS = ("epsilon", "v_prediction", "sample", Prediction(clip=1.0), Prediction("sample", clip=0.5))
SOLVERS = (PLMSSolver(LINEAR), PNDMSolver(LINEAR), UniPCSolver(LINEAR), DDPMSolver(LINEAR), SASolver(LINEAR))


def smooth(x, t):
    return x.sin() * 0.9 if isinstance(x, torch.Tensor) else np.sin(x) * x.dtype.type(0.9)


def pushed(plan, model, x, **options):
    state = plan.start(x, **options)
    while not state.done:
        state = plan.advance(state, model(state.x, state.t))
    return state.x


def equal(a, b):
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and np.array_equal(a, b)
    return a.dtype == b.dtype and a.stride() == b.stride() and torch.equal(a, b)


def starts():
    torch.manual_seed(0)
    x = torch.randn(2, 3, 4, 4)
    yield from (x, x.double(), x.half(), x.bfloat16(), x.contiguous(memory_format=torch.channels_last))
    yield from (x.transpose(1, 3), x[:, :, ::2], x[:1].expand(4, 3, 4, 4), x[:0], x[:, :0], torch.randn(3))
    yield from (x.numpy(), x.double().numpy(), x.half().numpy(), x.numpy()[:, ::2], x.numpy()[:0])


@pytest.mark.parametrize("solver", all_solvers(LINEAR), ids=named)
def test_the_bits_are_those_of_the_plain_way(solver):
    for x in starts():
        for prediction in PREDICTIONS:
            plan, options = solver.plan(6), {"prediction": prediction, "seed": 1}
            assert equal(plan.run(smooth, x, **options), pushed(plan, smooth, x, **options))


def scribbling():
    buffer = []

    def model(x, t):
        buffer[:] = buffer or [x * 0]
        buffer[0][...] = smooth(x, t)
        x *= 0
        t *= 0
        return buffer[0]

    return model


def itself(x, t):
    return x


def a_view(x, t):
    return x.view() if isinstance(x, np.ndarray) else x.view_as(x)


@pytest.mark.parametrize("model", [itself, a_view], ids=["itself", "a view"])
def test_a_network_may_answer_with_its_own_input(model):
    for solver in SOLVERS:
        for x in (torch.randn(2, 5), np.random.default_rng(0).standard_normal((2, 5))):
            for prediction in PREDICTIONS:
                plan, options = solver.plan(6), {"prediction": prediction, "seed": 1}
                assert equal(plan.run(model, x, **options), pushed(plan, model, x, **options))


def test_a_network_may_write_into_its_input_and_later_into_its_answer():
    for solver in SOLVERS:
        for x in (torch.randn(2, 5), np.random.default_rng(0).standard_normal((2, 5))):
            for prediction in PREDICTIONS:
                plan, options = solver.plan(6), {"prediction": prediction, "seed": 1}
                assert equal(plan.run(scribbling(), x, **options), pushed(plan, smooth, x, **options))


class Stored:
    """The memory of a tensor, read when it is asked for."""

    def __init__(self, storage):
        self.storage = storage

    def __array__(self, dtype=None, copy=True):
        return np.array(self.storage.tolist())


@pytest.mark.parametrize("solver", SOLVERS, ids=named)
def test_what_a_network_keeps_of_its_input_stays(solver):
    """The array itself, a view, a detached tensor, an array of another library on the same memory, the times."""
    ways = {
        "itself": lambda x: x,
        "view": lambda x: x[..., 1:],
        "detached": lambda x: x.detach() if isinstance(x, torch.Tensor) else memoryview(x),
        "shared": lambda x: x.numpy() if isinstance(x, torch.Tensor) else torch.from_numpy(x),
        "storage": lambda x: Stored(x.untyped_storage()) if isinstance(x, torch.Tensor) else x.data,
    }
    plan = solver.plan(8)
    for x in (torch.randn(2, 5), np.random.default_rng(0).standard_normal((2, 5))):
        for way in ways.values():
            kept, seen, times = [], [], []

            def model(x, t, way=way, kept=kept, seen=seen, times=times):
                kept.append(way(x))
                seen.append(np.array(way(x)))
                times.append((t, float(t[0])))
                return smooth(x, t)

            plan.run(model, x, seed=1)
            assert all(np.array_equal(np.array(own), then) for own, then in zip(kept, seen, strict=True))
            assert [float(t[0]) for t, _ in times] == [then for _, then in times] == pytest.approx(plan.times)


def test_the_sample_is_the_callers_own():
    """Writing into it changes nothing that the network kept or gave, nor x."""
    for solver in SOLVERS:
        for x in (torch.randn(2, 5), np.random.default_rng(0).standard_normal((2, 5))):
            kept = [x]

            def model(x, t, kept=kept):
                kept.extend([x, smooth(x, t)])
                return kept[-1]

            sample = solver.plan(4).run(model, x, seed=1)
            before = [np.array(each) for each in kept]
            sample *= 0
            assert all(np.array_equal(each, then) for each, then in zip(kept, before, strict=True))


def test_an_answer_may_change_its_dtype():
    def model(x, t):
        late = float(t[0]) < 500
        if isinstance(x, np.ndarray):
            return smooth(x, t).astype(np.float64 if late else np.float16)
        return smooth(x, t).to(torch.float64 if late else torch.float16)

    for solver in SOLVERS:
        for x in (torch.randn(2, 5), np.random.default_rng(0).standard_normal((2, 5)).astype(np.float32)):
            plan = solver.plan(8)
            assert equal(plan.run(model, x, seed=1), pushed(plan, model, x, seed=1))


def test_gradients_flow_that_begin_in_the_midst_of_a_run():
    weight = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)

    def model(x, t):
        return torch.sin(x) * (weight if float(t[0]) < 500 else 0.7)

    x = torch.randn(2, 5, dtype=torch.float64)
    for solver in SOLVERS:
        for prediction in PREDICTIONS:
            plan, options = solver.plan(8), {"prediction": prediction, "seed": 1}
            results = [plan.run(model, x, **options), pushed(plan, model, x, **options)]
            assert torch.equal(*results)
            own, expected = (torch.autograd.grad(result.square().sum(), weight)[0] for result in results)
            torch.testing.assert_close(own, expected, rtol=1e-12, atol=0)


def test_within_transforms_of_functions():
    plan, x = PLMSSolver(LINEAR).plan(6), torch.randn(3, 2, 5, dtype=torch.float64)
    run = lambda x: plan.run(smooth, x, check_finite=None)  # noqa: E731
    expected = torch.stack([pushed(plan, smooth, part) for part in x])
    torch.testing.assert_close(torch.func.vmap(run)(x), expected)
    value, tangent = torch.func.jvp(run, (x[0],), (torch.ones_like(x[0]),))
    step = (pushed(plan, smooth, x[0] + 1e-6) - pushed(plan, smooth, x[0] - 1e-6)) / 2e-6
    torch.testing.assert_close(value, expected[0])
    torch.testing.assert_close(tangent, step, rtol=1e-6, atol=1e-6)
    with torch.inference_mode():
        assert torch.equal(run(x[0]), expected[0])


def test_a_wrong_answer_is_named_in_any_row():
    plan = PLMSSolver(LINEAR).plan(6)
    for wrong, error in ((lambda x: x[:1], ValueError), (lambda x: x.long(), TypeError), (lambda x: "ε", TypeError)):
        rows = []

        def model(x, t, rows=rows, wrong=wrong):
            rows.append(float(t[0]))
            return wrong(x) if len(rows) == 4 else smooth(x, t)

        with pytest.raises(error, match=f"at t = {plan.times[3]:g}, the model's answer"):
            plan.run(model, torch.randn(2, 5))


class NewMemory(TorchDispatchMode):
    """How many pieces of memory operations of torch have made; `marks` holds the number before each model call."""

    def __init__(self):
        super().__init__()
        self.known, self.new, self.marks = {}, 0, []

    def is_new(self, tensor):
        storage = tensor.untyped_storage()
        known = self.known.get(storage.data_ptr())
        if known is not None and not known.expired():
            return False
        self.known[storage.data_ptr()] = StorageWeakRef(storage)
        return True

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        for given in (*args, *(kwargs or {}).values()):
            if isinstance(given, torch.Tensor):
                self.is_new(given)
        result = function(*args, **(kwargs or {}))
        made = result if isinstance(result, (list, tuple)) else [result]
        self.new += sum(isinstance(a, torch.Tensor) and a.numel() > 0 and self.is_new(a) for a in made)
        return result


def first_writes(plan, prediction, *, copied):
    """Between two calls, how many registers are written for the first time: what a run has to allocate, and no more."""
    script = written(plan, prediction, copied=copied)
    known = {register for places in script.alive[0] for _, register in places}
    rises = []
    for row in script.instructions:
        before = {row.out, row.lent, row.picture, row.answer if row.conversions else None} - known - {None}
        known |= before
        after = {row.answer} - known - {None}
        known |= after
        rises.append((len(before), len(after)))
    return [after + before for (_, after), (before, _) in pairwise(rises)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("solver", all_solvers(LINEAR), ids=named)
def test_torch_allocates_nothing_in_steady_state(solver, dtype):
    x = torch.randn(2, 3, 4, 4).to(dtype)
    answer, plan = torch.randn_like(x), solver.plan(20)
    for prediction in PREDICTIONS:
        memory = NewMemory()

        def idle(x, t, memory=memory):
            memory.marks.append(memory.new)
            return answer

        with memory:
            plan.run(idle, x, prediction=prediction, generator=torch.Generator().manual_seed(0))
        drawn = np.array([row.noise > 0 for row in plan.rows])  # noise is drawn into an array of its own
        expected = drawn[:-1] + first_writes(plan, Prediction.of(prediction), copied=dtype == torch.bfloat16)
        assert np.diff(memory.marks).tolist() == expected.tolist(), prediction


@pytest.mark.parametrize("solver", all_solvers(LINEAR), ids=named)
def test_numpy_allocates_nothing_in_steady_state(solver):
    """Between two calls memory rises by the registers that are written for the first time, at any moment."""
    x = np.random.default_rng(0).standard_normal((2, 40_000)).astype(np.float32)
    answer, plan = np.cos(x), solver.plan(20)
    if plan.is_stochastic:
        return  # noise is drawn into arrays of its own
    for prediction in PREDICTIONS:
        peaks = []

        def idle(x, t, peaks=peaks):
            now, peak = tracemalloc.get_traced_memory()
            peaks.append((now, peak))
            tracemalloc.reset_peak()
            return answer

        tracemalloc.start()
        try:
            plan.run(idle, x, prediction=prediction)
        finally:
            tracemalloc.stop()
        rises = [peak - before for (before, _), (_, peak) in pairwise(peaks)]
        expected = first_writes(plan, Prediction.of(prediction), copied=False)
        assert [round(rise / x.nbytes) for rise in rises] == expected, prediction


@pytest.mark.parametrize("solver", all_solvers(LINEAR), ids=named)
def test_registers_are_no_more_than_the_plan_says(solver):
    plan = solver.plan(12)
    assert written(plan, Prediction(), copied=False).registers <= plan.max_stored


def test_noise_is_drawn_after_the_answer_as_in_the_plain_way():
    """A network that draws from the same generator gets the same numbers."""
    plan, x = DDPMSolver(LINEAR).plan(6), torch.randn(2, 5)

    def of(generator):
        return lambda x, t: smooth(x, t) + torch.randn(x.shape, generator=generator)

    one, other = (torch.Generator().manual_seed(3) for _ in range(2))
    assert torch.equal(plan.run(of(one), x, generator=one), pushed(plan, of(other), x, generator=other))


def test_a_plan_is_written_once(monkeypatch):
    plan, x = DDIMSolver(LINEAR).plan(6), torch.randn(2, 5)
    first = plan.run(smooth, x)
    monkeypatch.setattr("pndm_solvers.in_place.written", None)
    assert torch.equal(plan.run(smooth, x), first)
