"""Does the default keep its promises, on one set of problems (`sets.py`)? Each table prints what it must hold.

- rules: its paired error beside the least of the 36 simple rules of `rules.py` in each cell.
- ddim: beside our own DDIM on the default grid, paired and in distribution, with intervals of 90 %.
- distribution: SW² less its floor beside the best of the 36 rules, picked on one half of the starts.
- lower: SW² less its floor of the default with few calls, begun lower and lower.
- nearest: on the small networks, the mean distance to the nearest point of the data, and that plus the mean distance of
  the data to the nearest sample, beside the best of all peers, picked on one half of the starts.
- mean: which networks make `sample` warn that the data are not centred, and how far off their means are.
- sizes: errors and SW² with nothing said and with `data_range=`, for the set "sizes", of data far from unit range.
- level: on exact problems, ours beside the best single peer, each from our own first level: at 5 to 20 calls, and at 50
  and 100.
- estimates: ratios of `ErrorEstimate` to the error that a step has made, and errors of plans for a `tolerance=`.

    python benchmarks/check_default.py testing
    python benchmarks/check_default.py choosing --tables rules ddim

Fine runs and the figures of rules and peers are kept in --folder, so that a stopped run goes on.
"""

from __future__ import annotations

import argparse
import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache, partial
from itertools import product
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peers import PEERS
from rules import Cells, begun, errors_of, paired, simple_plans
from sets import SETS, Entry, deviation_of, first_starts, range_of, shaped_target, told
from tables import by_cell, heading, report, table
from tqdm import tqdm
from work_precision import default_plan, distances, run_peer
from work_precision import paired as errors_at
from work_precision_tables import geometric, interval_of_ratio, shown

from pndm_solvers import DDIMSolver, ErrorEstimate, Plan, PLMSSolver, Problem
from pndm_solvers.arrays import library
from pndm_solvers.condition import rows_of
from pndm_solvers.distances import Target, resampled
from pndm_solvers.flow import FineRun, distance
from pndm_solvers.measure import difference, estimate
from pndm_solvers.rule import RULE

LEVEL_CALLS = 5, 8, 10, 20, 50, 100  # of the table `level`
LOWER = 1.0, 0.75, 0.5, 0.35, 0.2  # times the default's first σ/α, of the table `lower`
SMALL_POWERS = 0.35, 0.5, 0.65, 1.0  # of the range of small data, of the table `sizes`
FEWEST = 4  # a budget beside those of the set
FINE_FOR_MEANS = 64  # calls of a fine run whose samples' mean alone counts


class Check:
    """One set of problems, and the figures that are kept."""

    def __init__(
        self, name: str, folder: Path, problems: list[str] | None, said: bool, starts: int | None = None
    ) -> None:
        self.name, self.folder, self.said = name, folder / name, said
        self.on = f", {starts} starts" if starts else ""
        self.cells = Cells(self.folder)
        entries = [entry for key, entry in SETS[name].items() if problems is None or key in problems]
        self.entries = [replace(entry, starts=starts or entry.starts) for entry in entries]
        self.paired = cache(lambda entry: first_starts(self.sampled(entry), entry.starts))
        self.sampled = cache(self._sampled)

    def _sampled(self, entry: Entry) -> Problem:
        problem = entry.sampled(self.folder)
        return told(problem) if self.said else problem

    def over(self, fewest: bool = True) -> Iterator[tuple[Entry, int]]:
        """Every cell: an entry and a number of calls."""
        cells = [(e, calls) for e in self.entries for calls in ((FEWEST,) if fewest else ()) + e.calls]
        with tqdm(cells, unit="cell") as bar:
            for entry, calls in bar:
                bar.set_description(f"{entry.name}, {calls} calls")
                yield entry, calls


def plan_of(problem: Problem, calls: int, method: Any = PLMSSolver) -> Plan:
    return default_plan(method, problem.schedule, calls, **problem.grid_options)


def spread(ratios: list[float]) -> str:
    """The geometric mean and the worst of some ratios."""
    return f"{geometric(ratios):.2f}, worst {max(ratios):.2f}"


