"""Every scheduler class of diffusers by its default config, and configs that people published: read right, or refused.

`scheduler_configs/` holds the published ones as they are; `sources.json` there says where from. What diffusers makes of
a config is the oracle, and a formula where diffusers has none.
"""

import json
import math
import re
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from loops import SCHEDULERS

from pndm_solvers import NoiseSchedule, PLMSSolver, initial_noise
from pndm_solvers.adapters.diffusers import DDIMScheduler, DDPMScheduler, PLMSScheduler
from pndm_solvers.config import CLASSES, REFUSED, TABLES, is_flow, read_config

FOLDER = Path(__file__).parent / "scheduler_configs"
PUBLISHED = {
    path.stem: json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json")) if path.stem != "sources"
}
# What a constructor cannot do without.
NEEDED = {
    "AmusedScheduler": {"mask_token_id": 1},
    "VQDiffusionScheduler": {"num_vec_classes": 5},
}
# These need a package that is not here; their configs are read all the same.
WITHOUT = {
    "CosineDPMSolverMultistepScheduler": {"sigma_min": 0.3, "sigma_max": 500, "prediction_type": "v_prediction"},
    "DPMSolverSDEScheduler": {},
    "RFD4ProteinaScheduler": {"schedule_mode": "", "noise_mode": ""},
}


def classes():
    found = {name: getattr(diffusers.schedulers, name) for name in dir(diffusers.schedulers)}
    return sorted(
        name
        for name, kind in found.items()
        if isinstance(kind, type) and name.endswith("Scheduler") and not name.startswith(("Flax", "Dummy"))
    )


def default_config(name):
    """The default config as a file has it, and theirs, or None where it cannot be made here."""
    if name in WITHOUT:
        return {"_class_name": name, **WITHOUT[name]}, None
    theirs = getattr(diffusers.schedulers, name)(**NEEDED.get(name, {}))
    return {"_class_name": name, **theirs.config}, theirs


def remedy_runs(message, name):
    """Does what the message says: with the solvers, or with diffusers' own class."""
    if keep := re.search(r"keep diffusers' own (\w+) for it", message):
        assert keep[1] == name
        assert hasattr(diffusers.schedulers, name)
        return
    schedule = eval(re.search(r"NoiseSchedule\.\w+\([^)]*\)", message)[0], {"NoiseSchedule": NoiseSchedule})
    own = re.search(r"lambda x, t: .*?(?= and prediction|$)", message)
    model = eval(own[0], {"network": lambda x, t: 0.1 * x}) if own else lambda x, t: 0.1 * x
    prediction = re.search(r"prediction='(\w+)'", message)
    x = initial_noise((2, 3), 0) * schedule.level(schedule.t_max).sigma
    samples = PLMSSolver(schedule).sample(model, x, 5, prediction=prediction[1] if prediction else "epsilon")
    assert np.isfinite(samples).all()


def levels_are_theirs(schedule, config, theirs):
    """ᾱ at the table's times, a flow's σ at their times, or σ/α at their times."""
    options = read_config(config)
    if is_flow(options):
        times = np.linspace(1, options["num_train_timesteps"], 7)
        np.testing.assert_allclose(schedule.sigma(times), times / options["num_train_timesteps"])
        np.testing.assert_allclose(schedule.alpha(times) + schedule.sigma(times), 1)
        if (
            theirs is not None
            and type(theirs).__name__.startswith("FlowMatch")
            and not theirs.config.get("invert_sigmas")
        ):
            theirs.set_timesteps(5, **({"mu": 0.7} if theirs.config.get("use_dynamic_shifting") else {}))
            np.testing.assert_allclose(schedule.sigma(theirs.timesteps), theirs.sigmas[:-1], rtol=1e-6)
    elif schedule.num_train_timesteps is not None:
        alphas_cumprod = schedule.alpha(np.arange(schedule.num_train_timesteps)) ** 2
        expected = theirs.alphas_cumprod.numpy() if theirs is not None else table_of(options)
        np.testing.assert_allclose(alphas_cumprod, expected, rtol=1e-3, atol=1e-6)
    elif theirs is not None and hasattr(theirs, "precondition_noise"):
        theirs.set_timesteps(6)
        np.testing.assert_allclose(schedule.k_sigma(theirs.timesteps), theirs.sigmas[:-1], rtol=1e-4)
        scaled = theirs.precondition_inputs(torch.ones(1), theirs.sigmas[2])
        np.testing.assert_allclose(schedule.alpha(theirs.timesteps[2]), scaled, rtol=1e-5)
    elif options["timestep_type"] == "continuous":
        theirs.set_timesteps(6)
        np.testing.assert_allclose(schedule.k_sigma(theirs.timesteps), theirs.sigmas[:-1], rtol=1e-4)
    elif config["_class_name"] == "IPNDMScheduler":
        theirs.set_timesteps(6)
        np.testing.assert_allclose(schedule.sigma(theirs.timesteps[1:]), theirs.betas[1:6], rtol=1e-5)
    else:
        sigma = np.array([0.5, 7.0, 300.0])  # the formula of CosineDPMSolverMultistepScheduler's `precondition_noise`
        np.testing.assert_allclose(schedule.k_sigma(np.arctan(sigma) / math.pi * 2), sigma)


