"""The options that several commands share, and how their values are read."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, is_dataclass
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, cast, get_args

import typer

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
    str, typer.Option(help=f"One of: {', '.join(SCHEDULES)}; or a diffusers scheduler config file.")
]
SEVERAL = "several by commas or by repeating the option"


@dataclass(frozen=True)
class SolverOptions:
    """The options of every command that makes one plan."""

    solver: Annotated[
        str | None,
        typer.Option(help=f"One of: {', '.join(SOLVERS)}. [default: plms, or the plan fitted to the network]"),
    ] = None
    plan: Annotated[
        list[Path] | None,
        typer.Option(help="Instead of --solver: a file with a plan, as `fit` writes it; several by repeating it."),
    ] = None
    steps: Annotated[int | None, typer.Option(help="Steps of the time grid. [default: as --calls allows]")] = None
    calls: Annotated[
        int | None, typer.Option(help="At most this many model calls. [default: 20, of a fitted plan 10]", min=1)
    ] = None
    spacing: Annotated[str, typer.Option(help=f"One of: {', '.join(SPACINGS)}.")] = DEFAULT_SPACING
    order: Annotated[int | None, typer.Option(help="Multistep methods and unipc: the order of the formula.")] = None
    starter: Annotated[str | None, typer.Option(help="plms: ramp, heun or rk4.")] = None
    weights: Annotated[str | None, typer.Option(help="plms: exact or classical.")] = None
    space: Annotated[
        str | None,
        typer.Option(
            help=f"plms: the prediction that is averaged, {', '.join(SPACES)}; dpmpp and unipc: the first two."
        ),
    ] = None
    coordinate: Annotated[
        str | None,
        typer.Option(
            help=f"plms: what polynomials are in, {', '.join(get_args(Interpolation))}; deis: three of these."
        ),
    ] = None
    corrector: Annotated[
        bool | None, typer.Option("--corrector/--no-corrector", help="plms and lms: repeat steps with the next answer.")
    ] = None
    solver_type: Annotated[str | None, typer.Option(help="dpm and dpmpp: midpoint or heun.")] = None
    variant: Annotated[str | None, typer.Option(help="unipc: bh1 or bh2.")] = None
    lower_order_final: Annotated[
        bool | None,
        typer.Option("--lower-order-final/--full-order-final", help="deis, dpmpp and unipc: end with orders …, 2, 1."),
    ] = None
    fractions: Annotated[str | None, typer.Option(help=f"prk: {', '.join(FRACTIONS)}.")] = None
    eta: Annotated[float | None, typer.Option(help="ddim: how much fresh noise, 0 to 1.")] = None
    variance: Annotated[str | None, typer.Option(help="ddpm: fixed_small or fixed_large.")] = None

    def make_solver(self, schedule: NoiseSchedule) -> Solver:
        """The named solver with the options that were passed; ValueError for one that the solver does not take."""
        if self.plan:
            if named := self.named_method:
                raise ValueError(f"a plan has its own method and levels, so leave {', '.join(named)} out")
            return FittedSolver.load(schedule, *self.plan)
        name = self.solver or "plms"
        check_known("--solver", name, SOLVERS)
        make = SOLVERS[name]
        taken = inspect.signature(make).parameters.keys() - getattr(make, "keywords", {}).keys()
        passed = {name: value for name in METHOD_OPTIONS if (value := getattr(self, name)) is not None}
        for option in passed:
            if option not in taken:
                raise ValueError(f"--{option.replace('_', '-')} is not an option of the solver {name!r}")
        return make(schedule, **passed)

    @property
    def named_method(self) -> list[str]:
        """The passed options that name a method or a grid."""
        named = [name for name in ("solver", *METHOD_OPTIONS) if getattr(self, name) is not None]
        named += ["spacing"] if self.spacing != DEFAULT_SPACING else []
        return [f"--{name.replace('_', '-')}" for name in named]

    def make_plan(self, solver: Solver, **cut: Any) -> Plan:
        """A plan of `--steps` or of `--calls`; `cut` goes to `Solver.plan`."""
        if self.steps is not None and self.calls is not None:
            raise ValueError("pass --steps or --calls, not both")
        if self.steps is not None:
            return solver.plan(self.steps, spacing=self.spacing, **cut)
        if isinstance(solver, FittedSolver):
            return solver.plan(self.calls or solver.plans[-1].model_calls, **cut)
        plan = solver.plan(max_model_calls=self.calls or 20, spacing=self.spacing, **cut)
        if self.calls is not None and plan.model_calls < self.calls:
            steps = sum(not row.stage for row in plan.rows)
            told = f"{plan.name} makes {plan.cost()}, in {steps} step{'s' * (steps != 1)}"
            typer.echo(f"note: {told}; with one step more it would make over {self.calls}", err=True)
        return plan


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
    raise ValueError(f"schedule is {name!r}; it is {', '.join(SCHEDULES)}, or the path of a scheduler config")


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
