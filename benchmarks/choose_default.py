"""Which rule is the library's default? Candidates, the problems that choose, and their score: all on the choosing set.

A candidate is a `Rule`: the numbers of its start, grid and weights. The library's own, `RULE`, is what won here. It has
rules of its own for runs of few steps.

- own grid: each median paired error divided by the best of the 36 simple rules of `rules.py` in its cell, over two
  networks of galaxies and the bundled networks, over small networks, and over exact distributions of many kinds, each
  on two schedules. Each error is to the flow from the run's own first level.
- in distribution: SW² less its floor on the same networks from 8 calls on, with its interval, beside the best of five
  simple rules. That is to the flow from the top, or to the data, so a low start wins nothing by itself.
- few calls: errors at 4 to 7 calls, of several ways to weigh answers on the default's grid, by kind of problem, and
  the cells in which DDIM on that grid errs less.
- more calls: the default's errors with some calls more.
- with a condition: other solvers on networks that get one, beside the default.
- given grids: each error divided by the best of ComfyUI's Euler, ipndm and dpmpp_2m, on its nine schedulers at full and
  at half denoise, 10 and 20 steps, two exact mixtures as ε- and as flow-models.

--search changes the numbers of a candidate at random and keeps what lowers its errors: the mean of their logarithms,
with penalties on cells that grow by a tenth and more, on those above DDIM on the default's grid and, at the lengths of
the tables, on those above 1.8 times the least of the simple rules. It looks at runs of the lengths --calls, without
them at the given grids. At few calls it also looks at rings of narrow modes, at networks of pictures of 64×64, and at
smaller pictures begun as larger ones. Where these lengths have several rules, the numbers in which those differ stay. A
search finds other valleys when it begins at the numbers of a neighbouring length (--of).

    python benchmarks/choose_default.py
    python benchmarks/choose_default.py --search 30 --calls 8
"""

import argparse
import itertools
import json
import math
import operator
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import comfyui
import given_grids
import networks
import numpy as np
import torch
from candidates import FROM_31, FROZEN, UP_TO_5, UP_TO_6, UP_TO_8, UP_TO_13, UP_TO_16, candidate
from network_recipes import NETWORKS
from rules import Cells, begun, paired, problems_of_rules, simple_plans
from sets import DISTRIBUTIONS, SETS, Entry, exact
from tables import heading, table
from tqdm import tqdm

from pndm_solvers import DDIMSolver, DPMMultistepSolver, Plan, PLMSSolver, Problem, UniPCSolver
from pndm_solvers.adapters import k_diffusion
from pndm_solvers.analytic import GaussianMixture
from pndm_solvers.measure import estimate
from pndm_solvers.rule import OVER_30, RULE, Rule


def differing(rules: Sequence[Rule]) -> set[str]:
    """The numbers in which rules differ."""
    return {name for name in NUMBERS if len({getattr(rule, name) for rule in rules}) > 1}


def exchanged(rule: Rule, calls: Sequence[int], new: Rule) -> Rule:
    """The rule with another one for runs of these lengths. Where that replaces several, they differ as they did."""
    old = {few[:2]: few[2] for few in rule.by_length if any(few[0] <= steps <= few[1] for steps in calls)}
    if not old:
        return replace(new, by_length=rule.by_length)
    differ = differing(list(old.values())) | {"start_most"}
    own = {lengths: replace(new, **{name: getattr(few, name) for name in differ}) for lengths, few in old.items()}
    by_length = tuple((least, most, own.get((least, most), few)) for least, most, few in rule.by_length)
    return replace(rule, by_length=by_length)


