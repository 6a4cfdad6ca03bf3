"""What watches a run: progress, checks for finite numbers, the points of the solution, and the caller's callbacks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pndm_solvers.arguments import function
from pndm_solvers.arrays import library
from pndm_solvers.latents import converted
from pndm_solvers.prediction import Prediction

if TYPE_CHECKING:
    from pndm_solvers.plan import State

__all__ = ["Callback", "CheckFinite", "Observer", "Progress", "Step", "Trajectory", "callbacks"]

Callback = Callable[["Step"], Any]


@dataclass(frozen=True, eq=False, repr=False)
class Step:
    """What a callback receives after a model call.

    Attributes
    ----------
    before, state:
        The run before and after this row.
    """

    before: State
    _answer: Any
    state: State

    def __repr__(self) -> str:
        return f"<Step of {self.state.plan.name}, row {self.row}, t = {self.t:g}>"

    @property
    def row(self) -> int:
        """Which row was run."""
        return self.before.row

    @property
    def t(self) -> float:
        """The time at which the network was called."""
        return self.before.plan.rows[self.row].t

    @property
    def x(self) -> Any:
        """The state at which it was called: a copy, which may be written into."""
        return self.before.x

    @property
    def answer(self) -> Any:
        """What the row combines: its `space`, mostly ε. A copy, which may be written into."""
        return self.before.library.copy(self._answer)

    @property
    def x0(self) -> Any:
        """The preview x̂_0 = (x − σ·ε)/α: the picture that the network sees in x, computed when read."""
        row = self.before.plan.rows[self.row]
        return converted(self.before.library, Prediction(row.space), "sample", self.x, self.answer, row.level)


class Observer:
    """A callback of a run with hooks at its other moments. A subclass overrides those that it needs.

    Attributes
    ----------
    needs_steps:
        Whether it is called with the `Step` of each row. If no observer of a run needs them, the run goes in place, and
        `passed` may be called in the place of a Step.
    """

    needs_steps = True

    def begin(self, state: State) -> State:
        """Called before the first model call; returns the state from which to go on."""
        return state

    def answered(self, state: State, answer: Any) -> None:
        """Called with each `answer` of the network at `state`, as the network gave it."""

    def __call__(self, step: Step) -> None:
        """Called after each row."""

    def passed(self) -> None:
        """Called after each row whose Step nobody needs."""

    def finished(self, sample: Any) -> None:
        """Called with the sample."""

    def end(self) -> None:
        """Called once the run is over, also where it ends with an error."""


class Plain(Observer):
    """A function of the caller's, as an observer."""

    def __init__(self, called: Callback) -> None:
        self.called = called

    def __call__(self, step: Step) -> None:
        self.called(step)


def callbacks(given: Callback | Sequence[Callback] | None) -> list[Observer]:
    """The argument `callback=` as a list. TypeError for a class, which would be called like a function."""
    several: list[Any] = list(given) if isinstance(given, (list, tuple)) else [] if given is None else [given]
    for callback in several:
        function("callback", callback, "callback(step)")
        if isinstance(callback, type):
            raise TypeError(f"callback is the class {callback.__name__}; pass an object, as {callback.__name__}()")
    return [callback if isinstance(callback, Observer) else Plain(callback) for callback in several]


class Progress(Observer):
    """A bar of tqdm's, one tick a model call."""

    needs_steps = False

    def begin(self, state: State) -> State:
        from tqdm.auto import tqdm

        self.bar = tqdm(total=state.plan.model_calls, initial=state.row, unit="call", desc=state.plan.name)
        return state

    def __call__(self, step: Step) -> None:
        self.bar.update()

    def passed(self) -> None:
        self.bar.update()

    def end(self) -> None:
        self.bar.close()


class CheckFinite(Observer):
    """FloatingPointError for a first state or a sample that is not finite; with `each`, for every answer and state.

    Reading a number waits for the device. So without `each` only the first state and the sample are read.
    """

    def __init__(self, each: bool) -> None:
        self.each = self.needs_steps = each

    def begin(self, state: State) -> State:
        x = state.states[state.row]
        if self.each and not state.library.has_numbers(x):
            raise ValueError("check_finite is True, but x has no numbers that can be read: compiled, mapped or meta")
        if not state.library.is_finite(x):
            raise FloatingPointError("the state x is not finite at the start; check_finite=None runs it all the same")
        return state

    def answered(self, state: State, answer: Any) -> None:
        if self.each:  # before it is clipped, which would hide an infinity
            self._check(answer, "the network's answer", state)

    def __call__(self, step: Step) -> None:
        if self.each:
            self._check(step.state.states[step.state.row], "the state made", step.before)

    def finished(self, sample: Any) -> None:
        self._check(sample, "the sample")

    @staticmethod
    def _check(x: Any, what: str, at: State | None = None) -> None:
        if not library(x).is_finite(x):
            where = "" if at is None else f" at row {at.row}, t = {at.plan.rows[at.row].t:g},"
            raise FloatingPointError(
                f"{what}{where} is not finite; with check_finite=True a run stops at the row where that begins. Mostly "
                f"the network overflows, in half precision say, or is called at times that it was not trained for"
            )


class Trajectory(Observer):
    """Collects all points of the solution, the first state and the sample included, in `points`."""

    def begin(self, state: State) -> State:
        self.points = [state.x]
        return state

    def __call__(self, step: Step) -> None:
        if not step.before.plan.rows[step.row].stage:
            self.points.append(step.state.x)
