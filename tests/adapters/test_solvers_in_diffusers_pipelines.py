"""A pipeline of diffusers with our scheduler runs the solver's own plan: the test runs it by hand on the same network.

The networks are tiny, with random weights, in float64 unless a test names another dtype.
"""

import copy
import runpy
import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image

from pndm_solvers import (
    DDIMSolver,
    DDPMSolver,
    DEISSolver,
    DPMMultistepSolver,
    NoiseSchedule,
    PLMSSolver,
    PNDMSolver,
    UniPCSolver,
    add_noise,
)
from pndm_solvers.adapters.diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DEISMultistepScheduler,
    DPMSolverMultistepScheduler,
    PLMSScheduler,
    PNDMScheduler,
    UniPCMultistepScheduler,
)

parts = runpy.run_path(str(Path(__file__).parents[2] / "examples" / "tiny_stable_diffusion.py"))["parts"]
PARTS = parts()
CONFIG = PARTS["scheduler"].config
SCHEDULE = NoiseSchedule.from_config(CONFIG)
LATENTS = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
PICTURE = Image.fromarray(np.uint8(np.add.outer(range(0, 240, 15), range(16)))).convert("RGB")
CLASSICAL = {"weights": "classical"}

# name: (scheduler, solver, solver of a run that begins further down, with one call for each time)
SCHEDULERS = {
    "plms": (PLMSScheduler.from_config(CONFIG), PLMSSolver(SCHEDULE), PLMSSolver(SCHEDULE)),
    "plms-rk4": (
        PLMSScheduler.from_config(CONFIG, starter="rk4", timestep_spacing="trailing"),
        PLMSSolver(SCHEDULE, starter="rk4"),
        PLMSSolver(SCHEDULE),
    ),
    "pndm": (
        PNDMScheduler.from_config(CONFIG),
        PLMSSolver(SCHEDULE, starter="heun", **CLASSICAL),
        PLMSSolver(SCHEDULE, **CLASSICAL),
    ),
    "f-pndm": (
        PNDMScheduler.from_config(CONFIG, skip_prk_steps=False),
        PNDMSolver(SCHEDULE),
        PLMSSolver(SCHEDULE, **CLASSICAL),
    ),
    "ddim": (DDIMScheduler.from_config(CONFIG, clip_sample=False), DDIMSolver(SCHEDULE), DDIMSolver(SCHEDULE)),
    "ddpm": (DDPMScheduler.from_config(CONFIG, clip_sample=False), DDPMSolver(SCHEDULE), DDPMSolver(SCHEDULE)),
    **{
        name: (kind.from_config(CONFIG, timestep_spacing="trailing", lower_order_final=False), solver, solver)
        for name, kind, solver in (
            ("dpmpp-2m", DPMSolverMultistepScheduler, DPMMultistepSolver(SCHEDULE, lower_order_final=False)),
            ("deis", DEISMultistepScheduler, DEISSolver(SCHEDULE, 2, lower_order_final=False)),
            ("unipc", UniPCMultistepScheduler, UniPCSolver(SCHEDULE, lower_order_final=False)),
        )
    },
}


def case(name):
    """A copy of an entry of `SCHEDULERS`: pipelines change the configuration of their scheduler."""
    return copy.deepcopy(SCHEDULERS[name])


def pipeline(kind, scheduler, dtype=torch.float64, **others):
    """One of diffusers' pipelines on the common parts, none of them shared with another test."""
    pipe = kind(**{**copy.deepcopy(PARTS), **others, "scheduler": scheduler}).to(dtype)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@dataclass
class Calls:
    """The calls of a pipeline's UNet: the latents `(B, …)`, doubled for guidance, and the times."""

    latents: list
    times: list
    prompts: torch.Tensor | None = None
    noise: torch.Tensor | None = None  # the generator's state at the first call

    @staticmethod
    def of(pipe, generator=None):
        calls = Calls([], [])

        def record(module, args, kwargs, output):
            if not calls.times:
                calls.prompts = kwargs["encoder_hidden_states"]
                calls.noise = None if generator is None else generator.get_state()
            calls.latents.append(args[0])
            calls.times.append(float(args[1]))

        pipe.unet.register_forward_hook(record, with_kwargs=True)
        return calls

    def __len__(self):
        return len(self.times)


def guided(pipe, prompts, scale=7.5):
    """The model in a pipeline's loop. It uses `forward`, so that `Calls` counts the loop only."""

    @torch.no_grad()
    def model(x, t):
        without, with_prompt = pipe.unet.forward(torch.cat([x, x]), torch.cat([t, t]), prompts).sample.chunk(2)
        return without + scale * (with_prompt - without)

    return model


