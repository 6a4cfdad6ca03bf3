"""torch.compile takes a scheduler's step as one operator: no break, and one graph for all rows."""

import copy
import gc

import pytest
import torch
from loops import SCHEDULERS, ready
from torch._dynamo.exc import Unsupported
from torch._dynamo.testing import CompileCounterWithBackend
from torch._dynamo.utils import counters

from pndm_solvers.adapters import diffusers as ours
from pndm_solvers.adapters.diffusers.compiled import COMPILES
from pndm_solvers.adapters.diffusers.compiled import SCHEDULERS as KNOWN

pytestmark = pytest.mark.skipif(not COMPILES, reason="torch before 2.9")


@pytest.fixture
def compiled():
    """Compiles a function, whole, and counts its graphs in `compiled.counter`.

    The backend makes all that a compiler makes but code: it traces shapes, and takes in-place writes apart.
    """
    torch._dynamo.reset()
    counters.clear()

    def compile_(function):
        compile_.counter = CompileCounterWithBackend("aot_eager")
        return torch.compile(function, backend=compile_.counter, fullgraph=True)

    yield compile_
    torch._dynamo.reset()


def net(x, t):
    return torch.sin(x + t.to(x.dtype) / 300)


def loop(scheduler, step, x, steps=20):
    torch.manual_seed(0)
    scheduler.set_timesteps(steps)
    for t in scheduler.timesteps:
        x = step(net(x, t), t, x)
    return x


def tuples(scheduler):
    return lambda answer, t, x: scheduler.step(answer, t, x, return_dict=False)[0]


def objects(scheduler):
    return lambda answer, t, x: scheduler.step(answer, t, x).prev_sample


@pytest.mark.parametrize("step_of", [tuples, objects])
@pytest.mark.parametrize("kind", SCHEDULERS.values(), ids=SCHEDULERS)
def test_a_step_is_one_graph_for_all_rows(kind, step_of, compiled):
    scheduler, x = ready(kind), torch.randn(2, 3, 4, 4)
    step = step_of(scheduler)
    assert torch.equal(loop(scheduler, compiled(step), x), loop(scheduler, step, x))
    assert compiled.counter.frame_count == 1
    assert not counters["graph_break"]


def test_runs_of_other_lengths_and_dtypes(compiled):
    """A dtype has a graph of its own; a number of steps has none."""
    scheduler = ready(ours.DPMSolverMultistepScheduler)
    step = tuples(scheduler)
    once = compiled(step)
    for number, dtype in enumerate((torch.float32, torch.float64, torch.float16, torch.bfloat16), 1):
        x = torch.randn(2, 3, 4, 4, dtype=torch.float64).to(dtype)
        for steps in (5, 10):
            assert torch.equal(loop(scheduler, once, x, steps), loop(scheduler, step, x, steps))
        assert compiled.counter.frame_count == number


def test_runs_that_alternate(compiled):
    scheduler, runs = ready(), [torch.randn(2, 3, 4, 4) for _ in range(2)]
    step = tuples(scheduler)
    expected, once = [loop(scheduler, step, x) for x in runs], compiled(step)
    scheduler.set_timesteps(20)
    for t in scheduler.timesteps:
        runs = [once(net(x, t), t, x) for x in runs]
    assert all(map(torch.equal, runs, expected))
    assert compiled.counter.frame_count == 1


def test_a_whole_loop_in_one_graph(compiled):
    scheduler, x = ready(), torch.randn(2, 3, 4, 4)

    def run(x):
        for t in scheduler.timesteps:
            x = scheduler.step(net(x, t), t, x, return_dict=False)[0]
        return x

    expected = run(x)
    scheduler.set_timesteps(10)
    assert torch.equal(compiled(run)(x), expected)
    assert compiled.counter.frame_count == 1
    assert not counters["graph_break"]


def test_the_picture_that_is_the_answer_is_a_copy(compiled):
    """A graph's results are its own. Their layout is the sample's."""
    scheduler = ready(prediction_type="sample", clip_sample=False)
    step = compiled(lambda answer, t, x: scheduler.step(answer, t, x, return_dict=False))
    x = torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last)
    answer = torch.randn(2, 3, 4, 4).half()
    following, picture = step(answer, scheduler.timesteps[0], x)
    assert torch.equal(picture, answer)
    assert picture.dtype == torch.float16
    assert following.stride() == picture.stride() == x.stride()
    answer.zero_()
    assert picture.abs().max() > 0


def test_a_number_as_the_time(compiled):
    scheduler, x = ready(timestep_spacing="leading"), torch.randn(2, 3, 4, 4)
    step = compiled(tuples(scheduler))
    assert torch.equal(step(x, 900, x), tuples(scheduler)(x, 900, x))


def test_errors_are_those_of_the_step(compiled):
    scheduler, x = ready(), torch.randn(2, 3, 4, 4)
    with pytest.raises(ValueError, match="none of this run's"):
        compiled(tuples(scheduler))(x, torch.tensor(1234.5), x)


@pytest.mark.parametrize(
    "options", [{"generator": torch.Generator()}, {"log_prob": True}, {"prev_sample": torch.ones(2, 3)}], ids="".join
)
def test_what_no_graph_holds_is_named(options, compiled):
    scheduler, x = ready(ours.DDPMScheduler), torch.randn(2, 3)

    def step(answer, t, x):
        return scheduler.step(answer, t, x, **options).prev_sample

    with pytest.raises(Unsupported, match=r"leave out generator, variance_noise, prev_sample, log_prob and eta"):
        compiled(step)(x, scheduler.timesteps[0], x)
    t = scheduler.timesteps[0]
    torch.manual_seed(0)
    made = torch.compile(step, backend="eager")(x, t, x)
    assert made.shape == x.shape


def test_gradients_are_not_lost(compiled):
    scheduler, x = ready(), torch.randn(2, 3, requires_grad=True)
    with pytest.raises(Unsupported, match=r"sample under torch.no_grad\(\)"):
        loop(scheduler, compiled(tuples(scheduler)), x)
    apart = torch.compile(tuples(scheduler), backend="eager")
    gradients = [torch.autograd.grad(loop(scheduler, step, x).sum(), x)[0] for step in (tuples(scheduler), apart)]
    assert torch.equal(*gradients)
    with torch.no_grad():
        assert torch.equal(loop(scheduler, compiled(tuples(scheduler)), x), loop(scheduler, tuples(scheduler), x))


def test_a_copy_has_its_own_number_and_no_graph_keeps_a_scheduler():
    scheduler = ready()
    twin, number = copy.deepcopy(scheduler), scheduler._number
    assert KNOWN[number] is scheduler
    assert KNOWN[twin._number] is twin
    del scheduler
    gc.collect()
    assert number not in KNOWN
