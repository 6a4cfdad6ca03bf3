"""Requests that come at any time and share the calls of one model, as a server needs it."""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from pndm_solvers.arguments import function, shown, whole
from pndm_solvers.array_library import ArrayLibrary, dtype_name
from pndm_solvers.arrays import library
from pndm_solvers.batching import advance_together
from pndm_solvers.observers import CheckFinite
from pndm_solvers.plan import State
from pndm_solvers.run_options import Model

__all__ = ["Batcher"]


@dataclass(eq=False)
class Request:
    """A run, and where its sample goes."""

    state: State
    future: Future[Any] = field(default_factory=Future)
    settled: bool = False

    @property
    def size(self) -> int:
        return self.state.states[self.state.row].shape[0]

    def settle(self, sample: Any = None, error: Exception | None = None) -> None:
        """Gives the future its sample or its error, unless it was cancelled."""
        self.settled = True
        if not self.future.set_running_or_notify_cancel():
            return
        if error is None:
            self.future.set_result(sample)
        else:
            self.future.set_exception(error)

    def stays(self) -> bool:
        """Whether it is neither done nor cancelled."""
        if not self.settled and self.future.cancelled():
            self.settle()
        return not self.settled


@dataclass(eq=False)
class Queue:
    """The requests that can stand in one batch: those that run, and those that wait, in the order of their arrival."""

    running: list[Request] = field(default_factory=list)
    waiting: deque[Request] = field(default_factory=deque)


