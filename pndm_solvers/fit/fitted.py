"""A fitted plan and what it is worth: its error on samples that it was not fitted to."""

from __future__ import annotations

import datetime
import warnings
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

from pndm_solvers import spacings
from pndm_solvers.advice import warn
from pndm_solvers.arguments import function, whole
from pndm_solvers.fit.gauss_newton import typical
from pndm_solvers.fit.runs import Runner
from pndm_solvers.fit.search import drafts, expected_calls
from pndm_solvers.methods import DDIMSolver, DEISSolver, DPMMultistepSolver, PLMSSolver, UniPCSolver
from pndm_solvers.plan import Plan
from pndm_solvers.prediction import Prediction
from pndm_solvers.rule import RULE
from pndm_solvers.run_options import Model
from pndm_solvers.schedule import Float64
from pndm_solvers.schedules import NoiseSchedule
from pndm_solvers.solver import Solver
from pndm_solvers.table import Fitted
from pndm_solvers.version import __version__

if TYPE_CHECKING:
    from pndm_solvers.fit.pilot import Pilot

__all__ = ["Fit", "fitted", "plain_rules"]

# The plain rules beside which a fitted plan is judged, each on its own grid and on those in `SPACINGS`.
RULES = (
    lambda schedule: PLMSSolver(schedule, order=2),
    DDIMSolver,
    DPMMultistepSolver,
    DEISSolver,
    UniPCSolver,
)
SPACINGS = ("default", "log_snr", "quadratic")
FINER = 4  # times the calls that a pilot must have
FEWEST = 16  # samples that judge
BETTER = 0.01  # than the default, in the logarithm of the error: less is chance


@dataclass(frozen=True, eq=False)
class Fit:
    """A fitted plan, and how it was judged. `print` shows a table.

    Attributes
    ----------
    plan:
        The best plan of the held-out samples, the default's where none was better.
    errors:
        On the held-out samples `(B,)`, their root-mean-square distance to the fine run's ends: of the plan ("fitted"),
        of the "default", and of the best of the plain rules, under its name.
    samples:
        How many samples the plan was fitted to, and how many were held out.
    calls:
        For how many samples the network was called, the pilot apart.
    pilot_error:
        The estimated error of the fine run itself.
    interrupted:
        Whether Ctrl-C ended the search; the plan is the best until then.
    """

    plan: Plan
    errors: Mapping[str, Float64] = field(repr=False)
    samples: tuple[int, int]
    calls: int
    pilot_error: float
    interrupted: bool = False

    @property
    def gain(self) -> float:
        """The plan's error as a share of the default's, in the geometric mean over the held-out samples."""
        return float(np.exp(typical(self.errors["fitted"]) - typical(self.errors["default"])))

    def __str__(self) -> str:
        fitted_to, held_out = self.samples
        width = max(map(len, self.errors))
        rows = [f"{'':{width}}   median     mean    worst   of the default's, geometric mean"]
        for name, errors in self.errors.items():
            share = np.exp(typical(errors) - typical(self.errors["default"]))
            rows.append(
                f"{name:{width}}  {np.median(errors):.1e}  {errors.mean():.1e}  {errors.max():.1e}   {share:.2f}"
            )
        cut = ", interrupted" if self.interrupted else ""
        return "\n".join(
            [
                f"{self.plan.name}: {self.plan.cost()}, fitted to {fitted_to} samples{cut}",
                f"errors of {held_out} samples that were not fitted, against a fine run that errs by about "
                f"{self.pilot_error:.1e}:",
                *rows,
                f"cost: the network was called for {self.calls:,} samples",
            ]
        )


