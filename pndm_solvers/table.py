"""The table to which a solver compiles: rows as data. It holds numbers alone, no array and no network.

Row k means, in exact arithmetic,

    ε_k     = model(x_k, t_k)                                        one model call
    x_{k+1} = Σ_i A[k,i]·x_i + Σ_j B[k,j]·ε_j + c_k·z_k    (i, j ≤ k; z_k ~ N(0, I))

x_0 is the state that the run begins with, the last state is the sample. Whatever the network predicts is converted
first, to ε_k or to what else the row's `space` names: a method in data space combines x̂_0, and so does a row with
α = 0, where ε does not determine the picture. A table may come from a solver, from a file, or from a fit: whatever runs
it treats all alike.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

from pndm_solvers.arguments import boolean, choice, real, whole
from pndm_solvers.older import Self
from pndm_solvers.schedule import Level

__all__ = ["SYMBOLS", "Fitted", "Row", "Span", "Table", "Terms"]

Terms = tuple[tuple[int, float], ...]
FORMAT = "pndm_solvers.plan/2"
# What a row can combine, and how it is printed.
SYMBOLS = {"epsilon": "ε", "sample": "x̂", "v_prediction": "v", "flow": "u"}


@dataclass(frozen=True)
class Row:
    """One model call and the state that is made after it.

    Attributes
    ----------
    t, alpha, sigma:
        The level of the state at which the network is called.
    states, answers:
        The non-zero entries of this row of A and of B: (index, weight), indices rising.
    noise:
        c_k ≥ 0, the standard deviation of the fresh noise.
    stage:
        Whether the state made is a Runge–Kutta stage, not a point of the solution.
    space:
        What the network's answer is converted to before rows combine it: "epsilon", "sample" (x̂_0), "v_prediction" or
        "flow". By default "epsilon", or "sample" where α = 0.

    Raises TypeError for entries of the wrong kind, and ValueError for numbers that are not finite, levels and
    deviations below 0, indices that do not rise, a row without states and answers, and ε at α = 0.
    """

    t: float
    alpha: float
    sigma: float
    states: Terms
    answers: Terms
    noise: float = 0.0
    stage: bool = False
    space: str = ""

    def __post_init__(self) -> None:
        # As Python's own numbers and tuples: entries of arrays could not be written as JSON, nor hashed.
        checked: dict[str, Any] = {name: real(name, getattr(self, name)) for name in ("t", "alpha", "sigma", "noise")}
        checked |= {"states": _terms("states", self.states), "answers": _terms("answers", self.answers)}
        checked |= {"stage": boolean("stage", self.stage)}
        vars(self).update(checked)
        unsaid = isinstance(self.space, str) and not self.space
        vars(self).update(space=choice("space", self.level.space if unsaid else self.space, SYMBOLS))
        if min(self.alpha, self.sigma, self.noise) < 0:
            raise ValueError(f"alpha, sigma and noise must not be negative: {self}")
        if not self.states and not self.answers:
            raise ValueError(f"states and answers are both empty, so the row makes no state: {self}")
        if self.space == "epsilon" and self.alpha == 0:
            raise ValueError(f"space is 'epsilon' at α = 0, where ε does not determine the picture: {self}")

    @staticmethod
    def written(level: Level, states: Terms, answers: Terms, noise: float, stage: bool, space: str) -> Row:
        """A program's row, whose indices rise and whose space is known. Only its numbers are checked, all at once."""
        t, alpha, sigma = level
        numbers = [*level, noise, *[w for _, w in states], *[w for _, w in answers]]
        right = {*map(type, numbers)} == {float} and math.isfinite(sum(numbers)) and alpha >= 0 <= sigma and noise >= 0
        if not (right and (states or answers) and (alpha or space != "epsilon")):
            return Row(*level, states, answers, noise, stage, space)
        row = object.__new__(Row)
        vars(row).update(
            t=t, alpha=alpha, sigma=sigma, states=states, answers=answers, noise=noise, stage=stage, space=space
        )
        return row

    @property
    def level(self) -> Level:
        """The level of the state at which the network is called."""
        return Level(self.t, self.alpha, self.sigma)


class Span(NamedTuple):
    """A step down, for a Brownian path: after how many rises, and from which (α/σ)² to which."""

    fall: int
    begin: float
    end: float


