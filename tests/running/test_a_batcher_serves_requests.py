"""A batcher admits requests to shared model calls and retires them: in order, and with the bits of each alone."""

import threading
from concurrent.futures import CancelledError, ThreadPoolExecutor, wait

import numpy as np
import pytest
import torch
from array_libraries import LIBRARIES, same
from conftest import named
from runs import LINEAR, ONE_OF_EACH_KIND, Interrupted, smooth

from pndm_solvers import Batcher, DDIMSolver, PLMSSolver, initial_noise
from pndm_solvers.reference import load_network

PLAN = PLMSSolver(LINEAR).plan(5)


def started(count=1, seed=0, plan=PLAN, **options):
    return plan.start(initial_noise((count, 3), seed), **options)


def drain(batcher):
    """The sizes of the calls until no request is left."""
    sizes = []
    while size := batcher.step():
        sizes.append(size)
    assert not len(batcher)
    return sizes


@pytest.mark.parametrize("library", LIBRARIES, ids=named)
def test_each_request_has_the_sample_of_its_run_alone(library):
    batcher, requests = Batcher(smooth, max_samples=7), []
    for n in range(24):  # some come while others run
        plan = ONE_OF_EACH_KIND[n % 3].plan(max_model_calls=13 + n % 6)
        x = library.array(initial_noise((1 + n % 4, 3), n))
        requests.append((plan, x, batcher.submit(plan.start(x, seed=n))))
        if n % 3 == 2:
            batcher.step()
    assert max(drain(batcher)) == 7
    for n, (plan, x, future) in enumerate(requests):
        assert same(future.result(timeout=0), plan.run(smooth, x, seed=n)), n


def test_requests_are_admitted_in_the_order_of_their_arrival():
    """The third would fit where the second does not, and waits behind it."""
    batcher, ends = Batcher(smooth, max_samples=4), []
    for name, count in (("first", 3), ("second", 2), ("third", 1)):
        batcher.submit(started(count)).add_done_callback(lambda _, name=name: ends.append(name))
    assert drain(batcher) == [3] * 5 + [3] * 5
    assert ends == ["first", "second", "third"]


def test_a_request_is_done_after_as_many_steps_as_its_plan_has_calls():
    """However many others come."""
    batcher, random = Batcher(smooth, max_samples=8), np.random.default_rng(0)
    admitted = [batcher.submit(started(2, plan=PLMSSolver(LINEAR).plan(calls))) for calls in (4, 7, 9, 12)]
    for step in range(1, 13):
        for _ in range(random.integers(3)):
            batcher.submit(started(int(random.integers(1, 4))))
        batcher.step()
        assert [future.done() for future in admitted] == [step >= calls for calls in (4, 7, 9, 12)]


