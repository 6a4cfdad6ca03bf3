"""ComfyUI nodes for tests: models whose network is exact for a mixture of Gaussians, and nodes around them.

Each element of a latent is drawn alone, from one mixture. The network answers the posterior mean of the data in closed
form, as ε, v or velocity. So the probability flow is known too: it keeps the quantile of each element, and `TinyExact`
gives its end. All this holds in the model's own space, after `process_latent_in`.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.sample
import comfy.sampler_helpers
import folder_paths
import numpy as np
import torch
from comfy.latent_formats import SD3, SD15, Flux
from comfy.model_base import BaseModel, ModelType
from comfy.model_patcher import ModelPatcher
from comfy.model_sampling import CONST
from comfy.supported_models_base import BASE

WEIGHTS = (0.5, 0.3, 0.2)
MEANS = (-0.8, 0.5, 1.5)
DEVIATIONS = (0.3, 0.2, 0.4)

# name: the latents' format, what the network predicts, and the settings of ComfyUI's model_sampling
KINDS: dict[str, tuple[type, ModelType, dict[str, Any]]] = {
    "eps": (SD15, ModelType.EPS, {}),
    "v": (SD15, ModelType.V_PREDICTION, {}),
    "v_zsnr": (SD15, ModelType.V_PREDICTION, {"zsnr": True}),
    "sd3": (SD3, ModelType.FLOW, {"shift": 3.0}),
    "flux": (Flux, ModelType.FLUX, {"shift": 1.15}),
}
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
CATEGORY = "testing/tiny_models"


def path_of(sigma: torch.Tensor, flow: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """a and s, where the state that the network sees is a·x_0 + s·ε."""
    return (1 - sigma, sigma) if flow else (1 / (1 + sigma**2).sqrt(), sigma / (1 + sigma**2).sqrt())


class Mixture:
    """The data, and their density after noise, in double precision."""

    def __init__(self, shift: torch.Tensor | float = 0.0) -> None:
        self.weights, self.deviations = (torch.tensor(v, dtype=torch.float64) for v in (WEIGHTS, DEVIATIONS))
        self.means = torch.tensor(MEANS, dtype=torch.float64) + torch.as_tensor(shift, dtype=torch.float64)

    def _noised(self, a: torch.Tensor, s: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return a * self.means, ((a * self.deviations) ** 2 + s**2).sqrt()

    def posterior_mean(self, x: torch.Tensor, a: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
        x, a, s = x[..., None], a[..., None], s[..., None]
        mean, deviation = self._noised(a, s)
        z = (x - mean) / deviation
        share = (self.weights.log() - deviation.log() - z**2 / 2).softmax(-1)
        return (share * (self.means + a * self.deviations**2 / deviation * z)).sum(-1)

    def cdf(self, x: torch.Tensor, a: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
        mean, deviation = self._noised(a, s)
        return (self.weights * torch.special.ndtr((x[..., None] - mean) / deviation)).sum(-1)

    def quantile(self, level: torch.Tensor, a: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
        low, high = torch.full_like(level, -50.0), torch.full_like(level, 50.0)
        for _ in range(60):
            middle = (low + high) / 2
            below = self.cdf(middle, a, s) < level
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return (low + high) / 2

    def draw(self, shape: tuple[int, ...], seed: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        number = torch.multinomial(self.weights, int(np.prod(shape)), True, generator=generator).view(shape)
        return self.means[number] + self.deviations[number] * torch.randn(shape, generator=generator)


class TinyNetwork(torch.nn.Module):
    """The exact predictor. Its state and answer have `dtype`; in between it computes in double precision."""

    def __init__(self, predicts: str, dtype: torch.dtype, rounded: bool, delay: float, device: Any, operations: Any):
        super().__init__()
        self.predicts, self.dtype, self.rounded, self.delay = predicts, dtype, rounded, delay
        self.calls = 0
        self.register_buffer("anchor", torch.zeros(1, dtype=dtype, device=device))  # a weight to load and unload

    def forward(self, x, timestep, context=None, control=None, transformer_options={}, **_):
        self.calls += 1
        time.sleep(self.delay)
        # ComfyUI rounds the time of a discrete model to its table; the exact sigma is in transformer_options.
        sigma = self.sigma_of(timestep) if self.rounded else transformer_options["sigmas"]
        sigma = sigma.double().repeat(len(x) // len(sigma)).view(-1, 1, 1, 1)
        shift = 0.0 if context is None else context[:, 0, 0].double().view(-1, 1, 1, 1, 1)
        a, s = path_of(sigma, self.predicts == "velocity")
        state = x.double()
        data = Mixture(shift).posterior_mean(state, a, s)
        noise = (state - a * data) / s
        answer = {"eps": noise, "v": a * noise - s * data, "velocity": noise - data}[self.predicts]
        return answer.to(self.dtype)


class TinyConfig(BASE):
    unet_extra_config: dict[str, Any] = {}

    def __init__(self, latent_format: type, sampling_settings: dict[str, Any], network: dict[str, Any]) -> None:
        self.latent_format, self.sampling_settings = latent_format, sampling_settings
        super().__init__(network)


class TinyModel:
    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {"kind": (list(KINDS),)},
            "optional": {
                "dtype": (list(DTYPES), {"tooltip": "Of the network; the sampler's state has the latent's."}),
                "rounded": ("BOOLEAN", {"default": False, "tooltip": "See the time as ComfyUI rounds it."}),
                "delay": (
                    "FLOAT",
                    {"default": 0.0, "min": 0.0, "max": 60.0, "step": 0.001, "tooltip": "seconds a call"},
                ),
                "tag": (
                    "STRING",
                    {"default": "", "tooltip": "Another tag, another model with its own count of calls."},
                ),
            },
        }

    RETURN_TYPES = ("MODEL",)
    FUNCTION = "make"
    CATEGORY = CATEGORY

    def make(self, kind: str, dtype: str = "float32", rounded: bool = False, delay: float = 0.0, tag: str = ""):
        latent_format, model_type, settings = KINDS[kind]
        predicts = {ModelType.EPS: "eps", ModelType.V_PREDICTION: "v"}.get(model_type, "velocity")
        network = {"predicts": predicts, "dtype": DTYPES[dtype], "rounded": rounded, "delay": delay}
        model = BaseModel(TinyConfig(latent_format, settings, network), model_type, unet_model=TinyNetwork)
        if predicts == "velocity":  # its time is sigma, or 1000 times that; model_sampling.sigma() would shift it anew
            model.diffusion_model.sigma_of = lambda t: t / getattr(model.model_sampling, "multiplier", 1)
        else:
            model.diffusion_model.sigma_of = model.model_sampling.sigma
        load, offload = comfy.model_management.get_torch_device(), comfy.model_management.unet_offload_device()
        return (ModelPatcher(model, load_device=load, offload_device=offload),)


class TinyConditioning:
    @classmethod
    def INPUT_TYPES(cls):
        shift = ("FLOAT", {"default": 0.0, "min": -10.0, "max": 10.0, "step": 0.01, "tooltip": "added to the means"})
        return {"required": {"shift": shift}}

    RETURN_TYPES = ("CONDITIONING",)
    FUNCTION = "make"
    CATEGORY = CATEGORY

    def make(self, shift: float):
        return ([[torch.full((1, 1, 1), shift), {}]],)


class TinyLatent:
    """An empty latent, or data; the right half to be painted anew where `mask` is set."""

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "model": ("MODEL",),
                "data": ("BOOLEAN", {"default": False}),
                "mask": ("BOOLEAN", {"default": False}),
                "batch": ("INT", {"default": 4, "min": 1, "max": 4096}),
                "seed": ("INT", {"default": 1, "min": 0, "max": 2**32}),
                "dtype": (list(DTYPES),),
            }
        }

    RETURN_TYPES = ("LATENT",)
    FUNCTION = "make"
    CATEGORY = CATEGORY

    def make(self, model: ModelPatcher, data: bool, mask: bool, batch: int, seed: int, dtype: str):
        shape = (batch, model.model.latent_format.latent_channels, 8, 8)
        samples = model.model.process_latent_out(Mixture().draw(shape, seed)) if data else torch.zeros(shape)
        latent = {"samples": samples.to(DTYPES[dtype])}
        if mask:
            latent["noise_mask"] = torch.zeros(1, 1, 64, 64)
            latent["noise_mask"][..., 32:] = 1.0
        return (latent,)


class TinyExact:
    """The exact end of a run over `sigmas`: of the probability flow, from the noise that the seed gives."""

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "model": ("MODEL",),
                "sigmas": ("SIGMAS",),
                "latent": ("LATENT",),
                "noise_seed": ("INT", {"default": 0, "min": 0, "max": 2**64 - 1}),
                "add_noise": ("BOOLEAN", {"default": True}),
                "shift": ("FLOAT", {"default": 0.0, "min": -10.0, "max": 10.0, "step": 0.01}),
            }
        }

    RETURN_TYPES = ("LATENT",)
    FUNCTION = "run"
    CATEGORY = CATEGORY

    def run(self, model, sigmas, latent, noise_seed, add_noise, shift):
        image, sampling = latent["samples"].float(), model.model.model_sampling
        noise = comfy.sample.prepare_noise(image, noise_seed) * float(add_noise)
        if image.count_nonzero():
            image = model.model.process_latent_in(image)
        flow, first = isinstance(sampling, CONST), sigmas[0]
        complete = bool(first >= sampling.sigma_max * (1 - 1e-5))
        state = sampling.noise_scaling(first, noise, image, complete).double()
        (a, s), (a_end, s_end) = path_of(first.double(), flow), path_of(sigmas[-1].double(), flow)
        # Outside flow models a sampler's state is larger than the network's, by 1 / a.
        data = Mixture(shift)
        end = data.quantile(data.cdf(state if flow else a * state, a, s), a_end, s_end)
        end = sampling.inverse_noise_scaling(sigmas[-1], end if flow else end / a_end)
        if "noise_mask" in latent:
            mask = comfy.sampler_helpers.prepare_mask(latent["noise_mask"], image.shape, image.device)
            end = end * mask + image * (1 - mask)
        return ({"samples": model.model.process_latent_out(end.float())},)


class TinySave:
    """Writes the latent in the model's space to NAME.npy, and the network's calls since the last save to NAME.json."""

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {"model": ("MODEL",), "latent": ("LATENT",), "name": ("STRING", {"default": "tiny"})},
            "optional": {"sigmas": ("SIGMAS",)},
        }

    RETURN_TYPES = ()
    FUNCTION = "save"
    CATEGORY = CATEGORY
    OUTPUT_NODE = True

    def save(self, model: ModelPatcher, latent: dict[str, Any], name: str, sigmas: torch.Tensor | None = None):
        samples, network = latent["samples"], model.model.diffusion_model
        path = Path(folder_paths.get_output_directory()) / name
        np.save(path.with_name(f"{name}.npy"), model.model.process_latent_in(samples).float().numpy())
        facts = {
            "calls": network.calls,
            "dtype": str(samples.dtype),
            "sigmas": None if sigmas is None else sigmas.tolist(),
        }
        path.with_name(f"{name}.json").write_text(json.dumps(facts))
        network.calls = 0
        return {"ui": {"tiny": [name]}}


NODE_CLASS_MAPPINGS = {node.__name__: node for node in (TinyModel, TinyConditioning, TinyLatent, TinyExact, TinySave)}
