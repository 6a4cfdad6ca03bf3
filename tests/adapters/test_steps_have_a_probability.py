"""A stochastic step's sample has a log-probability, as DDPO's code has it: a mean over all dimensions but the batch.

It is the normal density around the step's mean, of the step's deviation, and it can be replayed: with `prev_sample` an
earlier sample takes the place of a draw.
"""

import math
from itertools import pairwise, product

import pytest
import torch

from pndm_solvers.adapters import diffusers as ours

SHAPE = (2, 3, 4, 4)
DDPO = {
    "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "clip_sample": False,
    "set_alpha_to_one": False, "steps_offset": 1,
}  # fmt: skip


def one(t):
    return 1


# (scheduler, what its step takes beside)
STOCHASTIC = {
    "ddim": (ours.DDIMScheduler, {"clip_sample": False}, {"eta": 0.7}),
    "ddim clipped": (ours.DDIMScheduler, {"clip_sample_range": 0.8}, {"eta": 1.0}),
    "ddim clipped anew": (ours.DDIMScheduler, {}, {"eta": 1.0, "use_clipped_model_output": True}),
    "ddpm": (ours.DDPMScheduler, {}, {}),
    "ddpm large": (ours.DDPMScheduler, {"variance_type": "fixed_large", "clip_sample": False}, {}),
    "ddpm learned": (ours.DDPMScheduler, {"variance_type": "learned", "clip_sample": False}, {}),
    "ddpm learned_range": (ours.DDPMScheduler, {"variance_type": "learned_range"}, {}),
    "dpm++": (ours.DPMSolverMultistepScheduler, {"algorithm_type": "sde-dpmsolver++"}, {}),
    "dpm": (ours.DPMSolverMultistepScheduler, {"algorithm_type": "sde-dpmsolver", "solver_order": 3}, {}),
    "sa": (ours.SASolverScheduler, {"tau_func": one, "corrector_order": 3}, {}),
}
KINDS = pytest.mark.parametrize("kind", STOCHASTIC)


def made(kind, steps=5, **options):
    scheduler = STOCHASTIC[kind][0](**{**STOCHASTIC[kind][1], **options})
    scheduler.set_timesteps(steps)
    return scheduler, STOCHASTIC[kind][2]


def normal(seed, shape=SHAPE, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def network(scheduler, weight=1.0):
    """Answers, with channels of a positive variance where the scheduler reads them."""
    variance = scheduler.config.get("variance_type")

    def model(x, t):
        answer = torch.sin(weight * x + float(t) / 300)
        if variance == "learned":
            return torch.cat([answer, 0.01 + 0.02 * torch.cos(x) ** 2], 1)
        return torch.cat([answer, torch.cos(x)], 1) if variance == "learned_range" else answer

    return model


def distribution(step, shape=SHAPE):
    """The mean and the deviation of a step that is linear in its noise: by noise 0 and noise 1."""
    mean = step(torch.zeros(shape, dtype=torch.float64))
    return mean, step(torch.ones(shape, dtype=torch.float64)) - mean


@KINDS
def test_it_is_the_mean_of_the_normal_density(kind, monkeypatch):
    """torch's own, with the mean and the deviation that the step itself has where its noise is 0 and 1."""
    for prediction in ("epsilon", "v_prediction", "sample"):
        scheduler, extra = made(kind, prediction_type=prediction)
        model, t, x = network(scheduler), scheduler.timesteps[0], normal(0)
        answer = model(x, t)

        def step(z, scheduler=scheduler, answer=answer, t=t, x=x, extra=extra):
            with monkeypatch.context() as patch:
                patch.setattr("pndm_solvers.noise.NoiseSource.draw", lambda *arguments: z)
                return scheduler.step(answer, t, x, **extra).prev_sample

        mean, deviation = distribution(step)
        there = mean + deviation * normal(1)
        expected = torch.distributions.Normal(mean, deviation).log_prob(there).mean(dim=(1, 2, 3))
        output = scheduler.step(answer, t, x, **extra, prev_sample=there)
        assert torch.equal(output.prev_sample, there)
        torch.testing.assert_close(output.log_prob, expected, rtol=0, atol=1e-6)
        drawn = scheduler.step(answer, t, x, **extra, generator=torch.Generator().manual_seed(3), log_prob=True)
        expected = torch.distributions.Normal(mean, deviation).log_prob(drawn.prev_sample).mean(dim=(1, 2, 3))
        torch.testing.assert_close(drawn.log_prob, expected, rtol=0, atol=1e-6)


@KINDS
def test_its_gradients_are_right(kind):
    scheduler, extra = made(kind, thresholding=False)
    t, x, there = scheduler.timesteps[0], normal(0, (2, 1, 2, 2)), normal(1, (2, 1, 2, 2))
    answer = network(scheduler)(x, t).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda answer: scheduler.step(answer, t, x, **extra, prev_sample=there).log_prob, answer
    )