def fitted(pilot: Pilot, model: Model, max_model_calls: int, *, progress: bool, note: str) -> Fit:
    """See `fit_plan`."""
    from tqdm.auto import tqdm

    function("model", model, "model(x, t)")
    if pilot.plan.model_calls < FINER * whole("max_model_calls", max_model_calls):
        raise ValueError(
            f"max_model_calls is {max_model_calls}, and the pilot has {pilot.plan.model_calls} levels; record one with "
            f"levels={FINER * max_model_calls} at least"
        )
    default, begun = _quietly(PLMSSolver(pilot.schedule), max_model_calls, pilot.options), {}
    own = pilot.options.get("spacing", "default") == "default" and pilot.options.get("start") is None
    if own and default.levels[0] != (first := pilot.plan.levels[0]):  # the default begins lower, the pilot's states not
        rule = RULE.of_range(pilot.options.get("data_range", 1.0))
        begun = {"spacing": partial(spacings.default, first=first, drowned=first.ratio, rule=rule)}
        default = _quietly(PLMSSolver(pilot.schedule), max_model_calls, pilot.options | begun)
    fitting, judging = pilot.parts()
    count, judges = (sum(len(part.rows) for part in parts) for parts in (fitting, judging))
    rules = list(plain_rules(pilot.schedule, default, pilot.options, begun))
    expected = expected_calls(default, pilot, count) + judges * default.model_calls * (len(rules) + 1)
    bar = tqdm(total=expected, desc=default.cost(), unit="sample", unit_scale=True, disable=not progress)

    def count_up(samples: int) -> None:
        bar.total = max(bar.total, bar.n + samples)  # of an estimate that was too low
        bar.update(samples)

    runner, interrupted = Runner(model, count_up), False
    with pilot.starts[0].library.unrecorded(), bar:
        pilot.check_network(runner, fitting[0])
        judged = {"default": (default, runner.errors(default, judging))}

        def judge(name: str, plan: Plan) -> None:
            errors = runner.errors(plan, judging)
            if name not in judged or typical(errors) < typical(judged[name][1]):
                judged[name] = plan, errors
                bar.set_postfix_str(f"held-out error {np.exp(typical(errors)):.1e}, {name}")

        try:
            for plan in rules:
                judge("best plain rule", plan)
            for draft in drafts(default, pilot, fitting, runner):
                judge("fitted", draft.plan(f"fitted {default.model_calls}"))
        except KeyboardInterrupt:
            interrupted = True
        else:
            bar.total = bar.n  # of an estimate that was too high
    best = min(judged, key=lambda name: typical(judged[name][1]) - (name == "default") * BETTER)
    plan = judged[best][0]
    if best == "default" and interrupted:
        warn("the search was interrupted before anything fitted was better than the default: the plan is the default's")
    elif interrupted:
        warn("the search was interrupted: the plan is the best until then")
    elif best == "default":
        warn(
            f"nothing fitted was better than the default on the {judges} held-out samples, so the plan is the "
            f"default's; more samples, or a pilot of more levels, may help"
        )
    elif judges < FEWEST:
        warn(f"only {judges} samples judge, where chance dominates; pass {2 * FEWEST} samples at least")
    told = Fitted(
        repr(pilot.schedule),
        Prediction.of(pilot.options.get("prediction", "epsilon")).type,
        plan.model_calls,
        str(datetime.date.today()),
        __version__,
        note,
    )
    errors = {"fitted": judged[best][1]}
    errors |= {_label(name, plan): found for name, (plan, found) in judged.items() if name != "fitted"}
    return Fit(replace(plan, fitted=told), errors, (count, judges), runner.calls, pilot.error, interrupted)


def _label(name: str, plan: Plan) -> str:
    return f"{name}: {plan.name}" if name == "best plain rule" else name


def plain_rules(schedule: NoiseSchedule, default: Plan, options: Any, begun: Any) -> Iterator[Plan]:
    """The plans of the plain rules, from the first level of the `default`.

    `options` are those of `Solver.plan`, and `begun` what the default grid needs to begin there.
    """
    for make, spacing in product(RULES, SPACINGS if "spacing" not in options else ("default",)):
        own = begun if spacing == "default" else {"spacing": spacing, "start": default.levels[0].t}
        with suppress(ValueError):  # of a grid that the schedule lacks
            plan = _quietly(make(schedule), default.model_calls, {**options, **own})
            yield replace(plan, name=plan.name if spacing == "default" else f"{plan.name}, {spacing}")


def _quietly(solver: Solver, calls: int, options: Any) -> Plan:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return solver.plan(max_model_calls=calls, **options)
