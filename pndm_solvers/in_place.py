"""Rows in place: a run in arrays that it uses again.

A plan tells which rows need which states and answers. So each can be given a register before the run begins, as a
compiler gives registers to variables, and a row then writes into an array that no later row reads. The sums are those
of `State.combined`, term by term and in the same order, so every bit is the same.

A row adds all but its newest answer before the network is called. After that it needs no more of its own state, which
the network may have, and write into. A network may also keep what it is given: then that array is left to it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from pndm_solvers.prediction import Prediction
from pndm_solvers.table import Table

if TYPE_CHECKING:
    from pndm_solvers.plan import Plan, State
    from pndm_solvers.run_options import Model

__all__ = ["Script", "run_in_place", "written"]


Places = tuple[tuple[int, int], ...]
Terms = tuple[tuple[int, float], ...]


class Instruction(NamedTuple):
    """One row on registers.

    Attributes
    ----------
    x, out:
        The state at which the network is called, and the one that is made.
    lent:
        What the network gets: x itself if no later row needs it, else a copy, in `out` if that has the right dtype.
    terms:
        The terms of the sum before the newest answer: (register, weight).
    newest, noise:
        The weight of the newest answer, or None where the row does without it; and that of the noise.
    answer:
        The register of what the row combines, where it is converted or needed later; else None.
    picture:
        The register of x̂_0, where that is clipped before it becomes what the row combines; else None.
    conversions:
        (p, q) of each conversion of the answer: none, one, or by way of the picture two.
    """

    x: int
    out: int
    lent: int
    terms: Terms
    newest: float | None
    noise: float
    answer: int | None
    picture: int | None
    conversions: tuple[tuple[float, float], ...]


class Script(NamedTuple):
    """A plan on registers.

    Attributes
    ----------
    instructions:
        One for each row.
    alive:
        Before each row and after the last, the states and the answers that are needed: (number, register).
    registers:
        Their number.
    """

    instructions: list[Instruction]
    alive: list[tuple[Places, Places]]
    registers: int


def written(plan: Table, prediction: Prediction, *, copied: bool) -> Script:
    """The script of a plan. With `copied` the network gets each state in another dtype.

    States, answers as the network gives them, and such copies have registers apart.
    """
    free: dict[str, list[int]] = {"states": [], "answers": [], "copies": []}
    states, answers, kinds, count = {0: 0}, {}, {}, 1
    made: list[Instruction] = []
    alive: list[tuple[Places, Places]] = [(((0, 0),), ())]
    needed: tuple[set[int], set[int]] = {0}, set()

    def take(kind: str) -> int:
        nonlocal count
        if free[kind]:
            return free[kind].pop()
        count += 1
        return count - 1

    for k, (row, (dead_states, dead_answers)) in enumerate(zip(plan.rows, plan.last_uses, strict=True)):
        out = take("states")
        older = [(answers[j], w) for j, w in row.answers if j < k]
        terms = [(states[i], w) for i, w in row.states] + older
        newest = row.answers[-1][1] if row.answers and row.answers[-1][0] == k else None
        lent = take("copies") if copied else states[k] if k in dead_states else out
        steps = prediction.conversions(row.space, row.alpha, row.sigma)
        kinds[k] = "states" if steps else "answers"
        dying = [("states", states[i]) for i in dead_states - {k}]
        dying += [(kinds[j], answers[j]) for j in dead_answers - {k} if j in answers]
        # The sum of a row whose copy lies in `out` is made after its answer is kept.
        early, late = ([], dying) if lent == out else (dying, [])
        for kind, register in early:
            free[kind].append(register)
        answer = take(kinds[k]) if steps or k not in dead_answers else None
        picture = take("states") if len(steps) > 1 else None
        made.append(Instruction(states[k], out, lent, tuple(terms), newest, row.noise, answer, picture, steps))
        states[k + 1] = out
        if answer is not None:
            answers[k] = answer
            late += [(kinds[k], answer)] if k in dead_answers else []
        late += [("states", states[k])] if k in dead_states else []
        late += [] if picture is None else [("states", picture)]
        late += [("copies", lent)] if copied else []
        for kind, register in late:
            free[kind].append(register)
        needed = (needed[0] | {k + 1}) - dead_states, (needed[1] | {k}) - dead_answers
        alive.append((tuple((i, states[i]) for i in needed[0]), tuple((j, answers[j]) for j in needed[1])))
    return Script(made, alive, count)


def script_of(plan: Plan, prediction: Prediction, *, copied: bool) -> Script:
    """The script of a plan, which is kept with it."""
    key = prediction.type, prediction.clip is None, copied
    if key not in plan.scripts:
        plan.scripts[key] = written(plan, prediction, copied=copied)
    return plan.scripts[key]


class Run:
    """A run on registers. The arrays of its first state are taken over, the others are made when they are needed."""

    def __init__(self, state: State) -> None:
        self.state, self.library, self.like = state, state.library, state.states[state.row]
        self.script = script = script_of(state.plan, state.prediction, copied=self.like.dtype != state.dtype)
        self.arrays: list[Any] = [None] * script.registers
        for places, own in zip(script.alive[state.row], (state.states, state.answers), strict=True):
            for number, register in places:
                self.arrays[register] = own[number]
        self.holders: list[Callable[[], int] | None] = [None] * script.registers
        self.scratch = self.library.scratch(self.like)
        self.matches = self.library.matcher(self.like)

    def rows(self, model: Model, passed: Sequence[Callable[[], Any]]) -> State:
        """The state at the end, or after the first row whose answer does not fit into the run's arrays."""
        plan, k = self.state.plan, self.state.row
        times = self.library.all_times(self.like, plan.times, self.state.dtype, integer=plan.integer_times)
        fits, instructions = True, self.script.instructions
        while fits and k < len(instructions):
            fits = self.row(k, instructions[k], model, times[k])
            k += 1
            for call in passed:
                call()
        states, answers = ({n: self.arrays[place] for n, place in places} for places in self.script.alive[k])
        return self.state.at(k, states, answers)

    def row(self, k: int, row: Instruction, model: Model, t: Any) -> bool:
        """One row; False where its answer did not fit, and what it made are arrays apart."""
        ours, arrays, state, scratch = self.library, self.arrays, self.state, self.scratch
        place, to, lent, terms, newest, noise, keeps, shows, steps = row
        x, out, used, picture = arrays[place], self.writable(to), None, None
        if lent != to:
            self.begin(out, terms)
        if steps and keeps is not None:
            used = self.writable(keeps)
            ours.scale(x, steps[-1][0], used)
        if shows is not None:
            picture = self.writable(shows)
            ours.scale(x, steps[0][0], picture)
        if lent != place:
            self.copy(lent, x)
        x = arrays[lent]
        count = self.holders[lent]
        if count is None:
            count = self.holders[lent] = ours.holders(x)
        alone = count()
        answer = model(ours.alias(x), t, **state.condition)
        if count() > alone:  # kept by the network, or its answer
            arrays[lent] = self.holders[lent] = None
        if lent == to:
            out = self.writable(to)
            self.begin(out, terms)

        fits = self.matches(answer) or self.fits(k, answer, out)
        add = ours.add if fits else self.sum
        for number, (_, weight) in enumerate(steps):
            answer = add(picture if shows is not None and not number else used, answer, weight, scratch)
            if state.prediction.clip is not None and not number:
                answer = (ours.clip_in_place if fits else ours.clip)(answer, state.prediction.bound)
        if keeps is not None:
            arrays[keeps] = answer = answer if steps else self.kept(keeps, answer)
        last = [] if newest is None else [(answer, newest)]
        if noise:
            last.append((state.drawn(k, out), noise))
        if not fits:
            last = [(out, 1.0), *last] if terms else last
            arrays[to] = ours.combine([term for term, _ in last], [weight for _, weight in last], out.dtype)
            return False
        if last and not terms:
            self.first(out, *last.pop(0))
        for term, weight in last:
            add(out, term, weight, scratch)
        return True

    def fits(self, k: int, answer: Any, out: Any) -> bool:
        """Whether sums with an answer of row k can be made in place. Raises for what is no answer."""
        if not self.library.alike(answer, out):
            self.state.at(k, {k: out}, {}).check_answer(answer)
        return self.library.fits(answer, out)

    def begin(self, out: Any, terms: Terms) -> None:
        """The sum without its newest answer, into `out`."""
        if terms:
            arrays, add, scratch = self.arrays, self.library.add, self.scratch
            (place, weight), *others = terms
            self.first(out, arrays[place], weight)
            for place, weight in others:
                add(out, arrays[place], weight, scratch)

    def first(self, out: Any, x: Any, weight: float) -> None:
        """weight·x into `out`, with the rounding of its dtype."""
        if x.dtype != out.dtype:  # an answer of fewer bits
            self.library.fill(out, x)
            x = out
        self.library.scale(x, weight, out)

    def copy(self, register: int, x: Any) -> None:
        """A copy of the state for the network."""
        if self.arrays[register] is None:
            self.arrays[register] = self.library.copy(x, self.state.dtype)
        else:
            self.library.fill(self.arrays[register], x)

    def sum(self, total: Any, x: Any, weight: float, scratch: Any) -> Any:
        """Total + weight·x, an array apart, which holds gradients."""
        return self.library.combine([total, x], [1.0, weight], total.dtype)

    def writable(self, register: int) -> Any:
        """The array of a state's register, to be written into."""
        array = self.arrays[register]
        if array is None:
            array = self.arrays[register] = self.library.empty_like(self.like)
            self.holders[register] = None
        return array

    def kept(self, register: int, answer: Any) -> Any:
        """The network's answer in a register: a copy, since a network may write into its memory again."""
        own = self.arrays[register]
        if own is None or own.dtype != answer.dtype or self.library.records_gradients(answer):
            return self.library.copy(answer)
        self.library.fill(own, answer)
        return own


def run_in_place(model: Model, state: State, passed: Sequence[Callable[[], Any]]) -> State:
    """The run from `state`, whose arrays nobody else holds, to its end; `passed` are called after each row.

    It ends earlier, and leaves the rest to `State.combined`, where a sum in place is none: the library cannot write
    into its arrays, states have less than 32 bits, pictures are thresholded, or an answer carries a gradient.
    """
    if state.done or state.prediction.threshold is not None:
        return state
    ours, x = state.library, state.states[state.row]
    if not all(map(ours.writes_again, state.states.values())) or any(
        not ours.fits(e, x) for e in state.answers.values()
    ):
        return state
    return Run(state).rows(model, passed)
