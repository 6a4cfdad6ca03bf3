"""The forward process behind diffusers' names: α and σ of times, tables that callers read and assign, noise added."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import torch
from diffusers.configuration_utils import ConfigMixin
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from torch import Tensor

from pndm_solvers.arguments import shown
from pndm_solvers.arrays import check_floating, check_together
from pndm_solvers.schedules import NoiseSchedule, RectifiedFlow

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
        self.__dict__.pop("_every_level", None)
        if schedule.num_train_timesteps is None:
            self._alphas_cumprod = self.alphas = self.betas = None
            self.final_alpha_cumprod = torch.tensor(1.0)
            return
        table = schedule.alpha(np.arange(schedule.num_train_timesteps)) ** 2
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

    def _levels(self, timesteps: Tensor, name: str, like: Tensor, noise: Tensor) -> Tensor:
        """α and σ at the times, as `(2, B, 1, …)` on like's device, float32 at least; `name` is that of `like`."""
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
        wide = torch.float32 if like.dtype.itemsize < 4 else like.dtype
        table = self._table_at(times, like.device, wide)
        return table.reshape(2, -1, *[1] * (len(shape) - 1))

    def _table_at(self, times: Tensor, device: torch.device, wide: torch.dtype) -> Tensor:
        """α and σ `(2, B)`. The host waits for no accelerator where it need not, and float64 stays on the host."""
        if times.device.type != "cpu":
            if not times.is_floating_point() and self.schedule.num_train_timesteps is not None:
                return self._every_level.to(wide).to(times.device, non_blocking=True)[:, times].to(device)
            if isinstance(self.schedule, RectifiedFlow):
                sigma = times.to(device, wide) / self.schedule.t_max
                return torch.stack([1 - sigma, sigma])
        t = self._level_times(times.detach().cpu().double().numpy())
        low, high = self.schedule.t_min, self.schedule.t_max
        low = low if self.schedule.t_floor is None else self.schedule.t_floor
        if t.size and not low <= t.min() <= t.max() <= high * (1 + 1e-6):
            raise ValueError(f"timesteps must lie in {low:g} to {high:g}, not {times}")
        return self._levels_at(t).to(wide).to(device)

    def _level_times(self, times: np.ndarray) -> np.ndarray:
        """The times of the levels at which the network is asked at `times`."""
        return times

    def _levels_at(self, times: Any) -> Tensor:
        return torch.from_numpy(np.stack([self.schedule.alpha(times), self.schedule.sigma(times)]))

    @cached_property
    def _every_level(self) -> Tensor:
        return self._levels_at(np.arange(self.schedule.num_train_timesteps or 0))


def _host(table: Tensor) -> np.ndarray:
    return table.detach().cpu().double().numpy()
