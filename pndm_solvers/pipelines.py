"""diffusers' pipelines for pictures without a text, over our schedulers; and its checkpoints as networks for solvers.

    pipe = PNDMPipeline.from_pretrained(folder)
    pipe(batch_size=4, num_inference_steps=20).images[0].save("picture.png")

Saving, loading, `.to(device)` and the progress bar are those of diffusers' `DiffusionPipeline`.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, TypedDict, Unpack

import diffusers
import numpy as np
import torch
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.unets.unet_2d import UNet2DModel
from diffusers.pipelines.pipeline_utils import DiffusionPipeline, ImagePipelineOutput
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from pndm_solvers.adapters.diffusers import DDIMScheduler, DDPMScheduler, PLMSScheduler, PNDMScheduler
from pndm_solvers.arguments import whole
from pndm_solvers.plan import Model
from pndm_solvers.prediction import Prediction
from pndm_solvers.reference import ReferenceNetwork
from pndm_solvers.schedules import NoiseSchedule

__all__ = ["Checkpoint", "DDIMPipeline", "DDPMPipeline", "PNDMPipeline", "load_checkpoint"]

Generators = torch.Generator | Sequence[torch.Generator] | None
OUTPUT_TYPES = ("pil", "np", "pt")
PIL_CHANNELS = (1, 3, 4)


class Extras(TypedDict, total=False):
    """What our pipelines' calls take beyond those of diffusers.

    Attributes
    ----------
    class_labels:
        For a network with classes: the number of one, or one for each image.
    guidance_scale:
        The scale of classifier-free guidance, for a network that also answers without a class; 1, the default, is none.
    image_shape:
        (channels, height, width) of an image, where it is not the network's own, or the network does not tell it.
    """

    class_labels: int | Sequence[int] | None
    guidance_scale: float
    image_shape: Sequence[int] | None


class _Pipeline(DiffusionPipeline):
    """One of diffusers' pipelines for pictures. A subclass says on which schedulers, and what their steps take.

    Parameters
    ----------
    unet:
        A diffusers `UNet2DModel`, a bundled network, or any callable `model(x, t)`: x `(B, C, H, W)`, t `(B,)`, the
        answer of x's shape.
    scheduler:
        One of ours that the pipeline can step, which is kept; any other is converted by its config. A bundled network
        has its own schedule and prediction, which are taken where none is given.

    Raises
    ------
    ValueError:
        Without a scheduler, for another network than a bundled one; for a config that cannot be converted.
    TypeError:
        For a network that is no callable, or one of diffusers' that is asked with more than a state and a time.
    """

    model_cpu_offload_seq = "unet"
    _optional_components: ClassVar[list[str]] = ["scheduler"]
    config: Any  # type: ignore[assignment] — a dict with attributes, which diffusers declares as a plain one
    # Those whose `step` takes what this pipeline's call hands it; the first is what others become.
    _kinds: ClassVar[tuple[type, ...]]

    def __init__(self, unet: UNet2DModel | Callable, scheduler: Any = None) -> None:
        super().__init__()
        unet = unet if isinstance(unet, _Component) or _is_unet(unet) else _Component(unet)
        self.register_modules(unet=unet, scheduler=self._converted(scheduler, getattr(unet, "network", None)))

    def _converted(self, scheduler: Any, network: Any) -> Any:
        if isinstance(scheduler, self._kinds):
            return scheduler
        if scheduler is not None:
            namesake = [kind for kind in self._kinds if kind.__name__ == type(scheduler).__name__]
            # As in a file, so that what its class stands for is known.
            config = {**scheduler.config, "_class_name": type(scheduler).__name__}
            return (namesake or self._kinds)[0].from_config(config)  # type: ignore[attr-defined]
        if not isinstance(network, ReferenceNetwork):
            raise ValueError("scheduler is None; pass the one with which the network was trained, of any kind")
        table = network.schedule.alpha(np.arange(network.schedule.num_train_timesteps or 0)) ** 2
        betas = -np.expm1(np.diff(np.log(table), prepend=0.0))
        return self._kinds[0](
            num_train_timesteps=len(betas), trained_betas=betas.tolist(), prediction_type=network.prediction
        )

    def save_pretrained(self, save_directory: str | os.PathLike[str], *arguments: Any, **options: Any) -> None:
        """Writes a folder that `from_pretrained` reads, ours and diffusers'; options as there.

        Raises TypeError for a network that is no `UNet2DModel`, before anything is written.
        """
        if not _is_unet(self.unet):
            raise TypeError(
                "a pipeline is saved with its network, which only a UNet2DModel can be; keep this one's weights in "
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
        if output_type not in OUTPUT_TYPES:
            raise ValueError(f"output_type is {output_type!r}; it is one of {', '.join(map(repr, OUTPUT_TYPES))}")
        generator = list(generator) if isinstance(generator, Sequence) else generator
        if isinstance(generator, list) and len(generator) != batch_size:
            raise ValueError(
                f"generator has {len(generator)} entries for batch_size {batch_size}; pass one, or one for each image"
            )
        own = isinstance(self.unet, _Component)
        if image_shape is None:
            image_shape = self.unet.shape if own else _image_shape(self.unet)
        if image_shape is None or len(image_shape) != 3:
            raise ValueError(
                f"the shape of an image, told by image_shape or the network, is {image_shape}; pass "
                f"image_shape=(channels, height, width)"
            )
        if output_type == "pil" and image_shape[0] not in PIL_CHANNELS:
            raise ValueError(f"images of {image_shape[0]} channels are no pictures; pass output_type='np' or 'pt'")
        if guidance_scale != 1 and class_labels is None:
            raise ValueError(f"guidance_scale is {guidance_scale} without class_labels, to which it would guide")
        for each in generator if isinstance(generator, list) else [generator]:
            if not isinstance(each, torch.Generator | None):
                raise TypeError(f"generator is of {type(each).__name__}; pass a torch.Generator, or one for each image")
        device = self._execution_device
        label = _labels(class_labels, batch_size, device)
        model = self.unet.model(label, guidance_scale) if own else _asked(self.unet, label, guidance_scale)
        self.scheduler.set_timesteps(num_inference_steps, device=device)
        image = randn_tensor((batch_size, *image_shape), generator=generator, device=device, dtype=self.unet.dtype)
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
    """Pictures by PNDM, or by whatever a `PLMSScheduler` says. Liu et al. (2022)."""

    _kinds = (PNDMScheduler, PLMSScheduler)

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
            For an argument out of its range: no image, more steps than the network was trained for, an output type
            that is none, another number of generators or labels than of images, a class that the network lacks.
        """
        return self._draw(batch_size, num_inference_steps, generator, output_type, return_dict, {}, **extras)