class Batcher:
    """Runs of many requests, one row further by each call of the model for all that fit into a batch.

    A request is a run of its own plan. It joins between two model calls, as soon as there is room, and leaves when its
    last row is done; it never waits for the others to end. One thread makes the steps, any thread sends requests:

        batcher = Batcher(network, max_samples=16)
        future = batcher.submit(plan.start(x, condition={"label": y}))
        while batcher.step():
            pass
        sample = future.result()

    **Order.** First come, first served: a request that does not fit yet holds back those behind it, so none waits for
    ever. Once admitted, a run advances by a row with every step and is never interrupted. So a run of n calls is done
    after n steps, each of a call for at most `max_samples` samples. Requests that cannot stand in one batch, of another
    shape or dtype say, form queues of their own; each step serves the next queue in turn.

    **Harm.** A cancelled request leaves before the next step. Where the model raises an error, the batch is halved
    until the request is found that raises it alone. That one fails, with the model's error, and the others go on.
    A sample that is not finite is an error of its own request.

    **Bits.** Where the model treats each sample by itself, a request gets what `plan.run` gives. Most networks round
    differently for other batch sizes: with one size in `batch_sizes` a sample does not depend on the load.

    Parameters
    ----------
    model:
        As for `Plan.run`: `model(x, t, **condition)`.
    max_samples:
        The most samples in a call of the model.
    batch_sizes:
        For a network that is compiled for a few batch sizes: these sizes. The largest is `max_samples`. A batch is
        filled up to the next of them, with copies of its last sample. By default a call has as many samples as there
        are.

    Raises
    ------
    TypeError, ValueError:
        For other arguments.
    """

    def __init__(self, model: Model, max_samples: int, *, batch_sizes: Sequence[int] | None = None) -> None:
        self.model = function("model", model, "model(x, t)")
        self.max_samples = whole("max_samples", max_samples, least=1, most=math.inf)
        sizes = () if batch_sizes is None else batch_sizes
        if not isinstance(sizes, Sequence) or isinstance(sizes, (str, bytes)):
            raise TypeError(f"batch_sizes is {shown(sizes)}; it must be a list of whole numbers, such as [1, 4, 16]")
        self.batch_sizes = sorted(whole("a batch size", size, 1, self.max_samples) for size in sizes)
        if self.batch_sizes and self.batch_sizes[-1] != self.max_samples:
            raise ValueError(
                f"the largest of batch_sizes is {self.batch_sizes[-1]} and max_samples {self.max_samples}; a full "
                f"batch needs a size too, so make them equal"
            )
        self._queues: dict[Any, Queue] = {}
        self._changed, self._stepping = threading.Condition(), threading.Lock()

    def __len__(self) -> int:
        """How many requests run or wait."""
        with self._changed:
            return sum(len(queue.running) + len(queue.waiting) for queue in self._queues.values())

    def submit(self, state: State) -> Future[Any]:
        """A request for the sample of a run that goes on from `state`, from any thread.

        The future's `cancel()` works until the sample is there. Its result is the sample, or the error of the run.

        Raises TypeError for what is no state, ValueError for a run that is done, or whose batch is larger than
        `max_samples`, FloatingPointError for a state that is not finite.
        """
        if not isinstance(state, State):
            raise TypeError(f"state is {shown(state)}; it must be what plan.start(x) gave")
        if state.done:
            raise ValueError("the run is done; its sample is state.x")
        request = Request(state)
        if not 1 <= request.size <= self.max_samples:
            raise ValueError(
                f"the run has a batch of {request.size}, and a call at most max_samples = {self.max_samples}; split it"
            )
        CheckFinite(each=False).begin(state)
        with self._changed:
            self._queues.setdefault(_kind(state), Queue()).waiting.append(request)
            self._changed.notify_all()
        return request.future

    def wait(self, timeout: float | None = None) -> bool:
        """Waits until there is a request, or for so many seconds; whether there is one."""
        with self._changed:
            return self._changed.wait_for(lambda: bool(self._queues), timeout)

    def step(self) -> int:
        """Admits what fits, calls the model once, and retires what is done; how many samples were in the call.

        It is 0 where there is no request. An error of the model goes to the request that causes it. What no request can
        be blamed for, KeyboardInterrupt say, is raised; the next step goes on from the rows that are done.
        """
        with self._stepping:
            requests = self._next()
            size = sum(request.size for request in requests)
            try:
                self._advance(requests)
            finally:
                self._tidy()
            return size

    def _next(self) -> list[Request]:
        """The requests of the next queue that run, after those were admitted that fit."""
        self._tidy()
        with self._changed:
            for kind, queue in self._queues.items():
                room = self.max_samples - sum(request.size for request in queue.running)
                while queue.waiting and queue.waiting[0].size <= room:
                    room -= queue.waiting[0].size
                    queue.running.append(queue.waiting.popleft())
                self._queues[kind] = self._queues.pop(kind)  # behind the other queues
                return list(queue.running)
            return []

    def _tidy(self) -> None:
        """Lets go of the requests that are done or cancelled."""
        with self._changed:
            for kind, queue in list(self._queues.items()):
                queue.running = [request for request in queue.running if request.stays()]
                queue.waiting = deque(request for request in queue.waiting if request.stays())
                if not queue.running and not queue.waiting:
                    del self._queues[kind]

    def _advance(self, requests: Sequence[Request]) -> None:
        """One row of each; where the model raises an error, of each half alone."""
        if not requests:
            return
        try:
            states = advance_together(self._call, [request.state for request in requests])
        except Exception as error:
            if len(requests) == 1:
                requests[0].settle(error=error)
                return
            half = len(requests) // 2
            self._advance(requests[:half])
            self._advance(requests[half:])
            return
        for request, state in zip(requests, states, strict=True):
            request.state = state
            if state.done:
                sample = state.x
                try:
                    CheckFinite(each=False).finished(sample)
                except FloatingPointError as error:
                    request.settle(error=error)
                else:
                    request.settle(sample)

    def _call(self, x: Any, t: Any, **condition: Any) -> Any:
        """The model's answer, for a batch that is filled up."""
        count = x.shape[0]
        size = next((size for size in self.batch_sizes if size >= count), count)
        if size == count:
            return self.model(x, t, **condition)
        ours = library(x)
        x, t = (_filled(ours, array, size) for array in (x, t))
        condition = {name: _filled(library(value), value, size) for name, value in condition.items()}
        return self.model(x, t, **condition)[:count, ...]


def _kind(state: State) -> Any:
    """What the requests of a batch have in common."""
    x = state.states[state.row]
    place, name, shape = str(state.library.device(x)), state.library.name(x), tuple(x.shape[1:])
    condition = [(name, dtype_name(value.dtype), tuple(value.shape[1:])) for name, value in state.condition.items()]
    return type(x), name, place, shape, dtype_name(state.dtype), state.prediction.type, tuple(sorted(condition))


def _filled(ours: ArrayLibrary, x: Any, size: int) -> Any:
    """`x` with copies of its last sample, up to `size`."""
    return ours.concatenate([x, *[x[-1:, ...]] * (size - x.shape[0])])
