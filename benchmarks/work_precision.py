"""How near to the right end do our sampler and its peers come at a budget of model calls, and how like the data?

Ours is the default, `PLMSSolver(schedule)` without options. The peers are the samplers of diffusers and of k-diffusion
in every configuration (`peers.py`), each on its own grid from its default start. A second column has them begin where
σ/α is 10. The problems are those of one set (`sets.py`): "choosing" may guide the choice of a default, "testing" has no
say in it. All run in one process, from the same starts.

Paired: the error of a sample is its root-mean-square distance to the end of the flow from the level where that run
began, at the end where it ends, noise-free or at the lowest trained level. Ours is run to the same end. In
distribution: SW², less its floor. Peers are picked on one half of the starts and compared on the other, with intervals
of 90 % over the starts that compare.

Results of peers and fine runs are kept in a folder, so a killed run goes on. Ours always runs anew. The script prints
Markdown.

    python benchmarks/work_precision.py choosing
    python benchmarks/work_precision.py testing
    python benchmarks/work_precision.py testing --problems hsc-64 --peers "k-diffusion heun karras"
    pytest benchmarks/work_precision.py --benchmark-only        times a run of ours and of each named peer
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import networks
import numpy as np
import pytest
import torch
import work_precision_tables
from candidates import CANDIDATES
from peers import PEERS, Peer, traced_run
from sets import SETS, Entry, first_starts, told
from tqdm import tqdm

from pndm_solvers import DDIMSolver, NoiseSchedule, Plan, PLMSSolver, Problem, Solver
from pndm_solvers.arrays import library
from pndm_solvers.distances import frechet
from pndm_solvers.measure import MEASURES, difference, estimate
from pndm_solvers.problems import exact_problem

LOW_CALLS = (10,)  # of the second column
LOW = 10.0  # σ/α where the second column begins
# Compared in distribution on every problem, by the names of peers.py.
NAMED = (
    "DDIM clip_sample=False set_alpha_to_one=True leading",
    "PNDM skip_prk_steps=True set_alpha_to_one=False leading",
    "DPMSolverMultistep solver_order=2 final_sigmas_type=zero linspace",
    "DPMSolverMultistep solver_order=2 final_sigmas_type=zero karras",
    "UniPCMultistep solver_order=2 final_sigmas_type=zero linspace",
    "k-diffusion heun karras",
)


def default_plan(
    method: type[Solver], schedule: NoiseSchedule, calls: int, *, final: str = "clean", **facts: Any
) -> Plan:
    return method(schedule).plan(max_model_calls=calls, final=final, **facts)


OURS: dict[str, Callable[..., Plan]] = {
    "default": partial(default_plan, PLMSSolver),
    "DDIM": partial(default_plan, DDIMSolver),
}

# ------------------------------------------------------------------ one run


def run_ours(problem: Problem, make: Callable[..., Plan], calls: int, final: str) -> tuple[Any, float]:
    """The samples, and the time where the run began."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plan = make(problem.schedule, calls, final=final, **problem.grid_options)
    start = plan.levels[0].t
    return problem.run(plan, problem.starts(start)), start