class DDIMPipeline(_Pipeline):
    """Pictures by DDIM. Song, Meng and Ermon (2021)."""

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
        """Draws `batch_size` images in [0, 1] from noise; as `PNDMPipeline`, and with DDIM's own options.

        `eta`, 0 to 1, is how much of ε is replaced by fresh noise. With `use_clipped_model_output` ε is derived
        anew from a clipped picture; without, as in diffusers, the network's own ε is joined with it.
        """
        options = {
            "eta": eta,
            "use_clipped_model_output": bool(use_clipped_model_output),
            "generator": generator,
        }
        return self._draw(batch_size, num_inference_steps, generator, output_type, return_dict, options, **extras)


class DDPMPipeline(_Pipeline):
    """Pictures by ancestral sampling, or as in diffusers by a `DDIMScheduler`'s η = 0. Ho, Jain and Abbeel (2020)."""

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


@dataclass(frozen=True)
class Checkpoint:
    """A `UNet2DModel` and what one must know to sample from it: for solvers, with the surface of a `ReferenceNetwork`.

    Attributes
    ----------
    unet:
        The network.
    schedule, prediction:
        What it was trained with; the prediction clips where the scheduler that came with it does.
    """

    name: str
    unet: Any = field(repr=False)
    schedule: NoiseSchedule
    prediction: Prediction

    @property
    def labels(self) -> tuple[str, ...]:
        """The numbers of its classes; empty for a network without."""
        return tuple(map(str, range(self.unet.config.num_class_embeds or 0)))

    @property
    def shape(self) -> tuple[int, int, int]:
        """One image: (channels, height, width). Raises ValueError where the network does not tell it."""
        shape = _image_shape(self.unet)
        if shape is None:
            raise ValueError(f"the network {self.name!r} has no sample_size in its config, so what it draws is unknown")
        return shape

    def model(self, label: Tensor | None = None, guidance: float = 1.0) -> Model:
        """The network for the classes `label` `(B,)`, without the channels of a learned variance.

        Raises ValueError for labels that the network lacks, for one with classes and no label, and for guidance,
        which takes an answer without a class.
        """
        ask, channels = _asked(self.unet, label, guidance), self.unet.config.in_channels
        return lambda x, t: ask(x, t)[:, :channels]


