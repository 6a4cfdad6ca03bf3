"""Schedulers for diffusers' pipelines. Each is a solver behind diffusers' interface.

    pipe.scheduler = PLMSScheduler.from_config(pipe.scheduler.config)

`set_timesteps` compiles a plan, and `step` runs one row of it. The history of a run is kept with the sample that `step`
returned, not in the scheduler. So runs can interleave on one scheduler, and a run can go on from an earlier sample.
"""

from pndm_solvers.adapters.diffusers.scheduler import SchedulerOutput
from pndm_solvers.adapters.diffusers.schedulers import DDIMScheduler, DDPMScheduler, PLMSScheduler, PNDMScheduler

__all__ = ["DDIMScheduler", "DDPMScheduler", "PLMSScheduler", "PNDMScheduler", "SchedulerOutput"]

# Saved pipelines name this module, as users do. diffusers takes the module of a class in a package called "diffusers"
# for one of its own pipelines.
for _kind in (DDIMScheduler, DDPMScheduler, PLMSScheduler, PNDMScheduler):
    _kind.__module__ = __name__
