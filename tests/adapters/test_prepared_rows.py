"""A step whose weights were laid down before equals the same row taken the general way, to the last bit."""

import copy
import pickle
from dataclasses import dataclass
from itertools import product

import pytest
import torch
from diffusers.utils.outputs import BaseOutput
from loops import SCHEDULERS, ready
from torch.utils import _pytree as pytree

from pndm_solvers.adapters import diffusers as ours
from pndm_solvers.adapters.diffusers.lines import Course, Line

STOCHASTIC = ("DDPMScheduler", "SASolverScheduler")
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
LAYOUTS = {
    "contiguous": lambda x: x,
    "channels last": lambda x: x.to(memory_format=torch.channels_last),
    "every other": lambda x: torch.stack([x, x], dim=-1)[..., 0],
    "transposed": lambda x: x.transpose(1, 3).contiguous().transpose(1, 3),
}
OPTIONS = {
    "DPMSolverMultistepScheduler": ({}, {"algorithm_type": "dpmsolver"}, {"solver_order": 3}),
    "PLMSScheduler": ({}, {"weights": "classical", "starter": "heun"}),
    "PNDMScheduler": ({}, {"skip_prk_steps": True}),
}


@pytest.fixture
def prepared(monkeypatch):
    """How many steps were prepared ones."""
    count, step = [], Line.step

    def counted(*arguments):
        count.append(None)
        return step(*arguments)

    monkeypatch.setattr(Line, "step", counted)
    return count


def quiet(kind, prediction, **options):
    """A scheduler that leaves the picture as it is."""
    clipping = {"clip_sample": False} if "clip_sample" in kind._own() else {}
    return ready(kind, 6, prediction_type=prediction, **clipping, **options)


def taken(scheduler, x, answers=None, written=False):
    """A run's samples and pictures; where `written`, each tensor that was passed or got is written into afterwards."""
    scheduler.set_timesteps(6)
    points = []
    for t in scheduler.timesteps:
        answer = torch.sin(1.3 * x.double() + float(t) / 300).to(answers or x.dtype)
        following, picture = scheduler.step(answer, t, x, return_dict=False)
        points += [following.detach().clone(), picture.detach().clone()]
        if written:
            for tensor in (answer, x, picture):
                tensor.zero_()
        x = following
    return points


def compared(scheduler, x, monkeypatch, **options):
    runs = [taken(scheduler, x.clone(), **options)]
    with monkeypatch.context() as context:
        context.setattr(Course, "line", lambda *_: None)
        runs.append(taken(scheduler, x.clone()))
    for made, expected in zip(*runs, strict=True):
        assert (made.dtype, made.stride()) == (expected.dtype, expected.stride())
        assert torch.equal(made, expected)


@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize("name", [name for name in SCHEDULERS if name not in STOCHASTIC])
def test_a_prepared_row_is_the_row(name, prediction, monkeypatch, prepared):
    for options, dtype in product(OPTIONS.get(name, ({},)), DTYPES):
        scheduler = quiet(SCHEDULERS[name], prediction, **options)
        for layout in LAYOUTS.values():
            compared(scheduler, layout(torch.randn(2, 3, 4, 4, dtype=torch.float64).to(dtype)), monkeypatch)
        for shape in ((3,), (0, 3), (2, 0, 3)):
            compared(scheduler, torch.randn(shape, dtype=torch.float64).to(dtype), monkeypatch)
        compared(scheduler, torch.randn(2, 5, dtype=torch.float64).to(dtype), monkeypatch, written=True)
        assert len(prepared) == 8 * len(scheduler.timesteps)
        prepared.clear()


@pytest.mark.parametrize("kind", [ours.PLMSScheduler, ours.UniPCMultistepScheduler])
def test_the_gradient_of_a_prepared_row_is_the_rows(kind, monkeypatch, prepared):
    scheduler, gradients = quiet(kind, "epsilon"), []
    for dtype, line in product(DTYPES[:3], (Course.line, lambda *_: None)):
        monkeypatch.setattr(Course, "line", line)
        x = torch.linspace(-1, 1, 12, dtype=dtype).reshape(2, 6).requires_grad_()
        scheduler.set_timesteps(6)
        y = x
        for t in scheduler.timesteps:
            y = scheduler.step(torch.sin(y), t, y).prev_sample
        gradients += torch.autograd.grad(y.sum(), x)
    assert len(prepared) == 3 * len(scheduler.timesteps)
    assert all(torch.equal(a, b) for a, b in zip(gradients[::2], gradients[1::2], strict=True))


def test_a_dtype_that_changes_within_a_run_is_no_prepared_row(monkeypatch, prepared):
    """Neither beside answers of another dtype, nor beside earlier ones."""
    scheduler, x = quiet(ours.PLMSScheduler, "epsilon"), torch.randn(2, 5)
    compared_to = []
    for line in (Course.line, lambda *_: None):
        monkeypatch.setattr(Course, "line", line)
        scheduler.set_timesteps(6)
        y, prepared[:] = x, []
        for number, t in enumerate(scheduler.timesteps):
            y = y.double() if number == 3 else y
            y = scheduler.step(torch.sin(y), t, y).prev_sample
        compared_to.append(y)
    assert torch.equal(*compared_to)


def test_an_option_that_is_rewritten_counts_from_the_next_step(prepared):
    scheduler, x = quiet(ours.PLMSScheduler, "epsilon"), 9 * torch.randn(2, 5)
    first, second = scheduler.timesteps[:2]
    step = scheduler.step(torch.zeros_like(x), first, x)
    assert step.pred_original_sample.abs().max() > 1
    assert len(prepared) == 1
    scheduler.config.clip_sample = True
    step = scheduler.step(torch.zeros_like(x), second, step.prev_sample)
    assert step.pred_original_sample.abs().max() == 1
    assert len(prepared) == 1


def test_the_output_is_that_of_diffusers():
    @dataclass
    class Theirs(BaseOutput):
        prev_sample: torch.Tensor
        pred_original_sample: torch.Tensor
        log_prob: torch.Tensor | None = None

    parts = torch.ones(2), torch.zeros(2)
    for more in ((), (torch.ones(1),)):
        own, theirs = ours.SchedulerOutput(*parts, *more), Theirs(*parts, *more)
        assert isinstance(own, BaseOutput)
        assert list(own) == list(theirs)
        assert own.keys() == theirs.keys()
        assert vars(own) == vars(theirs)
        assert repr(own).partition("(")[2] == repr(theirs).partition("(")[2]
        assert all(a is b for a, b in zip(own.to_tuple(), theirs.to_tuple(), strict=True))
        assert own[0] is own["prev_sample"] is own.prev_sample
        assert len(own[:2]) == 2
        for twin in (pickle.loads(pickle.dumps(own)), copy.deepcopy(own), pytree.tree_map(torch.clone, own)):
            assert type(twin) is ours.SchedulerOutput
            assert list(twin) == list(own)
            assert all(map(torch.equal, twin.to_tuple(), own.to_tuple()))
        own.prev_sample = own["pred_original_sample"] = torch.ones(3)
        assert own[0] is own["prev_sample"] is own.prev_sample is own.pred_original_sample is own[1]
