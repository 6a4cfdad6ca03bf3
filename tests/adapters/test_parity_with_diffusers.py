"""Our schedulers equal diffusers' own, from identical inputs, wherever theirs are right.

Theirs are right where a step ends at the next of their own times. They go from t to t − T//N on any grid, so elsewhere
it does not. Their formulas are still an oracle there: `SteppingTo` makes each step end at the next time.
"""

from itertools import pairwise, product

import diffusers
import numpy as np
import pytest
import torch

from pndm_solvers.adapters import diffusers as ours

STEPS = [1, 2, 3, 7, 10, 27, 50, 333, 1000]
pytestmark = pytest.mark.filterwarnings("ignore:this plan begins:UserWarning")  # one step of leading spacing

SPACINGS = ["leading", "trailing", "linspace"]
GRIDS = list(product(STEPS, SPACINGS))
# At N = T all spacings give the same grid. At one step their linspace begins at t = 0.
DISTINCT = [(n, s) for n, s in GRIDS if (n < 1000 or s == "leading") and (n, s) != (1, "linspace")]
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}
T = 1000
ALPHAS_CUMPROD = torch.cumprod(1 - torch.linspace(1e-4, 0.02, T, dtype=torch.float64), 0)


class SteppingTo:
    """A divisor of T such that their `t - T // num_inference_steps` is `there`."""

    def __init__(self, here, there):
        self.distance = int(here - there)

    def __rfloordiv__(self, num_train_timesteps):
        return self.distance


def start(dtype, channels=3):
    return torch.randn(2, channels, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)


def model(x, t):
    return torch.sin(x + t.to(x.dtype) / 300)


def with_variance(x, t):
    """Twice the channels; the second half lies in (0, 1), to be a variance or a fraction."""
    return torch.cat([model(x, t), torch.sigmoid(x + t.to(x.dtype) / 500)], 1)


def their_scheduler(kind, steps, **options):
    scheduler = getattr(diffusers, kind)(beta_schedule="linear", **options)
    # Their table in float64; in their float32, 1 − ᾱ_0 is wrong in its fourth digit.
    scheduler.alphas_cumprod = ALPHAS_CUMPROD
    scheduler.one = torch.ones((), dtype=torch.float64)
    clean = options.get("set_alpha_to_one", kind != "PNDMScheduler")
    scheduler.final_alpha_cumprod = scheduler.one if clean else ALPHAS_CUMPROD[0]
    scheduler.set_timesteps(steps)
    return scheduler


def run(scheduler, x, ask=model, **extra):
    """The sample of the usual loop, and the picture of its last step."""
    picture = None
    for t in scheduler.timesteps:
        x, *more = scheduler.step(ask(x, t), t, x, **extra, return_dict=False)
        picture = more[0] if more else None
    return x, picture


def run_on_its_own_grid(scheduler, x, **extra):
    """The sample of DDIM or PLMS where each step ends at the next of the scheduler's times."""
    times = scheduler.timesteps.tolist()
    ends = [*times[1:], -1]
    if isinstance(scheduler, diffusers.PNDMScheduler) and len(times) > 1:
        # The second call repeats the first step from its end, so it has the first step's length.
        ends[1], times[1] = times[1], times[0]
    for t, here, there in zip(scheduler.timesteps, times, ends, strict=True):
        scheduler.num_inference_steps = SteppingTo(here, there)
        x = scheduler.step(model(x, t), t, x, **extra).prev_sample
    return x