@KINDS
def test_a_drawn_sample_counts_as_a_constant(kind):
    """As in DDPO: the gradient is that of the density at a sample that is held, not 0 as along the draw."""
    scheduler, extra = made(kind)
    t, x = scheduler.timesteps[0], normal(0)
    answer = network(scheduler)(x, t).requires_grad_()
    drawn = scheduler.step(answer, t, x, **extra, generator=torch.Generator().manual_seed(3), log_prob=True)
    held = scheduler.step(answer, t, x, **extra, prev_sample=drawn.prev_sample.detach())
    gradients = [torch.autograd.grad(output.log_prob.sum(), answer)[0] for output in (drawn, held)]
    assert torch.equal(*gradients)
    assert gradients[0].abs().max() > 0


def sampled(scheduler, extra, model, x, **more):
    """All samples of a run, and the log-probabilities of its steps with noise."""
    points, found, generator = [x], [], torch.Generator().manual_seed(2)
    for t, row in zip(scheduler.timesteps, rows_with_noise(scheduler, extra), strict=True):
        output = scheduler.step(model(x, t), t, x, **extra, generator=generator, log_prob=row, **more)
        x = output.prev_sample
        points.append(x)
        found += [output.log_prob] if row else []
    return points, torch.stack(found)


def rows_with_noise(scheduler, extra):
    """Whether each step draws noise: all but one to the picture."""
    return [level.sigma > 0 for level in scheduler.plan.levels[1:]]


def replayed(scheduler, extra, model, points, own):
    """The same by `prev_sample`, at the samples that `step` returned or at the trajectory's own tensors."""
    x, found = points[0], []
    steps = zip(scheduler.timesteps, rows_with_noise(scheduler, extra), pairwise(points), strict=True)
    for t, row, (here, there) in steps:
        x = here if own else x
        output = scheduler.step(model(x, t), t, x, **extra, prev_sample=there if row else None)
        x = output.prev_sample
        if row:
            assert torch.equal(x, there)
            found.append(output.log_prob)
    return torch.stack(found)


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@KINDS
def test_a_replay_has_the_runs_samples_and_probabilities(kind, dtype, own):
    scheduler, extra = made(kind)
    model, draws = network(scheduler), normal(0).to(dtype)
    points, found = sampled(scheduler, extra, model, draws)
    assert torch.equal(replayed(scheduler, extra, model, points, own), found)
    # Another network's replay reads none of the answers that the run has left behind.
    other = network(scheduler, weight=1.1)
    scheduler_anew, _ = made(kind)
    expected = replayed(scheduler_anew, extra, other, [x.clone() for x in points], own)
    assert torch.equal(replayed(scheduler, extra, other, points, own), expected)


@pytest.mark.parametrize("kind", ["dpm++", "dpm", "sa", "ddim", "ddpm learned"])
def test_replays_on_one_scheduler_interleave(kind):
    """Two networks' probabilities of one trajectory, step by step: each run is known by the sample that it returned."""
    scheduler, extra = made(kind)
    models = [network(scheduler), network(scheduler, weight=1.2)]
    points, _ = sampled(scheduler, extra, models[0], normal(0))
    expected = [replayed(scheduler, extra, model, points, own=False) for model in models]
    at, found = [points[0], points[0].clone()], [[], []]
    for t, row, there in zip(scheduler.timesteps, rows_with_noise(scheduler, extra), points[1:], strict=True):
        for i, model in enumerate(models):
            output = scheduler.step(model(at[i], t), t, at[i], **extra, prev_sample=there if row else None)
            at[i] = output.prev_sample
            found[i] += [output.log_prob] if row else []
    for own, interleaved in zip(expected, found, strict=True):
        assert torch.equal(own, torch.stack(interleaved))


