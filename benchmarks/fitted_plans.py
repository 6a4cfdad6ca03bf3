"""What do plans win that are fitted to a network, and what do they cost?

The starts that judge are never those that were fitted to. An error is the root-mean-square distance of a sample to the
end of a fine run from the level where its plan begins.

- bundled: the plans shipped with the bundled networks, in each cell beside the best of all peers (`peers.py`) and the
  best of the 36 simple rules (`rules.py`), of the default and of the rules that `Fit` names; apart, fashion's classes
  that were not fitted to.
- distribution: the same plans, less the default: SW², and the Fréchet distance of a classifier's features.
- testing: networks and exact problems that had no say in how the search was made (`sets.py`), fitted here.
- guidance: fashion's plans for one scale of guidance, at others.
- size: the error against the number of samples of the pilot, and of two pilots of 32 fitted samples.
- picture: the same starts by several plans of 5 calls.
- cost: seconds of a fit on this machine, pilot included, and the memory of a pilot of large samples.

    python benchmarks/fitted_plans.py --tables bundled distribution
    python benchmarks/fitted_plans.py --tables testing --problems spirals hsc-64

Fine runs, peers and fitted plans are kept in --folder, so that a stopped run goes on.
"""

from __future__ import annotations

import argparse
import math
import resource
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import networks
import numpy as np
import torch
from peers import PEERS, Peer
from rules import Cells, begun, errors_of, simple_plans
from sets import SETS, Entry, bundled, first_starts
from tables import by_cell, heading, report, table
from tqdm import tqdm
from work_precision import default_plan, paired, run_peer
from work_precision_tables import geometric, interval_of_ratio

from pndm_solvers import (
    DDIMSolver,
    DPMMultistepSolver,
    NoiseSchedule,
    Pilot,
    Plan,
    PLMSSolver,
    Problem,
    initial_noise,
)
from pndm_solvers.arrays import library
from pndm_solvers.condition import rows_of
from pndm_solvers.distances import frechet, resampled
from pndm_solvers.fit.fitted import plain_rules
from pndm_solvers.measure import difference
from pndm_solvers.reference import PLANS, load_network

CALLS = (5, 6, 8, 10, 15, 20)
# Starts, those of them on which peers are compared, and the calls of fine runs. Means take many starts: the few that
# end in another basin rule them.
JUDGES = {"digits": (384, 48, 512), "fashion": (96, 32, 256)}
OTHERS = 30  # samples of other classes
CLASSES = 7  # of fashion, that were fitted to
PILOT_SEED = 777
SAMPLES = {"hsc-64": 32, "ztf-64": 32, "lsst-60": 32, "quasar-72": 24, "21cm": 24}  # of a pilot; others have 64, or 128
SMALL = 32  # numbers of a sample, below which a pilot has 128


class Bench:
    """The folder of what is kept, and the problems."""

    def __init__(self, folder: Path, problems: list[str] | None, calls: list[int], starts: int | None = None) -> None:
        self.folder, self.choosing = folder, folder.parent / "work_precision" / "choosing"
        self.cells = Cells(folder)
        self.problems, self.calls, self.starts = problems, calls, starts

    def other_classes(self) -> Problem:
        """Fashion's classes that were not fitted to."""
        saved = self.folder / "fashion-other.npz"
        label = {"label": CLASSES + torch.arange(OTHERS) % (10 - CLASSES)}
        return bundled("fashion", OTHERS, 7, condition=label, name="fashion-other", saved=saved, progress=True)


def plan_of(problem: Problem, calls: int) -> Plan:
    return default_plan(PLMSSolver, problem.schedule, calls, **problem.grid_options)


def _listed(problem: Problem, plan: Plan) -> list[float]:
    return errors_of(problem, plan).tolist()


def shipped(name: str, calls: int, guidance: float = 1.0) -> Plan:
    solver = load_network(name).fitted(guidance)
    assert solver is not None
    return solver.plan(calls)


def budgets(name: str) -> list[int]:
    """Of `CALLS`, those for which a plan is shipped."""
    return [calls for calls in CALLS if (PLANS / f"{name}-1-{calls}.json").exists()]


# ------------------------------------------------------------------ tables