# Short runs of large samples began as high as long ones. Neither these nor small data on flows had a say.
OVER_9 = [(*few[:2], FROM_31 if few[0] > 30 else few[2]) for few in RULE.by_length if few[0] > 9]
HIGH = RULE.everywhere(start_most=math.inf).by_length
BEFORE_LARGE = replace(RULE, by_length=(*(few for few in HIGH if few[0] <= 9), *OVER_9))
# Before that, runs of 3 to 6 steps had one grid, and those of 7 the numbers of 8 and 9. Narrow rings had no say.
LONGER = [(7, 9, RULE.of(8)), *OVER_9]
SHORT = (3, 4, replace(UP_TO_6, share=0.8, last_share=0.7, long_bound=2.45)), (5, 5, replace(UP_TO_6, share=0.15))
WITHOUT_RINGS = replace(RULE, by_length=(*SHORT, (6, 6, UP_TO_6), *LONGER))
# Before that, DDIM had no say in shares and bounds.
FEW_STEPS = replace(UP_TO_6, long_bound=2.73, last_bound=1.0, last_share=0.4)
SHARED = (3, 4, replace(FEW_STEPS, share=0.5)), (5, 5, replace(FEW_STEPS, share=0.2)), (6, 6, FEW_STEPS)
WITHOUT_DDIM = replace(RULE, by_length=(*SHARED, *LONGER))
# Before that, the oldest answer kept all of its weight there.
UNSHARED = replace(RULE, by_length=((3, 6, replace(FEW_STEPS, last_share=0.0)), *LONGER))
# Before that, runs of 6 steps had the numbers of those of 7 to 9.
SIX_AS_MORE = replace(RULE, by_length=((3, 5, UNSHARED.of(5)), (6, 9, RULE.of(8)), *LONGER[1:]))
# Before that, networks with a condition had no say beyond 5 steps.
WITHOUT_SPECTRA = replace(RULE, by_length=(*SIX_AS_MORE.by_length[:1], (6, 8, UP_TO_8), (9, 16, UP_TO_16), *LONGER[2:]))
# Nor had they up to 5; before that, runs of more than 30 steps had no numbers of their own; before, they did not end
# along the flow's mirror; and before, a lengthening step to the picture leant as much on the past as others.
UNRESTORED = replace(WITHOUT_SPECTRA, by_length=((3, 5, UP_TO_5), *WITHOUT_SPECTRA.by_length[1:]))
UNSEARCHED = Rule(last_noise=0.3, by_length=UNRESTORED.by_length[:-1])
UNMIRRORED = replace(UNSEARCHED, last_noise=0.0)
OLDER = replace(UNMIRRORED, even_last=math.inf)
DEFAULT = "2027-12"  # the library's own
RULES: dict[str, Rule] = {
    "2026-11": replace(FROZEN, start=math.inf),  # from the highest level
    "2026-11, lower start": FROZEN,
    "2026-12": replace(OLDER, by_length=(), grid_top=math.inf),
    "2027-01": replace(OLDER, by_length=(*UNRESTORED.by_length[:2], (9, 13, UP_TO_13))),
    "2027-02": OLDER,
    "2027-03": UNMIRRORED,
    "2027-04": UNSEARCHED,
    "2027-05": UNRESTORED,
    "2027-06": WITHOUT_SPECTRA,
    "2027-07": SIX_AS_MORE,
    "2027-08": UNSHARED,
    "2027-09": WITHOUT_DDIM,
    "2027-10": WITHOUT_RINGS,
    "2027-11": BEFORE_LARGE,
    DEFAULT: RULE,
    f"{DEFAULT}, from the top": RULE.everywhere(start=math.inf, start_most=math.inf),
    f"{DEFAULT}, few steps as many": OVER_30,
    f"{DEFAULT}, even from the highest level": RULE.everywhere(grid_top=math.inf),
    f"{DEFAULT}, own coordinate everywhere": replace(RULE, even=False),
    f"{DEFAULT}, first steps as they are": replace(RULE.everywhere(corrected=0.0), even_corrected=0),
    f"{DEFAULT}, last call above the lowest level": RULE.everywhere(grid_low=math.inf),
    f"{DEFAULT}, orders not mixed": RULE.everywhere(mixed=False),
}
# Of `Rule`, those that a search may change: on the rule's own grid, and on given ones.
NUMBERS = (
    "grid_scale", "grid_rise", "grid_fall", "grid_first", "grid_top", "grid_low", "knee", "tail", "short", "orders",
    "bound", "long_bound", "last_bound", "last_noise", "share", "last_share", "corrected",
)  # fmt: skip
GIVEN_NUMBERS = "even_bound", "even_short", "even_top", "even_last", "even_last_bound", "far", "far_bound"
# Where a search begins that leaves 0.
FROM_ZERO = {"tail": 0.03, "last_noise": 0.3, "share": 0.2, "last_share": 0.3, "corrected": 0.5}
# The most that a search may make of such numbers: large weights round and carry a network's noise.
LARGEST = {"bound": 7.0, "share": 1.0}

