"""What a server's users see: requests that come at random times, served one by one, in static batches, and by Batcher.

    python benchmarks/serving.py            2,000 requests to each policy: 40 minutes
    python benchmarks/serving.py --quick    40 requests, and no page

Requests for one fashion image with 8 to 50 model calls arrive as a Poisson process. Every call is made and every sample
drawn. The server's clock is the processor time of its one thread; while it is idle the clock goes on to the next
arrival. So other work on the machine does not count. Policies run on the same arrivals, one after the other. Latency
counts from the arrival to the sample. The stream is long because a queue takes hundreds of requests to fill, and of 200
requests two alone decide the latency that one in a hundred exceeds.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from tables import fill_page, heading, parts_of, table

from pndm_solvers import Batcher, Plan, PLMSSolver, State, advance_together, initial_noise
from pndm_solvers.reference import load_network

PAGE, SCRIPT = Path(__file__).parents[1] / "docs" / "how-to" / "serving.md", Path(__file__).name
MOST = 16  # samples a batch
CALLS = range(8, 51)
LOAD = 0.8  # of the static batches' peak

NETWORK = load_network("fashion")
PLANS = {calls: PLMSSolver(NETWORK.schedule).plan(calls) for calls in CALLS}


class Request(NamedTuple):
    arrival: float
    plan: Plan
    x: torch.Tensor
    label: torch.Tensor

    def start(self) -> State:
        return self.plan.start(self.x, prediction=NETWORK.prediction, condition={"label": self.label})


def requests_of(count: int, rate: float, seed: int) -> list[Request]:
    """Requests at random times, so many a second; all at once where the rate is infinite."""
    random = np.random.default_rng(seed)
    arrivals = np.cumsum(random.exponential(1 / rate, count))
    noise = torch.from_numpy(initial_noise((count, *NETWORK.shape), seed)).float()
    return [
        Request(float(arrivals[n]), PLANS[int(random.choice(CALLS))], noise[n : n + 1], torch.tensor([n % 10]))
        for n in range(count)
    ]


class Clock:
    """Seconds since the server began, and the requests that have arrived by now."""

    def __init__(self, requests: Sequence[Request]) -> None:
        self.coming, self.idle, self.began = list(enumerate(requests)), 0.0, time.thread_time()

    def now(self) -> float:
        return time.thread_time() - self.began + self.idle

    def arrived(self, most: int, *, idle: bool) -> list[tuple[int, Request]]:
        """The next requests that are there; an idle server waits for one."""
        if idle and self.coming and (ahead := self.coming[0][1].arrival - self.now()) > 0:
            self.idle += ahead
        found = []
        while self.coming and len(found) < most and self.coming[0][1].arrival <= self.now():
            found.append(self.coming.pop(0))
        return found


Served = list[float]  # when each request had its sample


def one_by_one(requests: Sequence[Request]) -> Served:
    clock, ends = Clock(requests), [0.0] * len(requests)
    while clock.coming:
        for n, request in clock.arrived(1, idle=True):
            request.plan.run(NETWORK, request.x, prediction=NETWORK.prediction, condition={"label": request.label})
            ends[n] = clock.now()
    return ends


def static(requests: Sequence[Request], *, drops: bool) -> Served:
    """A batch of all that wait, up to `MOST`, which ends when its longest run does.

    With `drops` a run that is done has its sample at once, and no place in further calls. Without, the batch stays
    whole, and its samples are there when it ends.
    """
    clock, ends = Clock(requests), [0.0] * len(requests)
    while clock.coming:
        batch = clock.arrived(MOST, idle=True)
        states = [request.start() for _, request in batch]
        spare = {n: state for (n, _), state in zip(batch, states, strict=True)}
        while not all(state.done for state in states):
            running = [
                state if drops or not state.done else spare[n] for (n, _), state in zip(batch, states, strict=True)
            ]
            after = advance_together(NETWORK, running)
            now = clock.now()
            for place, (old, new) in enumerate(zip(states, after, strict=True)):
                states[place] = old if old.done else new
                if drops and new.done and not old.done:
                    ends[batch[place][0]] = now
        for n, _ in () if drops else batch:
            ends[n] = clock.now()
    return ends


def continuous(requests: Sequence[Request]) -> Served:
    clock, ends, batcher = Clock(requests), [0.0] * len(requests), Batcher(NETWORK, MOST)
    while clock.coming or len(batcher):
        for n, request in clock.arrived(len(requests), idle=not len(batcher)):
            future = batcher.submit(request.start())
            future.add_done_callback(lambda _, n=n: ends.__setitem__(n, clock.now()))
        batcher.step()
    return ends


POLICIES: dict[str, Callable[[Sequence[Request]], Served]] = {
    "one by one": one_by_one,
    "static batches": lambda requests: static(requests, drops=False),
    "static batches, early leave": lambda requests: static(requests, drops=True),
    "`Batcher`": continuous,
}


class Figures(NamedTuple):
    throughput: float
    p50: float
    p99: float


def figures(requests: Sequence[Request], ends: Served) -> Figures:
    latencies = np.array(ends) - [request.arrival for request in requests]
    seconds = max(ends) - requests[0].arrival  # from the first arrival to the last sample
    return Figures(len(requests) / seconds, *map(float, np.quantile(latencies, [0.5, 0.99])))


def serve(count: int) -> str:
    """The tables."""
    peak: dict[str, float] = {}
    for name, policy in POLICIES.items():
        all_at_once = requests_of(min(count, 6 * MOST), float("inf"), 0)
        peak[name] = figures(all_at_once, policy(all_at_once)).throughput
        print(f"{name}: at most {peak[name]:.2f} requests/s", flush=True)
    requests = requests_of(count, LOAD * peak["static batches"], 1)
    found: dict[str, Figures] = {}
    for name, policy in POLICIES.items():
        found[name] = figures(requests, policy(requests))
        print(f"{name}: {found[name]}", flush=True)
    ratios = []
    for other in ("static batches", "static batches, early leave"):
        pairs = zip(found["`Batcher`"], found[other], strict=True)
        ratios.append((other, *(f"{ours / theirs:.2f}" for ours, theirs in pairs)))
    peaks = table(("policy", "requests/s, all there at once"), [(name, f"{peak[name]:.2f}") for name in POLICIES])
    columns = ("requests/s", "latency p50, s", "latency p99, s")
    served = table(("policy", *columns), [(name, *(f"{value:.2f}" for value in found[name])) for name in POLICIES])
    beside = table(("`Batcher` ÷", "requests/s", "latency p50", "latency p99"), ratios)
    return (
        f"Peak:\n\n{peaks}\n\n{count:,} requests to each policy, at {100 * LOAD:g} % of the peak of static batches:\n\n"
        f"{served}\n\nRatios:\n\n{beside}"
    )


def arithmetic() -> str:
    """What a row costs beside the network, for so many runs."""
    rows = []
    for runs in (1, 4, 16, 64):
        random = np.random.default_rng(0)
        states = []
        for _run in range(runs):
            state = PLANS[int(random.choice(CALLS))].start(
                torch.randn(1, *NETWORK.shape), condition={"label": torch.tensor([0])}
            )
            for _ in range(int(random.integers(4, 7))):
                state = state.plan.advance(state, state.x)
            states.append(state)

        def together(states: list[State] = states) -> None:
            advance_together(lambda x, t, label: x, states)

        def apart(states: list[State] = states) -> None:
            for state in states:
                state.plan.advance(state, state.x)

        best = {}
        for name, call in (("together", together), ("apart", apart)):
            times = []
            for _ in range(200):
                began = time.thread_time()
                call()
                times.append(time.thread_time() - began)
            best[name] = statistics.median(times) * 1e6
        rows.append((runs, f"{best['together']:.0f}", f"{best['apart']:.0f}", f"{best['together'] / runs:.1f}"))
    return table(("runs", "`advance_together`, µs", "one by one, µs", "together, µs a run"), rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="40 requests, and no page")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if not options.quick:
        parts_of(PAGE, SCRIPT)
    with torch.inference_mode():
        one_by_one(requests_of(2, float("inf"), 0))
        continuous(requests_of(MOST, float("inf"), 0))
        served = serve(40 if options.quick else 2000)
        text = f"{served}\n\nA row beside a network that does nothing:\n\n{arithmetic()}"
    facts = " ".join(heading("numpy", "torch").split("\n")[::-1])
    print(text)
    if not options.quick:
        fill_page(PAGE, SCRIPT, f"{facts}\n\n{text}")


if __name__ == "__main__":
    main()