def bundled_networks(bench: Bench) -> Iterator[tuple[Problem, int, dict[str, Any]]]:
    """Each cell, with the errors of the fitted plan, and of every peer and rule.

    A rule that begins lower leaves out a stretch, and is judged by the flow from where it begins.
    """
    for name, (count, few, fine) in JUDGES.items():
        if bench.problems and name not in bench.problems:
            continue
        problem = bundled(name, count, 1, saved=bench.folder / f"{name}.npz", calls=fine, progress=True)
        part = first_starts(problem, few)
        for calls in budgets(name):

            def of_peer(peer: Peer, part: Problem = part, calls: int = calls) -> list[float]:
                try:
                    found = run_peer(part, peer, calls, None)
                    return paired(part, found.result, found.start_t, found.final, found.end_t)
                except Exception:  # whatever a peer raises means that it has no samples
                    return []

            peers = [
                bench.cells.get(part, f"peer, {calls}, {peer.name}", partial(of_peer, peer))
                for peer in tqdm(PEERS.values(), desc=f"{name}, {calls} calls, peers")
            ]
            default = plan_of(problem, calls)
            simple = simple_plans(problem, calls).values()
            plans = [*simple, *plain_rules(problem.schedule, default, problem.grid_options, {}), default]
            rules = [
                bench.cells.get(problem, f"errors of {count}", partial(_listed, problem, plan), plan)
                for plan in tqdm(plans, desc=f"{name}, {calls} calls, rules")
            ]
            plan = shipped(name, calls)
            found = {"fitted": errors_of(problem, plan), "peers": [e for e in peers if e], "rules": rules}
            least = plan.levels[0].ratio * (1 - 1e-9)
            found |= {"the 36 rules": rules[: len(simple)], "the default alone": rules[-1:]}
            found["rules that begin no lower"] = [
                e for e, other in zip(rules, plans, strict=True) if other.levels[0].ratio >= least
            ]
            yield problem, calls, found


def bundled_table(bench: Bench) -> str:
    """Bundled: of the best peer at most 0.35, never above 0.7; of the best plain rule at most 0.5, never above 0.85"""
    shown: dict[tuple[str, int], str] = {}
    ratios: dict[str, list[float]] = {}
    limits = []
    for problem, calls, errors in bundled_networks(bench):
        limits.append(problem.reference(plan_of(problem, calls).levels[0].t).error)
        mine, figures = errors.pop("fitted"), []
        for kind, of in (("median", np.median), ("mean", np.mean)):
            beside = {}
            for name, found in errors.items():
                theirs = np.array(found)
                beside[name] = float(of(mine[: theirs.shape[1]]) / of(theirs, axis=1).min())  # on as many starts
                ratios.setdefault(f"{kind}, best of {name}", []).append(beside[name])
            figures.append(f"{of(mine):.1e} ({beside['peers']:.2f}, {beside['rules']:.2f})")
        shown[f"{problem.name}, median", calls], shown[f"{problem.name}, mean", calls] = figures
    problem = bench.other_classes()
    for calls in budgets("fashion") if bench.problems is None or "fashion" in bench.problems else ():
        mine, theirs = (errors_of(problem, plan) for plan in (shipped("fashion", calls), plan_of(problem, calls)))
        share = f"{np.median(mine) / np.median(theirs):.2f}, {mine.mean() / theirs.mean():.2f}"
        shown["fashion, other classes / default: median, mean", calls] = share
    lines = [f"{name}: {geometric(values):.2f}, worst {max(values):.2f}" for name, values in ratios.items()]
    lines.append(f"the fine runs err by {max(limits):.1e} at most")
    return f"{'; '.join(lines)}.\n\n{by_cell('error (of the best peer, of the best rule), calls', shown)}"


def distribution(bench: Bench) -> str:
    """In distribution: the fitted plans less the default, with intervals of 90 %; none may lie above 0"""
    shown, above = {}, []
    for name in JUDGES:
        entry: Entry = SETS["choosing"][name]
        problem = entry.sampled(bench.choosing)
        features = networks.load_features(name)
        target = features(problem.target().points)
        for calls in budgets(name):
            mine, theirs = (begun(problem, plan) for plan in (shipped(name, calls), plan_of(problem, calls)))
            gap = difference(problem, mine, theirs)
            parts = [features(np.asarray(result)) for result in (mine, theirs)]

            def of(chosen: np.ndarray, parts: Any = parts, target: Any = target) -> float:
                return frechet(parts[0][chosen], target) - frechet(parts[1][chosen], target)

            value = of(np.arange(len(mine)))
            draws = resampled(of, len(mine))
            low, high = value + np.quantile(draws, [0.05, 0.95]) - draws.mean()
            shown[f"{name}, SW²", calls] = f"{gap.value:+.1e} ({gap.low:+.1e} to {gap.high:+.1e})"
            shown[f"{name}, Fréchet", calls] = f"{value:+.3f} ({low:+.3f} to {high:+.3f})"
            above += [f"{name} at {calls}, SW²"] * bool(gap.low > 0) + [f"{name} at {calls}, Fréchet"] * bool(low > 0)
    return f"Above: {'; '.join(above) or 'none'}.\n\n{by_cell('difference, calls', shown)}"