# Distributions, each on two schedules, and networks.
EXACT = {
    "narrow-ring": ("linear", "rectified_flow"), "ring": ("cosine", "rectified_flow"),
    "wide-ring": ("scaled_linear", "linear"), "lattice": ("cosine", "edm"),
    "mixture": ("linear", "rectified_flow"), "mixture-6": ("cosine", "rectified_flow"),
    "mixture-40": ("scaled_linear", "linear"), "small-mixture": ("cosine", "edm"),
    "power-law": ("linear", "rectified_flow"), "flat-law": ("cosine", "rectified_flow"),
    "small-law": ("scaled_linear", "linear", "rectified_flow", "edm"), "tails": ("cosine", "edm"),
    "faint-field": ("cosine", "rectified_flow"),
    "digits-kernel": ("linear", "rectified_flow"), "picture-field": ("linear", "edm"),
    "field": ("scaled_linear", "rectified_flow"), "latent-field": ("cosine", "rectified_flow"),
    "noise-field": ("linear", "edm"),
}  # fmt: skip
SMALL = {
    **{f"moons-{kind}": 48 for kind in ("linear-epsilon", "cosine-epsilon", "linear-v", "cosine-v", "cosine-sample")},
    **{f"digits-mlp-{kind}": 24 for kind in ("linear-epsilon", "cosine-epsilon", "cosine-v", "linear-sample")},
    **{name: 24 for name, recipe in NETWORKS.items() if recipe.given},
}
CALLS = {"exact": (4, 5, 6, 8, 10, 20, 50), "small networks": (4, 5, 6, 8, 10, 20), "20 cells": (4, 5, 8, 10, 20)}
SETS_CALLS = (8, 10, 20)
KINDS = {"exact": 0.4, "small networks": 0.3, "20 cells": 0.3}  # and their shares of what a search looks at
SLOW = "digits-kernel"  # no search looks at it
FEW, LARGER = (4, 5, 6, 7), (2, 4)  # calls and sizes of pictures of the table of few calls
# There also rings: how many modes, their radius, their width. They have no say: a search sees `drawn_rings`.
NARROW = (
    (2, 0.7, 0.045), (3, 1.4, 0.022), (4, 0.9, 0.046), (6, 1.3, 0.06), (7, 1.0, 0.035), (8, 1.1, 0.03), (9, 1.4, 0.04),
)  # fmt: skip
FEW_RULES = {
    "2027-10": WITHOUT_RINGS,
    "2027-11": BEFORE_LARGE,
    DEFAULT: RULE,
    "2027-08, weights up to 1.6": UNSHARED.everywhere(long_bound=1.6),
    **{
        f"{DEFAULT}, {step:g} and {last:g} shared": RULE.everywhere(share=step, last_share=last)
        for step, last in ((0.0, 0.0), (0.0, 0.5), (0.2, 0.5), (0.5, 0.5), (1.0, 0.7))
    },
    **{f"{DEFAULT}, weights up to {bound:g}": RULE.everywhere(long_bound=bound) for bound in (2.3, 2.9)},
}
FEW_PEERS = {"UniPC-2 (bh2)": UniPCSolver, "DPM-Solver++(2M)": DPMMultistepSolver}
# A condition that nearly determines the sample, and what one may take there.
SURE, SURE_CALLS = "every second", (4, 5, 6, 7, 8, 10, 20)
SURE_PEERS = {"order 2": partial(PLMSSolver, order=2), "DDIM": DDIMSolver, "UniPC-2 (bh2)": UniPCSolver}
OF_SETS = (
    "hsc-32", "ztf-32", "digits", "fashion", "mixture, linear", "moons-linear-epsilon", "moons-cosine-epsilon",
    "digits-mlp-linear-epsilon", "digits-mlp-cosine-epsilon",
)  # fmt: skip
SIMPLE = ((None, "balanced", "default"), (None, "quadratic", "default"), (20, "balanced", "default"),
          (10, "quadratic", "default"), (10, "log", "order 2"))  # fmt: skip


def plan_of(rule: Rule, problem: Problem, calls: int) -> Plan:
    """The plan of a rule on its own grid."""
    return PLMSSolver(problem.schedule, rule=rule).plan(calls, **problem.grid_options)


