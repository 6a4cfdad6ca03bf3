"""The options that several commands share, and how their values are read."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, fields, is_dataclass
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, cast, get_args

import typer

from pndm_solvers.cli.command import SINGLE, SOLVED
from pndm_solvers.fit import FittedSolver
from pndm_solvers.methods import SOLVERS
from pndm_solvers.methods.multistep import Interpolation
from pndm_solvers.methods.runge_kutta import FRACTIONS
from pndm_solvers.plan import Plan
from pndm_solvers.schedules import SCHEDULES, NoiseSchedule
from pndm_solvers.solver import Solver
from pndm_solvers.spacings import DEFAULT_SPACING, SPACINGS
from pndm_solvers.transfer import SPACES

ScheduleName = Annotated[
    str,
    typer.Option(
        help=f"The noise schedule, one of: {', '.join(SCHEDULES)}; or the file of a diffusers scheduler's config.",
        metavar="NAME|FILE",
        rich_help_panel=SOLVED,
    ),
]
SEVERAL = "several by commas or by repeating the option"


def single(help_: str, metavar: str | None = "NAME", flags: str | None = None) -> Any:
    """An option that one method has, or a few."""
    return typer.Option(*filter(None, [flags]), help=help_, metavar=metavar, rich_help_panel=SINGLE)


@dataclass(frozen=True)
class SolverOptions:
    """The options of every command that makes one plan."""

    calls: Annotated[
        int | None,
        typer.Option(
            help="At most this many model calls for each image: what a run costs. [default: 20, of a fitted plan 10]",
            metavar="N",
            min=1,
            rich_help_panel=SOLVED,
        ),
    ] = None
    steps: Annotated[
        int | None,
        typer.Option(
            help="Instead of --calls: the steps of the time grid. Some solvers make several model calls in a step.",
            metavar="N",
            rich_help_panel=SOLVED,
        ),
    ] = None
    solver: Annotated[
        str | None,
        typer.Option(
            help=f"One of: {', '.join(SOLVERS)}. [default: plms, or the plan fitted to the network]",
            metavar="NAME",
            rich_help_panel=SOLVED,
        ),
    ] = None
    plan: Annotated[
        list[Path] | None,
        typer.Option(
            help="Instead of --solver: a file with a plan, as `fit` writes it; several by repeating it.",
            metavar="FILE",
            rich_help_panel=SOLVED,
        ),
    ] = None
    spacing: Annotated[
        str,
        typer.Option(
            help=f"Where the steps lie, one of: {', '.join(SPACINGS)}.", metavar="NAME", rich_help_panel=SOLVED
        ),
    ] = DEFAULT_SPACING
    order: Annotated[
        int | None, single("plms, lms, deis, dpmpp-2m and unipc: the order of the formula, from 1; pndm: 4 or 2.", "N")
    ] = None
    starter: Annotated[
        str | None, single("plms, lms and er-sde: the method of the first steps, ramp, heun or rk4.")
    ] = None
    weights: Annotated[str | None, single("plms, lms and er-sde: exact for the actual steps, or classical.")] = None
    space: Annotated[
        str | None,
        single(
            f"plms, lms and er-sde: the prediction that is averaged, {', '.join(SPACES)}; dpmpp, unipc and sa: the "
            "first two."
        ),
    ] = None
    coordinate: Annotated[
        str | None,
        single(f"plms: what polynomials are in, {', '.join(get_args(Interpolation))}; deis: three of these."),
    ] = None
    corrector: Annotated[
        bool | None,
        single("plms, lms and er-sde: repeat each step with the next answer.", None, "--corrector/--no-corrector"),
    ] = None
    solver_type: Annotated[str | None, single("dpm and dpmpp: midpoint or heun.")] = None
    variant: Annotated[str | None, single("unipc and sa: bh1 or bh2.")] = None
    lower_order_final: Annotated[
        bool | None,
        single("deis, dpmpp, unipc and sa: end with orders …, 2, 1.", None, "--lower-order-final/--full-order-final"),
    ] = None
    fractions: Annotated[str | None, single(f"prk: in what the stages divide a step, {', '.join(FRACTIONS)}.")] = None
    eta: Annotated[float | None, single("ddim: how much fresh noise, from 0, none, to 1, as ddpm.", "X")] = None
    variance: Annotated[str | None, single("ddpm: the variance of its noise, fixed_small or fixed_large.")] = None

    def check(self) -> None:
        """ValueError for options that no network makes right: seen before one is loaded, which takes seconds."""
        if self.steps is not None and self.calls is not None:
            raise ValueError("pass --steps or --calls, not both")
        check_known("--spacing", self.spacing, SPACINGS)
        if self.plan and (named := self.named_method):
            raise ValueError(f"a plan has its own method and levels, so leave {', '.join(named)} out")
        name = self.solver or "plms"
        check_known("--solver", name, SOLVERS)
        for option in self._passed:
            if option not in _taken(name):
                takers = ", ".join(other for other in SOLVERS if option in _taken(other))
                shown = option.replace("_", "-")
                raise ValueError(f"--{shown} is not an option of the solver {name!r}; it is one of {takers}")

    @property
    def _passed(self) -> dict[str, Any]:
        return {name: value for name in METHOD_OPTIONS if (value := getattr(self, name)) is not None}

    def make_solver(self, schedule: NoiseSchedule) -> Solver:
        """The named solver with the options that were passed; ValueError for one that the solver does not take."""
        self.check()
        if self.plan:
            try:
                return FittedSolver.load(schedule, *self.plan)
            except (ValueError, FileNotFoundError) as error:
                told = f"there is no file {error.filename}" if isinstance(error, FileNotFoundError) else error
                raise ValueError(f"--plan: {told}") from error
        return SOLVERS[self.solver or "plms"](schedule, **self._passed)

    @property
    def named_method(self) -> list[str]:
        """The passed options that name a method or a grid."""
        named = [name for name in ("solver", *METHOD_OPTIONS) if getattr(self, name) is not None]
        named += ["spacing"] if self.spacing != DEFAULT_SPACING else []
        return [f"--{name.replace('_', '-')}" for name in named]

    def make_plan(self, solver: Solver, **cut: Any) -> Plan:
        """A plan of `--steps` or of `--calls`; `cut` goes to `Solver.plan`."""
        if self.steps is not None:
            return solver.plan(self.steps, spacing=self.spacing, **cut)
        most = solver.plans[-1].model_calls if isinstance(solver, FittedSolver) else 20
        plan = solver.plan(max_model_calls=self.calls or most, spacing=self.spacing, **cut)
        if self.calls is not None and plan.model_calls < self.calls:
            self._note_on_budget(plan, self.calls, lambda steps: solver.plan(steps, spacing=self.spacing, **cut))
        return plan

    @staticmethod
    def _note_on_budget(plan: Plan, calls: int, longer: Callable[[int], Plan]) -> None:
        """Prints why a plan makes fewer calls than it may, and what the next longer one makes."""
        steps = sum(not row.stage for row in plan.rows)
        text = f"note: {plan.name} makes {plan.cost()}, in {steps} step{'s' * (steps != 1)}"
        with suppress(ValueError), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            more = longer(steps + 1).model_calls
            text += f"; {steps + 1} steps take {more}, more than --calls {calls}" if more > calls else ""
        typer.echo(text, err=True)


def _taken(solver: str) -> set[str]:
    """The options that a solver takes."""
    make = SOLVERS[solver]
    return inspect.signature(make).parameters.keys() - getattr(make, "keywords", {}).keys()


# Those that go to the solver.
METHOD_OPTIONS = [
    option.name
    for option in fields(SolverOptions)
    if option.name not in ("solver", "plan", "steps", "calls", "spacing")
]


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """Make typer read each dataclass parameter of a command as one option per field.

    typer has no groups of parameters: it reads a function's signature. So the signature that it sees is rewritten.
    """
    signature = inspect.signature(command, eval_str=True)
    groups: dict[str, Callable[..., Any]] = {}
    for name, parameter in signature.parameters.items():
        if is_dataclass(parameter.annotation):
            groups[name] = cast("Callable[..., Any]", parameter.annotation)
    parameters: list[inspect.Parameter] = []
    for name, parameter in signature.parameters.items():
        fields = inspect.signature(groups[name], eval_str=True).parameters.values() if name in groups else [parameter]
        parameters += [field.replace(kind=inspect.Parameter.KEYWORD_ONLY) for field in fields]

    @wraps(command)
    def call(**values: Any) -> None:
        made = {
            name: group(**{field: values.pop(field) for field in inspect.signature(group).parameters})
            for name, group in groups.items()
        }
        command(**values, **made)

    seen: Any = call
    seen.__signature__ = signature.replace(parameters=parameters)
    seen.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return seen


def read_schedule(name: str) -> NoiseSchedule:
    """A schedule by its name, or from a diffusers scheduler config file."""
    if name in SCHEDULES:
        return SCHEDULES[name]()
    if Path(name).exists():
        return NoiseSchedule.from_config(name)
    raise ValueError(f"--schedule is {name!r}; it is {', '.join(SCHEDULES)}, or the path of a scheduler config")


def check_known(option: str, value: str, known: Iterable[str]) -> None:
    """ValueError unless `value` is one of `known`."""
    if value not in known:
        raise ValueError(f"{option} is {value!r}; known are {', '.join(known)}")


def read_several(values: Iterable[str] | None) -> list[str]:
    """The values of a repeated option, split at commas; each once, in the order of their first appearance."""
    return list(dict.fromkeys(word.strip() for value in values or () for word in value.split(",")))


def read_names(
    option: str, values: Iterable[str] | None, known: Iterable[str], default: Iterable[str] = ()
) -> list[str]:
    """As `read_several`, or `default` without values; ValueError for a name that is not `known`."""
    names = read_several(values) or list(default)
    for name in names:
        check_known(option, name, known)
    return names


def read_numbers(option: str, values: Iterable[str] | None, default: Iterable[int]) -> list[int]:
    """As `read_several`, for whole numbers of at least 1, sorted."""
    words = read_several(values)
    if not all(word.isdecimal() and int(word) for word in words):
        raise ValueError(f"{option} is {','.join(words)!r}; it is whole numbers of at least 1, such as 5,8,10")
    return sorted({int(word) for word in words}) or list(default)
