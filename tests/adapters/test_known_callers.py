"""How known callers of diffusers' schedulers use a scheduler, in a few lines: docs/reference/callers.md lists them."""

import copy
import json

import diffusers
import pytest
import torch
from diffusers.training_utils import compute_dream_and_update_latents, compute_snr

from pndm_solvers.adapters import diffusers as ours

SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
LATENT = {**SD, "clip_sample": False, "steps_offset": 1}
ROBOT = {"num_train_timesteps": 100, "beta_schedule": "squaredcos_cap_v2"}
KINDS = [
    "PLMSScheduler",
    "PNDMScheduler",
    "DDIMScheduler",
    "DDPMScheduler",
    "DPMSolverMultistepScheduler",
    "DEISMultistepScheduler",
    "UniPCMultistepScheduler",
]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def noise(*shape, seed=0):
    return torch.randn(*shape or (2, 4, 8, 8), generator=seeded(seed))


def model(x, t):
    return torch.sin(x + float(torch.as_tensor(t).flatten()[0]) / 300)


def ran(scheduler, steps=5, x=None, **extra):
    scheduler.set_timesteps(steps)
    x = noise() if x is None else x
    for t in scheduler.timesteps:
        x = scheduler.step(model(x, t), t, x, **extra).prev_sample
    return x


def close(mine, theirs, tolerance=1e-4):
    torch.testing.assert_close(mine, theirs, rtol=0, atol=tolerance)


# --------------------------------------------------------------------------- assignments to the tables


def zero_terminal(betas):
    """√ᾱ shifted to 0 at the last time and scaled back at the first: Lin et al. (2023), algorithm 1."""
    root = (1 - betas).cumprod(0).sqrt()
    squares = ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2
    return 1 - torch.cat([squares[:1], squares[1:] / squares[:-1]])


def assigned(scheduler, only_cumprod=False):
    """kohya assigns all three tables; diffusers' DPO example for SDXL-Turbo assigns ᾱ alone."""
    betas = zero_terminal(scheduler.betas)
    if not only_cumprod:
        scheduler.betas, scheduler.alphas = betas, 1 - betas
    scheduler.alphas_cumprod = (1 - betas).cumprod(0)
    return scheduler


@pytest.mark.parametrize("only_cumprod", [False, True])
def test_assigned_betas_count_in_training(only_cumprod):
    got, want = (assigned(pkg.DDPMScheduler(**SD), only_cumprod) for pkg in (ours, diffusers))
    x, n, t = noise(), noise(seed=1), torch.tensor([999, 500])
    close(got.add_noise(x, n, t), want.add_noise(x, n, t))
    close(got.get_velocity(x, n, t), want.get_velocity(x, n, t))


def test_assigned_betas_count_in_a_run():
    options = {**LATENT, "prediction_type": "v_prediction", "timestep_spacing": "trailing", "steps_offset": 0}
    close(ran(assigned(ours.DDIMScheduler(**options))), ran(assigned(diffusers.DDIMScheduler(**options))))


def test_table_assigned_as_it_is():
    """kohya moves ᾱ back to the host after each add_noise; others move it to a device."""
    scheduler = ours.DDPMScheduler(**SD)
    before = scheduler.add_noise(noise(), noise(seed=1), torch.tensor([3, 999]))
    scheduler.alphas_cumprod = scheduler.alphas_cumprod.cpu()
    assert torch.equal(before, scheduler.add_noise(noise(), noise(seed=1), torch.tensor([3, 999])))


def test_free_attributes():
    scheduler = ours.DDPMScheduler(**SD)
    assert not hasattr(scheduler, "all_snr")
    scheduler.all_snr = scheduler.alphas_cumprod / (1 - scheduler.alphas_cumprod)
    t = torch.tensor([0, 999])
    close(torch.stack([scheduler.all_snr[i] for i in t]), compute_snr(diffusers.DDPMScheduler(**SD), t), 2e-3)
    assert hasattr(copy.deepcopy(scheduler), "all_snr")


# --------------------------------------------------------------------------- assignments to the configuration


