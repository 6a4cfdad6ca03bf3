"""A run keeps the library, dtype and shape of its array, and rounds as little as that dtype allows."""

import jax
import numpy as np
import pytest
import torch
from array_libraries import LIBRARIES, numbers
from conftest import SCHEDULES, all_solvers, named
from runs import LINEAR, ONE_OF_EACH_KIND, START, smooth

from pndm_solvers import DDIMSolver, DDPMSolver, Plan, PLMSSolver, Prediction, arrays, initial_noise
from pndm_solvers.plan import Row

DTYPES = [
    pytest.param(library, dtype, id=f"{library.name} {dtype}") for library in LIBRARIES for dtype in library.dtypes
]


@pytest.mark.parametrize(("library", "dtype"), DTYPES)
def test_every_library_and_dtype_gives_numpys_sample(library, dtype):
    """It is off by a few roundings. Times are integers where all are whole, and float64 beside float64 alone."""
    rounding = 2.0 ** {"bfloat16": -8, "float16": -11, "float32": -24, "float64": -53}[dtype]
    x = library.array(START, dtype)
    for solver in ONE_OF_EACH_KIND:
        for spacing in ("leading", "quadratic"):
            plan = solver.plan(6, spacing=spacing)
            real = dtype if dtype == "float64" else "float32"
            times = library.dtype(library.integer if plan.integer_times else real)

            def model(x, t, wanted=x.dtype, times=times):
                assert x.dtype == wanted
                assert t.dtype == times
                return smooth(x, t)

            result = plan.run(model, x, seed=2)
            assert type(result) is type(x)
            assert result.dtype == x.dtype
            exact = plan.run(smooth, numbers(x), seed=2)
            assert np.abs(numbers(result) - exact).max() < 10 * rounding * np.abs(exact).max()


def test_torch_gives_numpys_sample_by_every_solver():
    """A fused multiply-add rounds once where a product and a sum round twice."""
    for solver in all_solvers(LINEAR):
        plan = solver.plan(6)
        expected, result = (plan.run(smooth, x, seed=3) for x in (START, torch.from_numpy(START)))
        assert result.dtype == torch.float64
        np.testing.assert_allclose(result.numpy(), expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("dtype", ["float8_e4m3fn", "float8_e5m2"])
def test_eight_bits_are_enough_for_what_the_network_sees(dtype):
    dtype = getattr(torch, dtype)
    x, rounding = torch.from_numpy(START).to(dtype), torch.finfo(dtype).eps

    def model(x, t):
        return (x.float() / 2).to(dtype)

    for options in ({}, {"check_finite": True}, {"prediction": Prediction("sample", clip=1.0)}):
        result = PLMSSolver(LINEAR).sample(model, x, 5, **options)
        exact = PLMSSolver(LINEAR).sample(lambda x, t: model(x.to(dtype), t).double(), x.double(), 5, **options)
        assert result.dtype == dtype
        torch.testing.assert_close(result.double(), exact, rtol=rounding, atol=rounding / 8)


def test_half_precision_is_summed_in_float32():
    """In 100·ε − 100·x of neighbouring numbers, the products must not round before they meet."""
    level = LINEAR.level(500)
    plan = Plan((Row(*level, states=((0, -100.0),), answers=((0, 100.0),)),), LINEAR.clean)
    for library in LIBRARIES:
        if "bfloat16" in library.dtypes:
            x, answer = (library.array([[value]], "bfloat16") for value in (1.0, 1.0078125))
            for state_dtype in (None, x.dtype):
                result = plan.run(lambda x, t, answer=answer: answer, x, state_dtype=state_dtype)
                assert float(result[0, 0]) == 0.78125


@pytest.mark.parametrize("answer", [torch.float16, torch.float64])
def test_the_dtype_is_the_states_not_the_networks(answer):
    flow = SCHEDULES["rectified_flow"]
    upwards = DDIMSolver(flow).plan(timesteps=[0.1, 0.5], stop=1)  # its last row has no state among its terms
    for plan in (PLMSSolver(LINEAR).plan(3), upwards):
        for prediction in ("epsilon", "flow", Prediction("flow", clip=1.0)):
            x = torch.from_numpy(START).float()
            assert plan.run(lambda x, t: x.to(answer), x, prediction=prediction).dtype == torch.float32


@pytest.mark.parametrize("library", LIBRARIES, ids=named)
def test_batches_and_samples_may_be_empty_and_have_no_dimensions(library):
    for shape in ((0, 3), (5,), (0,), (2, 0)):
        x, solver = library.array(np.ones(shape)), DDPMSolver(LINEAR)
        assert tuple(solver.sample(lambda x, t: x, x, 3, seed=1).shape) == shape
        assert initial_noise(shape, 0).shape == shape
        each = [np.random.default_rng(i) for i in range(shape[0])]
        assert tuple(solver.sample(lambda x, t: x, x, 3, generator=each).shape) == shape


def test_a_compiled_function_refuses_what_it_cannot_do():
    """It cannot draw noise without a seed, which would be the same at each call, nor look at numbers."""
    x, noisy = np.zeros((2, 2), np.float32), DDPMSolver(LINEAR).plan(4)
    for options in ({}, {"generator": np.random.default_rng(0)}):
        with pytest.raises(ValueError, match=r"drawn while JAX transforms .* pass seed="):
            jax.jit(lambda x, options=options: noisy.run(smooth, x, **options))(x)
    seeded = jax.jit(lambda x: noisy.run(smooth, x, seed=1))(x)
    np.testing.assert_allclose(seeded, noisy.run(smooth, jax.numpy.asarray(x), seed=1), rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="check_finite is True, but x has no numbers"):
        jax.jit(lambda x: noisy.run(smooth, x, seed=1, check_finite=True))(x)
    with pytest.raises(ValueError, match="check_finite is True, but x has no numbers"):
        torch.func.vmap(lambda x: noisy.run(smooth, x, seed=1, check_finite=True))(torch.zeros(1, 2, 2))


def test_what_is_not_finite_is_seen_in_every_dtype_of_torch():
    """Also where numbers have no sum, 8 bits, or one that overflows though they are finite."""
    dtypes = (torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.float8_e5m2, torch.float8_e4m3fn)
    for dtype in dtypes:
        most = torch.finfo(dtype).max
        assert arrays.library(torch.zeros(1)).is_finite(torch.full((64,), most, dtype=torch.float64).to(dtype))
        assert not arrays.library(torch.zeros(1)).is_finite(torch.tensor([1.0, float("nan")]).to(dtype))
    infinite = torch.tensor([float("inf"), -float("inf")])
    assert not any(arrays.library(infinite).is_finite(infinite.to(dtype)) for dtype in dtypes[:5])


def test_the_size_of_data_may_be_a_scalar_of_any_library():
    """As `data.std()` gives."""
    plan = PLMSSolver(LINEAR).plan(8, data_range=4.0)
    for scalar in (4, np.float32(4), np.array(4.0), torch.tensor(4.0), jax.numpy.array(4.0)):
        assert PLMSSolver(LINEAR).plan(8, data_range=scalar) == plan
