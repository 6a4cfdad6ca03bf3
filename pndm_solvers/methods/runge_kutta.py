"""Pseudo Runge–Kutta: any explicit tableau, with the transfer φ in place of addition.

With the paper's RK4, eq. (13): e1 = ε(x), x1 = φ(x, e1) over half the step, e2 = ε(x1), x2 = φ(x, e2) over half,
e3 = ε(x2), x3 = φ(x, e3) over all of it, e4 = ε(x3); the step is φ(x, (e1 + 2·e2 + 2·e3 + e4)/6).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import numpy as np

from pndm_solvers.arguments import choice
from pndm_solvers.coordinates import COORDINATES, Coordinate
from pndm_solvers.methods.adams import polynomial_mean
from pndm_solvers.program import Answer, Form, Program
from pndm_solvers.schedule import Level
from pndm_solvers.schedules import NoiseSchedule
from pndm_solvers.solver import Solver

__all__ = [
    "FRACTIONS",
    "TABLEAUX",
    "ButcherTableau",
    "Move",
    "PRKSolver",
    "Stages",
    "exponential_step",
    "runge_kutta_step",
]

# In which coordinate a stage stands at a fraction of the step: t, σ/α, or log(σ/α).
FRACTIONS: dict[str, Coordinate | None] = {
    "time": None,
    "ratio": COORDINATES["ratio"],
    "log_ratio": COORDINATES["log_ratio"],
}

# How a state is moved along a mean of answers: `Program.transfer`, or the classical step of `classical.py`.
Move = Callable[..., Form]


@dataclass(frozen=True)
class ButcherTableau:
    """An explicit Runge–Kutta method: nodes c, stage weights a (below the diagonal), weights b.

    Numbers may be integers, fractions, strings such as "2/3", or floats. A float that is the nearest one to a simple
    fraction becomes that fraction. Raises TypeError for entries that are no numbers. Raises ValueError unless the
    method is explicit, each row of `a` sums to its c, b sums to 1, and every c after the first lies in (0, 1]: a stage
    is a transfer to the level at that fraction of the step.
    """

    name: str
    c: tuple[Fraction, ...]
    a: tuple[tuple[Fraction, ...], ...]
    b: tuple[Fraction, ...]

    def __init__(self, name: str, c: Sequence, a: Sequence[Sequence], b: Sequence) -> None:
        rows = tuple(_exact("a row of a", row) for row in a)
        vars(self).update(name=name, c=_exact("c", c), a=rows, b=_exact("b", b))
        if not len(self.c) == len(self.a) == len(self.b) > 0:
            raise ValueError(f"tableau {name!r}: c, a and b have {len(self.c)}, {len(self.a)} and {len(self.b)} rows")
        if self.c[0] != 0 or not all(0 < node <= 1 for node in self.c[1:]):
            raise ValueError(f"tableau {name!r}: c must be 0 first and then in (0, 1], not {_show(self.c)}")
        for i, (node, row) in enumerate(zip(self.c, self.a, strict=True)):
            if len(row) != i:
                raise ValueError(f"tableau {name!r}: row {i} of a must have {i} entries (explicit), not {len(row)}")
            if sum(row) != node:
                raise ValueError(f"tableau {name!r}: row {i} of a must sum to c = {node}, not {sum(row)}")
        if sum(self.b) != 1:
            raise ValueError(f"tableau {name!r}: b must sum to 1, not {sum(self.b)}")

    @property
    def order(self) -> int:
        """The order of the classical method, from the order conditions up to 4 (Butcher 1963).

        With the row sums given, a method has order p when `Σ b·Φ = 1/γ` for every rooted tree of
        up to p nodes, Φ the tree's elementary weight and γ its density.
        """
        c = self.c

        def inner(values: Sequence[Fraction]) -> list[Fraction]:
            return [sum((w * v for w, v in zip(row, values, strict=False)), Fraction(0)) for row in self.a]

        def holds(values: Sequence[Fraction], density: int) -> bool:
            return sum(w * v for w, v in zip(self.b, values, strict=True)) == Fraction(1, density)

        def times(left: Sequence[Fraction], right: Sequence[Fraction]) -> list[Fraction]:
            return [p * q for p, q in zip(left, right, strict=True)]

        ac = inner(c)
        conditions: list[Callable[[], bool]] = [
            lambda: holds(c, 2),
            lambda: holds(times(c, c), 3) and holds(ac, 6),
            lambda: (
                holds(times(c, times(c, c)), 4)
                and holds(times(c, ac), 8)
                and holds(inner(times(c, c)), 12)
                and holds(inner(ac), 24)
            ),
        ]
        order = 1
        for condition in conditions:
            if not condition():
                break
            order += 1
        return order


def _exact(name: str, values: Sequence[int | str | float | Fraction]) -> tuple[Fraction, ...]:
    """The fractions that are meant: 2/3 for the float that is nearest to it."""
    numbers = []
    for value in values:
        value = value.item() if isinstance(value, np.generic) else value
        try:
            if isinstance(value, bool):
                raise TypeError
            exact = Fraction(value)
        except TypeError:
            raise TypeError(f"{name} holds {value!r}; it may hold integers, fractions, texts and floats") from None
        except (ValueError, OverflowError, ZeroDivisionError):
            raise ValueError(f"{name} holds {value!r}; its numbers must be finite, as 2/3, '2/3' or 0.5") from None
        near = exact.limit_denominator(10_000)
        numbers.append(near if isinstance(value, float) and float(near) == value else exact)
    return tuple(numbers)


def _show(values: Sequence[Fraction]) -> str:
    return "(" + ", ".join(map(str, values)) + ")"


EULER = ButcherTableau("euler", c=[0], a=[[]], b=[1])

# Improved Euler: the paper's S-PNDM starts with it, latent diffusion's PLMS too.
HEUN = ButcherTableau("heun", c=[0, 1], a=[[], [1]], b=["1/2", "1/2"])

# Kutta's "the" method of 1901: the paper's F-PNDM starts with it.
RK4 = ButcherTableau(
    "rk4",
    c=[0, "1/2", "1/2", 1],
    a=[[], ["1/2"], [0, "1/2"], [0, 0, 1]],
    b=["1/6", "1/3", "1/3", "1/6"],
)

# The tableau of order 2 with the least bound on its error: Ralston (1962).
RALSTON = ButcherTableau("ralston", c=[0, "2/3"], a=[[], ["2/3"]], b=["1/4", "3/4"])

# Kutta's 3/8 rule, of 1901.
KUTTA38 = ButcherTableau(
    "kutta38",
    c=[0, "1/3", "2/3", 1],
    a=[[], ["1/3"], ["-1/3", 1], [1, -1, 1]],
    b=["1/8", "3/8", "3/8", "1/8"],
)

TABLEAUX = {tableau.name: tableau for tableau in (EULER, HEUN, RALSTON, RK4, KUTTA38)}


def runge_kutta_step(
    program: Program, tableau: ButcherTableau, x: Form, there: Level, move: Move, fractions: Coordinate | None
) -> tuple[Form, Answer]:
    """One step of a tableau from `x` to `there`: the new state, and the answer at `x`.

    Stage i is a move through the fraction c_i of the step, along the mean `Σ_j (a_ij/c_i)·e_j`. With fractions of
    σ/α, the coordinate in which φ is a straight line, the tableau keeps its classical order.
    """
    answers = [program.ask(x)]

    def mean(weights: Sequence[Fraction], total: Fraction) -> dict[Answer, float]:
        combined: dict[Answer, float] = {}
        for answer, weight in zip(answers, weights, strict=True):
            if weight:  # two stages at one state have one answer
                combined[answer] = combined.get(answer, 0.0) + float(weight / total)
        return combined

    for c, a in zip(tableau.c[1:], tableau.a[1:], strict=True):
        level = program.grid.between(x.level, there, float(c), by=fractions)
        answers.append(program.ask(move(x, mean(a, c), level, stage=True)))
    return move(x, mean(tableau.b, Fraction(1)), there), answers[0]


# Each stage's fraction of the step in log(σ/α), and the stages before it whose answers make its mean. The last is the
# step itself.
Stages = Sequence[tuple[float, tuple[int, ...]]]


def exponential_step(program: Program, stages: Stages, x: Form, there: Level, space: str) -> Form:
    """One step from `x` to `there` whose every stage integrates a polynomial in log(σ/α) exactly."""
    answers: list[Answer] = []
    log_ratio = COORDINATES["log_ratio"]
    y = x
    for fraction, chosen in stages:
        answers.append(program.ask(y))
        level = program.grid.between(x.level, there, fraction, by=log_ratio)
        mean = polynomial_mean([answers[i] for i in chosen], x.level, level, log_ratio.of, space)
        y = program.transfer(x, mean, level, space=space, stage=fraction < 1)
    return y


@dataclass(frozen=True)
class PRKSolver(Solver):
    """Pseudo Runge–Kutta: any explicit tableau, with the transfer in place of addition.

    Also known as: pseudo Heun, pseudo RK4. `tableau` is one of `TABLEAUX` by name, or a `ButcherTableau`.
    `fractions` says where a step's stages stand: at fractions of t ("time", the paper's choice), of σ/α ("ratio") or of
    log(σ/α) ("log_ratio").
    Orders: formula as the tableau; convergence as the tableau with "ratio", and at most 2 with the others, since φ
    steps in σ/α and the weights serve even steps there. Model calls: stages · N; a step to σ = 0 takes only one.
    Reference: Liu et al. (2022), eq. (9) and (13).
    """

    schedule: NoiseSchedule
    tableau: str | ButcherTableau = "rk4"
    fractions: Literal["time", "ratio", "log_ratio"] = "time"

    def __post_init__(self) -> None:
        super().__post_init__()
        choice("fractions", self.fractions, FRACTIONS)
        if not isinstance(self.tableau, ButcherTableau):
            object.__setattr__(self, "tableau", TABLEAUX[choice("tableau", self.tableau, TABLEAUX)])

    @property
    def _tableau(self) -> ButcherTableau:
        assert isinstance(self.tableau, ButcherTableau)  # a name was looked up when the solver was made
        return self.tableau

    @property
    def name(self) -> str:
        return f"PRK ({self._tableau.name}{'' if self.fractions == 'time' else f', {self.fractions}'})"

    @property
    def order(self) -> int:
        """The order of the tableau as a classical method."""
        return self._tableau.order

    @property
    def convergence_order(self) -> int:
        return self.order if self.fractions == "ratio" else min(self.order, 2)

    def write(self, program: Program, x: Form) -> Form:
        for _, there in program.grid.steps:
            # The last stages of a step to σ = 0 would call the network there, where none was trained. So that step
            # is one of Euler's, with a local error of second order.
            tableau = self._tableau if there.sigma > 0 else EULER
            x, _ = runge_kutta_step(program, tableau, x, there, program.transfer, FRACTIONS[self.fractions])
        return x
