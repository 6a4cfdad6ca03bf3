"""Which rule is the library's default? Candidates, the problems that choose, and their score: all on the choosing set.

A candidate is a `Rule`: the numbers of its start, grid and weights. The library's own, `RULE`, is what won here.

- own grid: each median paired error divided by the best of the 36 simple rules of `rules.py` in its cell, over two
  networks of galaxies, the bundled networks and the exact mixture, at 5, 8, 10 and 20 calls; and over 18 small networks
  and exact problems of the set, at 4, 5, 10, 20 and 50. Each error is to the flow from the run's own first level.
- in distribution: SW² less its floor on the same networks from 8 calls on, with its interval, beside the best of five
  simple rules. That is to the flow from the top, or to the data, so a low start wins nothing by itself.
- given grids: each error divided by the best of ComfyUI's Euler, ipndm and dpmpp_2m, on its nine schedulers at full and
  at half denoise, 10 and 20 steps, two exact mixtures as ε- and as flow-models.

The score is the mean of log ratios with a penalty on ratios above 1.8, lower is better. --search changes the numbers of
a candidate at random and keeps what lowers the score.

    python benchmarks/choose_default.py
    python benchmarks/choose_default.py --search 30 --from 2026-12
"""

import argparse
import itertools
import json
import math
import time
import warnings
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import comfyui
import given_grids
import networks
import numpy as np
import torch
from candidates import FROZEN, candidate
from rules import Cells, begun, paired, problems_of_rules, simple_plans
from sets import SETS
from tables import heading, table
from tqdm import tqdm

from pndm_solvers import Plan, PLMSSolver, Problem
from pndm_solvers.adapters import k_diffusion
from pndm_solvers.grid import default, default_start
from pndm_solvers.measure import estimate
from pndm_solvers.rule import RULE, Rule

RULES: dict[str, Rule] = {
    "2026-11": replace(FROZEN, start=math.inf),  # from the highest level
    "2026-11, lower start": FROZEN,
    "2026-12": RULE,
    "2026-12, from the top": replace(RULE, start=math.inf),
    "2026-12, own coordinate everywhere": replace(RULE, even=False),
    "2026-12, first steps as they are": replace(RULE, corrected=0.0, even_corrected=0),
    "2026-12, last call above the lowest level": replace(RULE, grid_low=math.inf),
    "2026-12, orders not mixed": replace(RULE, mixed=False),
}
# Of `Rule`, those that a search may change.
NUMBERS = ("grid_scale", "grid_rise", "grid_fall", "grid_first", "grid_low", "knee", "tail", "short", "bound")
NUMBERS += ("long_bound", "last_bound", "corrected", "even_bound", "even_short", "even_top", "far", "far_bound")

SMALL = {
    **{f"{data}, linear": 32 for data in ("ring", "power-law")},
    **{f"{data}, scaled_linear": 32 for data in ("ring", "mixture", "power-law")},
    **{f"{data}, cosine": 32 for data in ("ring", "mixture", "power-law")},
    **{f"digits-kernel, {betas}": 12 for betas in ("linear", "cosine")},
    **{f"moons-{kind}": 64 for kind in ("linear-v", "cosine-v", "linear-epsilon", "cosine-epsilon")},
    **{f"digits-mlp-{kind}": 32 for kind in ("cosine-v", "linear-epsilon", "cosine-epsilon", "linear-sample")},
}
LARGE_CALLS, SMALL_CALLS, SETS_CALLS = (5, 8, 10, 20), (4, 5, 10, 20, 50), (8, 10, 20)
OF_SETS = (
    "hsc-32", "ztf-32", "digits", "fashion", "mixture, linear", "moons-linear-epsilon", "moons-cosine-epsilon",
    "digits-mlp-linear-epsilon", "digits-mlp-cosine-epsilon",
)  # fmt: skip
SIMPLE = ((None, "balanced", "default"), (None, "quadratic", "default"), (20, "balanced", "default"),
          (10, "quadratic", "default"), (10, "log", "order 2"))  # fmt: skip


def plan_of(rule: Rule, problem: Problem, calls: int) -> Plan:
    """The plan of a rule on its own grid."""
    facts = problem.grid_options
    first = default_start(problem.schedule, facts["prediction"], 1.0, facts["sample_shape"], rule)
    return PLMSSolver(problem.schedule, rule=rule).plan(calls, spacing=partial(default, first=first, rule=rule))