def spreads(ratios: dict[tuple[str, int], float]) -> str:
    """The same by the number of calls, of cells."""
    return "; ".join(
        f"{calls} calls: {spread([ratio for (_, own), ratio in ratios.items() if own == calls])}"
        for calls in sorted({calls for _, calls in ratios})
    )


def shares(values: Any, low: float = 0.2, high: float = 5.0) -> str:
    values = np.asarray(values)
    return f"{np.mean((values >= low) & (values <= high)):.0%}"


# ------------------------------------------------------------------ tables


def rules(check: Check) -> str:
    """Paired: ours / the least of 36 rules. At most 1.4 in the geometric mean, worst at most 3

    Each error is to the flow from the level where the rule itself begins. The second line is beside the rules that
    begin no lower than ours. The last are single rules beside the least of each cell. The second table has the cells
    above 3 in distribution, where all are compared to the data, or to the flow from the top.
    """
    found, ratios, as_high, single, beyond = {}, {}, {}, {}, []
    for entry, calls in check.over():
        problem, simple = check.paired(entry), {}
        plan = plan_of(problem, calls)
        for name, other in simple_plans(problem, calls).items():
            what = f"{check.name}, paired{check.on}"
            error = check.cells.get(problem, what, partial(paired, problem, other), other)[0]
            simple[name] = error, other.levels[0].ratio >= 0.99 * plan.levels[0].ratio, other
        mine, limit = errors_of(problem, plan), problem.reference(plan.levels[0].t).limit
        ours = float(np.median(mine))
        least, _, other = min(simple.values(), key=itemgetter(0))
        ratios[entry.name, calls] = ours / least
        if ours > 3 * least:
            low, high = interval_of_ratio(mine, errors_of(problem, other))
            interval = f"{ours / least:.1f} ({low:.1f} to {high:.1f})"
            beyond.append([entry.name, calls, interval, *in_distribution(check, entry, plan, other)])
        as_high[entry.name, calls] = ours / min(error for error, high, _ in simple.values() if high)
        for name, (error, *_) in simple.items():
            single.setdefault(name, []).append(error / least)
        mark = " (limit)" if ours < 3 * limit else ""
        found[entry.name, calls] = f"{ours:.1e} / {least:.1e} = {ours / least:.2f}{mark}"
    lines = []
    for all_of in (ratios, as_high):
        above = "; ".join(f"{name} at {calls} ({r:.1f})" for (name, calls), r in all_of.items() if r > 3)
        lines.append(f"{spread(list(all_of.values()))}; {spreads(all_of)}. Above 3: {above or 'none'}.")
    for merit, what in ((geometric, "mean"), (max, "worst cell")):
        name = min(single, key=lambda name, merit=merit: merit(single[name]))
        lines.append(f"The single rule of the least {what}: {spread(single[name])} ({', '.join(map(str, name))}).")
    heads = "problem", "calls", "ours / its error", "ours begins at", "its", "SW², ours", "its", "its less ours"
    return "\n\n".join([*lines, by_cell("error, calls", found), table(heads, beyond)])


def in_distribution(check: Check, entry: Entry, plan: Plan, other: Plan) -> list[str]:
    """Where our plan and the other begin, SW² less its floor of both, and the difference, with intervals."""
    problem = check.sampled(entry)
    mine, theirs = begun(problem, plan), begun(problem, other)
    figures = (
        *(estimate(problem, each, None, "sliced-wasserstein") for each in (mine, theirs)),
        difference(problem, theirs, mine),
    )
    starts = (f"{each.levels[0].ratio:.3g}" for each in (plan, other))
    return [*starts, *(f"{figure.value:.1e} ({figure.low:.1e} to {figure.high:.1e})" for figure in figures)]


