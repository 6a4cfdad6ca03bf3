"""A row with noise draws from a normal distribution: its density, its gradients, and runs that are replayed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from array_libraries import enable_x64

from pndm_solvers import DDIMSolver, DDPMSolver, NoiseSchedule, PLMSSolver, Restart, SASolver, initial_noise

COSINE = NoiseSchedule.cosine()
SOLVERS = {
    "ddim": DDIMSolver(COSINE, 0.7),
    "ddpm": DDPMSolver(COSINE, "fixed_large"),
    "plms": PLMSSolver(COSINE, tau=1.0),
    "sa": SASolver(COSINE, 3, 3),
    "partly": PLMSSolver(COSINE, 3, tau=lambda ratio: np.where(ratio > 1, 0.8, 0.0)),
}


def network(weight):
    return lambda x, t: torch.tanh(weight * x) * (0.5 + 0.3 * (t / 1000)[:, None])


def noise(count=3):
    return torch.from_numpy(initial_noise((count, 4), 0))


def given(plan, x, **options):
    with torch.no_grad():
        return plan.run(network(torch.tensor(0.9, dtype=x.dtype)), x, seed=5, trajectory=True, **options)


@pytest.mark.parametrize("name", SOLVERS)
def test_the_log_probability_is_that_of_torchs_normal_distribution(name):
    plan, x = SOLVERS[name].plan(8), noise()
    points, model = given(plan, x), network(torch.tensor(0.8, dtype=torch.float64))
    values = plan.log_prob(model, points)
    noisy = [k for k, row in enumerate(plan.rows) if row.noise]
    assert values.shape == (len(noisy), 3)
    # By a loop of the caller's own, in which nothing of this library computes a density.
    state = plan.start(x)
    expected = []
    for k, row in enumerate(plan.rows):
        answer = model(state.x, state.t)
        if row.noise:
            answers = {**state.answers, k: state.converted(answer)}
            mean = sum(w * state.states[i] for i, w in row.states) + sum(w * answers[j] for j, w in row.answers)
            normal = torch.distributions.Independent(torch.distributions.Normal(mean, row.noise), 1)
            expected.append(normal.log_prob(points[k + 1]))
        state = plan.advance(state, answer, to=points[k + 1] if row.noise else None)
    torch.testing.assert_close(values, torch.stack(expected), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", SOLVERS)
def test_gradients_are_those_of_finite_differences(name):
    plan, x = SOLVERS[name].plan(5), noise(2)
    points = given(plan, x)
    weight = torch.tensor(0.8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda w: plan.log_prob(network(w), points), (weight,))


def test_jax_differentiates_it_as_torch():
    plan, x = SOLVERS["plms"].plan(5), noise(2)
    points = given(plan, x)
    weight = torch.tensor(0.8, dtype=torch.float64, requires_grad=True)
    plan.log_prob(network(weight), points).sum().backward()
    with enable_x64(True):
        own = [jnp.asarray(point.numpy()) for point in points]

        def total(w):
            return plan.log_prob(lambda x, t: jnp.tanh(w * x) * (0.5 + 0.3 * (t / 1000)[:, None]), own).sum()

        assert float(jax.jit(jax.grad(total))(jnp.asarray(0.8))) == pytest.approx(float(weight.grad), rel=1e-9)


def test_a_replay_gives_the_run_and_its_noise():
    """With the network that drew it, each point lies one draw of the run's own noise from its mean."""
    plan, x = SOLVERS["sa"].plan(6), noise()
    points, model = given(plan, x), network(torch.tensor(0.9, dtype=torch.float64))
    state = plan.start(x, seed=5)
    for transition, point in plan.replay(model, points):
        z = state.noise.draw(transition.row, x)
        torch.testing.assert_close(point, transition.mean + transition.deviation * z, rtol=1e-9, atol=1e-12)
        assert "Transition of row" in repr(transition)
    # A run that is moved onto another's states goes on from there.
    elsewhere = plan.start(x + 1, seed=6)
    for k in range(plan.model_calls):
        to = points[k + 1] if plan.rows[k].noise else None
        elsewhere = plan.advance(elsewhere, model(elsewhere.x, elsewhere.t), to=to)
        if to is not None:
            torch.testing.assert_close(elsewhere.x, to, rtol=0, atol=0)


def test_a_state_without_noise_is_a_function_of_the_weights():
    """It is computed anew: given, it would hide a part of the gradient."""
    plan, x = SOLVERS["partly"].plan(8), noise(2)
    kinds = [row.noise > 0 for row in plan.rows]
    assert True in kinds
    assert False in kinds[: kinds.index(True) + 2] or False in kinds[-3:]
    restarted = DDIMSolver(COSINE).plan(5, restarts=[Restart(200, 500, 2)])
    points = given(restarted, x)
    wrong = [points[0], *(point + 9 for point in points[1:])]
    row = next(k for k, row in enumerate(restarted.rows) if row.noise)
    wrong[row + 1] = points[row + 1]
    model = network(torch.tensor(0.9, dtype=torch.float64))
    torch.testing.assert_close(restarted.log_prob(model, wrong), restarted.log_prob(model, points))


def test_conditions_and_predictions_are_replayed_too():
    plan, x = SOLVERS["ddpm"].plan(4), noise()
    label = torch.tensor([[0.1], [0.2], [0.3]], dtype=torch.float64)

    def model(x, t, label):
        return 0.3 * x + label

    points = plan.run(model, x, seed=1, prediction="v_prediction", condition={"label": label}, trajectory=True)
    values = plan.log_prob(model, points, prediction="v_prediction", condition={"label": label})
    alone = plan.log_prob(model, [p[1:2] for p in points], prediction="v_prediction", condition={"label": label[1:2]})
    torch.testing.assert_close(values[:, 1:2], alone)
    half = plan.log_prob(
        model, [p.bfloat16() for p in points], prediction="v_prediction", condition={"label": label.bfloat16()}
    )
    assert half.dtype == torch.float32


def test_what_has_no_probability_is_refused():
    x, model = np.ones((2, 3)), lambda x, t: 0.5 * x
    plan = SOLVERS["ddpm"].plan(4)
    points = plan.run(model, x, seed=0, trajectory=True)
    with pytest.raises(ValueError, match=r"^trajectory has 4 points; .* has 5"):
        plan.log_prob(model, points[:-1])
    plain = DDIMSolver(COSINE).plan(4)
    with pytest.raises(ValueError, match="draws no noise, so a run of it has no probability"):
        plain.log_prob(model, points)
    state = plain.start(x)
    for call in (lambda: plain.transition(state, x), lambda: plain.advance(state, x, to=x)):
        with pytest.raises(ValueError, match=r"row 0 of .* draws no noise, so its state has no distribution"):
            call()
    transition = plan.transition(plan.start(x), x)
    with pytest.raises(ValueError, match=r"^x is of shape \(2, 2\)"):
        transition.log_prob(x[:, :2])
    with pytest.raises(ValueError, match=r"^to is of shape"):
        plan.advance(plan.start(x), x, to=x[:1])
    with pytest.raises(TypeError, match="unexpected"):
        plan.log_prob(model, points, progress=True)
