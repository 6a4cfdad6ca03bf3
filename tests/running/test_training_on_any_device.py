"""The forward process is computed where the batch is: α, σ, noised states and training targets."""

import re
import warnings
from pathlib import Path

import array_api_strict as strict
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from array_libraries import LIBRARIES, numbers
from conftest import SCHEDULES, assert_refused, named
from devices import NoFloat64

from pndm_solvers import PLMSSolver, add_noise, alpha_sigma, convert, training_target
from pndm_solvers.prediction import PREDICTIONS

RNG = np.random.default_rng(0)
X0, NOISE = RNG.standard_normal((2, 5, 3, 2))
LINEAR = SCHEDULES["linear"]


def times_of(schedule, count=5):
    """Times all over a schedule, both ends among them; exact in float32 as far as they lie within."""
    inner = np.float32(np.linspace(schedule.t_min, schedule.t_max, count)[1:-1])
    return np.array([schedule.t_min, *inner, schedule.t_max])


@pytest.mark.parametrize("library", LIBRARIES, ids=named)
@pytest.mark.parametrize("name", SCHEDULES)
def test_levels_on_arrays_are_those_of_the_schedule(name, library):
    schedule = SCHEDULES[name]
    t = times_of(schedule)
    for dtype in ("float32", library.dtypes[-1]):
        like, given = library.array(X0, dtype), library.array(t, dtype)
        for level, exact in zip(
            alpha_sigma(schedule, given, like), (schedule.alpha(t), schedule.sigma(t)), strict=True
        ):
            assert (level.dtype, tuple(level.shape)) == (like.dtype, (5, 1, 1))
            bound = 2e-6 if dtype == "float32" else 1e-14
            np.testing.assert_allclose(numbers(level)[:, 0, 0], exact, rtol=bound, atol=bound * 1e-3)


@pytest.mark.parametrize("library", LIBRARIES, ids=named)
def test_integer_times_of_a_table_take_its_own_levels(library):
    t = np.array([0, 1, 500, 998, 999])
    for name in ("linear", "cosine", "zero_terminal_snr"):
        schedule = SCHEDULES[name]
        given = library.namespace.asarray(t, dtype=library.dtype(library.integer))
        for level, exact in zip(alpha_sigma(schedule, given, library.array(X0)), schedule.every_level, strict=True):
            of = np.float32 if library.dtypes[-1] == "float32" else np.float64
            assert np.array_equal(numbers(level)[:, 0, 0], exact[t].astype(of))


@pytest.mark.parametrize("library", LIBRARIES, ids=named)
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_a_target_determines_the_picture_of_its_state(prediction, library):
    """What a perfect network answers is turned back into x_0 by the conversion that runs use."""
    for name in ("linear", "vp", "rectified_flow"):
        schedule = SCHEDULES[name]
        x0, noise = library.array(X0), library.array(NOISE)
        for t in (schedule.t_max / 4, schedule.t_max / 2):
            x, target = (f(schedule, x0, noise, t) for f in (add_noise, partial_target(prediction)))
            back = convert(prediction, "sample", x, target, *(float(of(t)) for of in (schedule.alpha, schedule.sigma)))
            np.testing.assert_allclose(numbers(back), X0, atol=1e-4 if library.dtypes[-1] == "float32" else 1e-12)


def partial_target(prediction):
    return lambda schedule, x0, noise, t: training_target(schedule, x0, noise, t, prediction)


def test_one_time_is_that_time_for_each_sample():
    x0, noise = torch.from_numpy(X0), torch.from_numpy(NOISE)
    each = add_noise(LINEAR, x0, noise, torch.full((5,), 300))
    for t in (300, 300.0, np.int64(300), [300] * 5, torch.tensor(300), torch.tensor([300]), np.full(5, 300)):
        torch.testing.assert_close(add_noise(LINEAR, x0, noise, t), each, rtol=1e-15, atol=1e-15)
    tokens = torch.arange(15).reshape(5, 3) * 60  # a time for each token of each sample
    rows = [add_noise(LINEAR, x0[:, i], noise[:, i], tokens[:, i]) for i in range(3)]
    torch.testing.assert_close(add_noise(LINEAR, x0, noise, tokens), torch.stack(rows, 1))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_states_have_the_dtype_of_the_picture(dtype):
    x0, noise, t = torch.from_numpy(X0).to(dtype), torch.from_numpy(NOISE).to(dtype), torch.arange(5) * 200
    x = add_noise(LINEAR, x0, noise, t)
    exact = add_noise(LINEAR, x0.double(), noise.double(), t)
    assert x.dtype == training_target(LINEAR, x0, noise, t, "v_prediction").dtype == dtype
    torch.testing.assert_close(x, exact.to(dtype), rtol=torch.finfo(dtype).eps, atol=torch.finfo(dtype).eps)


# ------------------------------------------------------------------ devices


