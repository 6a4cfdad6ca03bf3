"""Runs that share a scheduler: each is found by the sample that its last step returned.

diffusers hands a scheduler one step at a time and never names the run. So the scheduler keeps, for each sample that it
returned, the position of that sample's run. A run is forgotten with its sample.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import zip_longest
from typing import Any

import numpy as np
from torch import Tensor

from pndm_solvers.adapters.diffusers.by_tensor import ByTensor
from pndm_solvers.adapters.diffusers.lines import Course
from pndm_solvers.arguments import real
from pndm_solvers.plan import Plan
from pndm_solvers.solver import Solver
from pndm_solvers.table import Row

__all__ = ["Position", "Runs", "Timetable", "abridged", "with_last_look"]

# In the place of a run: two unfinished ones took the same sample of the caller's, which then names neither.
SEVERAL = object()


@dataclass
class Timetable:
    """What one `set_timesteps` laid down, and the progress of the runs on it."""

    solver: Solver
    # For runs that begin further down: one call for each time that is left.
    continuation: Solver
    plan: Plan
    end: dict[str, Any]
    # The times at which the network is asked, mostly those of the plan's levels.
    asked: tuple[float, ...]
    begin_index: int | None = None
    stepped: int | None = None  # the index after that of the newest step
    # The newest run that has not ended: it owns a sample that was changed between two steps.
    newest: Position | None = None
    unfinished: set[object] = field(default_factory=set)
    begun: set[int] = field(default_factory=set)  # where runs began
    _courses: dict[tuple[int, Solver], Course] = field(default_factory=dict)

    @cached_property
    def course(self) -> Course:
        """That of a run from the first time on, by the table's own method."""
        return Course(self.plan, 0, range(self.plan.model_calls))

    @cached_property
    def memoryless(self) -> bool:
        """Whether each row needs no more than its own sample and answer."""
        return all({i for i, _ in row.states + row.answers} <= {k} for k, row in enumerate(self.plan.rows))

    def entries(self, t: float) -> list[int]:
        """The model calls at the time `t`, which may have been rounded to float32."""
        return [i for i, time in enumerate(self.asked) if t in (time, float(np.float32(time)))]

    def has(self, times: Tensor) -> bool:
        """Whether the table has these times, one after the other. Their dtype may have rounded them."""
        values, rounding = times.detach().cpu().double().numpy(), 1e-6 if times.dtype.itemsize >= 4 else 1e-2
        count, asked = len(values), np.array(self.asked)
        starts = range(len(asked) - count + 1) if values.ndim == 1 and count else ()
        return any(np.allclose(asked[i : i + count], values, rtol=rounding, atol=0) for i in starts)

    def solver_from(self, begin: int) -> Solver:
        """The method of a run that begins at an index of the times."""
        return self.continuation.from_step(begin) if begin else self.solver

    def copied(self) -> Timetable:
        """For a copy of the scheduler: its runs go on independently."""
        table = replace(self, unfinished=set(self.unfinished), begun=set(self.begun), _courses={**self._courses})
        table.newest = self.newest and replace(self.newest, table=table)
        return table

    def course_from(self, begin: int, solver: Solver) -> Course:
        """The solver's course on the times from `begin` on.

        Where `begin` lies within Runge–Kutta steps, times come twice. The first answer is then not used.
        """
        if begin == 0 and (solver is self.solver or solver == self.solver):
            return self.course
        if (begin, solver) not in self._courses:
            times = self.plan.times[begin:]
            # Integers stay integers, so that no row lies between two trained times.
            distinct = np.array(list(dict.fromkeys(times)), np.int64 if self.plan.integer_times else np.float64)
            rows = [None if t == after else distinct.tolist().index(t) for t, after in zip_longest(times, times[1:])]
            plan = solver.plan(timesteps=distinct, **self.end)
            looks = plan.model_calls == len(distinct) - 1 and distinct[-1] == plan.end.t
            self._courses[begin, solver] = Course(with_last_look(plan) if looks else plan, begin, rows)
        return self._courses[begin, solver]


@dataclass(eq=False, slots=True)
class Position:
    """A run between two steps; never changed."""

    table: Timetable
    course: Course
    entry: int  # the index of the next time
    # What later rows need, without the newest sample, which the caller holds.
    states: Mapping[int, Any] = field(default_factory=dict)
    answers: Mapping[int, Any] = field(default_factory=dict)
    run: object = field(default_factory=object)  # the run's identity
    # Those of these arrays, where there are any and they have one.
    shape: Any = None
    dtype: Any = None


