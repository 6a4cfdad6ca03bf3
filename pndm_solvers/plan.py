"""A plan: the immutable table to which a solver compiles its method.

Row k means, in exact arithmetic,

    ε_k     = model(x_k, t_k)                                        one model call
    x_{k+1} = Σ_i A[k,i]·x_i + Σ_j B[k,j]·ε_j + c_k·z_k    (i, j ≤ k; z_k ~ N(0, I))

x_0 is what the caller hands in, the last state is the sample. Whatever the network predicts is
turned into ε first. At a row with α = 0, where ε tells nothing about the picture, ε_k stands for x̂_0.
A plan may come from a solver, from a file, or from a fit: nothing that runs it asks.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from pndm_solvers import execute
from pndm_solvers.arguments import boolean, real, whole
from pndm_solvers.prediction import Prediction
from pndm_solvers.schedule import Level

__all__ = ["Plan", "Row"]

Terms = tuple[tuple[int, float], ...]
FORMAT = "pndm_solvers.plan/1"


@dataclass(frozen=True)
class Row:
    """One model call and the state that is made after it.

    Attributes
    ----------
    t, alpha, sigma:
        The level of the state at which the network is asked.
    states, answers:
        The non-zero entries of this row of A and of B: (index, weight), indices rising.
    noise:
        c_k ≥ 0, the standard deviation of the fresh noise.
    stage:
        Whether the state made is a Runge–Kutta stage, not a point of the solution.

    Raises TypeError for what is no number or no such pairs, and ValueError for numbers that are not finite, levels and
    deviations below 0, indices that do not rise, and where neither states nor answers make anything.
    """

    t: float
    alpha: float
    sigma: float
    states: Terms
    answers: Terms
    noise: float = 0.0
    stage: bool = False

    def __post_init__(self) -> None:
        # As Python's own numbers and tuples: what arrays hold could not be written as JSON, nor hashed.
        checked: dict[str, Any] = {name: real(name, getattr(self, name)) for name in ("t", "alpha", "sigma", "noise")}
        checked |= {"states": _terms("states", self.states), "answers": _terms("answers", self.answers)}
        checked |= {"stage": boolean("stage", self.stage)}
        for name, value in checked.items():
            object.__setattr__(self, name, value)
        if min(self.alpha, self.sigma, self.noise) < 0:
            raise ValueError(f"alpha, sigma and noise must be not negative: {self}")
        if not self.states and not self.answers:
            raise ValueError(f"a state is made of nothing where states and answers are both empty: {self}")

    @property
    def wanted(self) -> str:
        """What this row combines: "epsilon", or "sample" where α = 0."""
        return "epsilon" if self.alpha > 0 else "sample"


@dataclass(frozen=True, repr=False)
class Plan:
    """A sampler as a table. Compared by its numbers; `name` is only for people.

    Attributes
    ----------
    rows:
        One a model call, in order.
    end:
        The level of the sample.
    integer_times:
        Whether the network is handed its times as integers.
    last_uses:
        For each row, the states and the answers that no later row needs.

    Raises ValueError for a row that refers to what does not exist yet, and an `end` that is not finite; TypeError for
    what is no `Row` or no `Level`.
    """

    rows: tuple[Row, ...]
    end: Level
    integer_times: bool = False
    name: str = field(default="plan", compare=False)
    # Made with the plan, not when it is first asked for: so torch.compile has nothing to remember amidst a run.
    last_uses: tuple[tuple[frozenset[int], frozenset[int]], ...] = field(init=False, compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.rows, (list, tuple, Iterator)):
            raise TypeError(f"rows is a {type(self.rows).__name__}; it must be a list or tuple of Row")
        if not isinstance(self.end, Level):
            raise TypeError(f"end is a {type(self.end).__name__}; it must be a Level, as schedule.level(t) gives")
        if not isinstance(self.name, str):
            raise TypeError(f"name is {self.name!r}; it must be a text")
        end = Level(*(real(f"{name} of end", value) for name, value in self.end._asdict().items()))
        if min(end.alpha, end.sigma) < 0:
            raise ValueError(f"alpha and sigma of end must be not negative: {end}")
        integer_times, rows = boolean("integer_times", self.integer_times), tuple(self.rows)
        for k, row in enumerate(rows):
            if not isinstance(row, Row):
                raise TypeError(f"rows[{k}] is a {type(row).__name__}; it must be a Row")
            for name, terms in (("states", row.states), ("answers", row.answers)):
                if terms and terms[-1][0] > k:
                    raise ValueError(f"row {k}: {name} must name rows 0 to {k}, not {terms[-1][0]}")
            if integer_times and not (row.t.is_integer() and abs(row.t) < 2**31):
                raise ValueError(f"row {k}: t = {row.t!r} in a plan of integer times")
        values = {"rows": rows, "end": end, "integer_times": integer_times, "last_uses": _last_uses(rows)}
        for name, value in values.items():
            object.__setattr__(self, name, value)

    # ------------------------------------------------------------- what it costs

    @property
    def model_calls(self) -> int:
        """How many times the network is asked."""
        return len(self.rows)

    @property
    def times(self) -> tuple[float, ...]:
        """The time of each model call."""
        return tuple(row.t for row in self.rows)

    @cached_property
    def levels(self) -> tuple[Level, ...]:
        """The level of each state, from the one handed in to the sample."""
        return (*(Level(row.t, row.alpha, row.sigma) for row in self.rows), self.end)

    @cached_property
    def max_stored(self) -> int:
        """The most arrays of the state's shape that a run holds at once.

        Counted while a row's state is made: the states and answers that this row or a later one
        needs, the noise, and the new state itself. What the network and a conversion of its
        answer use in passing comes on top.
        """
        most, live = 1, 1
        for row, (states, answers) in zip(self.rows, self.last_uses, strict=True):
            live += 2  # the new answer and the new state
            most = max(most, live + (row.noise > 0))
            live -= len(states) + len(answers)
        return most

    @property
    def is_stochastic(self) -> bool:
        """Whether a run draws noise."""
        return any(row.noise for row in self.rows)

    # ------------------------------------------------------------------ running

    def start(
        self,
        x: Any,
        *,
        prediction: str | Prediction = "epsilon",
        seed: int | Sequence[int] | None = None,
        generator: Any = None,
        state_dtype: Any = None,
    ) -> execute.State:
        """The state before the first model call, for a loop of the caller's own.

        `x` is `(B, …)`, floating. See `run` for the other arguments.
        """
        return execute.start(self, x, prediction=prediction, seed=seed, generator=generator, state_dtype=state_dtype)

    def advance(self, state: execute.State, answer: Any) -> execute.State:
        """The state after one row, given the network's `answer` at `(state.x, state.t)`, of x's shape.

        `state` itself is not changed, so any number of runs may go on from it. Raises ValueError for a
        state of another plan, one that is done, or an answer of another shape.
        """
        if not isinstance(state, execute.State):
            raise TypeError(f"state is a {type(state).__name__}; it must be what plan.start(x) or plan.advance gave")
        if state.plan is not self and state.plan != self:
            raise ValueError(f"the state is of {state.plan!r}, not of {self!r}; advance it with its own plan")
        return execute.advance(state, answer)

    def run(
        self,
        model: execute.Model,
        x: Any,
        *,
        prediction: str | Prediction = "epsilon",
        seed: int | Sequence[int] | None = None,
        generator: Any = None,
        callback: Callable[[execute.Step], None] | None = None,
        progress: bool = False,
        trajectory: bool = False,
        check_finite: bool | None = False,
        state_dtype: Any = None,
        checkpoint: str | os.PathLike[str] | None = None,
    ) -> Any:
        """The sample, from the state `x` at the plan's first level.

        Parameters
        ----------
        model:
            Any callable `model(x, t)`: x `(B, …)`, t 1-D `(B,)` on x's library and device, integer
            where every time of the plan is whole; the answer has x's shape. What a model writes into the x that it
            is handed, or later into its answer's memory, does not touch the run. torch records a run for gradients
            unless it stands in `torch.no_grad()`.
        x:
            `(B, …)`, floating, NumPy, torch or of the array API; the result has its dtype and device. It is copied. One
            far smaller than its noise alone would be, on a variance-exploding schedule, is warned of.
        prediction:
            What the answer means: "epsilon", "sample", "v_prediction", "score", "flow", or a `Prediction`.
        seed, generator:
            Where a stochastic plan's noise comes from: see `NoiseSource`. Other plans draw none.
        callback:
            Called after each model call with a `Step`; `step.x0` is the preview x̂_0. What it returns is ignored.
        progress:
            Whether to show a bar (tqdm).
        trajectory:
            Return the list of all points of the solution, from `x` to the sample, instead.
        check_finite:
            True looks at each answer and state, and waits for the device each time; False looks at x and the sample
            alone, and None at nothing. While a function is compiled or mapped (jax.jit, torch.compile, vmap) there
            is nothing to look at: False is None there, and True an error.
        state_dtype:
            What states are kept in between rows: a dtype of x's library. By default x's own, but float32 where that
            has fewer bits, so that only x and the answers are rounded; x's own halves the memory.
        checkpoint:
            A file to which the run is written before the first and after each model call (see `State.save`; it waits
            for the device each time). Where the file is there, the run goes on from it and ends with the same bits
            as one that was never interrupted, given the same model, of which the file knows nothing; `callback`
            is told of the calls that are still made. A finished run's file gives the sample, without a call. The
            file stays. A state that is not finite is not written, unless check_finite is None. torch is not to
            record such a run for gradients, of which a file can hold nothing: call it in `torch.no_grad()`.

        Raises
        ------
        TypeError:
            For a state that is no floating array.
        ValueError:
            For an answer of another shape, kind or device, or a prediction that cannot be used at one of the plan's
            levels; for a checkpoint of another run (plan, `x`, prediction, seed or dtype), a damaged one, one of a
            stochastic plan without `seed`, one of a run that torch records, or one together with `trajectory`.
        FloatingPointError:
            For a sample that is not finite, and for a checkpoint that holds such numbers: see `check_finite`.
        OSError:
            For a checkpoint that cannot be read or written; before the first model call where that is known then.
        """
        return execute.run(
            self,
            model,
            x,
            prediction=prediction,
            seed=seed,
            generator=generator,
            callback=callback,
            progress=progress,
            trajectory=trajectory,
            check_finite=check_finite,
            state_dtype=state_dtype,
            checkpoint=checkpoint,
        )

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
        cells = [("row", "t", "alpha", "sigma", "next state")]
        for k, row in enumerate(self.rows):
            terms = [(w, f"x{i}") for i, w in row.states]
            terms += [(w, f"{'ε' if self.rows[j].alpha > 0 else 'x̂'}{j}") for j, w in row.answers]
            terms += [(row.noise, f"z{k}")] if row.noise else []
            sum_ = " ".join(f"{'-' if w < 0 else '+'} {abs(w):.6g}·{name}" for w, name in terms).removeprefix("+ ")
            t = f"{row.t:.0f}" if self.integer_times else f"{row.t:.6g}"
            mark = "  (stage)" if row.stage else ""
            cells.append((str(k), t, f"{row.alpha:.6f}", f"{row.sigma:.6f}", f"x{k + 1} = {sum_}{mark}"))
        widths = [max(len(cell[i]) for cell in cells) for i in range(4)]
        for cell in cells:
            yield "  ".join(text.rjust(width) for text, width in zip(cell, widths, strict=False)) + "  " + cell[4]

    def to_json(self, indent: int | None = None) -> str:
        """The plan as JSON, from which `from_json` restores every bit. `docs/plan-format.md` is its specification."""
        rows = [
            {"t": r.t, "alpha": r.alpha, "sigma": r.sigma, "states": r.states, "answers": r.answers,
             "noise": r.noise, "stage": r.stage}
            for r in self.rows
        ]  # fmt: skip
        document = {"format": FORMAT, "name": self.name, "integer_times": self.integer_times, "end": self.end._asdict()}
        return json.dumps(document | {"rows": rows}, indent=indent, allow_nan=False)

    @staticmethod
    def from_json(text: str | bytes) -> Plan:
        """The plan that `to_json` wrote. Raises ValueError for anything else."""
        try:
            document = json.loads(text, object_pairs_hook=_object)
            if not isinstance(document, dict):
                raise TypeError(f"{document!r} is no object")
            if (found := document.pop("format")) == FORMAT:
                return _plan(**document)
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise ValueError(f"not the JSON of a plan: {error!r}; write one with Plan.to_json()") from error
        raise ValueError(f"format is {found!r}; this version reads {FORMAT!r}")


def _last_uses(rows: Sequence[Row]) -> tuple[tuple[frozenset[int], frozenset[int]], ...]:
    state_use = {k: k for k in range(len(rows))}
    answer_use = {k: k for k in range(len(rows))}
    for k, row in enumerate(rows):
        state_use.update((i, k) for i, _ in row.states)
        answer_use.update((j, k) for j, _ in row.answers)
    dead: list[tuple[set[int], set[int]]] = [(set(), set()) for _ in rows]
    for kind, use in enumerate((state_use, answer_use)):
        for index, last in use.items():
            dead[last][kind].add(index)
    return tuple((frozenset(states), frozenset(answers)) for states, answers in dead)


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
    """A JSON object; of two values under one key Python would keep the last."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise TypeError(f"an object names a key twice: {[key for key, _ in pairs]}")
    return found


# What stands in a plan's JSON, and all of it: no name more and none less.
def _plan(*, name: Any, integer_times: Any, end: Any, rows: Any) -> Plan:
    if not isinstance(rows, list):
        raise TypeError(f"rows is {rows!r}, no list")
    return Plan(tuple(_row(k, **row) for k, row in enumerate(rows)), Level(**end), integer_times, name)


def _row(k: int, *, t: Any, alpha: Any, sigma: Any, states: Any, answers: Any, noise: Any, stage: Any) -> Row:
    try:
        return Row(t, alpha, sigma, states, answers, noise, stage)
    except (TypeError, ValueError) as error:
        raise type(error)(f"row {k}: {error}") from error
