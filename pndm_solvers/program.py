"""Writing rows: what a solver's method is written with, and what turns it into a `Plan`.

A method speaks of levels and of means of ε; a program turns that into the weights of states and
answers that rows are made of.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from pndm_solvers.grid import Grid
from pndm_solvers.plan import Plan, Row
from pndm_solvers.schedule import Level
from pndm_solvers.transfer import transfer_weights

__all__ = ["Program"]


@dataclass
class _Draft:
    """A row while it is written: the next state is Σ states·x + Σ answers·ε + noise·z."""

    level: Level
    states: dict[int, float] = field(default_factory=dict)
    answers: dict[int, float] = field(default_factory=dict)
    noise: float = 0.0
    stage: bool = False

    def add(self, states: Mapping[int, float], answers: Mapping[int, float]) -> None:
        for mine, more in ((self.states, states), (self.answers, answers)):
            for index, weight in more.items():
                mine[index] = mine.get(index, 0.0) + weight


class Program:
    """The rows written so far on one grid.

    State 0 is what the caller hands in. Each move asks the network at the newest state, row k at
    state k, and makes state k + 1.
    """

    def __init__(self, grid: Grid) -> None:
        self.grid = grid
        self.levels = [grid.levels[0]]
        self._drafts: list[_Draft] = []

    @property
    def newest(self) -> int:
        """The newest state's number, and so the number of the row that the next move writes."""
        return len(self._drafts)

    def transfer(
        self,
        base: int,
        epsilon: Mapping[int, float],
        to: Level,
        *,
        sigma: float | None = None,
        noise: float = 0.0,
        stage: bool = False,
    ) -> None:
        """The next state is φ(x_base, Σ weight·ε, t_base, t_to), and noise·z.

        `epsilon` maps rows to weights that sum to 1. `sigma` is how much ε remains where noise
        takes the place of the rest: √(σ² − noise²), DDIM's eq. (12). `stage` marks a state that is
        not on the solution's path.
        """
        here, target = self.levels[base], to if sigma is None else to._replace(sigma=sigma)
        draft = self._begin(noise, stage)
        if here.alpha > 0:
            a, b = transfer_weights(here, target)
            draft.add({base: a}, {})
            for row, weight in epsilon.items():
                draft.add(*self._mean(row, picture=0.0, epsilon=weight * b))
        else:
            # x_t is pure noise and holds no picture: there the rows' pictures are averaged instead,
            # x_s = α_s·x̂_0 + (σ_s/σ_t)·x_t, which is φ's limit for the same x̂_0.
            draft.add({base: target.sigma / here.sigma}, {})
            for row, weight in epsilon.items():
                draft.add(*self._mean(row, picture=weight * target.alpha, epsilon=0.0))
        self._end(draft, to)

    def classical(self, base: int, epsilon: Mapping[int, float], to: Level, *, stage: bool = False) -> None:
        """The next state is x_base + (t_to − t_base)·Σ weight·dx/dt, on the raw ODE.

        dx/dt = α'(t)·x̂_0 + σ'(t)·ε is the probability-flow ODE, eq. (13) of Song et al. (2021).
        """
        draft = self._begin(0.0, stage)
        draft.add({base: 1.0}, {})
        for row, weight in epsilon.items():
            step = weight * (to.t - self.levels[base].t)
            alpha_rate, sigma_rate = self.grid.schedule.rates(self.levels[row].t)
            draft.add(*self._mean(row, picture=step * alpha_rate, epsilon=step * sigma_rate))
        self._end(draft, to)

    def _mean(self, row: int, picture: float, epsilon: float) -> tuple[dict[int, float], dict[int, float]]:
        """picture·x̂_0 + epsilon·ε of one row, as weights of its state and of its answer.

        A row's answer is ε, and x̂_0 = (x − σ·ε)/α; but where α = 0 it is x̂_0, and ε = x/σ.
        """
        _, alpha, sigma = self.levels[row]
        if alpha == 0:
            return {row: epsilon / sigma}, {row: picture}
        return {row: picture / alpha}, {row: epsilon - picture * sigma / alpha}

    def _begin(self, noise: float, stage: bool) -> _Draft:
        return _Draft(self.levels[-1], noise=noise, stage=stage)

    def _end(self, draft: _Draft, to: Level) -> None:
        draft.states = {k: w for k, w in draft.states.items() if w}
        draft.answers = {k: w for k, w in draft.answers.items() if w}
        self._drafts.append(draft)
        self.levels.append(to)

    def plan(self, name: str) -> Plan:
        """The finished table, without the rows whose model call would have no effect."""
        drafts = _without_idle_rows(self._drafts)
        table = self.grid.schedule.num_train_timesteps is not None
        return Plan(
            rows=tuple(
                Row(
                    *draft.level,
                    states=tuple(sorted(draft.states.items())),
                    answers=tuple(sorted(draft.answers.items())),
                    noise=draft.noise,
                    stage=draft.stage,
                )
                for draft in drafts
            ),
            end=self.levels[-1],
            integer_times=table and all(float(draft.level.t).is_integer() for draft in drafts),
            name=name,
        )


def _without_idle_rows(drafts: list[_Draft]) -> list[_Draft]:
    """Takes out each row whose answer nobody uses, and whose state nobody else does.

    What it makes is then made one row earlier, without asking the network at its own state. So a
    tableau whose last stage is the next step's first (first same as last) costs no call for it.
    """
    rows = dict(enumerate(drafts))
    uses = Counter(("answer", j) for draft in drafts for j in draft.answers)
    uses.update(("state", i) for draft in drafts for i in draft.states)
    for k in reversed(range(1, len(drafts))):
        idle, before = rows[k], rows[k - 1]
        if uses["answer", k] or uses["state", k] > (k in idle.states) or before.noise:
            continue
        del rows[k]
        scale = idle.states.get(k, 0.0)
        made = _Draft(before.level, noise=idle.noise, stage=idle.stage)
        made.add({i: w for i, w in idle.states.items() if i != k}, idle.answers)
        if scale:
            made.add(
                {i: scale * w for i, w in before.states.items()}, {j: scale * w for j, w in before.answers.items()}
            )
        for draft, count in ((idle, -1), (before, -1), (made, 1)):
            for kind, terms in (("state", draft.states), ("answer", draft.answers)):
                for index in terms:
                    uses[kind, index] += count
        rows[k - 1] = made
    number = {k: n for n, k in enumerate(rows)}
    for draft in rows.values():
        draft.states = {number[i]: w for i, w in draft.states.items()}
        draft.answers = {number[j]: w for j, w in draft.answers.items()}
    return list(rows.values())
