"""float64 never reaches a device that lacks it, as Apple's and Intel's do: diffusers #940 and #1537.

The device is torch's "meta", whose tensors have no numbers: what works there reads none from the device either.
"""

import numpy as np
import pytest
import torch
from devices import NoFloat64
from loops import SCHEDULERS

from pndm_solvers.adapters.diffusers import DDIMScheduler, FittedScheduler, PLMSScheduler
from pndm_solvers.adapters.k_diffusion import SAMPLERS
from pndm_solvers.arrays import library
from pndm_solvers.config import is_flow
from pndm_solvers.reference import PLANS

FLOW = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
KINDS = {
    **{name: (kind, {}) for name, kind in SCHEDULERS.items()},
    **{f"{name}-flow": (kind, FLOW) for name, kind in SCHEDULERS.items()},
    "DDIMScheduler-edm": (DDIMScheduler, {"timestep_type": "edm", "sigma_data": 0.5, "clip_sample": False}),
    "PLMSScheduler-thresholding": (PLMSScheduler, {"thresholding": True}),
    "FittedScheduler": (FittedScheduler, {"plans": f"{PLANS}/digits-1-8.json"}),
}


def test_the_mode_notices():
    x = torch.ones(2, device="meta")
    with NoFloat64(), pytest.raises(AssertionError, match="float64 on the device"):
        x * torch.ones(2, dtype=torch.float64).to("meta")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", KINDS)
def test_no_call_of_a_scheduler(name, dtype):
    kind, options = KINDS[name]
    scheduler = kind(**options)
    x = torch.empty(2, 3, 4, 4, dtype=dtype, device="meta")
    with NoFloat64():
        times = [torch.tensor([3, 5])]
        if scheduler.schedule.num_train_timesteps or is_flow(scheduler.config):
            times += [torch.tensor([3, 5], device="meta")]  # other times lie between the integers: on the host alone
        if is_flow(scheduler.config):
            times += [torch.tensor([3.5, 5.0], device="meta")]
        if scheduler.config.timestep_type == "edm":
            times = [torch.tensor([0.5, 1.0])]
        for t in times:
            for result in (
                scheduler.add_noise(x, x, t),
                scheduler.get_velocity(x, x, t),
                scheduler.scale_noise(x, t, x),
            ):
                assert (result.device.type, result.dtype) == ("meta", dtype)
        scheduler.set_timesteps(8, device="meta")
        assert scheduler.timesteps.device.type == "meta"
        for t in scheduler.timesteps:
            x = scheduler.step(x, t, scheduler.scale_model_input(x, t)).prev_sample
        assert x.dtype == dtype
        if kind is not FittedScheduler:
            sigmas = np.linspace(1.0, 0.2, 4) if is_flow(scheduler.config) else np.array([14.0, 3.0, 0.4])
            scheduler.set_timesteps(sigmas=sigmas, device="meta")
            assert scheduler.sigmas.device.type == "cpu"


@pytest.mark.parametrize("name", SAMPLERS)
def test_no_call_of_a_sampler(name, monkeypatch):
    """Of k-diffusion's form. The last look for numbers that are not finite has none to look at."""
    monkeypatch.setattr(type(library(torch.ones(1))), "is_finite", lambda self, x: True)
    x = torch.empty(2, 3, 4, 4, device="meta")
    sigmas = torch.tensor([10.0, 5.0, 2.0, 1.0, 0.4, 0.0])
    with NoFloat64():
        result = SAMPLERS[name](lambda x, sigma: x / sigma[:, None, None, None], x, sigmas, disable=True)
    assert (result.device.type, result.dtype) == ("meta", torch.float32)