def narrow_ring(modes: int, radius: float, width: float, on: str) -> Problem:
    name = f"{modes} modes of width {width:.3g}, {on}"
    return exact(partial(GaussianMixture.ring, modes, radius, width), on, 48, 5, name=name)


def drawn_rings() -> list[Problem]:
    """Rings of narrow modes, for searches at few calls: as `NARROW`, but their radius, width and schedule are drawn."""
    problems = []
    for seed in (21, 22):
        rng = np.random.default_rng(seed)
        for modes, *_ in NARROW:
            radius, width = rng.uniform(0.6, 1.5), math.exp(rng.uniform(math.log(0.02), math.log(0.1)))
            problems.append(narrow_ring(modes, radius, width, ("linear", "cosine", "rectified_flow")[rng.integers(3)]))
    return problems


class OwnGrid:
    """The cells of the rule's own grid, each with the least error of the 36 simple rules."""

    def __init__(self, cells: Cells) -> None:
        self.kept = cells
        self.problems = {
            "exact": [self.exact(cells, name, on) for name in EXACT for on in EXACT[name]],
            "small networks": [self.trained(SETS["choosing"][name], starts) for name, starts in SMALL.items()],
            "20 cells": problems_of_rules(cells)[:-1],
        }
        self.cells: list[tuple[str, Problem, int]] = [
            (kind, problem, count)
            for kind, problems in self.problems.items()
            for problem in problems
            for count in CALLS[kind]
        ]
        bar = tqdm(self.cells, desc="36 simple rules", unit="cell")
        self.least = [self.least_of(problem, count) for _, problem, count in bar]

    def least_of(self, problem: Problem, calls: int) -> float:
        """The least error of the simple rules."""
        plans = simple_plans(problem, calls).values()
        return min(self.kept.get(problem, "paired", partial(paired, problem, plan), plan)[0] for plan in plans)

    def exact(self, cells: Cells, name: str, schedule: str) -> Problem:
        full = f"{name}, {schedule}"
        problem = exact(DISTRIBUTIONS[name], schedule, 12 if name == "digits-kernel" else 24, 5, name=full)
        return replace(problem, saved=cells.path.with_name(f"choose-{name}-{schedule}.npz"))

    def trained(self, entry: Entry, starts: int) -> Problem:
        saved = networks.CACHE / f"choose-{entry.name}.npz"
        return entry.make(starts, 7, progress=False, name=entry.name, saved=saved)

    @cached_property
    def large(self) -> list[Problem]:
        """Networks of pictures of 64×64, for runs of few calls."""
        return [self.trained(entry, 8) for entry in SETS["large"].values()]

    def quick(self) -> dict[str, list[tuple[Problem, dict[str, Any]]]]:
        """By kind, all problems but the slow one, each with options of its plan: none yet."""
        return {kind: [(p, {}) for p in among if SLOW not in p.name] for kind, among in self.problems.items()}

    def ratios(self, rule: Rule) -> np.ndarray:
        """Of every cell."""
        found = [paired(problem, plan_of(rule, problem, calls))[0] for _, problem, calls in self.cells]
        return np.array(found) / self.least

    def by_kind(self, ratios: np.ndarray) -> list[np.ndarray]:
        return [ratios[[of == kind for of, _, _ in self.cells]] for kind in KINDS]

    def by_calls(self, ratios: np.ndarray) -> dict[int, np.ndarray]:
        calls = np.array([count for _, _, count in self.cells])
        return {int(count): ratios[calls == count] for count in np.unique(calls)}


def spread(ratios: np.ndarray) -> str:
    return f"{np.exp(np.log(ratios).mean()):.2f} ({ratios.max():.3g})"


def errors_of_solvers(
    make: Callable[..., Any], problems: Sequence[tuple[Problem, dict[str, Any]]], calls: int
) -> np.ndarray:
    """On each problem, with options of the plan, the error of the solver that `make` makes of a schedule."""
    plans = ((p, make(p.schedule).plan(calls, **p.grid_options | options)) for p, options in problems)
    return np.array([paired(p, plan)[0] for p, plan in plans])


def as_larger(problem: Problem, times: int) -> dict[str, Any]:
    """The options with which a run begins where pictures of so many times the side would."""
    return {"sample_shape": (math.prod(problem.x.shape[1:]) * times**2,)}