def lands_on_its_own_times(scheduler, steps):
    times = getattr(scheduler, "_timesteps", scheduler.timesteps.numpy()[::-1])[::-1]  # PNDM's without its stages
    return all(t - T // steps == s for t, s in pairwise(times)) and times[-1] < T // steps


def assert_equal(result, expected, scheduler):
    """To 1e-5 or 1e-10 of the largest number in the run.

    From t = T − 1, where α is 0.0064, this is the first x̂_0 before it is clipped: 157 times as large as x.
    """
    first = 1 / scheduler.plan.rows[0].alpha if scheduler.plan.times[:1] == (T - 1,) else 1.0
    scale = max(expected.abs().max().item(), first)
    assert (result - expected).abs().max().item() <= TOLERANCE[result.dtype] * scale


def dtypes(steps):
    """Both, where runs are short; single precision is the same code at more steps."""
    return list(TOLERANCE) if steps <= 50 else [torch.float64]


def covering(steps, *choices):
    """Every combination of the choices; at many steps only enough combinations for each choice to occur."""
    if steps <= 10:
        return list(product(*choices))
    most = max(map(len, choices))
    return [tuple(choice[(i + n) % len(choice)] for n, choice in enumerate(choices)) for i in range(most)]


def test_where_theirs_are_right():
    """The list that the other tests use: leading always, trailing where N divides T, linspace at N = T."""
    right = [
        (steps, spacing)
        for steps, spacing in GRIDS
        if lands_on_its_own_times(their_scheduler("DDIMScheduler", steps, timestep_spacing=spacing), steps)
    ]
    expected = {(n, s) for n, s in GRIDS if s == "leading" or (s == "trailing" and T % n == 0)}
    # With one step their linspace begins at t = 0, as if x had no noise.
    assert set(right) == expected | {(1, "linspace"), (1000, "linspace")}


CLIPPING = [
    {"clip_sample": False},
    {"clip_sample": True, "clip_sample_range": 0.8},
    {"thresholding": True, "sample_max_value": 1.5, "dynamic_thresholding_ratio": 0.9},
]


@pytest.mark.parametrize(("steps", "spacing"), DISTINCT)
def test_ddim(steps, spacing):
    types = ["epsilon", "sample", "v_prediction"]
    choices = covering(steps, types, CLIPPING, [0, 1], [0.0, 1.0], [0, 1])
    for dtype, (prediction, clipping, rederive, eta, clean) in product(dtypes(steps), choices):
        options = {
            "prediction_type": prediction,
            "set_alpha_to_one": bool(clean),
            "timestep_spacing": spacing,
            **clipping,
        }
        extra = {"eta": eta, "use_clipped_model_output": bool(rederive)}
        theirs = their_scheduler("DDIMScheduler", steps, **options)
        if lands_on_its_own_times(theirs, steps):
            expected, _ = run(theirs, start(dtype), generator=torch.Generator().manual_seed(1), **extra)
        else:
            expected = run_on_its_own_grid(theirs, start(dtype), generator=torch.Generator().manual_seed(1), **extra)
        mine = ours.DDIMScheduler(**options)
        mine.set_timesteps(steps)
        result, _ = run(mine, start(dtype), generator=torch.Generator().manual_seed(1), **extra)
        assert_equal(result, expected, mine)


# One step that ends above σ = 0 is Euler's in theirs and Heun's in latent diffusion: the known defects test it.
@pytest.mark.parametrize(("steps", "spacing"), DISTINCT)
def test_plms(steps, spacing):
    for dtype, clean in product(dtypes(steps), [False, True] if steps > 1 else [True]):
        options = {"skip_prk_steps": True, "set_alpha_to_one": clean, "timestep_spacing": spacing}
        theirs = their_scheduler("PNDMScheduler", steps, **options)
        if lands_on_its_own_times(theirs, steps):
            expected, _ = run(theirs, start(dtype))
        else:
            expected = run_on_its_own_grid(theirs, start(dtype))
        mine = ours.PNDMScheduler(**options)
        mine.set_timesteps(steps)
        assert_equal(run(mine, start(dtype))[0], expected, mine)


# Their Runge–Kutta calls the network at t − ⌈δ/2⌉ and transfers to t − ⌊δ/2⌋, so δ = T//N must be even; with fewer than
# four steps they break off with a shape error. Elsewhere the tests of orders and of the transfer define F-PNDM.
@pytest.mark.parametrize(
    ("steps", "spacing"), [(7, "leading"), (10, "leading"), (50, "leading"), (10, "trailing"), (50, "trailing")]
)
def test_f_pndm(steps, spacing):
    for dtype, clean in product(TOLERANCE, [False, True]):
        options = {"set_alpha_to_one": clean, "timestep_spacing": spacing}
        theirs = their_scheduler("PNDMScheduler", steps, **options)
        assert lands_on_its_own_times(theirs, steps)
        mine = ours.PNDMScheduler(**options)
        mine.set_timesteps(steps)
        assert_equal(run(mine, start(dtype))[0], run(theirs, start(dtype))[0], mine)


@pytest.mark.parametrize(("steps", "spacing"), DISTINCT)
def test_ddpm(steps, spacing):
    types = ["epsilon", "sample", "v_prediction"]
    variances = ["fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log", "learned", "learned_range"]
    choices = covering(steps, types, CLIPPING, variances)
    for dtype, (prediction, clipping, variance) in product(dtypes(steps), choices):
        options = {"prediction_type": prediction, "timestep_spacing": spacing, **clipping}
        # Their fixed_large_log takes the root of a logarithm, which is nan; it is meant to be fixed_large.
        meant = "fixed_large" if variance == "fixed_large_log" else variance
        theirs = their_scheduler("DDPMScheduler", steps, variance_type=meant, **options)
        mine = ours.DDPMScheduler(variance_type=variance, **options)
        mine.set_timesteps(steps)
        ask = with_variance if "learned" in variance else model
        expected, picture = run(theirs, start(dtype), ask, generator=torch.Generator().manual_seed(1))
        result, _ = run(mine, start(dtype), ask, generator=torch.Generator().manual_seed(1))
        # The last step ends at the picture. Where it begins above t = 0 they add noise to the picture.
        assert_equal(result, expected if theirs.timesteps[-1] == 0 else picture, mine)


@pytest.mark.parametrize("name", ["DDIMScheduler", "DDPMScheduler"])
@pytest.mark.parametrize("betas", ["linear", "scaled_linear", "squaredcos_cap_v2"])
def test_levels(name, betas):
    for zero_snr in (False, True):
        assert_same_levels(name, betas, zero_snr)


def assert_same_levels(name, betas, zero_snr):
    """Their tables, and the noised picture and the velocity at each sample's own time."""
    options = {"beta_schedule": betas, "rescale_betas_zero_snr": zero_snr}
    theirs, mine = getattr(diffusers, name)(**options), getattr(ours, name)(**options)
    torch.testing.assert_close(mine.alphas_cumprod, theirs.alphas_cumprod, rtol=2e-4, atol=2e-7)
    x, noise, t = start(torch.float32), start(torch.float32).flip(0), torch.tensor([3, 900])
    for make in ("add_noise", "get_velocity"):
        expected = getattr(theirs, make)(x, noise, t)
        torch.testing.assert_close(getattr(mine, make)(x, noise, t), expected, rtol=1e-4, atol=1e-4)
        half = getattr(mine, make)(x.half(), noise.half(), t)
        assert half.dtype == torch.float16
        torch.testing.assert_close(half.float(), expected, rtol=2e-3, atol=2e-3)


def test_the_table_is_as_long_as_its_betas():
    """Even where num_train_timesteps has its default."""
    for name in ("DDIMScheduler", "DDPMScheduler", "PNDMScheduler", "PLMSScheduler"):
        scheduler = getattr(ours, name)(trained_betas=[0.1, 0.3])
        assert len(scheduler) == len(scheduler.timesteps) == len(scheduler.alphas_cumprod) == 2
        torch.testing.assert_close(scheduler.betas, torch.tensor([0.1, 0.3]))


def test_ddim_from_pure_noise():
    """At α = 0, where trailing spacing begins, v and x_0 determine the picture and ε does not."""
    for prediction, steps in product(("v_prediction", "sample"), (10, 50)):
        options = {"prediction_type": prediction, "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
        theirs = diffusers.DDIMScheduler(beta_schedule="linear", clip_sample=False, **options)
        theirs.set_timesteps(steps)
        mine = ours.DDIMScheduler(clip_sample=False, **options)
        mine.set_timesteps(steps)
        assert mine.plan.rows[0].alpha == 0
        torch.testing.assert_close(
            run(mine, start(torch.float32))[0], run(theirs, start(torch.float32))[0], rtol=1e-4, atol=1e-4
        )


def test_times():
    for (steps, spacing), name in product(DISTINCT, ["DDIMScheduler", "DDPMScheduler"]):
        theirs, mine = (getattr(library, name)(timestep_spacing=spacing) for library in (diffusers, ours))
        theirs.set_timesteps(steps)
        mine.set_timesteps(steps)
        np.testing.assert_array_equal(mine.timesteps, theirs.timesteps)