@pytest.mark.parametrize("value", [True, False])
def test_clipping_by_attribute(value):
    """Stable Cascade switches clipping off so, and kohya's get_my_scheduler and gen_img_diffusers on."""
    runs = []
    for pkg in (ours, diffusers):
        scheduler = pkg.DDIMScheduler(**SD, clip_sample=not value)
        scheduler.config.clip_sample = value
        runs.append(ran(scheduler, x=3 * noise()))
    close(*runs)


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        ("DDIMScheduler", "timestep_spacing", "trailing"),  # LEdits++ assigns "leading"
        ("DDIMScheduler", "prediction_type", "v_prediction"),
        ("DDIMScheduler", "thresholding", True),
        ("DPMSolverMultistepScheduler", "solver_order", 3),
    ],
)
def test_options_by_attribute(kind, name, value):
    runs = []
    for pkg in (ours, diffusers):
        scheduler = getattr(pkg, kind)(**(LATENT if kind == "DDIMScheduler" else SD))
        setattr(scheduler.config, name, value)
        runs.append(ran(scheduler))
    close(*runs)


def test_prediction_type_by_register_to_config():
    """diffusers' text_to_image examples."""
    runs = []
    for pkg in (ours, diffusers):
        scheduler = pkg.DDIMScheduler(**LATENT)
        scheduler.register_to_config(prediction_type="v_prediction")
        runs.append(ran(scheduler))
    close(*runs)


@pytest.mark.parametrize("kind", ["DPMSolverMultistepScheduler", "DEISMultistepScheduler", "UniPCMultistepScheduler"])
def test_clip_sample_of_a_foreign_config(kind):
    config = {"_class_name": "DDPMScheduler", **SD, "num_train_timesteps": 1000, "clip_sample": True}
    close(ran(getattr(ours, kind).from_config(config)), ran(getattr(diffusers, kind).from_config(config)))


@pytest.mark.parametrize("kind", ["DPMSolverMultistepScheduler", "DEISMultistepScheduler", "UniPCMultistepScheduler"])
def test_clip_sample_and_range_of_a_foreign_config(kind):
    config = {
        "_class_name": "DDPMScheduler",
        **SD,
        "num_train_timesteps": 1000,
        "clip_sample": True,
        "clip_sample_range": 1.0,
    }
    close(ran(getattr(ours, kind).from_config(config)), ran(getattr(diffusers, kind).from_config(config)), 1e-3)


# --------------------------------------------------------------------------- step


@pytest.mark.parametrize("kind", KINDS)
def test_generator_is_always_passed(kind):
    """Marigold, Kandinsky, lerobot, diffusion_policy: they pass it without asking the signature."""
    assert ran(getattr(ours, kind)(**SD), generator=seeded()).isfinite().all()


def test_keywords_alone():
    """Stable Cascade, Kandinsky's prior."""
    scheduler = ours.DDIMScheduler(**LATENT)
    scheduler.set_timesteps(5)
    assert (
        scheduler.step(model_output=noise(), timestep=scheduler.timesteps[0], sample=noise(), generator=None)
        .prev_sample.isfinite()
        .all()
    )


# --------------------------------------------------------------------------- DDPO