def steps(network, optimizer, schedule, batch, prediction, count=2):
    for _ in range(count):
        x0, noise, t = batch()
        loss = (
            network(add_noise(schedule, x0, noise, t), t) - training_target(schedule, x0, noise, t, prediction)
        ) ** 2
        optimizer.zero_grad()
        loss.mean().backward()
        optimizer.step()
    return loss


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("name", SCHEDULES)
def test_a_training_loop_on_a_device_without_float64(name, prediction):
    """The device has no numbers: whatever is read from it, or sent to it as float64, is an error."""
    schedule = SCHEDULES[name]

    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(3, 2, device="meta")

        def forward(self, x, t):
            alpha, sigma = alpha_sigma(schedule, t, x)
            return self.layer(torch.cat([x, (alpha / sigma).log()], 1))

    def batch():
        low, high = schedule.t_min, min(schedule.t_max, 999)
        t = torch.randint(1000, (8,), device="meta") if schedule.every_level else None
        t = low + (high - low) * torch.rand(8, device="meta") if t is None else t
        return torch.randn(8, 2, device="meta"), torch.randn(8, 2, device="meta"), t

    network = Network()
    optimizer = torch.optim.Adam(network.parameters())
    with NoFloat64():
        loss = steps(network, optimizer, schedule, batch, prediction)
    assert loss.device.type == "meta"


def test_the_network_of_the_readme_runs_on_a_device_without_float64():
    page = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    block = re.search(r"```python\n(import torch\n.*?)network = MyNetwork", page, re.DOTALL)[1]
    names = {}
    exec(block, names)
    x, t = torch.empty(4, 2, device="meta"), torch.empty(4, device="meta")
    with NoFloat64():
        assert names["MyNetwork"]()(x, t).device.type == "meta"


def test_the_second_device_of_a_strict_library():
    device = strict.Device("device1")
    x0, noise = (strict.asarray(values, device=device) for values in (X0, NOISE))
    for schedule in SCHEDULES.values():
        t = strict.asarray(times_of(schedule), device=device)
        x = add_noise(schedule, x0, noise, t)
        target = training_target(schedule, x0, noise, t, "v_prediction")
        assert x.device == target.device == device
        there = strict.asarray(x, device=strict.Device("CPU_DEVICE"), copy=True)
        np.testing.assert_allclose(np.asarray(there), add_noise(schedule, X0, NOISE, times_of(schedule)), rtol=1e-12)


# ------------------------------------------------------------------ transformations