def options(scheduler):
    """The options for the end of the plan, and those with its spacing."""
    config = scheduler.config
    offset = config.steps_offset if config.timestep_spacing == "leading" else 0
    clean = config.get("set_alpha_to_one", config.get("final_sigmas_type") == "zero")  # DEIS has neither
    clean |= isinstance(scheduler, DDPMScheduler)  # whose last step is always to the picture
    final = {"final": "clean" if clean else "first"}
    return final, final | {"spacing": config.timestep_spacing, "steps_offset": offset}


def expected_plan(scheduler, solver, continuation, steps, begin=0):
    """The plan for `steps` steps, or for the part of its times that image-to-image runs."""
    final, spaced = options(scheduler)
    whole = solver.plan(steps, **spaced)
    if begin == 0:
        return whole
    times = list(dict.fromkeys(whole.times[begin:]))  # the stages of Runge–Kutta steps come twice
    return continuation.plan(timesteps=np.array(times, np.int64 if whole.integer_times else np.float64), **final)


def close(result, expected):
    assert result.isfinite().all()
    torch.testing.assert_close(result, expected, rtol=1e-9, atol=1e-9 * expected.abs().max().item())


# ------------------------------------------------------------------ text to image, image to image


def test_a_step_is_a_call():
    """With the ramp starter. Guidance doubles the batch, not the calls."""
    for steps in (1, 2, 3, 7):
        pipe = pipeline(diffusers.StableDiffusionPipeline, PLMSScheduler.from_config(CONFIG))
        calls = Calls.of(pipe)
        pipe("a lighthouse", num_inference_steps=steps, output_type="latent")
        assert len(calls) == steps == len(set(calls.times))
        assert {len(latents) for latents in calls.latents} == {2}


@pytest.mark.parametrize("name", SCHEDULERS)
def test_text_to_image(name):
    for steps in (2, 4, 20):
        scheduler, solver, continuation = case(name)
        pipe = pipeline(diffusers.StableDiffusionPipeline, scheduler)
        generator = seeded()
        calls = Calls.of(pipe, generator)
        result = pipe(
            "a lighthouse", num_inference_steps=steps, latents=LATENTS, generator=generator, output_type="latent"
        ).images
        called = len(calls)
        generator.set_state(calls.noise)
        plan = expected_plan(scheduler, solver, continuation, steps)
        close(result, plan.run(guided(pipe, calls.prompts), LATENTS, generator=generator))
        assert called == len(scheduler.timesteps) == plan.model_calls


@pytest.mark.parametrize("name", SCHEDULERS)
def test_image_to_image(name):
    """At each strength: the solver's plan for the last times, from the picture with the noise of the first of them."""
    runge_kutta = name in ("plms-rk4", "f-pndm")  # whose first steps can be entered at any stage
    for tenths in range(1, 11) if runge_kutta else (1, 5, 10):
        assert_image_to_image(name, tenths)


def assert_image_to_image(name, tenths):
    scheduler, solver, continuation = case(name)
    pipe = pipeline(diffusers.StableDiffusionImg2ImgPipeline, scheduler)
    generator = seeded()
    calls = Calls.of(pipe, generator)
    result = pipe(
        "a lighthouse", LATENTS, tenths / 10, num_inference_steps=20, generator=generator, output_type="latent"
    ).images
    begin = 20 - 2 * tenths
    called = calls.times[:]
    assert called == scheduler.timesteps[begin:].tolist()
    noise = torch.randn(LATENTS.shape, generator=seeded(), dtype=torch.float64)
    generator.set_state(calls.noise)
    plan = expected_plan(scheduler, solver, continuation, 20, begin)
    start = add_noise(SCHEDULE, LATENTS, noise, called[0])
    close(result, plan.run(guided(pipe, calls.prompts), start, generator=generator))


def test_pictures_come_out():
    pipe = pipeline(diffusers.StableDiffusionPipeline, case("plms")[0], torch.float32)
    from_picture = diffusers.AutoPipelineForImage2Image.from_pipe(pipe)
    from_picture.set_progress_bar_config(disable=True)
    assert from_picture.scheduler is pipe.scheduler
    first = pipe("a lighthouse", num_inference_steps=5).images[0]
    second = from_picture("by night", first, 0.6, num_inference_steps=5, output_type="np").images
    assert first.size == (16, 16)
    assert second.shape == (1, 16, 16, 3)
    assert np.isfinite(second).all()