class Runs:
    """The runs on one scheduler.

    Attributes
    ----------
    table:
        What the last `set_timesteps` laid down, or None.
    """

    def __init__(self) -> None:
        self.table: Timetable | None = None
        self._tables: ByTensor[Timetable] = ByTensor()  # by the times that were handed out
        self._positions: ByTensor[Position] = ByTensor()  # by the sample that was handed out
        # By a sample that the caller gave in the place of a draw: the run that took it, or SEVERAL.
        self._given: ByTensor[object] = ByTensor()

    @property
    def current(self) -> Timetable:
        """The last table. Raises ValueError where there is none."""
        if self.table is None:
            raise ValueError("there are no times yet; call set_timesteps first")
        return self.table

    def lay_down(self, times: Tensor, table: Timetable) -> None:
        """Registers the `times` that are handed out, and makes `table` the current one."""
        earlier = self.table
        if earlier is not None and earlier.plan is table.plan:
            table.course = earlier.course  # whose lines are laid down already
        self._tables[times] = table
        self.table = table

    def is_one_each(self, timestep: Any, sample: Tensor) -> bool:
        """Whether `timestep` is a time for each sample, and steps need no more than their own samples."""
        several = isinstance(timestep, Tensor) and timestep.ndim == 1 and len(timestep) == len(sample) > 1
        # An expanded time, with strides of 0, is one.
        return several and timestep.stride() != (0,) and self.table is not None and self.table.memoryless

    def position(self, timestep: Any, sample: Tensor, solver: Solver | None) -> Position:
        """Where the run of this sample stands, or a new run. ValueError for a time at which no run can step now."""
        known = self._positions.get(sample)
        if known is not None and self._given.get(sample) is SEVERAL:
            known = None
        table, entries = self._entry(timestep) or self._called_at(timestep, known)
        if known is not None and known.table is table and entries == [known.entry]:
            return known
        if not entries:
            raise ValueError(f"timestep is {float(timestep):.7g}, which is none of this run's: {abridged(table.asked)}")
        if table.memoryless:
            course = table.course if solver is None else table.course_from(0, solver)
            return Position(table, course, entries[0])
        at = known if known is not None and known.table is table else table.newest
        if at is not None and at.entry in entries:
            if at is not known and len(table.unfinished) > 1:
                raise ValueError(
                    f"{len(table.unfinished)} runs on this scheduler have not ended, and step did not return this "
                    f"sample for t = {table.asked[at.entry]:g}, so its run cannot be identified; call "
                    f"set_timesteps before each run, pass step the sample that it returned, or give each run a copy "
                    f"of the scheduler"
                )
            return at
        # The first run may begin anywhere; later ones at the top, where an earlier one began, or at begin_index.
        beginnings = {0, table.begin_index, *table.begun} & set(entries) if table.begun else set(entries)
        if not beginnings:
            expected = "" if at is None else f", but the run's next is {table.asked[at.entry]:.7g}"
            raise ValueError(
                f"timestep is {float(timestep):.7g}{expected}; a new run begins at {table.asked[0]:g}, where an "
                f"earlier run began, or at set_begin_index; after set_timesteps the first run may begin anywhere"
            )
        begin = table.begin_index if table.begin_index in beginnings else min(beginnings)
        assert begin is not None  # None is no entry
        table.begun.add(begin)
        return Position(table, table.course_from(begin, table.solver_from(begin)), begin)

    def _entry(self, timestep: Any) -> tuple[Timetable, list[int]] | None:
        """The table and the entry of a time that is one of the `timesteps` handed out, as a loop over them has it."""
        if type(timestep) is not Tensor or timestep.ndim or (times := timestep._base) is None:
            return None
        table = self._tables.get(times)
        if table is None or timestep.dtype is not times.dtype or not times.is_contiguous():
            return None
        entry = int(timestep.storage_offset() - times.storage_offset())
        return (table, [entry]) if 0 <= entry < len(times) else None

    def _called_at(self, timestep: Any, known: Position | None) -> tuple[Timetable, list[int]]:
        """The table that `timestep` belongs to, and the entries of that table at this time."""
        if isinstance(timestep, Tensor):
            if timestep.ndim and timestep.numel() != 1 and any(timestep.stride()):  # an expanded time has strides of 0
                raise ValueError(
                    f"timestep has {timestep.numel()} entries; pass the one time of the whole batch, or, "
                    f"where the method needs no earlier answers, as DDIM and DDPM, one for each sample"
                )
            # A time out of `timesteps` is found by its place in memory. So no value is read from an accelerator, a
            # time that comes twice has one entry, and a run goes on after its scheduler has been given other times:
            # its own live as long as a view of them.
            place = timestep.data_ptr()
            for times, table in self._tables.items():
                entry, rest = divmod(place - times.data_ptr(), times.dtype.itemsize)
                if 0 <= entry < times.numel() and not rest and times.device == timestep.device:
                    return table, [entry]
            timestep = timestep.flatten()[0]
        t = real("timestep", timestep, "the next of the scheduler's timesteps")
        if known is not None and known.entry in known.table.entries(t):
            return known.table, [known.entry]
        return self.current, self.current.entries(t)

    def remember(self, sample: Tensor, at: Position, given: Tensor | None = None) -> None:
        """Keeps the position `at` for the `sample` that a step returns, and for the caller's own that was `given`."""
        table = at.table
        if table.memoryless:
            return
        if at.entry < table.plan.model_calls:
            table.newest = self._positions[sample] = at
            table.unfinished.add(at.run)
            if given is not None:
                self._positions[given] = at
                self._given[given] = at.run if self._is_alone(at, self._given.get(given)) else SEVERAL
        else:
            table.unfinished.discard(at.run)
            if table.newest is not None and table.newest.run is at.run:
                table.newest = None

    @staticmethod
    def _is_alone(at: Position, other: object) -> bool:
        """Whether the run at `at` is the only unfinished one that took a given sample, which `other` took before."""
        return other is not SEVERAL and (other is at.run or other not in at.table.unfinished)


def with_last_look(plan: Plan) -> Plan:
    """The plan and a step of length 0 at its end's own level, which is the last time of its grid.

    diffusers makes that step, and clips the picture there; and pipelines count on a time for each step.
    """
    last = Row(*plan.end, states=((plan.model_calls, 1.0),), answers=())
    integer_times = plan.integer_times and float(plan.end.t).is_integer()
    return replace(plan, rows=(*plan.rows, last), integer_times=integer_times)


def abridged(times: Sequence[float]) -> str:
    """The times in a few words, for a message."""
    return ", ".join(f"{t:g}" for t in times) if len(times) < 9 else f"{times[0]:g}, {times[1]:g}, … {times[-1]:g}"