def few_calls(own: OwnGrid) -> str:
    """Errors beside the default's, geometric means; cells in which DDIM on its grid errs less; at most beside DDIM"""
    cells = [(group_of(kind, p), p, options) for kind, among in own.quick().items() for p, options in among]
    cells += [
        (f"begun as {times} times the side", problem, as_larger(problem, times))
        for problem in own.problems["20 cells"]
        for times in LARGER
    ]
    cells += [("64×64", problem, {}) for problem in own.large]
    cells += [("narrow modes", narrow_ring(*numbers, on), {}) for numbers in NARROW for on in ("linear", "cosine")]
    makers = {name: partial(PLMSSolver, rule=rule) for name, rule in FEW_RULES.items()} | FEW_PEERS
    of, problems, tables = np.array([group for group, *_ in cells]), [cell[1:] for cell in cells], []
    groups = dict.fromkeys(of)
    for calls in tqdm(FEW, desc="few calls"):
        found_by = {name: errors_of_solvers(make, problems, calls) for name, make in makers.items()}
        default, ddim, rows = found_by[DEFAULT], errors_of_solvers(DDIMSolver, problems, calls), []
        for name, found in found_by.items():
            means = (f"{np.exp(np.log(found / default)[of == group].mean()):.2f}" for group in groups)
            behind = found / ddim
            rows.append([name, *means, f"{np.sum(behind > 1)} of {len(cells)}", f"{behind.max():.1f}"])
        heads = f"{calls} calls", *groups, "DDIM nearer", "at most"
        tables.append(table(heads, rows))
    return "\n\n".join(tables)


def more_calls(own: OwnGrid) -> str:
    """The default's errors with more calls beside those with fewer: their mean, where they rise, and the largest"""
    problems = [run for among in own.quick().values() for run in among]
    errors = {calls: errors_of_solvers(PLMSSolver, problems, calls) for calls in (*FEW, 8, 10, 16, 17, 20)}
    rows = []
    for fewer, more in itertools.pairwise(errors):
        ratios = errors[more] / errors[fewer]
        rises = (f"{np.sum(ratios > least)} of {len(ratios)}" for least in (1, 1.2))
        rows.append([f"{fewer} → {more}", f"{np.exp(np.log(ratios).mean()):.2f}", *rises, f"{ratios.max():.2f}"])
    return table(("calls", "mean", "rise", "by more than a fifth", "largest"), rows)


def with_condition(own: OwnGrid) -> str:
    """Networks that get a condition: errors of other solvers on the default grid beside the default's, and the worst"""
    problems = [problem for problem in own.problems["small networks"] if NETWORKS[problem.name].given]
    rows = []
    for sure in (True, False):
        among = [(problem, {}) for problem in problems if (NETWORKS[problem.name].given == SURE) == sure]
        what = f"{len(among)} networks, {'' if sure else 'not '}given {SURE}"
        default = {calls: errors_of_solvers(PLMSSolver, among, calls) for calls in SURE_CALLS}
        for name, make in SURE_PEERS.items():
            ratios = (errors_of_solvers(make, among, calls) / default[calls] for calls in SURE_CALLS)
            rows.append([what, name, *map(spread, ratios)])
    return table(("among", "solver", *SURE_CALLS), rows)


def group_of(kind: str, problem: Problem) -> str:
    """Of small networks, those that get a condition stand apart."""
    recipe = NETWORKS.get(problem.name)
    if recipe is None or not recipe.given:
        return kind
    return f"{recipe.data}, with a condition"


class GivenGrids:
    """Grids that ComfyUI chooses, each with the errors of three of its samplers."""

    def __init__(self, steps: tuple[int, ...] = (10, 20)) -> None:
        self.rows: list[tuple[Any, ...]] = []
        self.errors: dict[str, list[float]] = {name: [] for name in comfyui.SAMPLERS}
        families = [
            family
            for problem in ("mixture", "smooth-mixture")
            for family in given_grids.exact_families(problem)
            if family.name in ("ε", "flow, shift 3")
        ]
        for family, count in itertools.product(families, steps):
            for _, x, sigmas, end in given_grids.runs(family, count):
                self.rows.append((family.model, x, sigmas, end))
                for name, sampler in comfyui.SAMPLERS.items():
                    self.errors[name].append(given_grids.median_error(sampler(family.model, x, sigmas), end))

    def run(self, rule: Rule) -> np.ndarray:
        """The errors of a rule's weights."""
        sampler = k_diffusion.sampler_of("candidate", PLMSSolver(k_diffusion.EVERY_SIGMA, rule=rule), "A candidate.")
        return np.array(
            [
                given_grids.median_error(sampler(model, x, sigmas, disable=True), end)
                for model, x, sigmas, end in self.rows
            ]
        )

    @property
    def best(self) -> np.ndarray:
        return np.min([self.errors[name] for name in self.errors], axis=0)


