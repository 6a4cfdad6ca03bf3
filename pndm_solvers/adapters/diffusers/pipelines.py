"""diffusers' pipelines for images without a text, with our schedulers.

    pipe = PNDMPipeline.from_pretrained(folder)
    pipe(batch_size=4, num_inference_steps=20).images[0].save("picture.png")

Saving, loading, `.to(device)` and the progress bar come from diffusers' `DiffusionPipeline`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, TypedDict

import diffusers
import numpy as np
import torch
from diffusers.models.unets.unet_2d import UNet2DModel
from diffusers.pipelines.pipeline_utils import DiffusionPipeline, ImagePipelineOutput
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from pndm_solvers.adapters.diffusers.fitted import FittedScheduler
from pndm_solvers.adapters.diffusers.networks import Component, is_unet, unet_model
from pndm_solvers.adapters.diffusers.networks import image_shape as shape_of
from pndm_solvers.adapters.diffusers.schedulers import DDIMScheduler, DDPMScheduler, PLMSScheduler, PNDMScheduler
from pndm_solvers.adapters.diffusers.steps import Generators
from pndm_solvers.arguments import choice, reals, whole
from pndm_solvers.older import Unpack
from pndm_solvers.reference import ReferenceNetwork

__all__ = ["DDIMPipeline", "DDPMPipeline", "PNDMPipeline"]

OUTPUT_TYPES = ("pil", "np", "pt")
PIL_CHANNELS = (1, 3, 4)


class Extras(TypedDict, total=False):
    """Arguments of our pipelines' calls that diffusers' pipelines do not have.

    Attributes
    ----------
    class_labels:
        For a network with classes: the number of one class, or one for each image.
    guidance_scale:
        The scale of classifier-free guidance, for a network that also answers without a class. The default, 1, is none.
    image_shape:
        (channels, height, width) of an image, where it differs from the network's own or the network has none.
    """

    class_labels: int | Sequence[int] | None
    guidance_scale: float
    image_shape: Sequence[int] | None


class _Pipeline(DiffusionPipeline):
    """What the pipelines share. A subclass names the schedulers that it can step, and passes what their steps take.

    Parameters
    ----------
    unet:
        A diffusers `UNet2DModel`, a bundled network, or any callable `model(x, t)`: x `(B, C, H, W)`, t `(B,)`, the
        answer of x's shape.
    scheduler:
        One of ours that the pipeline can step is kept; any other is converted by its config. It can be left out for a
        bundled network, which has its own schedule and prediction.

    Raises
    ------
    ValueError:
        Without a scheduler, unless the network is bundled; for a config that cannot be converted.
    TypeError:
        For a network that is no callable, or a network of diffusers that takes more than a state and a time.
    """

    model_cpu_offload_seq = "unet"
    _optional_components: ClassVar[list[str]] = ["scheduler"]
    config: Any  # type: ignore[assignment] — a dict with attributes, which diffusers declares as a plain one
    # Schedulers whose `step` takes what this pipeline's call passes; others are converted to the first.
    _kinds: ClassVar[tuple[type, ...]]

    def __init__(self, unet: UNet2DModel | Callable, scheduler: Any = None) -> None:
        super().__init__()
        unet = unet if isinstance(unet, Component) or is_unet(unet) else Component(unet)
        self.register_modules(unet=unet, scheduler=self._converted(scheduler, getattr(unet, "network", None)))

    def _converted(self, scheduler: Any, network: Any) -> Any:
        if isinstance(scheduler, self._kinds):
            return scheduler
        if scheduler is not None:
            namesake = [kind for kind in self._kinds if kind.__name__ == type(scheduler).__name__]
            # As in a file, where the class is named.
            config = {**scheduler.config, "_class_name": type(scheduler).__name__}
            return (namesake or self._kinds)[0].from_config(config)  # type: ignore[attr-defined]
        if not isinstance(network, ReferenceNetwork):
            raise ValueError("scheduler is None; pass the one with which the network was trained, of any kind")
        table = network.schedule.every_level[0] ** 2
        betas = -np.expm1(np.diff(np.log(table), prepend=0.0))
        return self._kinds[0](
            num_train_timesteps=len(betas), trained_betas=betas.tolist(), prediction_type=network.prediction
        )

    def save_pretrained(self, save_directory: str | os.PathLike[str], *arguments: Any, **options: Any) -> None:
        """Writes a folder that `from_pretrained` reads, ours and diffusers'. The arguments are those of diffusers.

        Raises TypeError for a network that is no `UNet2DModel`, before anything is written.
        """
        if not is_unet(self.unet):
            raise TypeError(
                "a pipeline is saved with its network, and only a UNet2DModel can be saved; keep this one's weights in "
                "your own way, and the scheduler by pipe.scheduler.save_pretrained(folder)"
            )
        name = type(self.scheduler).__name__
        if hasattr(diffusers, name):  # so that the folder can be read where only diffusers is installed
            self.register_to_config(scheduler=("diffusers", name))
        super().save_pretrained(save_directory, *arguments, **options)

    def _draw(
        self,
        batch_size: int,
        num_inference_steps: int,
        generator: Generators,
        output_type: str | None,
        return_dict: bool,
        step_options: dict[str, Any],
        *,
        class_labels: int | Sequence[int] | None = None,
        guidance_scale: float = 1.0,
        image_shape: Sequence[int] | None = None,
    ) -> ImagePipelineOutput | tuple[Any]:
        """The body of each pipeline's call."""
        batch_size = whole("batch_size", batch_size)
        choice("output_type", output_type, OUTPUT_TYPES)
        generator = list(generator) if isinstance(generator, Sequence) else generator
        if isinstance(generator, list) and len(generator) != batch_size:
            raise ValueError(
                f"generator has {len(generator)} entries for batch_size {batch_size}; pass one, or one for each image"
            )
        shape = image_shape or shape_of(self.unet)
        if shape is None or len(shape) != 3:
            raise ValueError(f"the shape of an image is {shape}; pass image_shape=(channels, height, width)")
        if output_type == "pil" and shape[0] not in PIL_CHANNELS:
            raise ValueError(f"images of {shape[0]} channels are no pictures; pass output_type='np' or 'pt'")
        if guidance_scale != 1 and class_labels is None:
            raise ValueError(f"guidance_scale is {guidance_scale} without class_labels; pass the classes to guide to")
        device = self._execution_device
        label = None if class_labels is None else _labels(class_labels, batch_size).to(device)
        if isinstance(self.unet, Component):
            model = self.unet.model(label, guidance_scale)
        else:
            model = unet_model(self.unet, label, guidance_scale)
        self.scheduler.set_timesteps(num_inference_steps, device=device)
        image = randn_tensor((batch_size, *shape), generator=generator, device=device, dtype=self.unet.dtype)
        for t in self.progress_bar(self.scheduler.timesteps):  # type: ignore[attr-defined] — hidden by its decorator
            answer = model(image, t.expand(batch_size))
            image = self.scheduler.step(answer, t, image, **step_options).prev_sample
        images: Any = (image / 2 + 0.5).clamp(0, 1)
        if output_type != "pt":
            images = images.permute(0, 2, 3, 1).float().cpu().numpy()
        if output_type == "pil":
            images = self.numpy_to_pil(images)
        self.maybe_free_model_hooks()
        return ImagePipelineOutput(images=images) if return_dict else (images,)


