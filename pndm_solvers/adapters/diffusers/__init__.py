"""Schedulers for diffusers' pipelines. Each is a solver behind diffusers' interface.

    pipe.scheduler = PLMSScheduler.from_config(pipe.scheduler.config)

`set_timesteps` compiles a plan, and `step` runs one row of it. The history of a run is kept with the sample that `step`
returned, not in the scheduler. So runs can interleave on one scheduler, and a run can go on from an earlier sample.
"""

try:
    import diffusers  # noqa: F401 — its absence is reported here, with the remedy
    from diffusers.schedulers.scheduling_utils import SchedulerMixin  # noqa: F401 — diffusers looks for it here
except ImportError as error:
    raise ImportError("the schedulers need diffusers: pip install 'pndm_solvers[diffusers]'") from error

from pndm_solvers.adapters.diffusers.exponential import (
    DEISMultistepScheduler,
    DPMSolverMultistepScheduler,
    SASolverScheduler,
    UniPCMultistepScheduler,
)
from pndm_solvers.adapters.diffusers.fitted import FittedScheduler
from pndm_solvers.adapters.diffusers.scheduler import PlanScheduler
from pndm_solvers.adapters.diffusers.schedulers import DDIMScheduler, DDPMScheduler, PLMSScheduler, PNDMScheduler
from pndm_solvers.adapters.diffusers.steps import SchedulerOutput

__all__ = [
    "DDIMScheduler",
    "DDPMScheduler",
    "DEISMultistepScheduler",
    "DPMSolverMultistepScheduler",
    "FittedScheduler",
    "PLMSScheduler",
    "PNDMScheduler",
    "SASolverScheduler",
    "SchedulerOutput",
    "UniPCMultistepScheduler",
]

# A saved pipeline names the module of its scheduler's class, and diffusers looks there for `SchedulerMixin` too.
for _kind in PlanScheduler.__subclasses__():
    _kind.__module__ = __name__