def distribution(rules: dict[str, Rule], folder: Path) -> str:
    """SW² less its floor, with the candidates' intervals, beside the best of five simple rules."""
    rows = []
    for name in OF_SETS:
        problem = SETS["choosing"][name].sampled(folder)

        def measured(plan: Plan, problem: Problem = problem) -> Any:
            return estimate(problem, begun(problem, plan), None, "sliced-wasserstein")

        for calls in tqdm(SETS_CALLS, desc=f"in distribution, {name}"):
            plans = (candidate(w, g, top)(problem.schedule, calls) for top, g, w in SIMPLE)
            best = min(measured(plan).value for plan in plans)
            found = [measured(plan_of(rule, problem, calls)) for rule in rules.values()]
            marked = (
                f"{f.value:.2g} ({f.low:.2g} to {f.high:.2g})" + (" **above**" if f.low > 1.2 * max(best, 0) else "")
                for f in found
            )
            rows.append([name, calls, f"{best:.2g}", *marked])
    return table(("problem", "calls", "best of five", *rules), rows)


def changed(rule: Rule, names: Sequence[str], rng: np.random.Generator) -> Rule:
    """A candidate near another one."""
    scale, values = rng.choice([0.1, 0.25, 0.5]), {}
    for name in rng.choice(names, rng.integers(1, 4), replace=False):
        if name == "orders":
            below, orders = [ratio * math.exp(scale * rng.standard_normal()) for ratio, _ in rule.orders], rule.orders
            values[name] = tuple(zip(sorted(below, reverse=True), [order for _, order in orders], strict=True))
        else:
            number = float((getattr(rule, name) or FROM_ZERO[name]) * math.exp(scale * rng.standard_normal()))
            most = next((most for kind, most in LARGEST.items() if name.endswith(kind)), math.inf)
            values[name] = min(number, most)
    return replace(rule, **values)


def read_rule(name: str) -> Rule:
    """A candidate, or one that a search has written."""
    if name in RULES:
        return RULES[name]

    def made(values: dict[str, Any]) -> Rule:
        by_length = tuple((least, most, made(rule)) for least, most, rule in values["by_length"])
        orders, knees = tuple(map(tuple, values["orders"])), tuple(values["even_knees"])
        return Rule(**values | {"by_length": by_length, "orders": orders, "even_knees": knees})

    if not Path(name).is_file():
        raise argparse.ArgumentTypeError(f"{name!r} is no file; the candidates are {', '.join(RULES)}")
    return made(json.loads(Path(name).read_text()))


