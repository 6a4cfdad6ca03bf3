"""What does a solver cost beside its network: time a row, planning, imports, memory, next to its peers and bare arrays?

The network is idle: it answers with a tensor that was laid out before the run, so all the time is the sampler's. Ours
and its peer take turns in one process. A ratio is the median of the ratios of the turns; in brackets are the quartiles.

    python benchmarks/speed.py                       all, and writes the tables of docs/development/performance.md
    python benchmarks/speed.py --quick               a minute, coarse, and writes nothing
    python benchmarks/speed.py --only core memory    some sections, and writes nothing
    pytest benchmarks/speed.py --benchmark-only      the same runs as cases of pytest-benchmark
    pytest benchmarks/speed.py --benchmark-only --benchmark-autosave --benchmark-compare
                                                     beside the run that was saved before

Ctrl-C ends the measurement, and prints what was measured until then. Times are processor time of one thread; with
--threads above 1 they are wall time. Imports are timed by both.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import speed_costs
import speed_tables
import torch
from speed_cases import BARE, CORE, SCHEDULERS, SHAPES, Case, answers, classical, idle_run
from speed_costs import LIBRARIES, PLANNERS, PLANS
from speed_tables import Compared, Costs, Found, Imports, Planned, Rows, Swept, Used, shown
from speed_timing import Settings, interleaved, median, ratio
from tables import parts_of
from threadpoolctl import threadpool_limits
from tqdm import tqdm

PAGE = Path(__file__).parents[1] / "docs" / "development" / "performance.md"
QUICK_ELEMENTS = 1 << 20  # --quick leaves larger arrays out, but for one pair

# ------------------------------------------------------------------ sections: each appends to what was found

BATCHES = (1, 16, 256)
ELEMENTS = (256, 1024, 4096, 16384, 65536, 262144, 1048576, 3145728)
KINDS: dict[str, Callable[[torch.Tensor], Any]] = {
    "torch float32": lambda x: x,
    "torch bfloat16": lambda x: x.bfloat16(),
    "NumPy float32": lambda x: x.numpy(),
}
PICTURED = "torch float32"
LENGTHS = (10, 50, 200, 1000)
MIDDLE = SHAPES[1]  # where only one shape is measured
MEMORY_SHAPE = SHAPES[2]


def small(shape: tuple[int, ...], settings: Settings) -> bool:
    return not settings.quick or int(np.prod(shape)) <= QUICK_ELEMENTS


def watched(items: Iterator[Any] | list[Any], section: str) -> tqdm:
    return tqdm(list(items), desc=section, leave=False)


def core(settings: Settings, found: Found) -> None:
    for pair, shape in watched(itertools.product(CORE, SHAPES), "core"):
        if small(shape, settings) or pair is CORE[0]:
            x = answers(shape)[0]
            micros = interleaved([pair.ours(x), pair.theirs(x)], settings)
            ours, theirs = micros.T
            found.core.append(
                Compared(pair.name, pair.peer, shape, median(ours), median(theirs), ratio(theirs, ours), len(ours))
            )


def schedulers(settings: Settings, found: Found) -> None:
    for (name, pair), shape in watched(itertools.product(SCHEDULERS.items(), SHAPES), "schedulers"):
        if not small(shape, settings):
            continue
        x, forms = answers(shape)[0], (False, True)
        cases = [make(x, return_dict=form) for form in forms for make in pair]
        micros = interleaved(cases, settings).T
        for form, ours, theirs in zip(forms, micros[::2], micros[1::2], strict=True):
            how = f"return_dict={form}"
            found.schedulers.append(
                Compared(name, how, shape, median(ours), median(theirs), ratio(theirs, ours), len(ours))
            )


def bounds(settings: Settings, found: Found) -> None:
    for shape in watched(list(SHAPES), "bounds"):
        if small(shape, settings):
            x = answers(shape)[0]
            ours, *bare = interleaved([idle_run(classical(50), x), *(make(x) for make in BARE)], settings).T
            found.bounds.append(
                Costs(shape, median(ours), [median(each) for each in bare], [ratio(ours, each) for each in bare])
            )


def sweep(settings: Settings, found: Found) -> None:
    brief = settings._replace(seconds=settings.seconds / 4)
    for kind, elements, batch in watched(itertools.product(KINDS, ELEMENTS, BATCHES), "sweep"):
        if not small((elements,), settings) or (settings.quick and batch == BATCHES[1]):
            continue
        noise = answers((batch, elements // batch))[0]
        cases = [idle_run(classical(50), KINDS[kind](noise))]
        if kind == PICTURED and batch == 1:
            cases += [CORE[0].theirs(noise), *(make(noise) for make in BARE)]
        micros = interleaved(cases, brief)
        names = [case.name for case in cases]
        found.sweep.append(Swept(kind, elements, batch, dict(zip(names, map(median, micros.T), strict=True))))


def rows(settings: Settings, found: Found) -> None:
    x = answers(MIDDLE)[0]
    for steps, repeats in watched([(49, 40), (999, 8)], "rows"):
        plan = classical(steps)
        speed_costs.row_times(plan, x, settings.clock)
        times = [
            speed_costs.row_times(plan, x, settings.clock)
            for _ in range(max(2, repeats // (8 if settings.quick else 1)))
        ]
        third = len(times[0]) // 3
        first, last = (np.array([np.median(t[part]) for t in times]) for part in (slice(third), slice(-third, None)))
        found.rows.append(Rows(plan.model_calls, median(first), median(last), ratio(last, first)))
    lengths = interleaved([idle_run(classical(length - 1), x) for length in LENGTHS], settings).T
    found.lengths += [(length, median(micros)) for length, micros in zip(LENGTHS, lengths, strict=True)]


WAYS_TO_PLAN = (speed_costs.plan_anew, speed_costs.plan_otherwise, speed_costs.plan_again)


def planning(settings: Settings, found: Found) -> None:
    brief = settings._replace(seconds=settings.seconds / 2)
    for name, (make, count) in watched(list(PLANS.items()), "planning"):
        cases = [each(make, count) for each in WAYS_TO_PLAN]
        found.plans.append(Planned(name, tuple(map(median, interleaved(cases, brief).T))))
    for name in watched(list(PLANNERS), "set_timesteps"):
        cases = [
            make(library, name)
            for make in (speed_costs.times_anew, speed_costs.times_again)
            for library in LIBRARIES.values()
        ]
        found.timesteps.append(Planned(name, tuple(map(median, interleaved(cases, brief).T))))


def imports(settings: Settings, found: Found) -> None:
    alone, beyond = [], []
    for _ in watched(list(range(3 if settings.quick else 15)), "imports"):
        alone.append(speed_costs.import_seconds("numpy"))
        beyond.append(speed_costs.import_seconds("numpy", "pndm_solvers"))
        found.imports[:] = [Imports(np.array(alone), np.array(beyond))]


def memory(settings: Settings, found: Found) -> None:
    x, loops = answers(MEMORY_SHAPE)[0], {"ours": speed_costs.our_loop, "diffusers PNDM": speed_costs.their_loop}
    for (name, loop), fresh in watched(itertools.product(loops.items(), (False, True)), "memory"):
        found.memory.append(Used(f"{name}, torch", fresh, speed_costs.torch_memory(loop, x, fresh)))
    found.memory.append(Used("ours, NumPy", False, speed_costs.numpy_memory(x.numpy())))


def networks(settings: Settings, found: Found) -> None:
    for name in watched(["digits", "fashion"], "networks"):
        found.shares.append(speed_costs.share(name, 5 if settings.quick else 20, settings.clock))


SECTIONS: dict[str, Callable[[Settings, Found], None]] = {
    "core": core,
    "schedulers": schedulers,
    "bounds": bounds,
    "sweep": sweep,
    "rows": rows,
    "planning": planning,
    "imports": imports,
    "memory": memory,
    "networks": networks,
}


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a minute: few turns, and few large arrays")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, metavar="SECTION", help=f"of {', '.join(SECTIONS)}")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="threads of torch and BLAS; 1 by default")
    parser.add_argument("--page", type=Path, default=PAGE, help="the page whose tables a whole run writes")
    arguments = parser.parse_args()
    if arguments.threads < 1:
        parser.error(f"--threads is {arguments.threads}; it must be 1 or more")
    return arguments


def main() -> None:
    arguments = parsed()
    torch.set_num_threads(arguments.threads)
    settings = Settings(quick=arguments.quick, threads=arguments.threads)
    if settings.quick:
        settings = settings._replace(seconds=0.12, rounds=1)
    found, began, whole = Found(), time.monotonic(), not (arguments.quick or arguments.only)
    if whole:
        parts_of(arguments.page, speed_tables.SCRIPT)  # before minutes are spent
    print(speed_tables.facts(settings), flush=True)
    printed = []
    try:
        with torch.no_grad(), threadpool_limits(settings.threads):
            for name in arguments.only or SECTIONS:
                SECTIONS[name](settings, found)
                print(f"\n{speed_tables.section(name, found)}", flush=True)
                printed.append(name)
    except KeyboardInterrupt:
        for name in arguments.only or SECTIONS:
            if name not in printed and (text := speed_tables.section(name, found)):
                print(f"\n{text}")
        raise SystemExit("interrupted: these are the figures up to here, and no page was written") from None
    minutes = (time.monotonic() - began) / 60
    print(f"\n{minutes:.1f} minutes")
    if whole:
        speed_tables.write_page(arguments.page, settings, found, minutes)


# ------------------------------------------------------------------ the same as cases of pytest-benchmark


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    torch.set_num_threads(1)
    with torch.no_grad(), threadpool_limits(1):
        yield


def bench(benchmark: Any, group: str, case: Case) -> None:
    """One round is a whole run; `rows` says how many rows it has."""
    case.prepare()
    began = time.perf_counter()
    case.run()
    rounds = int(np.clip(0.5 / (time.perf_counter() - began), 3, 100))
    benchmark.group = group
    benchmark.extra_info["rows"] = case.rows
    benchmark.pedantic(case.run, setup=case.prepare, rounds=rounds)


pytestmark = [
    pytest.mark.benchmark(timer=time.thread_time),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:diffusers"),
]
over_shapes = pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "x".join(map(str, shape)))


@over_shapes
@pytest.mark.parametrize("who", ["ours", "theirs"])
@pytest.mark.parametrize("pair", CORE, ids=lambda pair: f"{pair.name} / {pair.peer}")
def test_a_run(benchmark, pair, who, shape):
    bench(benchmark, f"{pair.name} / {pair.peer}, {shown(shape)}", getattr(pair, who)(answers(shape)[0]))


@over_shapes
@pytest.mark.parametrize("return_dict", [False, True])
@pytest.mark.parametrize("who", ["ours", "theirs"])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_scheduler(benchmark, name, who, return_dict, shape):
    make = SCHEDULERS[name][who == "theirs"]
    bench(benchmark, f"{name}, {shown(shape)}, return_dict={return_dict}", make(answers(shape)[0], return_dict))


@over_shapes
@pytest.mark.parametrize("make", BARE, ids=lambda make: make.__name__)
def test_bare_arrays(benchmark, make, shape):
    bench(benchmark, f"bare arrays, {shown(shape)}", make(answers(shape)[0]))


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("elements", ELEMENTS[:-1])
@pytest.mark.parametrize("kind", KINDS)
def test_a_size(benchmark, kind, elements, batch):
    x = KINDS[kind](answers((batch, elements // batch))[0])
    bench(benchmark, f"{kind}, {elements} elements", idle_run(classical(50), x))


@pytest.mark.parametrize("length", LENGTHS)
def test_a_length(benchmark, length):
    bench(benchmark, "rows of a plan", idle_run(classical(length - 1), answers(MIDDLE)[0]))


@pytest.mark.parametrize("make", WAYS_TO_PLAN, ids=lambda make: make.__name__)
@pytest.mark.parametrize("name", PLANS)
def test_a_plan(benchmark, name, make):
    bench(benchmark, f"plan, {name}", make(*PLANS[name]))


@pytest.mark.parametrize("make", [speed_costs.times_anew, speed_costs.times_again], ids=["anew", "again"])
@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("name", PLANNERS)
def test_set_timesteps(benchmark, name, library, make):
    bench(benchmark, f"set_timesteps, {name}", make(LIBRARIES[library], name))


@pytest.mark.benchmark(timer=time.perf_counter)
@pytest.mark.parametrize("modules", [("numpy",), ("numpy", "pndm_solvers")], ids=" and ".join)
def test_an_import(benchmark, modules):
    """Of the process as a whole, interpreter included."""
    benchmark.group = "import"
    benchmark.pedantic(partial(speed_costs.import_seconds, *modules), rounds=5)


if __name__ == "__main__":
    main()