def table_of(options):
    """ᾱ of a table for which no class of theirs is here."""
    first, last, size = options["beta_start"], options["beta_end"], options["num_train_timesteps"]
    if options["beta_schedule"] == "scaled_linear":
        return np.cumprod(1 - np.linspace(first**0.5, last**0.5, size) ** 2)
    assert options["beta_schedule"] == "linear"
    return np.cumprod(1 - np.linspace(first, last, size))


def read_or_refused(name, config, theirs):
    if name in REFUSED:
        for read in (NoiseSchedule.from_config, *(kind.from_config for kind in SCHEDULERS.values())):
            with pytest.raises(ValueError, match=name) as refusal:
                read(config)
            remedy_runs(str(refusal.value), name)
        return
    levels_are_theirs(NoiseSchedule.from_config(config), config, theirs)
    for kind in (PLMSScheduler, DDIMScheduler):
        mine = kind.from_config(config)
        assert mine.schedule == NoiseSchedule.from_config(config)
        mine.set_timesteps(4, **({"mu": 0.5} if mine.config.use_dynamic_shifting and is_flow(mine.config) else {}))
        x = torch.randn(1, 4, 2, 2, generator=torch.Generator().manual_seed(0))
        for t in mine.timesteps:
            x = mine.step(0.1 * x, t, x).prev_sample
        assert x.isfinite().all()


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("name", classes())
def test_every_class_by_its_default_config(name):
    config, theirs = default_config(name)
    read_or_refused(name, config, theirs)


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("name", [name for name in classes() if name not in WITHOUT and name not in TABLES])
def test_a_config_in_memory_does_not_name_its_class(name):
    """It is known by its options. FlowMap's are those of flow matching with Heun's method, and cannot be told apart."""
    config, _ = default_config(name)
    unnamed = {key: value for key, value in config.items() if not key.startswith("_")}
    if name in REFUSED and name != "FlowMapEulerDiscreteScheduler":
        with pytest.raises(ValueError, match=r"the config is that of a|add '_class_name'"):
            NoiseSchedule.from_config(unnamed)
    else:
        assert NoiseSchedule.from_config(unnamed) == NoiseSchedule.from_config(
            config if name not in REFUSED else {"use_flow_sigmas": True}
        )


@pytest.mark.parametrize("name", classes())
def test_the_class_decides_what_absent_options_mean(name):
    """A minimal config, as old ones are, has the levels of its class's defaults."""
    if name not in REFUSED:
        assert NoiseSchedule.from_config({"_class_name": name}) == NoiseSchedule.from_config(default_config(name)[0])


def test_every_class_is_known():
    """A new class of diffusers is read, or refused, on purpose."""
    assert set(classes()) <= {*CLASSES, *REFUSED, *TABLES}
    assert all(issubclass(getattr(diffusers.schedulers, n), SchedulerMixin) for n in classes() if n not in WITHOUT)
    with pytest.raises(ValueError, match="no class of that name is known"):
        NoiseSchedule.from_config({"_class_name": "TomorrowsScheduler"})


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("name", PUBLISHED)
def test_published_configs(name):
    config = PUBLISHED[name]
    kind = getattr(diffusers.schedulers, str(config.get("_class_name")), None)
    refused = config.get("_class_name") in (*WITHOUT, *REFUSED)
    theirs = kind.from_config(config) if kind is not None and not refused else None
    read_or_refused(config.get("_class_name"), {"_class_name": "", **config}, theirs)


def test_every_published_config_has_its_source():
    sources = json.loads((FOLDER / "sources.json").read_text())
    assert sources.keys() == PUBLISHED.keys()
    assert all({"repository", "path", "commit", "note"} <= source.keys() for source in sources.values())
    assert len({config.get("_class_name") for config in PUBLISHED.values()}) >= 18