def penalised(ratios: Any) -> float:
    logs = np.log(np.maximum(np.asarray(ratios), 0.5))
    return float((logs + 3 * np.maximum(logs - math.log(1.8), 0) ** 2).mean())


class OwnGrid:
    """The cells of the rule's own grid, each with the least error of the 36 simple rules."""

    def __init__(self, cells: Cells) -> None:
        self.small = []
        for name, starts in SMALL.items():
            saved = None if "," in name else networks.CACHE / f"choose-{name}.npz"
            self.small.append(SETS["choosing"][name].make(starts, 1, progress=False, name=name, saved=saved))
        self.cells = [
            *itertools.product(self.small, SMALL_CALLS),
            *itertools.product(problems_of_rules(cells), LARGE_CALLS),
        ]
        self.least = []
        for problem, calls in tqdm(self.cells, desc="36 simple rules", unit="cell"):
            plans = simple_plans(problem, calls)
            self.least.append(min(cells.get(problem, "paired", partial(paired, problem, p), p)[0] for p in plans))

    def ratios(self, rule: Rule) -> tuple[np.ndarray, np.ndarray]:
        """Of the small and of the large problems."""
        found = [
            paired(problem, plan_of(rule, problem, calls))[0] / least
            for (problem, calls), least in zip(self.cells, self.least, strict=True)
        ]
        count = len(self.small) * len(SMALL_CALLS)
        return np.array(found[:count]), np.array(found[count:])


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


def changed(rule: Rule, rng: np.random.Generator) -> Rule:
    """A candidate near another one."""
    names = rng.choice(NUMBERS, rng.integers(1, 5), replace=False)
    scale = rng.choice([0.1, 0.3, 0.6])
    return replace(rule, **{n: float(getattr(rule, n) * math.exp(scale * rng.standard_normal())) for n in names})


def search(own: OwnGrid, grids: GivenGrids, rule: Rule, minutes: float, seed: int, path: Path) -> Rule:
    rng, began, best = np.random.default_rng(seed), time.monotonic(), math.inf

    def score(rule: Rule) -> float:
        given = penalised(grids.run(rule) / grids.best)
        small, large = own.ratios(rule)
        return 0.4 * penalised(small) + 0.6 * penalised(large) + 0.5 * given

    with tqdm(desc="search", unit="rule") as bar:
        tried = rule
        while time.monotonic() - began < 60 * minutes:
            try:
                found = score(tried)
            except (ValueError, FloatingPointError):
                found = math.inf
            if found < best:
                best, rule = found, tried
                path.write_text(json.dumps(asdict(rule), indent=1))
                bar.write(f"{best:.4f} {rule}")
            tried = changed(rule, rng)
            bar.update()
    return rule


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--search", type=float, metavar="MINUTES", help="look for a better rule")
    parser.add_argument("--from", dest="first", choices=RULES, default="2026-12", help="where the search begins")
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
            path = networks.CACHE / "found-rule.json"
            rules["found"] = search(own, grids, RULES[arguments.first], arguments.search, arguments.seed, path)
        rows = []
        for name, rule in tqdm(rules.items(), desc="candidates"):
            (small, large), given = own.ratios(rule), grids.run(rule)
            figures = (f"{np.exp(np.log(part).mean()):.2f} ({part.max():.3g})" for part in (large, small))
            shares = (f"{np.mean(given <= np.array(grids.errors[peer])):.0%}" for peer in ("ipndm", "dpmpp_2m"))
            euler, near = np.max(given / np.array(grids.errors["euler"])), np.mean(given <= 1.5 * grids.best)
            mean = np.exp(np.log(given / grids.best).mean())
            rows.append([name, *figures, f"{mean:.2f}", *shares, f"{euler:.2f}", f"{near:.0%}"])
        heads = (
            "rule",
            "20 cells: mean (worst)",
            "90 small cells",
            "given grids: mean",
            "at or below ipndm",
            "dpmpp_2m",
        )
        print(table((*heads, "worst / Euler", "within 1.5 of the best"), rows), flush=True)
        if not arguments.no_sets:
            chosen = {name: rules[name] for name in ("2026-11", "2026-12", "2026-12, from the top")}
            folder = Path(__file__).parent / ".cache" / "work_precision" / "choosing"
            print(f"\n{distribution.__doc__}\n\n{distribution(chosen, folder)}")


if __name__ == "__main__":
    main()