def search(own: OwnGrid, grids: GivenGrids, rule: Rule, minutes: float, calls: Sequence[int] | None, seed: int) -> Rule:
    rng, began, best = np.random.default_rng(seed), time.monotonic(), math.inf
    path = networks.CACHE / f"found-rule-{'-'.join(map(str, calls or ['given']))}-{seed}.json"
    problems = own.quick()
    rings, large = (drawn_rings(), own.large) if calls and max(calls) <= max(FEW) else ([], [])
    problems["exact"] += [(ring, {}) for ring in rings]
    problems["20 cells"] += [(p, {}) for p in large]
    if large:
        problems["20 cells"] += [(p, as_larger(p, times)) for p in own.problems["20 cells"] for times in LARGER]

    def errors_by_kind(make: Callable[..., Any]) -> list[np.ndarray]:
        among = problems.values()
        return [np.concatenate([errors_of_solvers(make, kind, count) for count in calls or ()]) for kind in among]

    def errors(rule: Rule) -> list[np.ndarray]:
        return [grids.run(rule)] if calls is None else errors_by_kind(partial(PLMSSolver, rule=rule))

    first = errors(RULE)
    if calls is None:
        least, ddim = [grids.best], [math.inf]
    else:
        known = {(problem.name, count): least for (_, problem, count), least in zip(own.cells, own.least, strict=True)}
        for problem, count in itertools.product([*rings, *large], calls):
            known[problem.name, count] = own.least_of(problem, count)
        least = [
            np.array([math.inf if larger else known.get((p.name, n), math.inf) for n in calls for p, larger in kind])
            for kind in problems.values()
        ]
        ddim = errors_by_kind(DDIMSolver)

    def score(rule: Rule) -> float:
        parts = []
        for found, of_first, of_simple, of_ddim in zip(errors(rule), first, least, ddim, strict=True):
            change = np.log(found / of_first)
            worse = 3 * np.maximum(change - 0.1, 0) ** 2
            far = sum(np.maximum(np.log(found / other), 0) ** 2 for other in (1.8 * of_simple, of_ddim))
            parts.append((change + worse + 1.5 * far).mean())
        return float(np.average(parts, weights=[*KINDS.values()] if calls else None))

    lengths = calls or []
    of = operator.methodcaller("of", max(calls)) if calls else lambda rule: rule
    names = sorted({*NUMBERS} - differing([RULE.of(steps) for steps in lengths])) if calls else GIVEN_NUMBERS
    with tqdm(desc="search", unit="rule") as bar:
        tried = rule = exchanged(RULE, lengths, rule)
        while time.monotonic() - began < 60 * minutes:
            with suppress(ValueError, FloatingPointError):
                if (found := score(tried)) < best:
                    best, rule = found, tried
                    path.write_text(json.dumps(asdict(rule), indent=1))
                    bar.write(f"{best:.4f} {replace(of(rule), by_length=())}")
            tried = exchanged(rule, lengths, changed(of(rule), names, rng))
            bar.update()
    return rule


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--search", type=float, metavar="MINUTES", help="look for a better rule")
    told = "the candidate, or the file of a rule found before, with which the search begins"
    parser.add_argument("--from", dest="first", type=read_rule, metavar="NAME|FILE", default=DEFAULT, help=told)
    of = "of that candidate, the numbers of runs of this length; by default of the longest of --calls"
    parser.add_argument("--of", type=int, metavar="CALLS", help=of)
    parser.add_argument("--calls", type=int, nargs="+", help="search for the rule of runs of these lengths")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-sets", action="store_true", help="leave out the table in distribution")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    print(f"{heading('numpy', 'torch')}\n\nAll figures are of the choosing set.\n", flush=True)
    rules = dict(RULES)
    with torch.inference_mode():
        own, grids = OwnGrid(Cells(networks.CACHE)), GivenGrids()
        if arguments.search:
            first = arguments.first.of(arguments.of or max(arguments.calls)) if arguments.calls else arguments.first
            rules["found"] = search(own, grids, first, arguments.search, arguments.calls, arguments.seed)
        rows, few, by_calls = [], [], {}
        for name, rule in tqdm(rules.items(), desc="candidates"):
            ratios, given = own.ratios(rule), grids.run(rule)
            shares = (f"{np.mean(given <= np.array(grids.errors[peer])):.0%}" for peer in ("ipndm", "dpmpp_2m"))
            euler, near = np.max(given / np.array(grids.errors["euler"])), np.mean(given <= 1.5 * grids.best)
            mean = np.exp(np.log(given / grids.best).mean())
            parts = map(spread, own.by_kind(ratios))
            rows.append([name, *parts, f"{mean:.2f}", *shares, f"{euler:.2f}", f"{near:.0%}"])
            by_calls = own.by_calls(ratios)
            few.append([name, *map(spread, by_calls.values())])
        heads = *KINDS, "given grids: mean", "at or below ipndm", "dpmpp_2m", "worst / Euler", "within 1.5 of the best"
        print(f"Ratios to the least of 36 rules: mean (worst).\n\n{table(('rule', *heads), rows)}\n")
        print(table(("rule, calls", *map(str, by_calls)), few), flush=True)
        for part in (few_calls, more_calls, with_condition):
            print(f"\n{part.__doc__}\n\n{part(own)}", flush=True)
        if not arguments.no_sets:
            chosen = {name: rules[name] for name in (DEFAULT, f"{DEFAULT}, from the top")}
            folder = Path(__file__).parent / ".cache" / "work_precision" / "choosing"
            print(f"\n{distribution.__doc__}\n\n{distribution(chosen, folder)}")


if __name__ == "__main__":
    main()
