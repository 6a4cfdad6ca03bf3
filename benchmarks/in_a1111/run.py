"""Our extension in a real web UI: its own loader and its own KDiffusionSampler, on a network known in closed form.

    pndm-solvers a1111 EXTENSION
    python benchmarks/in_a1111/run.py --tree CHECKOUT --extension EXTENSION --report section.md

The tree is a checkout of A1111's web UI, Forge or Forge classic, with the repositories that it clones; the Python that
runs this script has its requirements, but not pndm_solvers. Each number is the root mean square distance of the latents
to those of Heun's method with 400 steps from the same noise at the same first sigma.
"""

import argparse
import functools
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import torch

SHAPE, BATCH = (4, 8, 8), 8
OWN = ("Euler", "DPM++ 2M", "LMS", "Heun", "DPM2", "IPNDM", "IPNDM_V", "DEIS")
FLAGS = "--skip-version-check --use-cpu all --no-half --no-download-sd-model --skip-load-model-at-start"
FORGE_FLAGS = "--skip-version-check --no-download-sd-model --always-cpu --all-in-fp32"


class Mixture(torch.nn.Module):
    """A network that answers the exact ε of a mixture of three Gaussians, whose weights the prompt shifts."""

    def __init__(self, alphas_cumprod):
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.means = torch.randn(3, *SHAPE, generator=generator, dtype=torch.float64)
        self.deviations = 0.1 + 0.4 * torch.rand(3, *SHAPE, generator=generator, dtype=torch.float64)
        self.log_sigmas = ((1 - alphas_cumprod) / alphas_cumprod).double().log() / 2
        # What Forge asks of a network.
        self.storage_dtype = self.computation_dtype = self.dtype = torch.float32
        self.load_device = self.offload_device = self.initial_device = torch.device("cpu")
        self.calls = 0

    def forward(self, x, t, context=None, **_):
        self.calls += 1
        t = t.double().clamp(0, len(self.log_sigmas) - 1)
        low = t.floor().long().clamp(max=len(self.log_sigmas) - 2)
        sigma = torch.lerp(self.log_sigmas[low], self.log_sigmas[low + 1], t - low).exp()[:, None, None, None, None]
        z = (x.double()[:, None] * (1 + sigma**2).sqrt() - self.means) / sigma
        spread = (self.deviations / sigma) ** 2 + 1
        logits = -0.5 * (z**2 / spread + spread.log()).flatten(2).sum(-1)
        if context is not None:
            logits = logits + context.double().mean((1, 2))[:, None] * torch.tensor([0.0, 1.0, 2.0])
        weights = logits.softmax(1)[:, :, None, None, None]
        return (weights * z / spread).sum(1).to(x.dtype)


def stand_in(tree_kind):
    """A model with the attributes that the sampling code reads, around `Mixture`."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    alphas_cumprod = torch.cumprod(1 - betas, 0).float()
    network = Mixture(alphas_cumprod)

    def apply_model(x, t, cond):
        return network(x, t, cond["c_crossattn"][0])

    model = SimpleNamespace(
        apply_model=apply_model,
        alphas_cumprod=alphas_cumprod,
        parameterization="eps",
        cond_stage_key="txt",
        model=SimpleNamespace(conditioning_key="crossattn"),
        is_sdxl=False,
        is_sd1=True,
        sd_checkpoint_info=None,
        device=torch.device("cpu"),
        cond_stage_model_empty_prompt=torch.zeros(1, 77, 4),
        base_vae=None,
        loaded_vae_file=None,
        network=network,
        is_webui_legacy_model=lambda: True,
    )
    if tree_kind == "forge":
        from backend.modules.k_prediction import Prediction
        from backend.patcher.unet import UnetPatcher

        predictor = Prediction(  # its "linear" is linear in √β
            prediction_type="epsilon", beta_schedule="linear", linear_start=0.00085, linear_end=0.012
        )
        unet = UnetPatcher.from_model(network, None, None, k_predictor=predictor)
        model.forge_objects = SimpleNamespace(unet=unet)
    if tree_kind == "classic":
        from ldm_patched.modules.model_base import BaseModel
        from modules_forge.unet_patcher import UnetPatcher

        config = SimpleNamespace(
            unet_config={"disable_unet_model_creation": True},
            latent_format=None,
            manual_cast_dtype=None,
            sampling_settings={},
        )
        base = BaseModel(config)
        base.diffusion_model = network
        model.forge_objects = SimpleNamespace(unet=UnetPatcher(base, network.load_device, network.load_device))
    return model


def load(tree, extension):
    """The tree's modules, with the extension loaded by its own loader. Returns which of the three trees it is."""
    data = tempfile.mkdtemp()
    shutil.copytree(extension, Path(data, "extensions", "pndm_solvers"))
    sys.argv = ["webui.py", "--data-dir", data, *FLAGS.split()]
    os.chdir(tree)
    sys.path.insert(0, str(tree))
    kind = "forge" if Path(tree, "backend").is_dir() else "classic" if Path(tree, "ldm_patched").is_dir() else "a1111"
    if kind != "a1111":
        sys.argv = ["webui.py", "--data-dir", data, *FORGE_FLAGS.split()]
        from modules_forge.initialization import initialize_forge

        initialize_forge()
    from modules import initialize

    initialize.imports()
    from modules import extensions, scripts, sd_samplers

    sd_samplers.set_samplers()
    extensions.list_extensions()
    scripts.load_scripts()
    return kind


