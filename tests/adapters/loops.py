"""Samples, networks and the usual loop over a scheduler's times."""

import torch

from pndm_solvers import NoiseSchedule, initial_noise
from pndm_solvers.adapters import diffusers as ours
from pndm_solvers.adapters.diffusers import FittedScheduler
from pndm_solvers.adapters.diffusers.scheduler import PlanScheduler

LINEAR = NoiseSchedule.linear()
PICTURE = torch.linspace(-0.9, 0.9, 48, dtype=torch.float64).reshape(1, 3, 4, 4)


def noise(seed=0, shape=(2, 3, 4, 4)):
    return torch.from_numpy(initial_noise(shape, seed))


def level(t):
    """α and σ at a time out of a scheduler's list, which may be float32."""
    return LINEAR.level(min(float(t), LINEAR.t_max))[1:]


def curved(x, t):
    """A network whose answers depend on where and when it is called."""
    return torch.sin(x + torch.as_tensor(t, dtype=torch.float64) / 300)


# By class name, so that a new scheduler joins the tests that run over all.
# Those that take any times. Fitted plans have their own: test_fitted_plans_in_adapters.py.
SCHEDULERS = {kind.__name__: kind for kind in PlanScheduler.__subclasses__() if kind is not FittedScheduler}


def ready(kind=ours.PLMSScheduler, steps=10, **options):
    scheduler = kind(**options)
    scheduler.set_timesteps(steps)
    return scheduler


def loop(scheduler, x, model, times=None, **extra):
    for t in scheduler.timesteps if times is None else times:
        x = scheduler.step(model(x, t), t, x, **extra).prev_sample
    return x
