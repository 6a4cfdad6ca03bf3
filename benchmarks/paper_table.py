"""The papers' claims on real networks: cells, claims and figures of docs/development/paper.md.

    python benchmarks/paper_table.py                        all networks: hours; prints an estimate first
    python benchmarks/paper_table.py --all                  also 1,000 steps of what has come to its end with 250
    python benchmarks/paper_table.py --only digits-linear
    python benchmarks/paper_table.py --quick                40 samples, up to 20 steps; two minutes, and no page
    python benchmarks/paper_table.py --page                 runs nothing; the page holds the cells that are there

A cell is a network, a method and a number of steps. Each is kept as a file once it is done, the cheapest first, so a
run that was interrupted or killed goes on when it is started again, and prints the same table. Two processes share the
cells: start the command in two terminals. Stored cells do not follow a change of a solver: delete `.cache/paper` after
one.

The networks are compiled by torch, which takes a minute for each and a C++ compiler; `--eager` does without.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from kept import make
from paper_cells import GRID, LATE, STEPS, Cell, Runner, calls_of, cells, path_of
from paper_claims import READ, Results
from paper_experiments import EXPERIMENTS, experiment
from paper_networks import CASES, Case
from paper_pages import body
from tables import fill_page, heading, parts_of
from tqdm import tqdm

from pndm_solvers import DDIMSolver

PAGE, SCRIPT = Path(__file__).parents[1] / "docs" / "development" / "paper.md", Path(__file__).name
QUICK_COUNT, QUICK_STEPS = 40, (5, 10, 20)


def forward_seconds(runner: Runner) -> float:
    """The processor time of a model call, for one sample."""
    batch = runner.starts(min(runner.case.count, runner.case.batch))
    t = torch.full((len(batch),), 500.0)
    label = {"label": torch.arange(len(batch)) % runner.case.classes} if runner.case.classes else {}
    # A first short run compiles all that later runs call, so that no cell's seconds hold the compiler's.
    runner.run(DDIMSolver(runner.case.schedule).plan(5, **GRID), runner.starts(2 * len(batch)))
    with torch.inference_mode():
        runner.network(batch, t, **label)
        began = time.process_time()
        for _ in range(3):
            runner.network(batch, t, **label)
    return (time.process_time() - began) / 3 / len(batch)


Work = tuple[int, float, Cell | str]  # rank, calls for one sample each, and what


def missing(case: Case, sizes: Sequence[int], experiments: bool, most: int) -> list[Work]:
    """What is to be run, in its order: what claims read, then the others, and last the costly ones of little news.

    `most` is the highest of these ranks, 0 to 2, that is run.
    """
    found: list[Work] = []
    for cell in cells(case, sizes):
        if not path_of(case.name, case.count, cell.method, f"{cell.size:g}").exists():
            rank = 0 if cell[1:] in READ or cell.method == "fine" else 2 if cell[1:] in LATE else 1
            found.append((rank, calls_of(case, cell) * case.count, cell))
    for name, (_, calls) in EXPERIMENTS.items() if experiments else ():
        if not path_of(case.name, case.count, name).exists():
            found.append((0, calls, name))
    return sorted((work for work in found if work[0] <= most), key=lambda work: work[:2])


def run(case: Case, sizes: Sequence[int], experiments: bool, most: int, compiled: bool) -> None:
    """Run the missing cells of one network, up to a rank."""
    work = missing(case, sizes, experiments, most)
    floor = path_of(case.name, case.count, "floor")
    if not work and floor.exists():
        return
    runner = Runner(case, None, compiled)
    each = forward_seconds(runner)
    total = sum(calls for _, calls, _ in work)
    print(
        f"{case.name}: {len(work)} cells, {each * 1e3:.2f} ms a call and sample, about {each * total / 60:.0f} minutes "
        f"on one thread",
        flush=True,
    )
    make(floor, runner.floor)
    with tqdm(total=total, unit="call", unit_scale=True, desc=case.name, mininterval=5) as progress:
        runner.progress = progress
        for _, _, what in work:
            progress.set_postfix_str(str(what) if isinstance(what, str) else f"{what.method} {what.size:g}")
            if isinstance(what, str):
                experiment(runner, what)
            else:
                path = path_of(case.name, case.count, what.method, f"{what.size:g}")
                make(path, lambda cell=what: runner.cell(cell))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(CASES), default=list(CASES), metavar="NETWORK",
                        help=f"of {', '.join(CASES)}")  # fmt: skip
    parser.add_argument("--quick", action="store_true", help="40 samples, up to 20 steps, digits-linear unless said")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--claims", action="store_const", dest="most", const=0, help="run only what the claims read")
    which.add_argument("--all", action="store_const", dest="most", const=2, help="run every cell: many hours")
    parser.add_argument("--page", action="store_true", help="run nothing; write the page from the cells that are there")
    parser.add_argument("--eager", action="store_true", help="do not compile the networks")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch (default: 1)")
    options = parser.parse_args(arguments)
    most = 1 if options.most is None else options.most
    torch.set_num_threads(options.threads)
    names = ["digits-linear"] if options.quick and options.only == list(CASES) else options.only
    counts = {name: QUICK_COUNT if options.quick else CASES[name][1] for name in names}
    if not options.quick:
        parts_of(PAGE, SCRIPT)  # before hours of work, see that the page can be written
    began = time.monotonic()
    try:
        for name in () if options.page else names:
            try:
                case = CASES[name][0](counts[name])
            except FileNotFoundError as error:
                print(f"{name} is left out: {error}")
                continue
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of few steps, and of overflows, which the table shows
                run(
                    case,
                    QUICK_STEPS if options.quick else STEPS,
                    not options.quick,
                    most,
                    not (options.quick or options.eager),
                )
    except KeyboardInterrupt:
        print("stopped; the cells that are done are kept, and the same command goes on with the others")
        return
    # The page holds every network, whichever were run.
    shown = [Results(name, counts.get(name, CASES[name][1])) for name in (names if options.quick else CASES)]
    shown = [results for results in shown if results.has]
    facts = f"`python benchmarks/{SCRIPT}` {heading('numpy', 'torch', 'scipy').splitlines()[0]}"
    text = body(shown, facts)
    print(f"\n{text}\n\n{(time.monotonic() - began) / 60:.0f} minutes.")
    if not options.quick:
        from paper_pictures import draw

        fill_page(PAGE, SCRIPT, text)
        draw(shown, PAGE.parents[1] / "images")


if __name__ == "__main__":
    main()