def ddim(check: Check) -> str:
    """Ours / our DDIM on the same grid: no interval of the paired ratio above 1, none of the SW² difference above 0

    A difference where ours is at the floor, its own interval around 0, says nothing.
    """
    errors, sets, above = {}, {}, []
    for entry, calls in check.over():
        problem = check.sampled(entry)
        plans = plan_of(problem, calls), plan_of(problem, calls, DDIMSolver)
        results = [begun(problem, plan) for plan in plans]
        reference = check.paired(entry).reference(plans[0].levels[0].t)
        mine, theirs = (reference.errors(result[: entry.starts]) for result in results)
        low, high = interval_of_ratio(mine, theirs)
        errors[entry.name, calls] = f"{np.median(mine) / np.median(theirs):.2f} ({low:.2f} to {high:.2f})"
        gap, own = difference(problem, *results), estimate(problem, results[0], None, "sliced-wasserstein")
        sets[entry.name, calls] = f"{gap.value:+.1e} ({gap.low:+.1e} to {gap.high:+.1e}), ours {own.value:.1e}"
        if low > 1:
            above.append(f"{entry.name} at {calls}, paired")
        if gap.low > 0 and own.low > 0:
            above.append(f"{entry.name} at {calls}, SW²")
    head = f"Above: {'; '.join(above) or 'none'}, of {len(errors)} cells."
    return f"{head}\n\n{by_cell('paired, calls', errors)}\n\n{by_cell('SW², ours less DDIM', sets)}"


