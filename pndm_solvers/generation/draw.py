"""The images of one batch, by a network on a device."""

from __future__ import annotations

from typing import Any

import numpy as np

from pndm_solvers.generation.manifest import Settings
from pndm_solvers.generation.network import advise, first_state_of, modules_of
from pndm_solvers.generation.shards import Shard
from pndm_solvers.noise import initial_noise

__all__ = ["Drawer", "type_of"]


class Drawer:
    """Draws the batches of a job.

    The batches of a job have one size and fixed places, so that an image does not depend on who draws it. Images
    beyond the last are drawn in its batch, and dropped.
    """

    def __init__(self, settings: Settings, loaded: Any, device: str) -> None:
        import torch

        self.settings, self.loaded, self.device = settings, loaded, device
        self.plan, self.prediction = settings.made_plan(), settings.made_prediction()
        if settings.threads is not None:
            torch.set_num_threads(settings.threads)
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
        if settings.compile:
            modules = list(modules_of(loaded))
            if not modules:
                raise ValueError(f"--compile compiles torch modules, and {loaded.name!r} holds none; leave it out")
            for _, module in modules:
                module.compile(dynamic=False)

    def __call__(self, batch: int) -> Shard:
        """The images of a batch, by its number."""
        import torch

        settings, first = self.settings, batch * self.settings.batch
        numbers = range(first, first + settings.batch)
        seeds = [settings.seed + number for number in numbers]
        noise = torch.from_numpy(initial_noise((settings.batch, *settings.shape), seeds)).float()
        x = first_state_of(self.loaded, noise, self.plan.levels[0]).to(self.device)
        label = None
        if settings.classes:
            one = settings.class_
            label = torch.tensor([number % settings.classes if one is None else one for number in numbers])
        with torch.inference_mode():
            model = self._in_dtype(
                self.loaded.model(None if label is None else label.to(self.device), settings.guidance)
            )
            drawn = self.plan.run(model, x, prediction=self.prediction, seed=seeds).cpu().numpy()
        if batch == 0:
            advise(self.loaded, drawn, self.plan)
        count = min(settings.batch, settings.num_images - first)
        if settings.values == "uint8":
            from pndm_solvers.images import pixels

            drawn = np.ascontiguousarray(pixels(drawn))
        return Shard(drawn[:count], None if label is None else label[:count].numpy(), first)

    def _in_dtype(self, model: Any) -> Any:
        """The model, whose network alone computes in the job's dtype. States stay float32."""
        if self.settings.dtype == "float32":
            return model
        import torch

        def lower(x: Any, t: Any) -> Any:
            with torch.autocast(self.settings.device, dtype=getattr(torch, self.settings.dtype)):
                return model(x, t).float()

        return lower


def type_of(device: str) -> str:
    """A name for the kind of machine on which bits are the same: the GPU's, or the instructions that a CPU has."""
    import torch

    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{torch.device(device).type} {torch.backends.cpu.get_cpu_capability()}"