@pytest.mark.parametrize("name", ["f-pndm", "ddpm"])
def test_a_pipeline_in_float16_is_the_plan_in_float16(name):
    """Bit for bit, with the states in float16 as the pipeline keeps them."""
    scheduler, solver, continuation = case(name)
    pipe = pipeline(diffusers.StableDiffusionPipeline, scheduler, torch.float16)
    generator, latents = seeded(), LATENTS.half()
    calls = Calls.of(pipe, generator)
    result = pipe("a lighthouse", num_inference_steps=10, latents=latents, generator=generator, output_type="latent")
    generator.set_state(calls.noise)
    plan = expected_plan(scheduler, solver, continuation, 10)
    expected = plan.run(guided(pipe, calls.prompts), latents, generator=generator, state_dtype=torch.float16)
    assert {latents.dtype for latents in calls.latents} == {result.images.dtype} == {torch.float16}
    assert result.images.isfinite().all()
    torch.testing.assert_close(result.images, expected, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["plms", "ddpm"])
def test_several_prompts_and_pictures_for_each(name):
    """Each picture is as it would be alone, with its own generator."""
    pipe = pipeline(diffusers.StableDiffusionPipeline, case(name)[0])
    settings = {"num_inference_steps": 5, "output_type": "latent"}
    prompts, seeds = ["a lighthouse", "a ship"], range(4)
    together = pipe(prompts, num_images_per_prompt=2, generator=[seeded(seed) for seed in seeds], **settings).images
    for seed, latents in zip(seeds, together, strict=True):
        close(latents, pipe(prompts[seed // 2], generator=seeded(seed), **settings).images[0])


# ------------------------------------------------------------------ one scheduler, several runs


def run_of(kind, scheduler, *arguments, seed=0, **settings):
    """A run of a pipeline of its own, as a function of `callback_on_step_end`."""
    pipe = pipeline(kind, scheduler)
    settings |= {"output_type": "latent", "num_inference_steps": settings.get("num_inference_steps", 6)}

    def run(callback=None):
        return pipe(*arguments, generator=seeded(seed), callback_on_step_end=callback, **settings).images

    return run


text_run = partial(run_of, diffusers.StableDiffusionPipeline)
image_run = partial(run_of, diffusers.StableDiffusionImg2ImgPipeline)


def interleaved(*runs):
    """The results of runs that take a step each in turn, in a thread for each."""
    turns, changed = deque(range(len(runs))), threading.Condition()

    def wait(i):
        assert changed.wait_for(lambda: turns[0] == i, timeout=60)

    def take_turns(i):
        def callback(pipe, step, t, tensors):
            turns.rotate(-1)
            changed.notify_all()
            wait(i)
            return tensors

        with changed:
            wait(i)
            try:
                return runs[i](callback)
            finally:
                turns.remove(i)
                changed.notify_all()

    with ThreadPoolExecutor() as threads:
        return [future.result() for future in [threads.submit(take_turns, i) for i in range(len(runs))]]


# Two pipelines on one scheduler.
PAIRS = {
    "texts": lambda scheduler: (text_run(scheduler, "a ship"), text_run(scheduler, "a ship", seed=1)),
    "other-steps": lambda scheduler: (
        text_run(scheduler, "a ship"),
        text_run(scheduler, "a sea", num_inference_steps=8),
    ),
    "text-and-image": lambda scheduler: (text_run(scheduler, "a ship"), image_run(scheduler, "a sea", LATENTS, 0.5)),
    "images": lambda scheduler: (image_run(scheduler, "a ship", LATENTS, 0.5), image_run(scheduler, "a sea", LATENTS)),
}


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
@pytest.mark.parametrize("name", ["plms", "f-pndm", "ddpm"])
def test_two_pipelines_share_a_scheduler(name, pair):
    """Each run is bit for bit what it is alone, when they interleave, and when one comes after the other."""
    alone = [pair(case(name)[0])[i]() for i in (0, 1)]
    runs = pair(case(name)[0])
    shared = [*interleaved(*runs), *(run() for run in runs)]
    for ours, own in zip(shared, alone * 2, strict=True):
        torch.testing.assert_close(ours, own, rtol=0, atol=0)


def test_a_pipeline_runs_again_after_it_was_stopped():
    scheduler = PLMSScheduler.from_config(CONFIG)
    run = text_run(scheduler, "a ship")
    expected = run()

    def stop(pipe, step, t, tensors):
        if step == 3:
            raise KeyboardInterrupt
        return tensors

    with pytest.raises(KeyboardInterrupt):
        run(stop)
    torch.testing.assert_close(run(), expected, rtol=0, atol=0)


# ------------------------------------------------------------------ latents that change between steps


def run_with_changes(plan, model, x, change):
    """The plan run by hand, with the state after row k replaced by `change(k, state.x)`."""
    state = plan.start(x)
    while not state.done:
        k = state.row
        state = plan.advance(state, model(state.x, state.t))
        state = replace(state, states={**state.states, state.row: change(k, state.x)})
    return state.x


DETERMINISTIC = [name for name in SCHEDULERS if name != "ddpm"]


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_a_callback_that_changes_the_latents(name):
    """The run goes on from the changed state, with the answers that it had."""
    scheduler, solver, continuation = case(name)
    pipe = pipeline(diffusers.StableDiffusionPipeline, scheduler)
    calls = Calls.of(pipe)

    def change(k, x):
        return x.flip(3) * 0.9 if k in (2, 5) else x

    result = pipe(
        "a lighthouse",
        num_inference_steps=8,
        latents=LATENTS,
        output_type="latent",
        callback_on_step_end=lambda pipe, k, t, tensors: {"latents": change(k, tensors["latents"])},
    ).images
    plan = expected_plan(scheduler, solver, continuation, 8)
    close(result, run_with_changes(plan, guided(pipe, calls.prompts), LATENTS, change))


# Not F-PNDM, which this pipeline turns into PLMS: it sets skip_prk_steps.
@pytest.mark.parametrize("name", ["plms", "pndm", "ddim"])
def test_inpainting_by_a_network_that_was_not_made_for_it(name):
    """The kept part is put back after each step, with the noise of the next step, and clean in the end."""
    for strength in (0.5, 1.0):
        assert_inpainting(name, strength)


def assert_inpainting(name, strength):
    scheduler, solver, continuation = case(name)
    pipe = pipeline(diffusers.StableDiffusionInpaintPipeline, scheduler)
    calls = Calls.of(pipe)
    mask = torch.zeros(1, 1, 16, 16)
    mask[..., 8:] = 1  # to be painted
    result = pipe(
        "a lighthouse",
        LATENTS,
        mask,
        masked_image_latents=LATENTS,
        height=16,
        width=16,
        strength=strength,
        num_inference_steps=8,
        generator=seeded(),
        output_type="latent",
    ).images
    plan = expected_plan(scheduler, solver, continuation, 8, 8 - round(8 * strength))
    kept = LATENTS.float().double()  # the pipeline takes pictures in float32
    noise = torch.randn(LATENTS.shape, generator=seeded(), dtype=torch.float64)
    paint = mask[..., ::2, ::2].double()
    called = calls.times[:]

    def change(k, x):
        behind = kept if k + 1 == len(called) else add_noise(SCHEDULE, kept, noise, called[k + 1])
        return (1 - paint) * behind + paint * x

    start = noise if strength == 1 else add_noise(SCHEDULE, kept, noise, called[0])
    assert len(calls) == plan.model_calls
    close(result, run_with_changes(plan, guided(pipe, calls.prompts), start, change))
    torch.testing.assert_close(result[..., :4], kept[..., :4], rtol=0, atol=0)


# ------------------------------------------------------------------ other pipelines, other arguments


def test_a_network_made_for_inpainting():
    pipe = pipeline(diffusers.StableDiffusionInpaintPipeline, case("plms")[0], unet=parts(channels=9)["unet"])
    calls = Calls.of(pipe)
    images = pipe("a lighthouse", PICTURE, PICTURE, num_inference_steps=6, output_type="np").images
    assert calls.times == pipe.scheduler.timesteps.tolist()
    assert np.isfinite(images).all()


@pytest.mark.parametrize("name", ["f-pndm", "ddpm"])
def test_a_fresh_control_net_changes_nothing(name):
    """It adds zeros."""
    control = diffusers.ControlNetModel.from_unet(PARTS["unet"], conditioning_embedding_out_channels=(8, 16))
    settings = {"num_inference_steps": 5, "latents": LATENTS, "output_type": "latent"}
    plain = pipeline(diffusers.StableDiffusionPipeline, case(name)[0])
    controlled = pipeline(diffusers.StableDiffusionControlNetPipeline, case(name)[0], controlnet=control)
    calls = Calls.of(controlled)
    result = controlled("a lighthouse", PICTURE, generator=seeded(), **settings).images
    close(result, plain("a lighthouse", generator=seeded(), **settings).images)
    assert calls.times == controlled.scheduler.timesteps.tolist()


@pytest.mark.parametrize("name", ["plms", "f-pndm", "ddpm"])
def test_times_of_the_users_own(name):
    """Whole and real times; and σ/α where steps begin, the last where the run ends."""
    scheduler, solver, _ = case(name)
    pipe = pipeline(diffusers.StableDiffusionPipeline, scheduler)
    for times in ([900, 600, 300, 100], [951.5, 420.25, 33.125]):
        generator = seeded()
        calls = Calls.of(pipe, generator)
        result = pipe("a ship", timesteps=times, latents=LATENTS, generator=generator, output_type="latent").images
        called = calls.times[:]
        plan = solver.plan(timesteps=times, **options(scheduler)[0])
        generator.set_state(calls.noise)
        close(result, plan.run(guided(pipe, calls.prompts), LATENTS, generator=generator))
        np.testing.assert_allclose(called, plan.times, rtol=1e-6)
        assert set(times) <= set(called)
    times = [900.0, 600.0, 300.0, 100.0]
    sigmas = [SCHEDULE.level(t).ratio for t in times]
    for given, plan in (
        ([*sigmas, 0.0], solver.plan(timesteps=times)),
        (sigmas, solver.plan(timesteps=times[:-1], stop=100.0)),
    ):
        calls = Calls.of(pipe)
        pipe("a ship", sigmas=given, output_type="latent")
        np.testing.assert_allclose(calls.times, plan.times, rtol=1e-6)


@pytest.mark.parametrize("name", ["plms", "f-pndm", "ddim", "ddpm"])
def test_a_pipeline_is_saved_and_loaded(name, tmp_path):
    pipe = pipeline(diffusers.StableDiffusionPipeline, case(name)[0])
    pipe.save_pretrained(tmp_path)
    loaded = diffusers.StableDiffusionPipeline.from_pretrained(tmp_path, dtype=torch.float64)
    loaded.set_progress_bar_config(disable=True)
    settings = {"num_inference_steps": 5, "latents": LATENTS, "output_type": "latent"}
    assert type(loaded.scheduler) is type(pipe.scheduler)
    ours, theirs = ({k: v for k, v in p.scheduler.config.items() if k[0] != "_"} for p in (pipe, loaded))
    assert theirs == ours
    ours, theirs = (each("a ship", generator=seeded(), **settings).images for each in (pipe, loaded))
    close(theirs, ours)


@pytest.mark.parametrize("kind", [DDIMScheduler, DDPMScheduler])
def test_diffusers_own_ddpm_pipeline(kind):
    unet = diffusers.UNet2DModel(
        sample_size=8,
        block_out_channels=(8, 16),
        norm_num_groups=8,
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
    ).double()
    pipe = diffusers.DDPMPipeline(unet, kind(clip_sample=False, prediction_type="v_prediction"))
    pipe.set_progress_bar_config(disable=True)
    images = pipe(2, seeded(), num_inference_steps=10, output_type="pt").images
    noise, generator = torch.randn(2, 3, 8, 8, generator=(generator := seeded()), dtype=torch.float64), generator
    solver = (DDIMSolver if kind is DDIMScheduler else DDPMSolver)(NoiseSchedule.linear())
    with torch.no_grad():
        plan = solver.plan(10, spacing="leading")
        x0 = plan.run(lambda x, t: unet(x, t).sample, noise, prediction="v_prediction", generator=generator)
    close(images, (x0 / 2 + 0.5).clamp(0, 1))


def test_inversion_and_back():
    """With diffusers' DDIMInverseScheduler from our config. Both have order 1, and so has the way there and back."""

    def error(steps):
        scheduler = DDIMScheduler.from_config(CONFIG, clip_sample=False, prediction_type="v_prediction")
        inverse = diffusers.DDIMInverseScheduler.from_config(scheduler.config)
        pipe = pipeline(diffusers.StableDiffusionDiffEditPipeline, scheduler, inverse_scheduler=inverse)
        settings = {"num_inference_steps": steps, "inpaint_strength": 1.0, "guidance_scale": 1.0}
        inverted = pipe.invert("a ship", LATENTS, generator=seeded(), **settings).latents
        back = pipe("a ship", np.ones((1, 8, 8)), inverted, output_type="latent", **settings).images
        return (back - LATENTS).square().mean().sqrt().item()

    assert error(10) / error(50) == pytest.approx(5, rel=0.15)