def test_a_sample_that_two_replays_took_names_neither():
    scheduler, _ = made("dpm++")
    model, x = network(scheduler), normal(0)
    points, _ = sampled(scheduler, {}, model, x)
    first, second = scheduler.timesteps[:2]
    for begun in (x, x.clone()):
        scheduler.step(model(begun, first), first, begun, prev_sample=points[1])
    with pytest.raises(ValueError, match="its run cannot be identified"):
        scheduler.step(model(points[1], second), second, points[1], prev_sample=points[2])


def ddpo(scheduler, answer, t, x, eta, there, clip=None):
    """ddpo-pytorch's `ddim_step_with_logprob`, from its formulas: the log-probability of `there`."""
    at = scheduler.alphas_cumprod.double()
    previous = max(t - scheduler.config.num_train_timesteps // scheduler.num_inference_steps, 0)
    here, after = float(at[t]), float(at[previous])
    picture = (x - math.sqrt(1 - here) * answer) / math.sqrt(here)
    picture = picture if clip is None else picture.clamp(-clip, clip)
    variance = (1 - after) / (1 - here) * (1 - here / after)
    deviation = eta * math.sqrt(variance)
    mean = math.sqrt(after) * picture + math.sqrt(1 - after - deviation**2) * answer
    terms = -((there - mean) ** 2) / (2 * deviation**2) - math.log(deviation) - math.log(math.sqrt(2 * math.pi))
    return terms.mean(dim=tuple(range(1, terms.ndim)))


def test_it_is_what_ddpo_computes():
    for clip, eta in product((None, 1.0), (0.5, 1.0)):
        options = {**DDPO, "clip_sample": clip is not None}
        scheduler = ours.DDIMScheduler(**options)
        scheduler.set_timesteps(50)
        for t in scheduler.timesteps:
            x, answer = normal(int(t)), normal(int(t) + 1)
            drawn = scheduler.step(answer, t, x, eta, log_prob=True)
            expected = ddpo(scheduler, answer, int(t), x, eta, drawn.prev_sample, clip)
            torch.testing.assert_close(drawn.log_prob, expected, rtol=1e-5, atol=1e-5)  # their table is in float32


@pytest.mark.parametrize("kind", [kind for kind in STOCHASTIC if kind.startswith("dd")])
def test_each_sample_can_have_a_time_of_its_own(kind):
    """As DDPO's training has: the step is that of each sample alone, its draw the one of the whole batch."""
    scheduler, extra = made(kind)
    times = scheduler.timesteps[torch.tensor([2, 0, 1, 0])]
    x, there, z = (normal(i, (4, 3, 4, 4)) for i in range(3))
    answer = torch.cat([network(scheduler)(x[i : i + 1], t) for i, t in enumerate(times)]).requires_grad_()

    def alone(**given):
        singly = [
            scheduler.step(answer[i, None], t, x[i, None], **extra, **{k: v[i, None] for k, v in given.items()})
            for i, t in enumerate(times)
        ]
        return [torch.cat([output[key] for output in singly]) for key in singly[0].keys()]  # noqa: SIM118 — not a dict

    together = scheduler.step(answer, times, x, **extra, prev_sample=there)
    for own, expected in zip(together.to_tuple(), alone(prev_sample=there), strict=True):
        assert torch.equal(own, expected)
    gradients = [
        torch.autograd.grad(values.sum(), answer)[0] for values in (together.log_prob, alone(prev_sample=there)[2])
    ]
    assert torch.equal(*gradients)

    def drawn(**given):
        return scheduler.step(answer, times, x, **extra, **given, return_dict=False, log_prob=True)

    z = torch.randn(x.shape, generator=torch.Generator().manual_seed(3), dtype=x.dtype)
    own = drawn(generator=torch.Generator().manual_seed(3))
    if isinstance(scheduler, ours.DDIMScheduler):
        for values, same, expected in zip(own, drawn(variance_noise=z), alone(variance_noise=z), strict=False):
            assert torch.equal(values, same)
            assert torch.equal(values, expected)
    of_each = drawn(generator=[torch.Generator().manual_seed(i) for i in range(4)])
    first = scheduler.step(
        answer[:1], times[0], x[:1], **extra, generator=torch.Generator().manual_seed(0), log_prob=True
    )
    assert torch.equal(of_each[0][:1], first.prev_sample)
    assert torch.equal(of_each[2][:1], first.log_prob)
    with pytest.raises(ValueError, match="generator has 2 entries for a batch of 4"):
        drawn(generator=[torch.Generator(), torch.Generator()])
    with pytest.raises(ValueError, match="prev_sample is of shape"):
        scheduler.step(answer, times, x, **extra, prev_sample=there[:2])
    with pytest.raises(ValueError, match="which is none of this run's"):
        scheduler.step(answer, times + 1, x, **extra)


def test_in_half_precision_the_mean_is_taken_in_float32():
    scheduler, extra = made("ddim", steps=50)
    t, x, answer = scheduler.timesteps[40], normal(0), normal(1)
    results = []
    for dtype in (torch.float16, torch.float32):
        half = [tensor.half().to(dtype) for tensor in (answer, x, normal(2))]
        output = scheduler.step(half[0], t, half[1], **extra, prev_sample=half[2])
        results.append(output.log_prob)
        assert (output.log_prob.dtype, output.prev_sample.dtype) == (torch.float32, dtype)
    torch.testing.assert_close(*results, rtol=1e-5, atol=1e-5)


@KINDS
def test_a_tuple_has_it_where_it_was_asked_for(kind):
    scheduler, extra = made(kind)
    t, x = scheduler.timesteps[0], normal(0)
    answer = network(scheduler)(x, t)
    assert len(scheduler.step(answer, t, x, **extra, return_dict=False)) == 2
    assert scheduler.step(answer, t, x, **extra).log_prob is None
    asked = scheduler.step(answer, t, x, **extra, return_dict=False, prev_sample=x)
    assert len(asked) == len(scheduler.step(answer, t, x, **extra, return_dict=False, log_prob=True)) == 3
    assert asked[2].shape == (2,)


@KINDS
def test_nothing_is_drawn_in_a_replay(kind):
    scheduler, extra = made(kind)
    t, x = scheduler.timesteps[0], normal(0)
    state = torch.get_rng_state()
    scheduler.step(network(scheduler)(x, t), t, x, **extra, prev_sample=normal(1))
    assert torch.equal(torch.get_rng_state(), state)


def test_mistakes_are_named():
    scheduler = ours.DDIMScheduler(clip_sample=False)
    scheduler.set_timesteps(5)
    t, x = scheduler.timesteps[0], normal(0)
    for asked in ({"log_prob": True}, {"prev_sample": x}):
        with pytest.raises(ValueError, match=r"at t = 800, where the step draws no noise.*eta above 0"):
            scheduler.step(x, t, x, **asked)
    with pytest.raises(ValueError, match="at t = 0, where the step draws no noise"):
        scheduler.step(x, scheduler.timesteps[-1], x, 1.0, log_prob=True)
    with pytest.raises(ValueError, match="pass generator or prev_sample, not both"):
        scheduler.step(x, t, x, 1.0, generator=torch.Generator(), prev_sample=x)
    with pytest.raises(ValueError, match="pass variance_noise or prev_sample, not both"):
        scheduler.step(x, t, x, 1.0, variance_noise=x, prev_sample=x)
    with pytest.raises(ValueError, match="prev_sample is of shape"):
        scheduler.step(x, t, x, 1.0, prev_sample=x[:1])
    with pytest.raises(TypeError, match="log_prob is 1"):
        scheduler.step(x, t, x, 1.0, log_prob=1)
    plain = ours.DPMSolverMultistepScheduler()
    plain.set_timesteps(5)
    with pytest.raises(ValueError, match="algorithm_type 'sde-"):
        plain.step(x, plain.timesteps[0], x, log_prob=True)
    sa = ours.SASolverScheduler()
    sa.set_timesteps(5)
    with pytest.raises(ValueError, match="tau_func above 0"):
        sa.step(x, sa.timesteps[0], x, log_prob=True)
