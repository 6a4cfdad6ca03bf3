"""Derivatives go through whole runs: torch's, with and without activation checkpointing, and JAX's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from array_libraries import enable_x64
from conftest import SCHEDULES, all_solvers, named
from runs import LINEAR, ONE_OF_EACH_KIND, smooth
from torch._subclasses import FakeTensorMode
from torch.utils.checkpoint import checkpoint

from pndm_solvers import DDIMSolver, DDPMSolver, ErrorEstimate, PLMSSolver, Prediction, initial_noise, slerp
from pndm_solvers.prediction import PREDICTIONS

STOCHASTIC = (DDPMSolver(LINEAR, "fixed_large"), DDIMSolver(LINEAR, eta=0.5))
START = initial_noise((2, 3), seed=0)


class Network(torch.nn.Module):
    """Some layers, whose activations a backward pass needs."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(3, 8), torch.nn.Tanh(), torch.nn.Linear(8, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3)
        ).double()

    def forward(self, x, t):
        return self.layers(x + t[:, None] / 1000)


def test_a_sample_is_differentiable_by_x_and_by_the_networks_weights():
    """Each solver's derivatives are those of finite differences."""
    for solver in (*all_solvers(LINEAR), *STOCHASTIC):
        plan = solver.plan(max_model_calls=6)
        x = torch.from_numpy(START).requires_grad_()
        scale = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)

        def run(x, scale, plan=plan):
            return plan.run(lambda x, t: scale * smooth(x, t), x, seed=3)

        assert torch.autograd.gradcheck(run, (x, scale)), solver.name


def test_a_sample_is_differentiable_through_every_prediction():
    plan, x = PLMSSolver(LINEAR).plan(4), torch.from_numpy(START).requires_grad_()
    for prediction in (*PREDICTIONS, Prediction("epsilon", clip=50.0)):
        assert torch.autograd.gradcheck(lambda x, p=prediction: plan.run(smooth, x, prediction=p), x)


@pytest.mark.filterwarnings("error:::test_gradients_flow")
@pytest.mark.parametrize("name", ["linear", "ve"])
def test_every_transformation_goes_through_a_run(name):
    """On a variance-exploding schedule too, where the size of a state of 32 numbers or more is looked at."""
    schedule, x = SCHEDULES[name], initial_noise((4, 16), seed=0)
    plan = PLMSSolver(schedule).plan(4)
    x = max(1.0, plan.rows[0].sigma) * x
    unseen = lambda x: plan.run(smooth, x, check_finite=None)  # noqa: E731
    expected = plan.run(smooth, x)
    for func, y in ((torch.func, torch.from_numpy(x)), (jax, jnp.asarray(x))):
        by_hand = func.vjp(unseen, y)[1](y * 0 + 1)[0]
        gradient = func.grad(lambda x: plan.run(smooth, x).sum())(y)
        np.testing.assert_allclose(gradient, by_hand, rtol=1e-5)
        for run in (unseen, lambda x: plan.run(smooth, x)):
            np.testing.assert_allclose(func.vmap(run)(y[None])[0], expected, rtol=1e-4, atol=1e-3)
        along = func.jvp(unseen, (y,), (y * 0 + 1,))[1]
        np.testing.assert_allclose(along.sum(), gradient.sum(), rtol=1e-4)
    with FakeTensorMode():
        assert unseen(torch.empty(4, 16)).shape == (4, 16)
    scaled = torch.from_numpy(x).requires_grad_()
    plan.run(smooth, scaled, callback=(estimate := ErrorEstimate()))
    assert np.isfinite(estimate.total).all()


def gradients(solver, model, network):
    """The derivatives of a sample's sum of squares by x_T and each weight, and the number of tensors saved for them."""
    saved = 0

    def pack(tensor):
        nonlocal saved
        saved += 1
        return tensor

    x = torch.from_numpy(START).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = solver.sample(model, x, max_model_calls=12, seed=3).square().sum()
    return torch.autograd.grad(loss, [x, *network.parameters()]), saved


@pytest.mark.parametrize("solver", [*ONE_OF_EACH_KIND, *STOCHASTIC], ids=named)
def test_activation_checkpointing_saves_memory_and_changes_no_bit(solver):
    network = Network()
    plain, much = gradients(solver, network, network)
    again, little = gradients(solver, lambda x, t: checkpoint(network, x, t, use_reentrant=False), network)
    assert all(torch.equal(a, b) for a, b in zip(plain, again, strict=True))
    assert all(gradient.abs().max() > 0 for gradient in plain)
    assert little < much / 2


def test_jax_differentiates_a_compiled_run():
    """Its gradient is torch's, and along one direction that of a finite difference."""
    x = torch.from_numpy(START).requires_grad_()
    for solver in ONE_OF_EACH_KIND[:2]:
        plan = solver.plan(max_model_calls=5)
        expected = torch.autograd.grad(plan.run(smooth, x).square().sum(), x)[0].numpy()
        with enable_x64(True):

            @jax.jit
            def loss(x, plan=plan):
                return (plan.run(smooth, x) ** 2).sum()

            start, step = jnp.asarray(START), 1e-6
            gradient = np.asarray(jax.grad(loss)(start))
            difference = float(loss(start + step) - loss(start - step)) / (2 * step)
        assert gradient.dtype == np.float64
        np.testing.assert_allclose(gradient, expected, rtol=1e-9, atol=1e-9 * np.abs(expected).max())
        assert difference == pytest.approx(gradient.sum(), rel=1e-6, abs=1e-6 * np.abs(gradient).sum())


def test_slerp_is_differentiable_by_both_ends_and_the_weight():
    a, b = (torch.from_numpy(initial_noise((2, 5), seed)).requires_grad_() for seed in (0, 1))
    weight = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(slerp, (a, b, weight))
    parallel = torch.autograd.grad(slerp(a, 2 * a.detach(), 0.25).sum(), a)[0]
    torch.testing.assert_close(parallel, torch.full_like(parallel, 0.75))
