"""What do float16 and bfloat16 cost a sample, beside the least that rounding x_T and each answer once must cost?

The answers of a float64 run on a ring of Gaussians are recorded, rounded once, and given to the same plan in half
precision: so the network itself amplifies nothing. Prints one Markdown table a dtype, of the largest over 64 samples:
the error against float64, and its bound; what of it is the library's own, beyond that of a float64 run on the rounded
x_T and answers, and its bound; and that when states too are kept in half precision. Fails where a bound is exceeded.

    python benchmarks/precision.py
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from tables import heading

from pndm_solvers import DDIMSolver, NoiseSchedule, Plan, Prediction, Solver, Step, initial_noise
from pndm_solvers.analytic import GaussianMixture
from pndm_solvers.methods import SOLVERS
from pndm_solvers.noise import NoiseSource
from pndm_solvers.orders import deterministic_solvers
from pndm_solvers.prediction import conversion

Float64 = NDArray[np.float64]
RING = GaussianMixture.ring()
HALVES = (torch.float16, torch.bfloat16)
CALLS = (10, 50)
COLUMNS = ("error", "bound", "ours", "bound of ours", "ours, states in half")
SEED = 0


class Measured(NamedTuple):
    """Of each number of the samples, how far it is off, and how far it may be.

    `error` is against the float64 run, `excess` against the float64 run on the rounded x_T and answers: what the
    library adds of its own, by its arithmetic and by rounding the sample.
    """

    error: Float64
    bound: Float64
    excess: Float64
    excess_bound: Float64


class Recorded(NamedTuple):
    """A float64 run: what was handed in, what the network answered, what became of it, and the states."""

    plan: Plan
    prediction: Prediction
    x: Float64
    answers: list[Float64]
    combined: list[Float64]
    states: list[Float64]


def record(plan: Plan, schedule: NoiseSchedule, prediction: str = "epsilon", samples: int = 64) -> Recorded:
    """The float64 run of `plan` with the ring's perfect network."""
    model = RING.model(schedule, prediction)
    x = initial_noise((samples, 2), seed=SEED) * plan.levels[0].sigma
    run = Recorded(plan, Prediction(prediction), x, [], [], [x])

    def answer(x: Any, t: Any) -> Any:
        run.answers.append(model(x, t))
        return run.answers[-1]

    def keep(step: Step) -> None:
        run.combined.append(step.answer)
        run.states.append(step.state.x)

    plan.run(answer, x, prediction=prediction, seed=SEED, callback=keep)
    return run


def measure(run: Recorded, dtype: torch.dtype, state_dtype: torch.dtype | None = None) -> Measured:
    """The run again in `dtype`, on the answers that were recorded, rounded."""

    def replay(x: torch.Tensor, answers: list[torch.Tensor], **options: Any) -> Float64:
        at = iter(answers)
        sample = run.plan.run(lambda x, t: next(at), x, prediction=run.prediction, seed=SEED, **options)
        return sample.double().numpy()

    x, *answers = (torch.from_numpy(values).to(dtype) for values in (run.x, *run.answers))
    sample = replay(x, answers, state_dtype=state_dtype)
    on_rounded = replay(x.double(), [answer.double() for answer in answers])
    inputs, own = bounds(run, dtype, state_dtype or torch.float32)
    return Measured(np.abs(sample - run.states[-1]), inputs + own, np.abs(sample - on_rounded), own)


def bounds(run: Recorded, dtype: torch.dtype, state_dtype: torch.dtype) -> tuple[Float64, Float64]:
    """The most by which each number of the sample may be off, to first order in the roundings.

    The first for rounding x_T and each answer to `dtype`, the second for the arithmetic between and for rounding the
    sample. The sample is linear in x_T and in the answers: going through the rows backwards gives how far it moves
    with each of them, and with each state; that, times what rounding moves there, is summed.
    """
    plan = run.plan
    of_states, of_answers = np.zeros(plan.model_calls + 1), np.zeros(plan.model_calls)
    of_states[-1] = 1.0
    inputs, own = np.zeros_like(run.x), np.zeros_like(run.x)
    for k in reversed(range(plan.model_calls)):
        row = plan.rows[k]
        for i, weight in row.states:
            of_states[i] += weight * of_states[k + 1]
        for j, weight in row.answers:
            of_answers[j] += weight * of_states[k + 1]
        # The row combines p·x + q·answer.
        p, q = conversion(run.prediction.type, row.space, row.alpha, row.sigma)
        of_states[k] += p * of_answers[k]
        inputs += abs(q * of_answers[k]) * rounding(run.answers[k], dtype)
        terms = [w * run.states[i] for i, w in row.states] + [w * run.combined[j] for j, w in row.answers]
        terms += [row.noise * NoiseSource(seed=SEED).draw(k, like=run.x)] if row.noise else []
        own += abs(of_states[k + 1]) * arithmetic(terms, state_dtype)
        if row.space != run.prediction.type:
            own += abs(of_answers[k]) * arithmetic([p * run.states[k], q * run.answers[k]], state_dtype)
    inputs += abs(of_states[0]) * rounding(run.x, dtype)
    return inputs, own + rounding(np.abs(run.states[-1]) + inputs + own, dtype)


def arithmetic(terms: list[Float64], dtype: torch.dtype) -> Float64:
    """Of Σ terms: each weight, product and sum is rounded to float32, noise as well, and what results to `dtype`."""
    total = np.abs(terms).sum(0)
    single = (len(terms) + 2) * torch.finfo(torch.float32).eps / 2 * total
    return single if dtype == torch.float32 else single + rounding(total, dtype)


def rounding(value: Float64, dtype: torch.dtype) -> Float64:
    """The most by which each number moves when it is rounded to `dtype`: half a unit in the last place."""
    info = torch.finfo(dtype)
    return info.eps / 2 * 2 ** np.floor(np.log2(np.maximum(np.abs(value), info.smallest_normal)))


def every_solver(schedule: NoiseSchedule) -> list[Solver]:
    registered = [make(schedule) for make in SOLVERS.values()]
    return list(dict.fromkeys([*registered, *deterministic_solvers(schedule), DDIMSolver(schedule, eta=0.5)]))


def main() -> None:
    schedule = NoiseSchedule.linear()
    print(heading())
    for dtype in HALVES:
        cells = [f"{calls} calls: {what}" for calls in CALLS for what in COLUMNS]
        print(f"\n| {str(dtype).removeprefix('torch.')} | " + " | ".join(cells) + " |\n|---|" + "---|" * len(cells))
        for solver in every_solver(schedule):
            figures = []
            for calls in CALLS:
                run = record(solver.plan(max_model_calls=calls), schedule)
                found = measure(run, dtype)
                for off, most in ((found.error, found.bound), (found.excess, found.excess_bound)):
                    assert np.all(off <= most), f"{solver.name} is off by {np.max(off / most):.3g} times its bound"
                figures += [*found, measure(run, dtype, dtype).excess]
            print(f"| {solver.name} | " + " | ".join(f"{figure.max():.1e}" for figure in figures) + " |", flush=True)


if __name__ == "__main__":
    main()