@dataclass(frozen=True)
class Fitted:
    """What a plan was fitted to: a network is known by what it predicts and by its schedule.

    Attributes
    ----------
    schedule, prediction:
        Those of the network; the schedule as it prints.
    model_calls:
        The budget.
    date, version:
        The day, as 2026-11-26, and the library's version.
    note:
        Anything else: the network's name, the scale of guidance.
    """

    schedule: str
    prediction: str
    model_calls: int
    date: str
    version: str
    note: str = ""

    def __post_init__(self) -> None:
        for name in ("schedule", "prediction", "date", "version", "note"):
            if not isinstance(getattr(self, name), str):
                raise TypeError(f"{name} is {getattr(self, name)!r}; it must be a text")
        whole("model_calls", self.model_calls)

    def check_prediction(self, prediction: str) -> None:
        """ValueError for another prediction than that to which the plan was fitted."""
        if prediction != self.prediction:
            raise ValueError(
                f"prediction is {prediction!r}, but this plan was fitted to a network that predicts "
                f"{self.prediction!r}{f' ({self.note})' if self.note else ''}; pass prediction={self.prediction!r} if "
                f"yours does, else fit a plan to it"
            )


@dataclass(frozen=True, eq=False, repr=False)
class Table:
    """A sampler as rows. Compared by its numbers; `name` is only for people.

    Attributes
    ----------
    rows:
        One a model call, in order.
    end:
        The level of the sample.
    integer_times:
        Whether the network receives its times as integers.
    fitted:
        What a fitted plan was fitted to; None for one that a method wrote.
    last_uses:
        For each row, the states and the answers that no later row needs.

    Raises ValueError for a row with a state or an answer that does not exist yet, and for an `end` that is not finite.
    Raises TypeError for an `end` that is no `Level`.
    """

    rows: tuple[Row, ...]
    end: Level
    integer_times: bool = False
    name: str = "plan"
    fitted: Fitted | None = None
    # Made with the table, not at first use: torch.compile could not store it in the middle of a run.
    last_uses: tuple[tuple[frozenset[int], frozenset[int]], ...] = field(init=False)

    def __post_init__(self) -> None:
        if not isinstance(self.end, Level):
            raise TypeError(f"end is a {type(self.end).__name__}; it must be a Level, as schedule.level(t) gives")
        if not isinstance(self.name, str):
            raise TypeError(f"name is {self.name!r}; it must be a text")
        end = Level(*(real(f"{name} of end", value) for name, value in self.end._asdict().items()))
        if min(end.alpha, end.sigma) < 0:
            raise ValueError(f"alpha and sigma of end must not be negative: {end}")
        integer_times, rows = boolean("integer_times", self.integer_times), tuple(self.rows)
        for k, row in enumerate(rows):
            for name, terms in (("states", row.states), ("answers", row.answers)):
                if terms and terms[-1][0] > k:
                    raise ValueError(f"row {k}: {name} must name rows 0 to {k}, not {terms[-1][0]}")
            if integer_times and not (row.t.is_integer() and abs(row.t) < 2**31):
                raise ValueError(f"row {k}: t = {row.t!r} in a plan of integer times")
        vars(self).update(rows=rows, end=end, integer_times=integer_times, last_uses=_last_uses(rows))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Table) and self._numbers == other._numbers

    def __hash__(self) -> int:
        return hash(self._numbers)

    @property
    def _numbers(self) -> tuple[tuple[Row, ...], Level, bool]:
        return self.rows, self.end, self.integer_times

    # ------------------------------------------------------------- what it costs

    @property
    def model_calls(self) -> int:
        """How many times the network is called."""
        return len(self.rows)

    @property
    def times(self) -> tuple[float, ...]:
        """The time of each model call."""
        return tuple(row.t for row in self.rows)

    @cached_property
    def levels(self) -> tuple[Level, ...]:
        """The level of each state, from the first to the sample."""
        return (*(row.level for row in self.rows), self.end)

    @cached_property
    def max_stored(self) -> int:
        """The most arrays of the state's shape that a run holds at once.

        Counted while a row's state is made: the states and answers that this row or a later one
        needs, the noise, and the new state itself. The arrays that the network, or the conversion
        of its answer, needs for a moment are not counted.
        """
        most, live = 1, 1
        for row, (states, answers) in zip(self.rows, self.last_uses, strict=True):
            live += 2  # the new answer and the new state
            most = max(most, live + (row.noise > 0))
            live -= len(states) + len(answers)
        return most

    @cached_property
    def spans(self) -> tuple[Span | None, ...]:
        """For each row, the part of a Brownian path that its noise covers; None for a state with more noise.

        A Runge–Kutta stage and the end of its step both begin where the step begins.
        """
        spans: list[Span | None] = []
        clock = [(1 / level.ratio) * (1 / level.ratio) if level.ratio else math.inf for level in self.levels]
        fall = begin = 0
        for k in range(len(self.rows)):
            if not k or not self.rows[k - 1].stage:
                begin = k
            spans.append(Span(fall, clock[begin], clock[k + 1]) if clock[begin] < clock[k + 1] < math.inf else None)
            fall += clock[k + 1] < clock[begin]
        return tuple(spans)

    @property
    def is_stochastic(self) -> bool:
        """Whether a run draws noise."""
        return any(row.noise for row in self.rows)

    # ------------------------------------------------------------ print and save

    def __repr__(self) -> str:
        return f"<Plan {self.name}, {self.cost()}>"

    def cost(self) -> str:
        """`model_calls` in words, as "1 model call"."""
        return f"{self.model_calls} model call{'s' if self.model_calls != 1 else ''}"

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        yield f"{self.name}: {self.cost()}, at most {self.max_stored} arrays stored, ends at t = {self.end.t:g}"
        symbols = [SYMBOLS[row.space] for row in self.rows]
        cells = [("row", "t", "alpha", "sigma", "next state")]
        for k, row in enumerate(self.rows):
            terms = [(w, f"x{i}") for i, w in row.states] + [(w, f"{symbols[j]}{j}") for j, w in row.answers]
            terms += [(row.noise, f"z{k}")] if row.noise else []
            sum_ = " ".join(f"{'-' if w < 0 else '+'} {abs(w):.6g}·{name}" for w, name in terms).removeprefix("+ ")
            t = f"{row.t:.0f}" if self.integer_times else f"{row.t:.6g}"
            mark = "  (stage)" if row.stage else ""
            cells.append((str(k), t, f"{row.alpha:.6f}", f"{row.sigma:.6f}", f"x{k + 1} = {sum_}{mark}"))
        widths = [max(len(cell[i]) for cell in cells) for i in range(4)]
        for cell in cells:
            yield "  ".join(text.rjust(width) for text, width in zip(cell, widths, strict=False)) + "  " + cell[4]

    def to_json(self, indent: int | None = None) -> str:
        """The plan as JSON, from which `from_json` restores every bit. docs/reference/plan-format.md specifies it."""
        document = {
            "format": FORMAT,
            "name": self.name,
            "integer_times": self.integer_times,
            "end": self.end._asdict(),
            "rows": [vars(row) for row in self.rows],
        } | ({} if self.fitted is None else {"fitted": vars(self.fitted)})
        return json.dumps(document, indent=indent, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The plan that `to_json` wrote. Raises ValueError for any other text."""
        try:
            document = json.loads(text, object_pairs_hook=_object)
            found = document.pop("format", None)
            if found == FORMAT:
                return cls(**_table(**document))
        except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
            raise ValueError(f"not the JSON of a plan: {error!r}; write one with Plan.to_json()") from error
        if found is None:
            raise ValueError("not the JSON of a plan: it has no format; write one with Plan.to_json()")
        raise ValueError(f"format is {found!r}; this version reads {FORMAT!r}")


def _last_uses(rows: Sequence[Row]) -> tuple[tuple[frozenset[int], frozenset[int]], ...]:
    state_use, answer_use = list(range(len(rows))), list(range(len(rows)))
    for k, row in enumerate(rows):
        for i, _ in row.states:
            state_use[i] = k
        for j, _ in row.answers:
            answer_use[j] = k
    dead: list[tuple[list[int], list[int]]] = [([], []) for _ in rows]
    for k, (state, answer) in enumerate(zip(state_use, answer_use, strict=True)):
        dead[state][0].append(k)
        dead[answer][1].append(k)
    return tuple([(frozenset(states), frozenset(answers)) for states, answers in dead])


def _terms(name: str, terms: Any) -> Terms:
    """A row's states or answers."""
    pairs = []
    for term in terms if isinstance(terms, (tuple, list)) else [None]:
        if not isinstance(term, (tuple, list)) or len(term) != 2:
            raise TypeError(f"{name} is {terms!r}; it must be pairs of an index and a weight, as ((0, 1.0),)")
        pairs.append((whole(f"an index in {name}", term[0], 0, math.inf), real(f"a weight in {name}", term[1])))
    indices = [index for index, _ in pairs]
    if sorted(set(indices)) != indices:
        raise ValueError(f"{name} must name each row once and rising, not {indices}")
    return tuple(pairs)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object. TypeError where a key comes twice: Python alone would keep the last value in silence."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise TypeError(f"an object names a key twice: {[key for key, _ in pairs]}")
    return found


# The keys of a plan's JSON, as signatures: a key that is missing or unknown is an error.
def _table(*, name: Any, integer_times: Any, end: Any, rows: Any, fitted: Any = None) -> dict[str, Any]:
    if not isinstance(rows, list):
        raise TypeError(f"rows is {rows!r}, no list")
    made = tuple(_row(k, **row) for k, row in enumerate(rows))
    told = None if fitted is None else Fitted(**fitted)
    return {"rows": made, "end": Level(**end), "integer_times": integer_times, "name": name, "fitted": told}


def _row(
    k: int, *, t: Any, alpha: Any, sigma: Any, states: Any, answers: Any, noise: Any, stage: Any, space: Any
) -> Row:
    try:
        return Row(t, alpha, sigma, states, answers, noise, stage, choice("space", space, SYMBOLS))
    except (TypeError, ValueError) as error:
        raise type(error)(f"row {k}: {error}") from error