@pytest.mark.parametrize("name", SCHEDULES)
def test_jit_and_vmap_of_jax_give_the_same(name):
    schedule = SCHEDULES[name]
    x0, noise, t = jnp.asarray(X0), jnp.asarray(NOISE), jnp.asarray(times_of(schedule))

    def both(x0, noise, t):
        return add_noise(schedule, x0, noise, t), training_target(schedule, x0, noise, t, "v_prediction")

    plain = both(x0, noise, t)
    for found in (jax.jit(both)(x0, noise, t), jax.vmap(both)(x0, noise, t), jax.jit(jax.vmap(both))(x0, noise, t)):
        for here, there in zip(found, plain, strict=True):
            np.testing.assert_allclose(here, there, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", SCHEDULES)
def test_vmap_of_torch_gives_the_same(name):
    schedule = SCHEDULES[name]
    x0, noise, t = (torch.from_numpy(values) for values in (X0, NOISE, times_of(schedule)))
    mapped = torch.func.vmap(lambda x0, noise, t: add_noise(schedule, x0, noise, t))(x0, noise, t)
    torch.testing.assert_close(mapped, add_noise(schedule, x0, noise, t), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("name", SCHEDULES)
def test_gradients_flow_to_the_times(name):
    """Learned times have the derivatives that the schedule states."""
    schedule = SCHEDULES[name]
    t = torch.tensor(times_of(schedule)[1:-1], requires_grad=True)
    alpha, sigma = alpha_sigma(schedule, t, torch.zeros(3, dtype=torch.float64))
    for level, rate in zip((alpha, sigma), zip(*map(schedule.rates, t.tolist()), strict=True), strict=True):
        # α of a variance-exploding schedule does not depend on t.
        (slope,) = torch.autograd.grad(level.sum() + 0 * t.sum(), t, retain_graph=True)
        np.testing.assert_allclose(slope, rate, rtol=1e-7, atol=1e-12)


def test_a_step_of_training_under_jit_learns():
    def loss(weight, x0, noise, t):
        alpha, sigma = alpha_sigma(LINEAR, t, x0)
        answer = weight[0] * add_noise(LINEAR, x0, noise, t) * alpha + weight[1] * sigma
        return jnp.mean((answer - training_target(LINEAR, x0, noise, t, "v_prediction")) ** 2)

    @jax.jit
    def step(weight, key):
        picture, noise, time = jax.random.split(key, 3)
        x0, z = jax.random.normal(picture, (64, 3)), jax.random.normal(noise, (64, 3))
        value, slope = jax.value_and_grad(loss)(weight, x0, z, jax.random.randint(time, (64,), 0, 1000))
        return weight - 0.1 * slope, value

    weight, values = jnp.zeros(2), []
    for key in jax.random.split(jax.random.key(0), 50):
        weight, value = step(weight, key)
        values.append(float(value))
    assert np.isfinite(values).all()
    assert np.mean(values[-10:]) < np.mean(values[:3])


def test_a_compiled_function_trains():
    def both(x0, noise, t):
        return add_noise(LINEAR, x0, noise, t), training_target(LINEAR, x0, noise, t, "v_prediction")

    x0, noise, t = torch.from_numpy(X0).float(), torch.from_numpy(NOISE).float(), torch.arange(5) * 200
    compiled = torch.compile(both, backend="eager", fullgraph=True)
    for here, there in zip(compiled(x0, noise, t), both(x0, noise, t), strict=True):
        torch.testing.assert_close(here, there)


# ------------------------------------------------------------------ wrong times


def test_times_outside_are_refused_or_nan_where_none_can_be_read():
    x = torch.zeros(2, 3)
    for t in (1000, -2.0, torch.tensor([3, 1000]), torch.tensor([3.0, -0.5]), np.array([0.0, 999.5])):
        with pytest.raises(ValueError, match="outside the trained range"):
            alpha_sigma(LINEAR, t, x)
    for t in (jnp.array([3, 1000]), jnp.array([3.0, 1000.0])):
        alpha, _ = jax.jit(lambda t: alpha_sigma(LINEAR, t, jnp.zeros((2, 3))))(t)
        assert np.array_equal(np.isnan(alpha[:, 0]), [False, True])
    alpha, sigma = jax.jit(lambda t: alpha_sigma(LINEAR, t, jnp.zeros((2, 3))))(jnp.array([-1, -2]))
    assert (alpha[0, 0], sigma[0, 0]) == (1, 0), "the clean time"
    assert np.isnan(alpha[1, 0])


def test_times_that_do_not_go_with_the_batch_are_refused():
    x, refused = torch.zeros(4, 3), "t is of shape .* it must be one time, or one for each sample"
    assert_refused(
        [
            (lambda: add_noise(LINEAR, x, x, torch.arange(3)), ValueError, refused),
            (lambda: add_noise(LINEAR, x, x, torch.zeros(4, 3, 1)), ValueError, refused),
            (lambda: add_noise(LINEAR, x, x, jnp.zeros(4)), TypeError, "pass arrays of one library"),
            (lambda: add_noise(LINEAR, x, x, torch.zeros(4, dtype=torch.bool)), TypeError, "times are real numbers"),
            (lambda: add_noise(LINEAR, x, x, torch.zeros(4, device="meta")), ValueError, "move one of them"),
            (lambda: add_noise(LINEAR, x, x, "3"), TypeError, "t is '3'"),
            (lambda: add_noise("linear", x, x, 3), TypeError, "schedule is 'linear'; it must be a NoiseSchedule"),
            (lambda: add_noise(LINEAR, x, x[:2], 3), ValueError, "noise is of shape"),
            (lambda: alpha_sigma(LINEAR, 3, 3.0), TypeError, "like is 3.0"),
            (lambda: training_target(LINEAR, x, x, 3, "velocity"), ValueError, "prediction is 'velocity'; known are"),
        ]
    )


def test_a_run_from_a_noised_picture_ends_at_the_picture():
    x0 = torch.from_numpy(X0)
    noised = add_noise(LINEAR, x0, torch.from_numpy(NOISE), 600)

    def network(x, t):
        alpha, sigma = alpha_sigma(LINEAR, t, x)
        return (x - alpha * x0) / sigma

    plan = PLMSSolver(LINEAR).plan(8, start=600)
    torch.testing.assert_close(plan.run(network, noised), x0)


def test_a_sample_without_dimensions_has_one_time():
    """As within a function that is mapped over numbers."""
    x0, noise = torch.tensor(2.0), torch.tensor(1.0)
    for t in (300, torch.tensor(300)):
        alpha, sigma = (float(of(300)) for of in (LINEAR.alpha, LINEAR.sigma))
        assert float(add_noise(LINEAR, x0, noise, t)) == pytest.approx(2 * alpha + sigma)


def test_fractions_of_1_as_times_of_a_table_are_warned_of():
    x = torch.zeros(8, 2)
    with pytest.warns(UserWarning, match="times of a table are 0 to 999, not fractions of 1"):
        add_noise(LINEAR, x, x, torch.linspace(0.1, 0.9, 8))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        add_noise(LINEAR, x, x, torch.full((8,), 0.5))  # a run's last calls
        add_noise(SCHEDULES["vp"], x, x, torch.linspace(0.1, 0.9, 8))