def testing(bench: Bench) -> str:
    """Testing: fitted / default, at most 0.7 in the geometric mean over networks, never above 1.05"""
    shown, ratios = {}, {"networks": [], "exact": []}
    for entry in SETS["testing"].values():
        if bench.problems and entry.name not in bench.problems:
            continue
        problem = entry.sampled(bench.folder.parent / "work_precision" / "testing")
        problem = first_starts(problem, bench.starts or entry.starts)
        for calls in bench.calls:
            plan, default = fitted_to(bench, problem, entry.name, calls), plan_of(problem, calls)
            mine, theirs = errors_of(problem, plan), errors_of(problem, default)
            low, high = interval_of_ratio(mine, theirs)
            ratio = float(np.median(mine) / np.median(theirs))
            ratios["exact" if "," in entry.name else "networks"].append(ratio)
            limit = " (limit)" if np.median(mine) < 10 * problem.reference(plan.levels[0].t).error else ""
            shown[entry.name, calls] = (
                f"{np.median(mine):.1e} / {np.median(theirs):.1e} = {ratio:.2f} ({low:.2f} to {high:.2f}){limit}; "
                f"means {mine.mean() / theirs.mean():.2f}"
            )
    lines = [f"{kind}: {geometric(found):.2f}, worst {max(found):.2f}" for kind, found in ratios.items() if found]
    return f"{'; '.join(lines)}.\n\n{by_cell('fitted / default, calls', shown)}"


def fitted_to(bench: Bench, problem: Problem, name: str, calls: int) -> Plan:
    """A plan fitted to other starts of the problem; kept in a file."""
    path = bench.folder / f"{name.replace(', ', '-')}-{calls}.json"
    if not path.exists():
        pilot_path = bench.folder / f"{name.replace(', ', '-')}-pilot.npz"
        if not pilot_path.exists():
            pilot_of(problem, SAMPLES.get(name, 64 if math.prod(problem.x.shape[1:]) > SMALL else 128)).save(pilot_path)
        fit = Pilot.load(pilot_path).fit(problem.model, calls, progress=True, note=name)
        print(f"{name}: {fit}", flush=True)
        path.write_text(fit.plan.to_json())
    return Plan.from_json(path.read_text())


def pilot_of(problem: Problem, count: int, seed: int = PILOT_SEED, **options: Any) -> Pilot:
    """A pilot of a problem from starts of its own, with the classes or the conditions of its first samples in turn."""
    top = problem.schedule.level(problem.schedule.t_max)
    x = initial_noise((count, *problem.x.shape[1:]), seed) * float(np.hypot(top.alpha, top.sigma))
    x = library(problem.x).from_numpy(x, like=problem.x)
    given = rows_of(problem.condition, slice(count)) if problem.condition else None
    if given and len(next(iter(given.values()))) < count:
        given = {key: value[np.arange(count) % len(value)] for key, value in given.items()}
    return Pilot.record(
        problem.model, problem.schedule, x, condition=given, progress=True, prediction=problem.prediction, **options
    )


def guidance(bench: Bench) -> str:
    """Fashion at 8 calls: the error of plans fitted at one scale / the default's, at several scales"""
    network, shown = load_network("fashion"), {}
    count = 30
    x = torch.from_numpy(initial_noise((count, *network.shape), 1)).float()
    label = {"label": torch.arange(count) % 10}
    for scale in (1, 1.5, 2, 3, 5):
        model = network.guided(scale)
        saved = bench.folder / f"fashion-guided-{scale}.npz"
        facts = {"prediction": network.prediction, "condition": label}
        problem = Problem.of(model, network.schedule, x, calls=256, saved=saved, **facts)
        default = np.median(errors_of(problem, plan_of(problem, 8)))
        for fitted_at in (1, 2):
            ratio = np.median(errors_of(problem, shipped("fashion", 8, fitted_at))) / default
            shown[f"fitted at {fitted_at}", scale] = f"{ratio:.2f}"
        shown["the default's error", scale] = f"{default:.1e}"
    return by_cell("plan, scale", shown)