# ------------------------------------------------------------------ single options


def test_null_options_are_no_bound():
    mine = DDPMScheduler.from_config({"sample_max_value": None, "thresholding": True})
    assert mine.prediction.threshold_max == math.inf
    assert DDIMScheduler.from_config({"trained_betas": None, "sigma_min": None}).schedule == NoiseSchedule.linear()


def test_options_of_old_versions():
    assert DDPMScheduler.from_config({"predict_epsilon": False}).prediction.type == "sample"
    assert DDPMScheduler.from_config({"predict_epsilon": True}).prediction.type == "epsilon"


def test_another_class_s_option_does_not_change_a_method():
    """DDPM ends at the picture, and classes without `clip_sample` do not clip, whatever a config still holds."""
    config = {"_class_name": "DDIMScheduler", "set_alpha_to_one": False, "clip_sample": True, "clip_sample_range": 1.0}
    ancestral = DDPMScheduler.from_config(config)
    ancestral.set_timesteps(5)
    assert ancestral.plan.end.sigma == 0
    for kind in SCHEDULERS.values():
        own = "clip_sample" in kind().config
        assert (kind.from_config(config).prediction.clip is not None) == own


def test_a_table_may_end_at_pure_noise():
    betas = [*np.linspace(1e-4, 0.02, 9), 1.0]
    assert DDIMScheduler(trained_betas=betas, prediction_type="v_prediction").schedule.alpha(9) == 0


@pytest.mark.parametrize("kind", ["sigmoid", "laplace"])
def test_betas_that_ddpm_alone_has(kind):
    theirs = diffusers.DDPMScheduler(beta_schedule=kind)
    np.testing.assert_allclose(
        PLMSScheduler.from_config(theirs.config).alphas_cumprod, theirs.alphas_cumprod, rtol=2e-3, atol=1e-6
    )
    heun = diffusers.HeunDiscreteScheduler(beta_schedule="exp")
    np.testing.assert_allclose(
        PLMSScheduler.from_config(heun.config).alphas_cumprod, heun.alphas_cumprod, rtol=2e-3, atol=1e-6
    )


def both(theirs, theirs_x, mine, x):
    """The ends of a run of ours and of theirs on one network, whose inputs agree at every step."""
    for t, mine_t in zip(theirs.timesteps, mine.timesteps, strict=True):
        scaled = theirs.scale_model_input(theirs_x, t)
        torch.testing.assert_close(x, scaled, rtol=1e-3, atol=1e-4)
        theirs_x = theirs.step(torch.sin(3 * scaled), t, theirs_x).prev_sample
        x = mine.step(torch.sin(3 * x), mine_t, x).prev_sample
    return x, theirs_x


def test_edm_s_answers_become_pictures():
    """One step of DDIM at the levels of their DPM-Solver++ of order 1, from the same answer; for both signs."""
    for options in ({}, {"prediction_type": "v_prediction"}, {"sigma_data": 1.0}):
        theirs = diffusers.EDMDPMSolverMultistepScheduler(solver_order=1, **options)
        mine = DDIMScheduler.from_config({"_class_name": "EDMDPMSolverMultistepScheduler", **theirs.config})
        theirs.set_timesteps(6)
        mine.set_timesteps(6)
        torch.testing.assert_close(mine.timesteps, theirs.timesteps, rtol=1e-4, atol=1e-4)
        start = torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(0))
        theirs_x, x = start * theirs.config.sigma_max, start * mine.plan.levels[0].sigma
        ends = both(theirs, theirs_x, mine, x)
        torch.testing.assert_close(*ends, rtol=1e-3, atol=1e-3)


def test_stable_video_diffusion_s_network_is_asked_as_theirs():
    config = PUBLISHED["svd-xt"]
    theirs = diffusers.EulerDiscreteScheduler.from_config(config)
    mine = DDIMScheduler.from_config(config, clip_sample=False)
    theirs.set_timesteps(7)
    mine.set_timesteps(7)
    torch.testing.assert_close(mine.timesteps, theirs.timesteps, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(mine.sigmas, theirs.sigmas, rtol=1e-4, atol=1e-6)
    start = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    theirs_x, x = start * theirs.init_noise_sigma, start * mine.init_noise_sigma
    torch.testing.assert_close(*both(theirs, theirs_x, mine, x), rtol=2e-3, atol=2e-3)