class Runs:
    """Runs of the tree's samplers on the stand-in."""

    def __init__(self, model, guidance):
        from modules import sd_samplers, shared

        self.model, self.guidance, self.fine_runs = model, guidance, {}
        self.shared, self.sd_samplers = shared, sd_samplers
        generator = torch.Generator().manual_seed(0)
        self.noise, self.image = torch.randn(2, BATCH, *SHAPE, generator=generator)

    def processing(self, steps, scheduler, strength):
        from modules import processing, rng

        p = processing.StableDiffusionProcessingImg2Img(sd_model=self.model, steps=steps, cfg_scale=self.guidance)
        p.scheduler, p.denoising_strength = scheduler, strength
        p.seeds = p.all_seeds = list(range(BATCH))
        p.is_hr_pass, p.refiner_switch_at, p.refiner_checkpoint_info = False, None, None
        for name in ("s_churn", "s_tmin", "s_tmax", "s_noise", "s_min_uncond"):
            if getattr(p, name) is None:
                setattr(p, name, getattr(self.shared.opts, name))
        p.rng = rng.ImageRNG(SHAPE, p.seeds)
        return p

    def conditions(self):
        from modules.prompt_parser import ComposableScheduledPromptConditioning as Composable
        from modules.prompt_parser import MulticondLearnedConditioning, ScheduledPromptConditioning

        schedules = [[ScheduledPromptConditioning(10_000, torch.full((77, 4), value))] for value in (1.0, 0.0)]
        batch = [[Composable(schedules[0])] for _ in range(BATCH)]
        return MulticondLearnedConditioning((BATCH,), batch), [schedules[1]] * BATCH

    def run(self, name, steps, scheduler="Automatic", picture=False, sigmas=None):
        """The latents of a run, its first sigma, and its model calls."""
        p = self.processing(steps, scheduler, 1.0 if sigmas is not None else 0.5)
        if sigmas is not None:
            p.sampler_noise_scheduler_override = lambda n: sigmas
        sampler = self.sd_samplers.create_sampler(name, self.model)
        cond, uncond = self.conditions()
        self.shared.state.interrupted = self.shared.state.skipped = False
        self.model.network.calls = 0
        arguments = {"image_conditioning": torch.zeros(BATCH, 5, 1, 1)}
        first = []
        launched = sampler.func

        @functools.wraps(launched)
        def watched(model, x, sigmas, disable=None, **others):
            first.append(float(sigmas[0]))
            return launched(model, x, sigmas, disable=True, **others)

        sampler.func = watched
        if picture:
            x0 = sampler.sample_img2img(p, self.image.clone(), self.noise.clone(), cond, uncond, **arguments)
        else:
            x0 = sampler.sample(p, self.noise.clone(), cond, uncond, **arguments)
        return x0, first[0], self.model.network.calls

    def fine(self, start, picture, name="Heun", steps=400):
        """A run of many steps on Karras' sigmas from `start` to 0."""
        key = (round(start, 5), picture, name, steps)
        if key not in self.fine_runs:
            sigmas = torch.cat([torch.linspace(start ** (1 / 7), 0.005 ** (1 / 7), steps) ** 7, torch.zeros(1)])
            sigmas[0] = start
            self.fine_runs[key] = self.run(name, steps, picture=picture, sigmas=sigmas)[0]
        return self.fine_runs[key]

    def distance(self, name, steps, scheduler, picture):
        x0, start, calls = self.run(name, steps, scheduler, picture)
        return float((x0 - self.fine(start, picture)).square().mean().sqrt()), calls

    def interrupted(self, name, at=5):
        """Whether a run that is interrupted at a step ends at once, with the last latents and the step shown."""
        from modules import script_callbacks

        state, seen = self.shared.state, []

        def stop(params):
            seen.append((state.sampling_step, state.sampling_steps, state.current_latent is not None))
            state.interrupted = len(seen) > at

        script_callbacks.on_cfg_after_cfg(stop)
        try:
            x0, _, calls = self.run(name, 20)
        finally:
            script_callbacks.remove_callbacks_for_function(stop)
        return f"{calls} calls, shown {seen[-1][:2]}, finite {bool(x0.isfinite().all())}"