def size(bench: Bench) -> str:
    """Digits: the median error on 192 other starts, by the number of fitted samples, two pilots each"""
    from matplotlib.figure import Figure

    problem = first_starts(bundled("digits", 192, 1, saved=bench.folder / "digits-192.npz", calls=512), 192)
    counts, budgets = (8, 16, 32, 64), (5, 8)
    errors = np.zeros((len(counts), len(budgets), 2))
    for i, count in enumerate(counts):
        for k, seed in enumerate((11, 12)):
            pilot = pilot_of(problem, 2 * count, seed)
            for j, calls in enumerate(budgets):
                errors[i, j, k] = np.median(errors_of(problem, pilot.fit(problem.model, calls).plan))
        print(count, errors[i].tolist(), flush=True)
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for j, calls in enumerate(budgets):
        for k, marker in enumerate(("o-", "s--")):
            axes.loglog(counts, errors[:, j, k], marker, color=f"C{j}", label=f"{calls} calls" if k == 0 else None)
        default = float(np.median(errors_of(problem, plan_of(problem, calls))))
        axes.axhline(default, color=f"C{j}", linestyle=":", label=f"the default, {calls} calls")
    axes.set_xticks(counts, map(str, counts), minor=False)
    axes.minorticks_off()
    axes.set(xlabel="samples fitted to", ylabel="median error on other starts", title="Digits: two pilots of each size")
    axes.legend()
    figure.savefig(Path(__file__).parents[1] / "docs" / "images" / "pilot-size.png", dpi=110)
    rows = []
    for count, found in zip(counts, errors, strict=True):
        row: list[Any] = [count]
        for pair in found:
            row += [f"{pair[0]:.2e}, {pair[1]:.2e}", f"{pair.max() / pair.min():.2f}"]
        rows.append(row)
    return table(("fitted samples", "5 calls", "ratio", "8 calls", "ratio"), rows)


def cost(bench: Bench) -> str:
    """A fit of 64 samples, pilot included, 120 s at most up to 10 calls; and the memory of 32 samples of 3×256×256"""
    torch.set_num_threads(2)
    shown = {}
    large = torch.zeros(32, 3, 256, 256)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    Pilot.record(lambda x, t: 0 * x, NoiseSchedule.linear(), large.normal_(), levels=128)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for name in JUDGES:
        problem = bundled(name, 64, 5)
        for calls in (5, 8, 10):
            began = time.monotonic()
            fit = pilot_of(problem, 64).fit(problem.model, calls)
            shown[name, calls] = f"{time.monotonic() - began:.0f} s, {fit.calls:,} sample-calls beside the pilot's"
    torch.set_num_threads(1)
    peak = f"The process held {after / 2**20:.2f} GB at most, of which {before / 2**20:.2f} GB before."
    return f"{peak}\n\n{by_cell('network, calls', shown)}"


def picture(bench: Bench) -> str:
    """docs/images/fitted.png: the same starts by DDIM, DPM-Solver++(2M), the default, the fitted plan and a fine run"""
    from matplotlib.figure import Figure

    network, calls, scale = load_network("fashion"), 5, 2.0
    x = torch.from_numpy(initial_noise((10, *network.shape), 11)).float()
    label = torch.arange(10)
    model, schedule = network.model(label, scale), network.schedule
    options: Any = {"prediction": network.prediction, "sample_shape": network.shape}
    rows = {
        "DDIM": DDIMSolver(schedule).plan(calls, **options),
        "DPM++ 2M": DPMMultistepSolver(schedule).plan(calls, spacing="log_snr", **options),
        "default": PLMSSolver(schedule).plan(calls, **options),
        "fitted": shipped("fashion", calls, scale),
        "200 calls": PLMSSolver(schedule, order=2).plan(200, **options),
    }
    figure = Figure(figsize=(10, 5.4), layout="constrained")
    axes = figure.subplots(len(rows), 10)
    for (name, plan), line in zip(rows.items(), axes, strict=True):
        images = plan.run(model, x, prediction=network.prediction)
        for image, axis in zip(images, line, strict=True):
            axis.imshow(image[0].clamp(-1, 1), cmap="gray_r", vmin=-1, vmax=1)
            axis.set(xticks=[], yticks=[])
        line[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=11)
    figure.suptitle(
        f"The same noise with {calls} model calls, guidance {scale:g}; the last row is where the flow leads"
    )
    path = Path(__file__).parents[1] / "docs" / "images" / "fitted.png"
    figure.savefig(path, dpi=110)
    return f"![the same starts by several plans]({path.name})"


TABLES: dict[str, Callable[[Bench], str]] = {
    "bundled": bundled_table,
    **{f.__name__: f for f in (distribution, testing, guidance, size, cost, picture)},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=list(TABLES), help="by default all")
    parser.add_argument("--problems", nargs="+", metavar="NAME", help="of the tables bundled and testing, only these")
    parser.add_argument("--calls", type=int, nargs="+", default=[5, 8, 10], help="of the table testing")
    parser.add_argument("--starts", type=int, help="of the table testing: how many judge; by default as in sets.py")
    parser.add_argument("--folder", type=Path, default=networks.CACHE / "fitted")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    print(heading("numpy", "torch"), flush=True)
    bench = Bench(arguments.folder, arguments.problems, arguments.calls, arguments.starts)
    with torch.no_grad():
        report(TABLES, arguments.tables, bench)


if __name__ == "__main__":
    main()