def run_peer(problem: Problem, peer: Peer, calls: int, ratio: float | None) -> Any:
    """The peer's `Run`, from the highest level that it can begin at, or from where σ/α is `ratio`."""
    arrays = library(problem.x)
    highest = problem.schedule.level(problem.schedule.t_max).ratio
    first = min(highest, 1e3) if ratio is None else min(highest, ratio)
    start = None if first == highest else problem.schedule.level_at(first).t
    x = torch.from_numpy(arrays.numbers(problem.starts(start)))
    x = x.float() if "32" in str(problem.x.dtype) else x

    def model(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        if torch.is_tensor(problem.x):
            return problem.model(x, t, **(problem.condition or {}))
        return torch.from_numpy(problem.model(x.numpy(), t.numpy(), **(problem.condition or {})))

    with torch.inference_mode(), warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        found = traced_run(peer, problem.schedule, model, x, calls, problem.prediction, start)
    if not found.result.isfinite().all():
        raise FloatingPointError("the result is not finite")
    ours = problem.x
    result = found.result if torch.is_tensor(ours) else found.result.numpy()
    return replace(found, result=result)


def paired(problem: Problem, result: Any, start: float, final: str, end: float | None = None) -> list[float]:
    """The errors of the samples, to four digits: they are kept in a file."""
    stop = end if final == "first" and end is not None and end > problem.schedule.t_min else None
    errors = problem.reference(start, stop, final=final).errors(result)
    return [float(f"{error:.4g}") for error in errors]


def distances(half: Problem, result: Any) -> list[float]:
    """SW² less its floor, of each half of the samples."""
    count = len(half.x)
    return [
        estimate(half, part, None, "sliced-wasserstein", intervals=False).value
        for part in (result[:count], result[count:])
    ]


def lower_end(half: Problem, result: Any) -> float:
    """Of the interval of SW² less its floor, of the second half of the samples."""
    return float(estimate(half, result[len(half.x) :], None, "sliced-wasserstein").low)


# ------------------------------------------------------------------ one problem


class Case:
    """A problem of a set, and what is measured on it."""

    def __init__(self, entry: Entry, folder: Path, said: bool = False) -> None:
        self.entry, problem = entry, entry.sampled(folder)
        self.sampled = told(problem) if said else problem
        self.paired = first_starts(self.sampled, entry.starts)
        self.half = first_starts(self.sampled, len(self.sampled.x) // 2)

    def measure_peer(self, peer: Peer, calls: int, ratio: float | None) -> dict[str, Any] | str:
        """The peer's figures, or the error: whatever a peer raises is a result."""
        figures: dict[str, Any] = {}
        try:
            everything = self.entry.peers or peer.name in NAMED
            found = run_peer(self.sampled if everything else self.paired, peer, calls, ratio)
            figures |= {"final": found.final, "start": found.start_t}
            first = found.result[: self.entry.starts]
            figures["errors"] = paired(self.paired, first, found.start_t, found.final, found.end_t)
            if everything:
                figures["sw2"] = distances(self.half, found.result)
        except Exception as error:
            return f"{type(error).__name__}: {error}"
        return figures

    def fill(self, stored: dict[str, Any], peers: dict[str, Peer], write: Callable[..., None], second: bool) -> None:
        """Adds those of the peers that are missing, and writes after each budget."""
        columns = {"own": (None, self.entry.calls)}
        if second and self.entry.peers:
            columns["low"] = (LOW, LOW_CALLS)
        for column, (ratio, budgets) in columns.items():
            for calls in budgets:
                cell = stored.setdefault(column, {}).setdefault(str(calls), {})
                missing = [peer for name, peer in peers.items() if name not in cell]
                for peer in tqdm(missing, desc=f"{self.entry.name}, {column}, {calls}", disable=not missing):
                    cell[peer.name] = self.measure_peer(peer, calls, ratio)
                    write()
                write(True)

    def ours(self, candidates: Iterable[str]) -> dict[str, Any]:
        """Our figures: method -> budget -> errors by the end, and SW² of both halves."""
        made = OURS | {name: make for name, make in CANDIDATES.items() if name in candidates}
        found: dict[str, Any] = {}
        for name, make in tqdm(made.items(), desc=f"{self.entry.name}, ours"):
            for calls in self.entry.calls:
                cell = found.setdefault(name, {}).setdefault(str(calls), {})
                result, start = run_ours(self.sampled, make, calls, "clean")
                cell["clean"] = paired(self.paired, result[: self.entry.starts], start, "clean")
                cell["first"] = paired(self.paired, *run_ours(self.paired, make, calls, "first"), "first")
                cell["sw2"] = distances(self.half, result)
                cell["sw2 from"] = lower_end(self.half, result)
        return found

    def portrait(self, calls: int = 10) -> dict[str, Any]:
        """At one budget: every measure of our default, DDIM and the named peers, and their difference to ours."""
        problem, runs = self.sampled, {}
        for name, make in OURS.items():
            runs[name] = run_ours(problem, make, calls, "clean")[0]
        for name in NAMED:
            try:
                runs[name] = run_peer(problem, PEERS[name], calls, None).result
            except Exception:  # its row is left out
                continue
        features = networks.load_features(self.entry.features) if self.entry.features else None
        rows: dict[str, Any] = {}
        for name, result in runs.items():
            figures = {m: estimate(problem, result, None, m, intervals=False).value for m in list(MEASURES)[1:]}
            if features:
                mine, theirs = (
                    features(points) for points in (library(result).numbers(result), problem.target().points)
                )
                figures["features"] = frechet(mine, theirs)
            rows[name] = figures, difference(problem, result, runs["default"])
        return rows

    def facts(self) -> dict[str, Any]:
        """What the figures stand on."""
        reference = self.paired.reference()
        facts = {"starts": self.entry.starts, "samples": len(self.half.x), "error": reference.error}
        return facts | {"last_step": reference.last_step, "floor": self.half.floor()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("set", choices=SETS)
    parser.add_argument("--folder", type=Path, default=Path(__file__).parent / ".cache" / "work_precision")
    parser.add_argument("--problems", nargs="+", metavar="NAME", help="only these")
    parser.add_argument(
        "--peers", nargs="+", metavar="NAME", choices=PEERS, help="run only these, by the names of peers.py"
    )
    parser.add_argument("--starts", type=int, metavar="N", help="measure paired errors on as many, at most all samples")
    parser.add_argument("--candidates", nargs="*", default=[], choices=CANDIDATES, help="run these beside the default")
    parser.add_argument("--said", action="store_true", help="begin around the data's mean, and tell ours their size")
    parser.add_argument("--list", action="store_true", help="print the problems of the set and run none")
    parser.add_argument("--no-second", action="store_true", help="leave out the column of peers that begin at σ/α = 10")
    arguments = parser.parse_args()
    entries = SETS[arguments.set]
    if unknown := [name for name in arguments.problems or () if name not in entries]:
        parser.error(f"unknown: {', '.join(unknown)}; the set has {'; '.join(entries)}")
    if arguments.list:
        print("\n".join(entries))
        return
    torch.set_num_threads(1)
    folder = arguments.folder / arguments.set
    path = folder / f"peers{'-said' * arguments.said}{f'-{arguments.starts}' if arguments.starts else ''}.json"
    folder.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    written, began, ours, portraits, facts = [time.monotonic()], time.monotonic(), {}, {}, {}
    peers = {name: PEERS[name] for name in arguments.peers or PEERS}

    def write(now: bool = False) -> None:
        if now or time.monotonic() - written[0] > 20:
            partial = path.with_suffix(".partial")
            partial.write_text(json.dumps(results, allow_nan=False))
            partial.replace(path)
            written[0] = time.monotonic()

    for name in arguments.problems or entries:
        entry = replace(entries[name], starts=arguments.starts or entries[name].starts)
        case = Case(entry, folder, arguments.said)
        case.fill(results.setdefault(name, {}), peers, write, not arguments.no_second)
        ours[name] = case.ours(arguments.candidates)
        portraits[name], facts[name] = case.portrait(), case.facts()
    minutes = (time.monotonic() - began) / 60
    measured = {name: results[name] for name in ours}
    work_precision_tables.report(arguments.set, measured, ours, portraits, facts, minutes)


@pytest.fixture(scope="module")
def ring() -> Problem:
    """A small problem on which the ends of runs are known."""
    torch.set_num_threads(1)
    return exact_problem("ring", NoiseSchedule.linear(), starts=64)


@pytest.mark.parametrize("name", OURS)
def test_ours(benchmark, ring, name):
    result, start = benchmark(run_ours, ring, OURS[name], 10, "clean")
    assert np.median(paired(ring, result, start, "clean")) < 0.1


@pytest.mark.parametrize("name", NAMED)
def test_a_peer(benchmark, ring, name):
    found = benchmark(run_peer, ring, PEERS[name], 10, None)
    assert np.isfinite(paired(ring, found.result, found.start_t, found.final, found.end_t)).all()


if __name__ == "__main__":
    main()
