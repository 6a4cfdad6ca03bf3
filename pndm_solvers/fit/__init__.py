"""Plans fitted to a network, which is a black box: no gradient, no knowledge of what is inside.

A plan is a table of numbers, so these can be measured. A `Pilot` runs a few samples finely. A search then moves the
levels and the weights of a coarse plan until its ends come nearest to the pilot's, on some of the samples; the others
judge. `fit_plan` does both.
"""

from __future__ import annotations

from typing import Any

from pndm_solvers.condition import Condition
from pndm_solvers.fit.fitted import Fit
from pndm_solvers.fit.pilot import LEVELS, Pilot
from pndm_solvers.fit.solver import FittedSolver
from pndm_solvers.grid import GridOptions
from pndm_solvers.older import Unpack
from pndm_solvers.plan import Plan
from pndm_solvers.run_options import Model
from pndm_solvers.schedules import NoiseSchedule

__all__ = ["Fit", "FittedSolver", "Pilot", "fit_plan"]


def fit_plan(
    model: Model,
    schedule: NoiseSchedule,
    x_T: Any,  # noqa: N803 — the field's name for it
    max_model_calls: int,
    *,
    condition: Condition | None = None,
    data_mean: Any = None,
    levels: int = LEVELS,
    batch_size: int | None = None,
    progress: bool = False,
    note: str = "",
    **options: Unpack[GridOptions],
) -> Plan:
    """A plan fitted to a network: the least error of its samples with so many model calls.

    The levels of the plan and the weights of its history are moved until a few samples end nearest to where a fine run
    leads them (Gauss–Newton by forward differences). The network is a black box: no gradients are taken, and it may
    be guided or conditional. Every other sample is held out and chooses among the plans that were found. Where none is
    better than the default, a warning says so and the plan is the default's.

    For more than one budget make the `Pilot` once: `Pilot.record(…)`, then `pilot.fit(model, 8)`, which returns a `Fit`
    with the held-out errors. Ctrl-C during the fit returns the best plan so far.

    Parameters
    ----------
    model, condition, schedule, x_T, data_mean, levels, batch_size, options:
        As for `Pilot.record`.
    max_model_calls:
        The plan's budget.
    progress:
        Whether to show bars (tqdm).
    note:
        Free text that the plan carries, as the network's name and the scale of guidance.

    Returns
    -------
    Plan
        It begins at `plan.levels[0]`, where longer runs of the default do for samples of this shape. With
        `data_mean` run it by `FittedSolver.sample(…, data_mean=)`, which begins about the mean. Its `fitted` says
        what it was fitted to, and so does its JSON. `FittedSolver` takes it where a solver is asked for.

    Raises
    ------
    TypeError, ValueError, FloatingPointError:
        As `Pilot.record`.

    >>> import numpy as np
    >>> from pndm_solvers import NoiseSchedule, fit_plan
    >>> from pndm_solvers.analytic import GaussianMixture
    >>> schedule = NoiseSchedule.linear()
    >>> model = GaussianMixture.ring().model(schedule)
    >>> noise = np.random.default_rng(0).standard_normal((96, 2))
    >>> plan = fit_plan(model, schedule, noise, max_model_calls=5)
    >>> plan.model_calls, plan.fitted.prediction
    (5, 'epsilon')
    """
    pilot = Pilot.record(
        model,
        schedule,
        x_T,
        condition=condition,
        data_mean=data_mean,
        levels=levels,
        batch_size=batch_size,
        progress=progress,
        **options,
    )
    return pilot.fit(model, max_model_calls, progress=progress, note=note).plan
