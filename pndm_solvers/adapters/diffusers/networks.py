"""Networks for solvers and pipelines: a diffusers `UNet2DModel`, a bundled network, or any callable `model(x, t)`."""

from __future__ import annotations

import json
import os
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.unets.unet_2d import UNet2DModel
from torch import Tensor

from pndm_solvers.adapters.diffusers.schedulers import PLMSScheduler
from pndm_solvers.prediction import Prediction
from pndm_solvers.reference import ReferenceNetwork
from pndm_solvers.run_options import Model
from pndm_solvers.schedules import NoiseSchedule

__all__ = ["Component", "SavedNetwork", "image_shape", "is_unet", "load_saved_network", "unet_model"]


NOT_GUIDED = "guidance takes an answer without a class, which a UNet2DModel does not give"


@dataclass(frozen=True)
class SavedNetwork:
    """A `UNet2DModel` that a pipeline was saved with, for solvers: it has the surface of a `ReferenceNetwork`.

    Attributes
    ----------
    name:
        The name of its folder.
    unet:
        The network.
    schedule, prediction:
        What it was trained with. The prediction clips where the scheduler in the folder does.
    """

    name: str
    unet: Any = field(repr=False)
    schedule: NoiseSchedule
    prediction: Prediction

    @property
    def labels(self) -> tuple[str, ...]:
        """The numbers of its classes; empty for a network without classes."""
        return tuple(map(str, range(self.unet.config.num_class_embeds or 0)))

    @property
    def shape(self) -> tuple[int, ...]:
        """One image: (channels, height, width). Raises ValueError where the network's config has no size."""
        shape = image_shape(self.unet)
        if shape is None:
            raise ValueError(f"the network {self.name!r} has no sample_size in its config, so what it draws is unknown")
        return shape

    def __call__(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        """The answer for `x` `(B, C, H, W)` at times `t` `(B,)`, for the classes `label` `(B,)` where it has some."""
        return self.model(label)(x, t)

    def model(self, label: Tensor | None = None, guidance: float = 1.0) -> Model:
        """The network for the classes `label` `(B,)`, without the channels of a learned variance.

        Raises ValueError for labels that the network lacks, for a network with classes and no label, and for
        guidance, which takes an answer without a class.
        """
        model, channels = unet_model(self.unet, label, guidance), self.unet.config.in_channels
        return lambda x, t: model(x, t)[:, :channels]

    def guided(self, scale: float) -> Model:
        """ValueError: see `model`."""
        raise ValueError(NOT_GUIDED)


def load_saved_network(folder: str | os.PathLike[str], device: Any = "cpu") -> SavedNetwork:
    """The network in a folder that a diffusers pipeline was saved to: unet/, a `UNet2DModel`, and scheduler/.

    Only the scheduler's betas, prediction type, clipping and thresholding are used.

    Raises
    ------
    ValueError:
        For a folder without a pipeline, or of another pipeline, such as one with a text encoder or a decoder.
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
    entries = json.loads(index.read_text(encoding="utf-8"))
    parts = {name: kind[1] for name, kind in entries.items() if isinstance(kind, list) and kind[1]}
    if parts.keys() != {"unet", "scheduler"} or parts["unet"] != "UNet2DModel":
        what = ", ".join(f"{name} {kind}" for name, kind in parts.items() if name != "scheduler")
        raise ValueError(
            f"{folder} holds a {entries.get('_class_name')} ({what}), not a UNet2DModel alone; load the pipeline with "
            f"diffusers, and give it a scheduler of pndm_solvers.adapters.diffusers"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # options of the scheduler's method, which is not used
        scheduler = PLMSScheduler.from_config(folder / "scheduler", local_files_only=True)
    if scheduler.config.timestep_type == "edm" or scheduler.config.invert_sigmas:
        raise ValueError(
            f"the network in {folder} answers what a scheduler turns into a picture; draw by the pipelines of "
            f"pndm_solvers.adapters.diffusers.pipelines, PNDMPipeline.from_pretrained(folder) say"
        )
    unet = UNet2DModel.from_pretrained(folder / "unet", local_files_only=True, low_cpu_mem_usage=False)
    return SavedNetwork(folder.resolve().name, unet.to(device), scheduler.schedule, scheduler.prediction)


class Component(torch.nn.Module):
    """A network from outside diffusers as a pipeline's component: its device and dtype follow `.to`."""

    place: Tensor

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network  # moved with this module, where it is a module itself
        self.part = network.unet if isinstance(network, ReferenceNetwork) else None
        first = next(self.parameters(), torch.empty(0))
        self.register_buffer("place", torch.empty(0, device=first.device, dtype=first.dtype))

    @property
    def device(self) -> torch.device:
        """Where the network's weights lie."""
        return self.place.device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the network's weights."""
        return self.place.dtype

    def model(self, label: Tensor | None, guidance: float) -> Model:
        """The network for the classes `label` `(B,)`. ValueError for classes that it cannot take."""
        if isinstance(self.network, ReferenceNetwork):
            return self.network.model(label, guidance)
        if label is not None or guidance != 1:
            raise ValueError(
                "class_labels and guidance_scale mean nothing to a callable model(x, t); bind the classes to it, and "
                "see pndm_solvers.classifier_free_guidance"
            )
        return self.network


def is_unet(network: Any) -> bool:
    """Whether `network` is a `UNet2DModel`, compiled or not. TypeError for what no pipeline here can call."""
    original = getattr(network, "_orig_mod", network)
    if isinstance(original, UNet2DModel):
        return True
    if isinstance(original, ModelMixin) or not callable(network):
        raise TypeError(
            f"unet is a {type(original).__name__}; it is a UNet2DModel, a bundled network, or any callable model(x, t) "
            f"that answers an array of x's shape"
        )
    return False


def image_shape(network: Any) -> tuple[int, ...] | None:
    """(channels, height, width) of what a `UNet2DModel` or a `Component` draws; None where it is unknown."""
    if isinstance(network, Component):
        return getattr(network.network, "shape", None)
    size = network.config.sample_size
    if size is None:
        return None
    height, width = (size, size) if isinstance(size, int) else size
    return network.config.in_channels, height, width


def unet_model(unet: Any, label: Tensor | None, guidance: float) -> Model:
    """A `UNet2DModel` for the classes `label` `(B,)`, as a model. Its answer may have more channels than x."""
    config = unet.config
    classes = config.num_class_embeds
    if label is not None and classes is None:
        raise ValueError(f"class_labels is {label.tolist()}; the network has no classes")
    if classes is not None and (label is None or not 0 <= label.min() <= label.max() < classes):
        labels = None if label is None else label.tolist()
        raise ValueError(f"class_labels is {labels}; the network draws one of its classes, 0 to {classes - 1}")
    if guidance != 1:
        raise ValueError(NOT_GUIDED)

    def model(x: Tensor, t: Tensor) -> Tensor:
        if config.time_embedding_type == "learned" and t.is_floating_point():
            raise ValueError(
                "the network has no times between the integers; choose a spacing of integers: 'trailing', 'linspace' "
                "or 'leading'"
            )
        return unet(x, t, class_labels=label).sample

    return model