def schedulers(tree_kind, shared):
    if tree_kind == "classic":
        return ["Automatic", "karras", "exponential", "polyexponential"]
    from modules import sd_schedulers

    return [scheduler.label for scheduler in sd_schedulers.schedulers]


def declare_operators():
    """torchvision's compiled operators, by name alone: its wheel is for another build of torch than the CPU's."""
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library


def table(runs, names, labels, steps, picture, kind):
    """Lines of Markdown: a row for each scheduler, a column for each sampler."""
    cells, calls = {}, {}
    for label in labels:
        if kind == "classic":
            runs.shared.opts.data["k_sched_type"] = label
        for name in names:
            error, calls[name] = runs.distance(name, steps, label, picture)
            cells[label, name] = f"{error:.2g}"
    if kind == "classic":
        runs.shared.opts.data["k_sched_type"] = "Automatic"
    lines = ["| grid | " + " | ".join(name.replace("(pndm_solvers)", "(ours)") for name in names) + " |"]
    lines += ["|---|" + "---|" * len(names), "| *calls* | " + " | ".join(str(calls[name]) for name in names) + " |"]
    for label in labels:
        lines.append(f"| {label} | " + " | ".join(cells[label, name] for name in names) + " |")
    return lines


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tree", type=Path, required=True, help="a checkout of the web UI")
    parser.add_argument("--extension", type=Path, required=True, help="the extension's folder")
    parser.add_argument("--report", type=Path, required=True, help="the file for the tables, Markdown")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--guidance", type=float, default=1.0)
    arguments = parser.parse_args()
    tree, extension, report = (path.resolve() for path in (arguments.tree, arguments.extension, arguments.report))
    declared = declare_operators()  # as long as it is kept
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=tree, capture_output=True, text=True).stdout
    kind = load(tree, extension)

    from modules import sd_models, sd_samplers, shared

    model = stand_in(kind)
    sd_models.model_data.sd_model, sd_models.model_data.was_loaded_at_least_once = model, True
    ours = [sampler.name for sampler in sd_samplers.all_samplers if sampler.name.endswith("(pndm_solvers)")]
    names = ours + [name for name in OWN if name in sd_samplers.all_samplers_map]
    runs, labels = Runs(model, arguments.guidance), schedulers(kind, shared)
    lines = [f"## {kind}, commit {commit.strip()}", ""]
    for picture in (False, True):
        title = "Image to image, half the noise" if picture else "Text to image"
        lines += [f"{title}, {arguments.steps} steps, guidance {arguments.guidance:g}:", ""]
        lines += [*table(runs, names, labels, arguments.steps, picture, kind), ""]
    lines += ["Interrupted at call 6:", ""] + [f"- {name}: {runs.interrupted(name)}" for name in names]
    report.write_text("\n".join(lines) + "\n")
    print(report.read_text())
    del declared


if __name__ == "__main__":
    main()