def distribution(check: Check) -> str:
    """SW² less its floor, ours with its interval / the best of 36 rules, from 8 calls on: none above 1.2 times"""
    found, above = {}, []
    for entry, calls in check.over(False):
        if calls < 8:
            continue
        problem = check.sampled(entry)
        half = first_starts(problem, len(problem.x) // 2)

        def measured(plan: Plan, problem: Problem = problem, half: Problem = half) -> list[float]:
            return distances(half, begun(problem, plan))

        values = [
            check.cells.get(problem, f"{check.name}, halves", partial(measured, plan), plan)
            for plan in simple_plans(problem, calls).values()
        ]
        best = min(values)[1]
        ours = estimate(half, second_half(problem, calls), None, "sliced-wasserstein")
        bad = bool(ours.low > 1.2 * max(best, 0.0))
        found[entry.name, calls] = f"{ours.value:.1e} (from {ours.low:.1e}) / {best:.1e}{' **above**' if bad else ''}"
        above += [f"{entry.name} at {calls}"] * bad
    return f"Above: {'; '.join(above) or 'none'}, of {len(found)} cells.\n\n{by_cell('SW², calls', found)}"


def second_half(problem: Problem, calls: int) -> np.ndarray:
    """Of the default's samples, those that are compared."""
    return begun(problem, plan_of(problem, calls))[len(problem.x) // 2 :]


def lower(check: Check) -> str:
    """SW² less its floor with few calls, of the default begun where data drown in noise, and at shares of that σ/α"""
    found = {}
    for entry in tqdm(check.entries, desc="lower"):
        problem = check.sampled(entry)
        first = plan_of(problem, 10).levels[0].ratio  # shorter runs may begin lower
        unit = RULE.of_range(problem.grid_options.get("data_range", 1.0)).unit
        for calls, share in product((2, 4, 6, 8), LOWER):
            rule = RULE.everywhere(start_most=share * first / unit)  # the grid moves with its start
            plan = PLMSSolver(problem.schedule, rule=rule).plan(calls, **problem.grid_options)
            if share == 1 or plan.levels[0].ratio < first:  # not of networks that begin at pure noise
                gap = estimate(problem, begun(problem, plan), None, "sliced-wasserstein")
                found[f"{entry.name}, {calls} calls, from {first:.3g}", share] = f"{gap.value:.3f}"
    return by_cell("times", found)


def nearest(check: Check) -> str:
    """Mean distance to the data, and the sum of both nearest distances; no interval above 1.25 times the best peer's"""
    found, above = {}, []
    for entry, calls in check.over(False):
        if not entry.name.startswith(("moons", "digits-mlp")):
            continue
        problem = check.sampled(entry)
        target = problem.target()

        def measured(peer: Any, problem: Problem = problem, target: Target = target, calls: int = calls) -> list[Any]:
            try:
                result = run_peer(problem, peer, calls, None).result
                numbers = library(result).numbers(result)
                return [both(target, part) for part in np.array_split(numbers, 2)]
            except Exception:  # whatever a peer raises means that it has no samples
                return [[math.inf, math.inf]] * 2

        values = np.array(  # (peers, halves, distances)
            [
                check.cells.get(problem, f"nearest, {calls}, {peer.name}", partial(measured, peer))
                for peer in PEERS.values()
            ]
        )
        between = target.between(second_half(problem, calls))
        mine = of_distances(between)
        for k, measure in enumerate(("to the data", "both")):
            best = values[values[:, 0, k].argmin(), 1, k]
            draws = resampled(lambda chosen, b=between, k=k: of_distances(b[chosen])[k], len(between))
            low = mine[k] + np.quantile(draws, 0.05) - draws.mean()
            bad = bool(low > 1.25 * best)
            above += [f"{entry.name} at {calls}, {measure}"] * bad
            found[f"{entry.name}, {measure}", calls] = (
                f"{mine[k]:.3g} / {best:.3g} ({mine[k] / best:.2f})" + " **above**" * bad
            )
    return f"Above: {'; '.join(above) or 'none'}, of {len(found)} cells.\n\n{by_cell('distance, calls', found)}"


def both(target: Target, samples: np.ndarray) -> list[float]:
    return of_distances(target.between(samples)) if np.isfinite(samples).all() else [math.inf, math.inf]


def of_distances(between: np.ndarray) -> list[float]:
    """The mean distance of samples (rows) to the nearest point of the data, and that plus the mean of the reverse."""
    to_data = float(between.min(1).mean())
    return [to_data, to_data + float(between.min(0).mean())]


def mean(check: Check) -> str:
    """Means, the worst channel's: from 8 calls on within 0.1 deviations or a warning; said, within 0.05 and silent

    Off by how many deviations of the data: from the data's or, where a network has none, from those of a fine run from
    other starts; both are known up to the column "chance". Then from a fine run's from the same starts, which leaves no
    chance. Where the mean is said, fine runs begin around it too.
    """
    rows = []
    for entry in tqdm(check.entries, desc="means"):
        problem = check.sampled(entry)
        flow = FineRun(FINE_FOR_MEANS) if isinstance(problem.flow, FineRun) else problem.flow
        problem = replace(problem, flow=flow, saved=None, data_mean=None)
        points, axes = shaped_target(problem)
        middle, deviation = points.mean(axes), points.std(axes)
        kinds = problem, replace(problem, data_mean=points.mean(axes, keepdims=True))
        targets = [shaped_target(kind)[0].mean(axes) for kind in kinds]
        chance = math.sqrt(1 / len(points) + 1 / len(problem.x))  # the largest, where all numbers move together
        worst = (np.abs(middle) / deviation).argmax()
        for calls in (8, 20):
            plan, figures = plan_of(problem, calls), []
            x = problem.starts(plan.levels[0].t)
            for kind, target in zip(kinds, targets, strict=True):
                with warnings.catch_warnings(record=True) as caught, library(x).unrecorded():
                    warnings.simplefilter("always")
                    result = PLMSSolver(problem.schedule).sample(
                        problem.model, x, calls, prediction=problem.prediction, condition=problem.condition,
                        check_finite=False, data_mean=kind.data_mean,
                    )  # fmt: skip
                fine, got = means_of(kind.reference(plan.levels[0].t).ends, axes), means_of(result, axes)
                off, from_fine = (np.abs(got - at) / deviation for at in (target, fine))
                warned = any("data_mean" in str(w.message) for w in caught)
                figures += [f"{off.max():.3f}", f"{from_fine.max():.3f}", "warns" if warned else ""]
            size = f"{middle.flat[worst]:.2g}", f"{deviation.flat[worst]:.2g}", f"{plan.levels[0].ratio:.3g}"
            rows.append([entry.name, calls, *size, f"{chance:.2f}", *figures])
    facts = "network", "calls", "mean", "deviation", "from σ/α", "chance"
    figures_of = ("from the fine run", "warned")
    heads = *facts, "off, nothing said", *figures_of, "off, mean said", *figures_of
    return table(heads, rows)


def means_of(samples: Any, axes: tuple[int, ...]) -> np.ndarray:
    return library(samples).numbers(samples).mean(axes)


def sizes(check: Check) -> str:
    """Errors, and SW² less its floor, with nothing said → with `data_range` said; in deviations of the data

    Errors are to the flow from a run's own first level, which is the same where the network predicts v or a flow. SW²
    is to the data. The lines are geometric means of error said / unsaid, and the worst cell, by the power of the range
    that scales the rule.
    """
    found, ratios = {}, {}
    for entry, calls in check.over():
        problem = check.sampled(entry)
        deviation = deviation_of(problem)
        said = range_of(deviation)
        if said == 1:
            continue
        size, powers = ("small", SMALL_POWERS) if said < 1 else ("large", (1.0,))
        figures = {}
        for power in (0.0, *powers):
            kind = replace(problem, data_range=said, saved=None) if power else problem
            plan = PLMSSolver(problem.schedule, rule=RULE.everywhere(small=power)).plan(calls, **kind.grid_options)
            result = begun(kind, plan)
            error = float(np.median(kind.reference(plan.levels[0].t).errors(result))) / deviation
            gap = estimate(kind, result, None, "sliced-wasserstein").value / deviation**2
            figures[power] = error, f"{error:.1e}; {gap:.3f}"
        for power in powers:
            ratios.setdefault((size, power), {})[entry.name, calls] = figures[power][0] / figures[0.0][0]
        default = figures[RULE.small if said < 1 else 1.0]
        found[f"{entry.name} ({deviation:.2g}, said {said:.2g})", calls] = f"{figures[0.0][1]} → {default[1]}"
    lines = [
        f"{size.capitalize()} data, ρ times range^{power:g}: {spreads(among)}."
        for (size, power), among in ratios.items()
    ]
    return "\n\n".join([*lines, by_cell("error; SW²", found)])


def level(check: Check) -> str:
    """Exact problems, from one level: ours / the best single peer: at most 0.5, and 0.05 at 50 and 100 (IPNDM apart)"""
    errors: dict[str, dict[Any, list[float]]] = {}
    ends: dict[str, str] = {}
    groups = {"5 to 20": (5, 8, 10, 20), "50 and 100": (50, 100)}
    cells = [
        (e, calls) for e in check.entries if not isinstance(check.paired(e).flow, FineRun) for calls in LEVEL_CALLS
    ]
    for entry, calls in tqdm(cells, unit="cell"):
        problem = check.paired(entry)
        first = default_plan(PLMSSolver, problem.schedule, calls, **problem.grid_options).levels[0]
        ratio = first.ratio if math.isfinite(first.ratio) else None

        def measured(peer: Any, problem: Problem = problem, calls: int = calls, ratio: Any = ratio) -> list[Any]:
            try:
                found = run_peer(problem, peer, calls, ratio)
                return [float(np.median(errors_at(problem, found.result, found.start_t, found.final))), found.final]
            except Exception:  # whatever a peer raises means that it has no samples
                return [math.inf, "clean"]

        ours = {}  # by the end: the error, and with an exact step to σ = 0
        for final in ("clean", "first"):
            plan, states = default_plan(PLMSSolver, problem.schedule, calls, final=final, **problem.grid_options), []
            start = plan.levels[0].t
            end = problem.run(plan, problem.starts(start), callback=lambda step, keep=states: keep.append(step.x))
            best = problem.flow(problem, states[-1], *plan.levels[-2:]).ends if final == "clean" else end
            ours[final] = [float(np.median(errors_at(problem, found, start, final))) for found in (end, best)]
        for peer in PEERS.values():
            theirs, final = check.cells.get(problem, f"level{check.on}, {calls}, {peer.name}", partial(measured, peer))
            errors.setdefault(peer.name, {})[entry.name, calls] = [error / theirs for error in ours[final]]
            ends[peer.name] = final
    rows = []
    for name, budgets in groups.items():
        for among, final in (("all", ""), ("IPNDM apart", ""), ("of these, to σ = 0", "clean"), ("to t_min", "first")):
            means = {
                peer: np.exp(np.mean([np.log(pair) for (_, calls), pair in found.items() if calls in budgets], axis=0))
                for peer, found in errors.items()
                if (among == "all" or not peer.startswith("IPNDM")) and final in ("", ends[peer])
            }
            best = max((peer for peer in means if np.isfinite(means[peer]).all()), key=lambda peer: means[peer][0])
            worst = max((pair[0], *cell) for cell, pair in errors[best].items() if cell[1] in budgets)
            error, bound = (f"{mean:.3f}" for mean in means[best])
            rows.append([name, among, shown(best), error, f"{worst[0]:.2f} ({worst[1]}, {worst[2]})", bound])
    heads = "calls", "among", "peer", "ours / its, geometric mean", "worst", "ours with an exact step to σ = 0"
    return table(heads, rows)


def estimates(check: Check) -> str:
    """`ErrorEstimate`: at least 90 % of steps within 0.2 and 5 of the true error; a tolerance met within a factor 3"""
    rows = []
    for entry in tqdm(check.entries, desc="estimates"):
        problem, ratios = check.paired(entry), {}
        flow = FineRun(32) if isinstance(problem.flow, FineRun) else problem.flow  # of single steps
        for calls in (10, 20):
            plan, seen, found = plan_of(problem, calls), [], ErrorEstimate()

            def keep(step: Any, seen: list[Any] = seen, found: ErrorEstimate = found) -> None:
                seen.append(step.x)
                found(step)

            x = problem.starts(plan.levels[0].t)
            end = problem.run(plan, x, callback=keep)
            steps, totals = [], distance(end, problem.reference(plan.levels[0].t).ends)
            for here, there, guess in zip(seen, [*seen[1:], end], found.steps, strict=True):
                local = flow(problem, here, guess.here, guess.there).ends
                steps.append(np.median(guess.error) / max(np.median(distance(there, local)), 1e-12))
            ratios[calls] = steps, float(np.median(found.total) / np.median(totals))
        figures = []
        for tolerance in (1e-2, 1e-3):
            try:
                plan = PLMSSolver(problem.schedule).plan_within(
                    tolerance, problem.model, problem.starts(plan_of(problem, 10).levels[0].t)[:8],
                    condition=rows_of(problem.condition, slice(8)),
                    prediction=problem.prediction,
                )  # fmt: skip
                figures.append(f"{paired(problem, plan)[0] / tolerance:.2f} with {plan.model_calls}")
            except ValueError as error:
                figures.append(str(error)[:60])
        parts = (
            f"{shares(steps)} ({min(steps):.2g} to {max(steps):.2g}); total {total:.2g}"
            for steps, total in ratios.values()
        )
        rows.append([entry.name, *parts, *figures])
    return table(("problem", "10 calls: steps within", "20 calls", "error / 1e-2", "error / 1e-3"), rows)


TABLES: dict[str, Callable[[Check], str]] = {
    f.__name__: f for f in (rules, ddim, distribution, lower, nearest, mean, sizes, level, estimates)
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("set", choices=SETS)
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=list(TABLES), help="by default all")
    parser.add_argument("--problems", nargs="+", metavar="NAME", help="only these")
    parser.add_argument("--said", action="store_true", help="tell every run the mean and the size of the data")
    parser.add_argument("--starts", type=int, metavar="N", help="measure paired errors on as many, at most all samples")
    parser.add_argument("--folder", type=Path, default=Path(__file__).parent / ".cache" / "work_precision")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    print(f"{heading('numpy', 'torch')}\n\nAll figures are of the {arguments.set} set.", flush=True)
    check = Check(arguments.set, arguments.folder, arguments.problems, arguments.said, arguments.starts)
    with torch.inference_mode():
        report(TABLES, arguments.tables, check)


if __name__ == "__main__":
    main()