def policy_step(scheduler, output, t, sample, eta, generator):
    """DDIM with a time for each sample, as DDPO takes it, from the tables; `(B,)` times."""
    before = (t - scheduler.config.num_train_timesteps // scheduler.num_inference_steps).clamp(0)
    a, b = (scheduler.alphas_cumprod.gather(0, i).reshape(-1, *[1] * (sample.ndim - 1)) for i in (t, before))
    x0 = (sample - (1 - a).sqrt() * output) / a.sqrt()
    if scheduler.config.thresholding:
        x0 = scheduler._threshold_sample(x0)
    elif scheduler.config.clip_sample:
        x0 = x0.clamp(-scheduler.config.clip_sample_range, scheduler.config.clip_sample_range)
    deviation = eta * ((1 - b) / (1 - a) * (1 - a / b)).sqrt()
    mean = b.sqrt() * x0 + (1 - b - deviation**2).sqrt() * output
    return mean + deviation * torch.randn(sample.shape, generator=generator)


def test_policy_steps_agree_with_ours():
    scheduler = ours.DDIMScheduler(**LATENT, set_alpha_to_one=False)
    scheduler.set_timesteps(10)
    x = noise()
    for t in scheduler.timesteps:
        own = scheduler.step(model(x, t), t, x, eta=1.0, generator=seeded(1)).prev_sample
        x = policy_step(scheduler, model(x, t), t.reshape(1), x, 1.0, seeded(1))
        close(own, x)


def test_policy_steps_with_thresholding():
    scheduler = ours.DDIMScheduler(**SD, thresholding=True)
    scheduler.set_timesteps(10)
    t = scheduler.timesteps[3]
    policy_step(scheduler, noise(), t.reshape(1), noise(), 1.0, seeded())


def test_an_instance_of_diffusers_ddim():
    """DDPO asserts it, Marigold's own pipeline and CLIP guidance raise without it, LEdits++ makes its own."""
    assert isinstance(ours.DDIMScheduler(**SD), diffusers.DDIMScheduler)


# --------------------------------------------------------------------------- CycleDiffusion, LEdits++


@pytest.mark.parametrize("at", [0, 4, -1])
def test_variance_of_ddim(at):
    """CycleDiffusion and LEdits++ divide by it to get the noise that a step would need."""
    a, b = ours.DDIMScheduler(**LATENT), diffusers.DDIMScheduler(**LATENT)
    a.set_timesteps(10)
    b.set_timesteps(10)
    t = a.timesteps[at]
    before = t - 1000 // a.num_inference_steps
    close(a._get_variance(t, before), b._get_variance(t, before), 1e-6)


def test_noise_of_an_inversion_leads_back():
    """Edit-friendly inversion without private methods: the tables, then step with variance_noise."""
    scheduler = ours.DDIMScheduler(**LATENT, set_alpha_to_one=False)
    scheduler.set_timesteps(10)
    x0, a = noise(), scheduler.alphas_cumprod
    levels = [*scheduler.timesteps.tolist(), None]
    path = [scheduler.add_noise(x0, noise(seed=i), torch.tensor([t])) for i, t in enumerate(levels[:-1])] + [x0]
    y = path[0]
    for i, t in enumerate(scheduler.timesteps):
        there = a[levels[i + 1]] if levels[i + 1] is not None else scheduler.final_alpha_cumprod
        deviation = ((1 - there) / (1 - a[t]) * (1 - a[t] / there)).sqrt()
        mean = scheduler.step(model(path[i], t), t, path[i], eta=1.0, variance_noise=torch.zeros_like(y)).prev_sample
        z = (path[i + 1] - mean) / deviation if deviation > 0 else torch.zeros_like(y)
        path[i + 1] = mean + deviation * z
        y = scheduler.step(model(y, t), t, y, eta=1.0, variance_noise=z).prev_sample
    close(y, path[-1])


@pytest.mark.parametrize("kind", KINDS)
def test_ledits_makes_theirs_of_our_config(kind):
    config = getattr(ours, kind)(**SD).config
    theirs = diffusers.DPMSolverMultistepScheduler.from_config(config, algorithm_type="sde-dpmsolver++", solver_order=2)
    theirs.config.timestep_spacing = "leading"
    theirs.set_timesteps(6)
    assert len(theirs.timesteps) == 6


def test_add_noise_takes_a_time_as_float():
    """LEdits++ passes torch.Tensor([t]); diffusers' own DDIM (0.42.1) raises IndexError for it."""
    scheduler = ours.DDIMScheduler(**LATENT)
    close(
        scheduler.add_noise(noise(), noise(seed=1), torch.Tensor([501])),
        scheduler.add_noise(noise(), noise(seed=1), torch.tensor([501])),
        1e-6,
    )


# --------------------------------------------------------------------------- Marigold


def test_marigold_trainer():
    """A DDPM scheduler from the DDIM's config, with zero SNR; a DDIM from that; velocity; a saved folder."""
    results = []
    for pkg in (ours, diffusers):
        first = pkg.DDIMScheduler(**LATENT, set_alpha_to_one=False, prediction_type="v_prediction")
        training = pkg.DDPMScheduler.from_config(first.config, rescale_betas_zero_snr=True, timestep_spacing="trailing")
        inference = pkg.DDIMScheduler.from_config(training.config)
        assert inference.config.rescale_betas_zero_snr is True
        assert inference.config.timestep_spacing == "trailing"
        x, n, t = noise(), noise(seed=1), torch.tensor([999, 5])
        results.append(torch.cat([training.add_noise(x, n, t), training.get_velocity(x, n, t), ran(inference, 4, x=n)]))
    close(*results)


# --------------------------------------------------------------------------- robots


@pytest.mark.parametrize("steps", [100, 10, 8])
@pytest.mark.parametrize("kind", ["DDPMScheduler", "DDIMScheduler"])
def test_actions_of_a_robot(kind, steps):
    """Trajectories `(B, T, D)`, 100 trained times, the network called with `(B,)` long times, one generator."""
    runs = []
    for pkg in (ours, diffusers):
        scheduler = getattr(pkg, kind)(**ROBOT, clip_sample=True, clip_sample_range=1.0, prediction_type="epsilon")
        scheduler.set_timesteps(steps)
        generator, x = seeded(), noise(3, 16, 2)
        mask = torch.zeros_like(x, dtype=torch.bool)
        mask[:, :2] = True
        for t in scheduler.timesteps:
            x[mask] = 0.5  # diffusion_policy writes into the sample that step returned
            times = torch.full(x.shape[:1], t, dtype=torch.long)
            x = scheduler.step(model(x, times), t, x, generator=generator).prev_sample
        runs.append(x)
    close(*runs)


@pytest.mark.parametrize("kind", ["PLMSScheduler", "PNDMScheduler", "DPMSolverMultistepScheduler"])
def test_known_actions_in_a_multistep_run(kind):
    scheduler = getattr(ours, kind)(**ROBOT, timestep_spacing="trailing")
    scheduler.set_timesteps(8)
    for _ in range(3):
        x = noise(3, 16, 2)
        for t in scheduler.timesteps:
            x[:, :2] = 0.5
            x = scheduler.step(model(x, t), t, x).prev_sample
        assert x.isfinite().all()


# --------------------------------------------------------------------------- training examples of diffusers


def test_training_helpers():
    results = []
    for pkg in (ours, diffusers):
        scheduler = pkg.DDPMScheduler(**SD)
        x, n, t = noise(), noise(seed=1), torch.tensor([3, 999])
        noisy = scheduler.add_noise(x, n, t)
        answer = type("Answer", (), {"sample": torch.sin(noisy)})
        dream = compute_dream_and_update_latents(
            lambda *_, found=answer, **__: found, scheduler, t, n, noisy, n.clone(), None
        )
        results.append(torch.cat([noisy, *dream, compute_snr(scheduler, t).log()[:, None, None, None].expand_as(x)]))
    close(*results)


@pytest.mark.parametrize("kind", KINDS)
def test_dreambooth_saves_its_scheduler(kind):
    """It passes variance_type on whenever the config holds one, also to a class without that option."""
    saved = diffusers.DDPMScheduler(variance_type="learned_range").config
    scheduler = getattr(ours, kind).from_config(saved)
    assert "variance_type" in scheduler.config
    scheduler.from_config(scheduler.config, variance_type="fixed_small")


# --------------------------------------------------------------------------- tables by time


@pytest.mark.parametrize("kind", [k for k in KINDS if k != "PLMSScheduler"])
def test_tables_by_time(kind):
    """SAG, CLIP guidance, null-text inversion: alphas_cumprod[t]; text-to-video zero: alphas[t0:t1]."""
    a, b = getattr(ours, kind)(**SD), getattr(diffusers, kind)(**SD)
    a.set_timesteps(10)
    t = a.timesteps[2]
    close(a.alphas_cumprod[t], b.alphas_cumprod[t], 1e-6)
    close(a.alphas[100:200].prod(), b.alphas[100:200].prod(), 1e-6)
    close((1 - a.betas).cumprod(0), b.alphas_cumprod, 1e-6)


def test_times_of_plms_are_no_index():
    """The default spacing lies between the integers: callers that index by time need an integer spacing."""
    scheduler = ours.PLMSScheduler(**SD)
    scheduler.set_timesteps(10)
    with pytest.raises(IndexError):
        scheduler.alphas_cumprod[scheduler.timesteps[2]]
    scheduler = ours.PLMSScheduler(**SD, timestep_spacing="trailing")
    scheduler.set_timesteps(10)
    assert scheduler.alphas_cumprod[scheduler.timesteps[2]] > 0


# --------------------------------------------------------------------------- several samples at each time


@pytest.mark.parametrize("kind", ["DDIMScheduler", "DDPMScheduler"])
def test_tiles_at_one_time(kind):
    """MultiDiffusion: one scheduler steps each tile of a sample at each time."""
    scheduler = getattr(ours, kind)(**SD, clip_sample=False)
    scheduler.set_timesteps(4)
    x = noise(1, 4, 8, 16)
    for t in scheduler.timesteps:
        x = torch.cat([scheduler.step(model(tile, t), t, tile).prev_sample for tile in x.split(8, -1)], -1)
    assert x.isfinite().all()


@pytest.mark.parametrize("kind", ["DDIMScheduler", "PLMSScheduler", "DPMSolverMultistepScheduler"])
def test_views_keep_the_state_of_the_scheduler(kind):
    """StableDiffusionPanoramaPipeline saves and restores `scheduler.__dict__` for each view.

    It begins with one state for all views, so the runs of a multistep method cannot be told apart, which is an error.
    """
    scheduler = getattr(ours, kind)(**SD)
    scheduler.set_timesteps(4)
    states = [copy.deepcopy(scheduler.__dict__)] * 2
    x = noise(1, 4, 8, 16)

    def run(x):
        for t in scheduler.timesteps:
            parts = []
            for i, tile in enumerate(x.split(8, -1)):
                scheduler.__dict__.update(states[i])
                parts.append(scheduler.step(model(tile, t), t, tile.clone()).prev_sample)
                states[i] = copy.deepcopy(scheduler.__dict__)
            x = torch.cat(parts, -1)
        return x

    if kind == "DDIMScheduler":
        assert run(x).isfinite().all()
    else:
        with pytest.raises(ValueError, match="2 runs on this scheduler have not ended"):
            run(x)


@pytest.mark.parametrize("kind", KINDS)
def test_samples_of_numpy(kind):
    """The ONNX pipelines: each sample goes through NumPy, so no sample is one that step returned."""
    scheduler = getattr(ours, kind)(**SD)
    scheduler.set_timesteps(6)
    for _ in range(2):
        x = noise().numpy()
        for t in scheduler.timesteps:
            x = scheduler.step(model(torch.from_numpy(x), t), t, torch.from_numpy(x)).prev_sample.numpy()


# --------------------------------------------------------------------------- MONAI


def test_step_for_monai():
    """The remedy: MONAI's DiffusionInferer.sample calls step(output, t, image) and takes a pair."""
    scheduler = ours.PLMSScheduler()
    scheduler.set_timesteps(4)
    step = scheduler.step
    scheduler.step = lambda output, t, image: step(output, t, image, return_dict=False)
    image = noise(1, 1, 8, 8)
    assert bool(scheduler)  # `if not scheduler` asks for its length
    following = torch.cat((scheduler.timesteps[1:], torch.tensor([0], dtype=scheduler.timesteps.dtype)))
    for t, _ in zip(scheduler.timesteps, following, strict=True):
        image, _ = scheduler.step(model(image, torch.Tensor((t,))), t, image)
    assert image.isfinite().all()


def test_add_noise_by_keyword():
    scheduler = ours.DDPMScheduler()
    scheduler.add_noise(original_samples=noise(), noise=noise(seed=1), timesteps=torch.tensor([3, 40]))


def test_configs_are_json():
    for kind in KINDS:
        json.loads(getattr(ours, kind)(**SD).to_json_string())