def test_kinds_that_cannot_share_a_call_take_turns():
    shapes = []

    def model(x, t, **condition):
        shapes.append((x.shape[1:], x.dtype, *condition))
        return smooth(x, t)

    batcher = Batcher(model, max_samples=4)
    kinds = [
        started(2),
        PLAN.start(initial_noise((2, 6), 0)),
        PLAN.start(initial_noise((2, 3), 0).astype(np.float32)),
        started(2, condition={"label": np.arange(2)}),
        started(2, prediction="v_prediction"),
    ]
    futures = [batcher.submit(state) for state in kinds for _ in range(3)]
    assert len(batcher) == 15
    drain(batcher)
    assert len(set(shapes)) == 4
    # Five kinds in turn; the last two requests of each share their calls, or run after the first two.
    assert shapes[:25] == shapes[:5] * 5
    assert len(shapes) == 50
    for n, future in enumerate(futures):
        state = kinds[n // 3]
        assert same(future.result(timeout=0), PLAN.run(smooth, state.x, prediction=state.prediction))


def test_cancelled_requests_leave_and_harm_no_other():
    batcher = Batcher(smooth, max_samples=4)
    futures = [batcher.submit(started(2, seed=n)) for n in range(5)]
    batcher.step()
    assert futures[0].cancel()  # it runs
    assert futures[3].cancel()  # it waits
    drain(batcher)
    for n, future in enumerate(futures):
        if n in (0, 3):
            assert future.cancelled()
            with pytest.raises(CancelledError):
                future.result(timeout=0)
        else:
            assert same(future.result(timeout=0), PLAN.run(smooth, initial_noise((2, 3), n)))
    assert not wait(futures, timeout=0).not_done  # those that wait for cancelled ones hear of it too


def test_a_request_that_breaks_the_model_fails_alone():
    def model(x, t, label):
        if 13 in label:
            raise RuntimeError("label 13 has no embedding")
        return smooth(x, t)

    batcher, labels = Batcher(model, max_samples=8), (1, 2, 13, 3, 4, 13, 5)
    futures = [
        batcher.submit(started(seed=n, condition={"label": np.array([label])})) for n, label in enumerate(labels)
    ]
    drain(batcher)
    for n, (label, future) in enumerate(zip(labels, futures, strict=True)):
        if label == 13:
            with pytest.raises(RuntimeError, match="no embedding"):
                future.result(timeout=0)
        else:
            assert same(future.result(timeout=0), PLAN.run(smooth, initial_noise((1, 3), n)))


def test_a_sample_that_is_not_finite_is_its_own_error():
    def model(x, t, scale):
        return smooth(x, t) * scale[:, None]

    batcher = Batcher(model, max_samples=8)
    good, bad = (batcher.submit(started(condition={"scale": np.array([scale])})) for scale in (1.0, np.nan))
    drain(batcher)
    assert same(good.result(timeout=0), PLAN.run(smooth, initial_noise((1, 3), 0)))
    with pytest.raises(FloatingPointError, match="the sample is not finite"):
        bad.result(timeout=0)


def test_an_interrupted_step_loses_nothing():
    calls = []

    def model(x, t):
        calls.append(len(x))
        if len(calls) in (2, 5):
            raise Interrupted
        return smooth(x, t)

    batcher = Batcher(model, max_samples=4)
    futures = [batcher.submit(started(2, seed=n)) for n in range(2)]
    for _ in range(2):
        with pytest.raises(Interrupted):
            drain(batcher)
    drain(batcher)
    assert len(calls) == 5 + 2
    for n, future in enumerate(futures):
        assert same(future.result(timeout=0), PLAN.run(smooth, initial_noise((2, 3), n)))


def test_requests_come_from_many_threads_while_one_makes_the_steps():
    batcher, over = Batcher(smooth, max_samples=5), threading.Event()

    def serve():
        while not over.is_set():
            if batcher.wait(timeout=0.05):
                batcher.step()

    server = threading.Thread(target=serve)
    server.start()
    try:

        def ask(n):
            return batcher.submit(started(1 + n % 3, seed=n)).result(timeout=60)

        with ThreadPoolExecutor(12) as pool:
            samples = list(pool.map(ask, range(60)))
    finally:
        over.set()
        server.join()
    for n, sample in enumerate(samples):
        assert same(sample, PLAN.run(smooth, initial_noise((1 + n % 3, 3), n)))
    assert not batcher.wait(timeout=0)


def test_batches_are_filled_up_to_the_sizes_that_are_named():
    sizes = []

    def model(x, t, label):
        assert x.shape[:1] == t.shape == label.shape
        sizes.append(len(x))
        return smooth(x, t)

    batcher = Batcher(model, max_samples=8, batch_sizes=[8, 2, 4])
    futures = []
    for n in range(5):
        futures.append(batcher.submit(started(seed=n, condition={"label": np.array([n])})))
        batcher.step()
    drain(batcher)
    assert sizes == [2, 2, 4, 4, 8, 4, 4, 2, 2]
    for n, future in enumerate(futures):
        assert same(future.result(timeout=0), PLAN.run(smooth, initial_noise((1, 3), n)))


@pytest.mark.parametrize("name", ["digits", "fashion"])
def test_with_one_batch_size_a_network_gives_a_request_the_same_bits_under_any_load(name):
    """torch rounds a network's sums differently for other batch sizes."""
    network, size = load_network(name), 4

    def state(n):
        plan = (DDIMSolver if n % 2 else PLMSSolver)(network.schedule).plan(4 + n % 3)
        x = torch.from_numpy(initial_noise((1 + n % 2, *network.shape), n)).float()
        label = {"label": torch.full((len(x),), n % 10)} if network.labels else None
        return plan.start(x, prediction=network.prediction, condition=label)

    def served(numbers, between):
        batcher, futures = Batcher(network, size, batch_sizes=[size]), []
        for n in numbers:
            futures.append(batcher.submit(state(n)))
            for _ in range(between):
                batcher.step()
        drain(batcher)
        return [future.result(timeout=0) for future in futures]

    with torch.inference_mode():
        alone = [served([n], 0)[0] for n in range(6)]
        for between in (0, 1):
            assert all(map(same, served(range(6), between), alone))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: Batcher(None, 4), TypeError, "model is None"),
        (lambda: Batcher(smooth, 0), ValueError, "max_samples is 0"),
        (lambda: Batcher(smooth, 4, batch_sizes=4), TypeError, "batch_sizes is 4; it must be a list"),
        (lambda: Batcher(smooth, 4, batch_sizes=[2]), ValueError, "the largest of batch_sizes is 2 and max_samples 4"),
        (lambda: Batcher(smooth, 4, batch_sizes=[8]), ValueError, "a batch size is 8"),
        (lambda: Batcher(smooth, 4).submit(PLAN), TypeError, "it must be what plan.start"),
        (lambda: Batcher(smooth, 4).submit(started(5)), ValueError, "a batch of 5, and a call at most max_samples = 4"),
        (lambda: Batcher(smooth, 4).submit(started(0)), ValueError, "a batch of 0"),
        (
            lambda: Batcher(smooth, 4).submit(PLAN.start(np.full((1, 3), np.inf))),
            FloatingPointError,
            "not finite at the start",
        ),
    ],
)
def test_what_cannot_be_served_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()