class PNDMPipeline(_Pipeline):
    """Images by PNDM, or by the method of a `PLMSScheduler`. Liu et al. (2022)."""

    _kinds = (PNDMScheduler, PLMSScheduler, FittedScheduler)

    @torch.no_grad()
    def __call__(
        self,
        batch_size: int = 1,
        num_inference_steps: int = 50,
        generator: Generators = None,
        output_type: str | None = "pil",
        return_dict: bool = True,
        **extras: Unpack[Extras],
    ) -> ImagePipelineOutput | tuple[Any]:
        """Draws `batch_size` images in [0, 1] from noise.

        Parameters
        ----------
        batch_size:
            How many.
        num_inference_steps:
            Steps of the scheduler's time grid. PNDM takes up to 9 model calls more; PLMS none.
        generator:
            What the noise is drawn from: one, or a list with one for each image.
        output_type:
            "pil" for a list of Pillow images, "np" for an array `(B, H, W, C)`, "pt" for a tensor `(B, C, H, W)`.
        return_dict:
            Whether to return an `ImagePipelineOutput`, with the images in `.images`, or a tuple.
        extras:
            `class_labels`, `guidance_scale`, `image_shape`: see `Extras`.

        Raises
        ------
        ValueError:
            For an argument out of its range: no image, more steps than trained times, an unknown output type, another
            number of generators or labels than of images, a class that the network lacks.
        """
        return self._draw(batch_size, num_inference_steps, generator, output_type, return_dict, {}, **extras)


class DDIMPipeline(_Pipeline):
    """Images by DDIM. Song, Meng and Ermon (2021)."""

    _kinds = (DDIMScheduler,)

    @torch.no_grad()
    def __call__(
        self,
        batch_size: int = 1,
        generator: Generators = None,
        eta: float = 0.0,
        num_inference_steps: int = 50,
        use_clipped_model_output: bool | None = None,
        output_type: str | None = "pil",
        return_dict: bool = True,
        **extras: Unpack[Extras],
    ) -> ImagePipelineOutput | tuple[Any]:
        """Draws `batch_size` images in [0, 1] from noise, as `PNDMPipeline` does, with DDIM's own options.

        `eta`, 0 to 1, is how much of ε is replaced by fresh noise. With `use_clipped_model_output` ε is derived
        anew from a clipped picture; without it, as in diffusers, the network's own ε is combined with the picture.
        """
        options = {
            "eta": eta,
            "use_clipped_model_output": bool(use_clipped_model_output),
            "generator": generator,
        }
        return self._draw(batch_size, num_inference_steps, generator, output_type, return_dict, options, **extras)


class DDPMPipeline(_Pipeline):
    """Images by ancestral sampling, or as in diffusers by a `DDIMScheduler` with η = 0. Ho, Jain and Abbeel (2020)."""

    _kinds = (DDPMScheduler, DDIMScheduler)

    @torch.no_grad()
    def __call__(
        self,
        batch_size: int = 1,
        generator: Generators = None,
        num_inference_steps: int = 1000,
        output_type: str | None = "pil",
        return_dict: bool = True,
        **extras: Unpack[Extras],
    ) -> ImagePipelineOutput | tuple[Any]:
        """Draws `batch_size` images in [0, 1] from noise, as `PNDMPipeline` does."""
        options = {"generator": generator}
        return self._draw(batch_size, num_inference_steps, generator, output_type, return_dict, options, **extras)


def _labels(given: int | Sequence[int], batch: int) -> Tensor:
    """`(B,)`: one class for each image."""
    labels = reals("class_labels", given)
    if labels.dtype.kind == "f" or labels.ndim > 1 or labels.size not in (1, batch):
        raise ValueError(f"class_labels is {given!r}; pass the number of a class, or one for each of {batch} images")
    return torch.from_numpy(labels).flatten().expand(batch)
