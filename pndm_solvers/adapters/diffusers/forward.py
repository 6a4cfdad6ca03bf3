"""The forward process behind diffusers' names: α and σ of times, tables that callers read and assign, noise added."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from diffusers.configuration_utils import ConfigMixin
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from torch import Tensor

from pndm_solvers.arguments import shown
from pndm_solvers.arrays import check_floating, check_together
from pndm_solvers.forward import alpha_sigma
from pndm_solvers.schedules import NoiseSchedule

__all__ = ["ForwardProcess"]


class ForwardProcess(SchedulerMixin, ConfigMixin):
    """α and σ of a scheduler's times.

    Attributes
    ----------
    schedule:
        The levels. Solvers read it alone.
    alphas, betas, final_alpha_cumprod:
        For callers that read them; None where there is no table.
    """

    schedule: NoiseSchedule
    config: Any  # type: ignore[assignment] — a dict with attributes, which diffusers declares as a plain one

    def _describe(self, schedule: NoiseSchedule, final: str) -> None:
        """Takes the levels of `schedule`, and lays out its tables."""
        self.schedule = schedule
        if not schedule.every_level:
            self._alphas_cumprod = self.alphas = self.betas = None
            self.final_alpha_cumprod = torch.tensor(1.0)
            return
        table = schedule.every_level[0] ** 2
        self._alphas_cumprod = torch.from_numpy(table).float()
        self.alphas = torch.from_numpy(table / np.append(1.0, table[:-1])).float()
        self.betas = 1 - self.alphas
        self.final_alpha_cumprod = torch.tensor(1.0) if final == "clean" else self._alphas_cumprod[0]

    @property
    def alphas_cumprod(self) -> Tensor:
        """ᾱ at the table's times, `(T,)`. Assigning other numbers changes the levels of runs that begin afterwards."""
        if self._alphas_cumprod is None:
            raise AttributeError(f"{type(self).__name__} has no alphas_cumprod: its network's levels are no table")
        return self._alphas_cumprod

    @alphas_cumprod.setter
    def alphas_cumprod(self, table: Tensor) -> None:
        known = self._alphas_cumprod
        if known is None or known.shape != table.shape or not np.array_equal(_host(table), _host(known)):
            self._describe(NoiseSchedule.from_alphas_cumprod(_host(table)), self._end())
            self._levels_changed()
        self._alphas_cumprod = table

    def _end(self) -> Any:
        raise NotImplementedError

    def _levels_changed(self) -> None:
        """Called where a caller has assigned other levels."""
        raise NotImplementedError

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """α(t)·x_0 + σ(t)·noise, of x_0's dtype.

        `timesteps` is one time, or one for each sample. x_0 and the noise are `(B, …)` and broadcast, as in torch.
        """
        alpha, sigma = self._levels(timesteps, "original_samples", original_samples, noise)
        return (alpha * original_samples + sigma * noise).to(original_samples.dtype)

    def scale_noise(self, sample: Tensor, timestep: Any, noise: Tensor) -> Tensor:
        """`add_noise`, under the name and with the order of flow matching's schedulers."""
        times = timestep if isinstance(timestep, Tensor) else torch.tensor([float(timestep)])
        return self.add_noise(sample, noise, times)

    def get_velocity(self, sample: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """The velocity α(t)·noise − σ(t)·x_0, of x_0's dtype: Salimans and Ho (2022), section 4. As `add_noise`."""
        alpha, sigma = self._levels(timesteps, "sample", sample, noise)
        return (alpha * noise - sigma * sample).to(sample.dtype)

    def _levels(self, timesteps: Tensor, name: str, like: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """α and σ at the times, `(B, 1, …)` on like's device, float32 at least; `name` is that of `like`."""
        check_floating(name, like)
        check_floating("noise", noise)
        check_together("noise", noise, name, like, shape=tuple(noise.shape))  # on one device
        try:
            shape = torch.broadcast_shapes(like.shape, noise.shape)
        except RuntimeError as error:
            raise ValueError(
                f"noise is of shape {tuple(noise.shape)}; it must broadcast with {name}, {tuple(like.shape)}"
            ) from error
        if not isinstance(timesteps, Tensor):
            raise TypeError(f"timesteps is {shown(timesteps)}; it must be a tensor of one time, or of one each sample")
        times = timesteps.flatten()
        if 1 not in (len(times), shape[0]) and len(times) != shape[0]:
            raise ValueError(f"timesteps are {len(times)} for a batch of {shape[0]}; pass one, or one for each sample")
        like = like.expand(len(times) if shape[0] == 1 else shape[0], *like.shape[1:])
        if times.device.type != "cpu" and self._asked is None:  # the host waits for no accelerator where it need not
            return alpha_sigma(self.schedule, times.to(like.device), like)
        at = self._level_times(_host(times))
        self.schedule.checked_times(at, "timesteps")
        return alpha_sigma(self.schedule, at, like)

    def _level_times(self, times: np.ndarray) -> np.ndarray:
        """The times of the levels at which the network is asked at `times`."""
        if self._asked is None:
            return times
        return np.array([self._asked.get(t, t) for t in times.astype(np.float32).tolist()])

    @property
    def _asked(self) -> dict[float, float] | None:
        """The times of levels by the times at which the network is asked there; None where they are the same."""
        return None


def _host(table: Tensor) -> np.ndarray:
    return table.detach().cpu().double().numpy()