def load_checkpoint(folder: str | os.PathLike[str], device: Any = "cpu") -> Checkpoint:
    """The network in a folder that a diffusers pipeline was saved to: unet/, a `UNet2DModel`, and scheduler/.

    What its scheduler is counts for nothing, but for its betas, prediction type, clipping and thresholding.

    Raises
    ------
    ValueError:
        For a folder that is no such pipeline's, as one with a text encoder or a decoder.
    OSError:
        For files that are missing or cannot be read.
    """
    folder = Path(folder)
    index = folder / "model_index.json"
    if not index.is_file():
        raise ValueError(
            f"there is no {index}; pass a folder on this machine that a diffusers pipeline was saved to, with "
            f"pipe.save_pretrained(folder)"
        )
    try:
        entries = json.loads(index.read_text(encoding="utf-8"))
        parts = {name: kind[1] for name, kind in entries.items() if isinstance(kind, list) and kind[1]}
    except (ValueError, AttributeError, IndexError) as error:
        raise ValueError(f"{index} is no index of a pipeline: {error}") from error
    if parts.keys() != {"unet", "scheduler"} or parts["unet"] != "UNet2DModel":
        what = ", ".join(f"{name} {kind}" for name, kind in parts.items() if name != "scheduler")
        raise ValueError(
            f"{folder} holds a {entries.get('_class_name')} ({what}), and a UNet2DModel by itself is wanted; load the "
            f"pipeline with diffusers, and give it a scheduler of pndm_solvers.adapters.diffusers"
        )
    for part in parts:
        if not (folder / part).is_dir():  # which diffusers would look for elsewhere
            raise ValueError(f"{folder} has no folder {part}, which its model_index.json names; save the pipeline anew")
    config = PLMSScheduler.load_config(folder / "scheduler")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # options of its method, which is not used
        scheduler = PLMSScheduler.from_config(config)
    unet = UNet2DModel.from_pretrained(folder / "unet", local_files_only=True, low_cpu_mem_usage=False)
    return Checkpoint(folder.resolve().name, unet.to(device), scheduler.schedule, scheduler.prediction)


class _Component(torch.nn.Module):
    """A network that is none of diffusers', as a pipeline's component: with a device and a dtype, that follow `.to`."""

    place: Tensor

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network  # moved with this module, where it is one itself
        self.part = network.unet if isinstance(network, ReferenceNetwork) else None
        first = next(self.parameters(), torch.empty(0))
        self.register_buffer("place", torch.empty(0, device=first.device, dtype=first.dtype))

    @property
    def device(self) -> torch.device:
        return self.place.device

    @property
    def dtype(self) -> torch.dtype:
        return self.place.dtype

    @property
    def shape(self) -> tuple[int, ...] | None:
        return getattr(self.network, "shape", None)

    def model(self, label: Tensor | None, guidance: float) -> Model:
        if isinstance(self.network, ReferenceNetwork):
            return self.network.model(label, guidance)
        if label is not None or guidance != 1:
            raise ValueError(
                "class_labels and guidance_scale mean nothing to a callable model(x, t); bind the classes to it, and "
                "see pndm_solvers.classifier_free_guidance"
            )
        return self.network

    def forward(self, x: Tensor, t: Tensor) -> Any:
        return self.network(x, t)


def _is_unet(network: Any) -> bool:
    """Whether it is a `UNet2DModel`, compiled or not; TypeError for what no pipeline here can ask."""
    original = getattr(network, "_orig_mod", network)
    if isinstance(original, UNet2DModel):
        return True
    if isinstance(original, ModelMixin) or not callable(network):
        raise TypeError(
            f"unet is a {type(original).__name__}; it is a UNet2DModel, a bundled network, or any callable model(x, t) "
            f"that answers an array of x's shape"
        )
    return False


def _image_shape(unet: Any) -> tuple[int, int, int] | None:
    """(channels, height, width), where the config of a `UNet2DModel` tells it."""
    size = unet.config.sample_size
    if size is None:
        return None
    height, width = (size, size) if isinstance(size, int) else size
    return unet.config.in_channels, height, width


def _asked(unet: Any, label: Tensor | None, guidance: float) -> Model:
    """A `UNet2DModel` for the classes `label` `(B,)`, as a model; its answer may have more channels than x."""
    config = unet.config
    classes = config.num_class_embeds
    if config.class_embed_type is not None:
        raise ValueError(
            f"the network takes no numbers of classes but class_embed_type={config.class_embed_type!r}; pass a "
            f"callable lambda x, t: unet(x, t, class_labels=…).sample"
        )
    if (label is None) != (classes is None):
        wanted = (
            "has no classes" if classes is None else f"draws one of its classes, 0 to {classes - 1}, which it wants"
        )
        raise ValueError(f"class_labels is {None if label is None else label.tolist()}; the network {wanted}")
    if label is not None and not 0 <= label.min() <= label.max() < classes:
        raise ValueError(f"labels must lie in 0 to {classes - 1}, not {label.tolist()}")
    if guidance != 1:
        raise ValueError("guidance takes an answer without a class, which a UNet2DModel does not give")

    def model(x: Tensor, t: Tensor) -> Tensor:
        if config.time_embedding_type == "learned" and t.is_floating_point():
            raise ValueError(
                "the network knows no times between the integers; choose a spacing of integers: 'trailing', 'linspace' "
                "or 'leading'"
            )
        return unet(x, t, class_labels=label).sample

    return model


def _labels(given: int | Sequence[int] | None, batch: int, device: Any) -> Tensor | None:
    if given is None:
        return None
    try:
        labels = torch.as_tensor(given, device=device)
    except (TypeError, ValueError):
        labels = torch.empty(0)
    if labels.is_floating_point() or labels.ndim > 1 or labels.numel() not in (1, batch):
        raise ValueError(f"class_labels is {given!r}; it is a number of a class, or one for each of {batch} images")
    return labels.flatten().expand(batch)
