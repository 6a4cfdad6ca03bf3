"""What diffusers' own scheduler tests check, in our words, on their classes and on ours.

docs/development/diffusers-suite.md lists each of their checks with the test here. A check that passes on both is an
oracle. Checks that pin a defect come last: theirs must fail what is mathematically right, and ours must not.
"""

import inspect
import json
import logging
import warnings
from itertools import product

import diffusers
import numpy as np
import pytest
import torch
from diffusers.schedulers.scheduling_utils import SchedulerMixin

from pndm_solvers.adapters import diffusers as adapter

# From diffusers' other schedulers, whose configs are converted.
pytestmark = pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning")

COUNT = 4 * 3 * 8 * 8
RISING = (torch.arange(COUNT) / COUNT).reshape(3, 8, 8, 4).permute(3, 0, 1, 2)
FALLING = (torch.arange(COUNT).flip(0) / COUNT).reshape(3, 8, 8, 4).permute(3, 0, 1, 2)
NAMES = ("PNDM", "PLMS", "DDIM", "DDPM")


def theirs(name):
    return getattr(diffusers, f"{name}Scheduler")


def ours(name):
    return getattr(adapter, f"{name}Scheduler")


def both(*names):
    """Each class of these names: theirs, where they have it, and ours."""
    return [kind(name) for name in names for kind in (theirs, ours) if (kind, name) != (theirs, "PLMS")]


def label(value):
    """For pytest's ids."""
    return f"{value.__module__.split('.')[0]}-{value.__name__}" if isinstance(value, type) else None


def over(*names):
    return pytest.mark.parametrize("kind", both(*names), ids=label)


def options(kind):
    return set(inspect.signature(kind.__init__).parameters)


def model(x, t):
    return x * t / (t + 1)


def unruly(x, t):
    """An ε with pictures far outside ±1, so that clipping has an effect."""
    return model(x, t) / 2


def with_generator(scheduler, seed=0):
    """The keyword for `step`, where it takes one."""
    takes = "generator" in inspect.signature(scheduler.step).parameters
    return {"generator": torch.Generator().manual_seed(seed)} if takes else {}


def run(scheduler, x=RISING, times=None, *, answer=model, seed=0, **keywords):
    """The loop of a pipeline."""
    keywords |= with_generator(scheduler, seed)
    for t in scheduler.timesteps if times is None else times:
        x = scheduler.step(answer(x, t), t, x, **keywords).prev_sample
    return x


def made(kind, steps=10, **config):
    scheduler = kind(**config)
    scheduler.set_timesteps(min(steps, len(scheduler)))
    return scheduler


def with_exact_table(scheduler):
    """Theirs has a table in float32, which is off by 6e-4 of β_0. Ours never reads this attribute."""
    scheduler.alphas_cumprod = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)
    return scheduler


# ------------------------------------------------------------------ whole runs, at the sums that they pin

V = {"prediction_type": "v_prediction"}
STEEP = {"beta_start": 0.01}
PINNED = [
    ("PNDM", {}, 10, 198.1318),
    ("PNDM", {"set_alpha_to_one": True, **STEEP}, 10, 230.0399),
    ("PNDM", {"set_alpha_to_one": False, **STEEP}, 10, 186.9482),
    ("DDIM", {}, 10, 172.0067),
    ("DDIM", V, 10, 52.5302),
    ("DDIM", {"set_alpha_to_one": True, **STEEP}, 10, 149.8295),
    ("DDIM", {"set_alpha_to_one": False, **STEEP}, 10, 149.0784),
    ("DDPM", {}, None, 258.9606),  # without set_timesteps: all that were trained
    ("DDPM", V, None, 202.0296),
]


@over("PNDM", "DDIM", "DDPM")
def test_run_ends_at_their_sum(kind):
    for name, config, steps, total in PINNED:
        if kind.__name__ == f"{name}Scheduler":
            scheduler = kind(**config) if steps is None else made(kind, steps, **config)
            assert abs(run(scheduler).abs().sum() - total) < 1e-2


@over("DDIM")
def test_image_to_image_ends_at_their_sum(kind):
    scheduler = made(kind)
    times = scheduler.timesteps[8 * scheduler.order :]
    assert abs(run(scheduler, scheduler.add_noise(RISING, FALLING, times[:1]), times).abs().sum() - 354.5418) < 1e-2


# ------------------------------------------------------------------ options

OPTIONS = [
    {"num_train_timesteps": 100},
    {"num_train_timesteps": 500},
    {"steps_offset": 1, "timestep_spacing": "leading"},
    {"beta_start": 0.0001, "beta_end": 0.002},
    {"beta_start": 0.001, "beta_end": 0.021},
    {"beta_start": 0.01, "beta_end": 0.2, "clip_sample": True},
    {"beta_schedule": "squaredcos_cap_v2"},
    V,
    {"timestep_spacing": "trailing"},
    {"clip_sample": True, "prediction_type": "sample"},
    {"clip_sample": True, "clip_sample_range": 0.5},
    {"rescale_betas_zero_snr": True, "timestep_spacing": "leading"},
    {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing", **V},
    *(
        {"thresholding": True, "sample_max_value": most, "prediction_type": kind}
        for most in (1.5, 2.0)
        for kind in ("epsilon", "sample", "v_prediction")
    ),
    {"variance_type": "fixed_large"},
    {"variance_type": "fixed_small", "num_train_timesteps": 1},
    {"variance_type": "fixed_small", "num_train_timesteps": 5},
]


@over(*NAMES)
@pytest.mark.filterwarnings("ignore:this plan begins at")  # a table of five levels has no pure noise
def test_option_has_an_effect_that_survives_saving(kind, tmp_path):
    plain = run(made(kind), answer=unruly)
    for config in OPTIONS:
        if config.keys() <= options(kind):
            scheduler = made(kind, **config)
            scheduler.save_config(tmp_path)
            loaded = kind.from_pretrained(tmp_path)
            loaded.set_timesteps(scheduler.num_inference_steps)
            result = run(scheduler, answer=unruly)
            assert torch.isfinite(result).all(), config
            assert torch.equal(result, run(loaded, answer=unruly)), config
            assert not torch.equal(result, plain), config


@over("DDIM", "DDPM")
def test_thresholding_at_one_is_clipping(kind):
    clipped, thresholded, free = (
        run(made(kind, **config), answer=unruly)
        for config in ({"clip_sample": True}, {"thresholding": True, "sample_max_value": 1.0}, {"clip_sample": False})
    )
    assert torch.equal(thresholded, clipped)
    assert not torch.equal(free, clipped)


@over(*NAMES)
def test_any_number_of_steps(kind, tmp_path):
    f_pndm = kind.__name__ == "PNDMScheduler"
    for steps in (10, 27, 50, 100, 500):
        scheduler = made(kind, steps, **({"set_alpha_to_one": True} if f_pndm else {}))
        scheduler.save_config(tmp_path)
        loaded = kind.from_pretrained(tmp_path)
        loaded.set_timesteps(steps)
        result = run(scheduler)
        assert len(scheduler.timesteps) == steps + 9 * f_pndm
        assert 0 <= scheduler.timesteps.min() <= scheduler.timesteps.max() < len(scheduler)
        assert torch.isfinite(result).all()
        # As numbers as well as one-element tensors out of `timesteps`.
        assert torch.equal(result, run(loaded, times=loaded.timesteps.tolist()))


@over("PNDM")
def test_times_of_pndm_with_an_offset(kind):
    doubled = [t for t in range(851, 600, -50) for _ in range(2)]
    assert made(kind, 10, steps_offset=1).timesteps.tolist() == [901, *doubled, 501, 401, 301, 201, 101, 1]


@over("DDIM", "DDPM")
def test_times_with_an_offset(kind):
    assert made(kind, 5, steps_offset=1).timesteps.tolist() == [801, 601, 401, 201, 1]


# ------------------------------------------------------------------ noise

# (t, N, the variance of DDIM's noise at η = 1)
DDIM_VARIANCES = [(0, 50, 0.0), (420, 50, 0.14771), (980, 50, 0.32460), (487, 1000, 0.00979), (999, 1000, 0.02)]


@over("DDIM")
def test_noise_of_ddim(kind):
    zeros = torch.zeros_like(RISING)
    for t, steps, variance in DDIM_VARIANCES:
        step = made(kind, steps).step(zeros, t, zeros, eta=1.0, variance_noise=torch.ones_like(zeros))
        torch.testing.assert_close(step.prev_sample**2, zeros + variance, rtol=0, atol=1e-5)


@over("DDPM")
def test_noise_of_ddpm(kind):
    zeros = torch.zeros_like(RISING)
    z = torch.randn(zeros.shape, generator=torch.Generator().manual_seed(0))
    scheduler = kind()
    for t, variance in ((0, 0.0), (487, 0.00979), (999, 0.02)):
        step = scheduler.step(zeros, t, zeros, **with_generator(scheduler))
        torch.testing.assert_close(step.prev_sample, variance**0.5 * z, rtol=0, atol=1e-4)


@over("DDIM")
def test_noise_is_drawn_if_eta_is_above_zero(kind, tmp_path):
    scheduler = made(kind)
    scheduler.save_config(tmp_path)
    loaded = kind.from_pretrained(tmp_path)
    loaded.set_timesteps(10)
    for eta in (0.0, 0.5, 1.0):
        result = run(scheduler, eta=eta)
        assert torch.equal(result, run(loaded, eta=eta))
        assert torch.equal(result, run(scheduler, eta=eta, seed=1)) == (eta == 0)


# ------------------------------------------------------------------ one step


@over(*NAMES)
def test_tuple_and_output_are_equal(kind):
    scheduler, again = made(kind, 50), made(kind, 50)
    keys = None
    for t in scheduler.timesteps[:2]:
        output = scheduler.step(0.1 * RISING, t, RISING, **with_generator(scheduler))
        entries = again.step(0.1 * RISING, t, RISING, return_dict=False, **with_generator(again))
        assert keys in (None, tuple(output))
        keys = tuple(output)
        assert len(keys) == len(entries)
        for key, entry in zip(keys, entries, strict=True):
            assert torch.equal(output[key], entry)
            assert entry.shape == RISING.shape


@over("PNDM", "PLMS", "DDIM")
def test_step_without_times_is_refused(kind):
    scheduler = kind()
    with pytest.raises(ValueError, match="set_timesteps"):  # theirs refuses it in one of PNDM's two inner steps only
        getattr(scheduler, "step_plms", scheduler.step)(RISING, 1, RISING)


@over(*NAMES)
def test_samples_are_neither_scaled_nor_hidden(kind):
    scheduler = made(kind, 50)
    assert scheduler.init_noise_sigma == 1
    assert torch.equal(scheduler.scale_model_input(RISING, scheduler.timesteps[-1]), RISING)
    t = torch.stack([scheduler.timesteps[i] for i in (5, 0, 20, -1)])
    for times in (t[:1], t):
        signal = scheduler.alphas_cumprod[times.round().long()].reshape(-1, 1, 1, 1)
        noised = scheduler.add_noise(RISING, FALLING, times)
        if not times.is_floating_point():
            torch.testing.assert_close(noised, signal**0.5 * RISING + (1 - signal) ** 0.5 * FALLING)
        assert noised.shape == RISING.shape


# ------------------------------------------------------------------ times of one's own

OWN = [100, 87, 50, 1, 0]


@pytest.mark.parametrize("kind", [theirs("DDPM"), *map(ours, ("PLMS", "DDIM", "DDPM"))], ids=label)
def test_own_times_lead_from_each_to_the_next(kind):
    """Where ε = 0 a step takes x to α_s/α_t·x, plus noise. So the difference of two samples shows where it ends."""
    scheduler = with_exact_table(kind(**({} if kind is ours("PLMS") else {"clip_sample": False})))
    scheduler.set_timesteps(timesteps=OWN)
    assert scheduler.timesteps.tolist() == OWN
    alphas = torch.cat([scheduler.alphas_cumprod, torch.ones(1)]) ** 0.5
    pair = [RISING, torch.zeros_like(RISING)]
    for t, following in zip(OWN, [*OWN[1:], -1], strict=True):
        zeros = torch.zeros_like(RISING)
        pair = [scheduler.step(zeros, t, x, **with_generator(scheduler, seed=t)).prev_sample for x in pair]
        torch.testing.assert_close(pair[0] - pair[1], (RISING * alphas[following] / alphas[100]).float())


@pytest.mark.parametrize("kind", [theirs("DDPM"), *map(ours, NAMES)], ids=label)
def test_wrong_times_are_refused(kind):
    rising, beyond = {"timesteps": [100, 87, 50, 51, 0]}, {"timesteps": [1000]}
    for wrong in (rising, beyond, {"timesteps": OWN, "num_inference_steps": 5}):
        with pytest.raises(ValueError, match=r"timesteps|time 1000"):
            kind().set_timesteps(**wrong)


# ------------------------------------------------------------------ configuration


@over(*NAMES)
def test_saved_and_loaded_config_is_the_same(kind, tmp_path):
    scheduler = kind()
    scheduler.save_pretrained(tmp_path)
    config = {key: value for key, value in scheduler.config.items() if key != "_use_default_values"}
    assert {k: v for k, v in kind.from_pretrained(tmp_path).config.items() if k != "_use_default_values"} == config


@over(*NAMES)
def test_config_of_every_compatible_class_and_back(kind):
    scheduler = kind()
    # The others lack a package.
    compatible = [other for other in scheduler.compatibles if issubclass(other, SchedulerMixin)]
    assert compatible
    for other in compatible:
        back = kind.from_config(other.from_config(scheduler.config).config).config
        assert {key: back[key] for key in scheduler.config} == dict(scheduler.config)
        assert not (back.keys() - scheduler.config.keys()) & options(kind)


@over(*NAMES)
def test_defaults_are_each_class_s_own_and_choices_stick(kind):
    config = kind().config
    assert diffusers.DEISMultistepScheduler.from_config(config).config.solver_type == "logrho"
    assert diffusers.UniPCMultistepScheduler.from_config(config).config.solver_type == "bh2"
    config = diffusers.EulerDiscreteScheduler.from_config(config).config
    assert config.timestep_spacing == "linspace"
    config = diffusers.EulerDiscreteScheduler.from_config(config, timestep_spacing="trailing").config
    for _ in range(2):
        config = diffusers.LMSDiscreteScheduler.from_config(config).config
        assert config.timestep_spacing == "trailing"
    assert kind.from_config(config).config.timestep_spacing == "trailing"


@pytest.fixture
def config_log(caplog):
    """diffusers' log about configurations; its loggers do not propagate to pytest's."""
    logger = diffusers.utils.logging.get_logger("diffusers.configuration_utils")
    level = logger.level
    logger.addHandler(caplog.handler)
    logger.setLevel(logging.INFO)
    yield caplog
    logger.removeHandler(caplog.handler)
    logger.setLevel(level)


@over(*NAMES)
def test_unexpected_and_missing_options_are_named(kind, tmp_path, config_log):
    scheduler = kind(beta_end=0.01)
    scheduler.save_config(tmp_path)
    assert kind.from_pretrained(tmp_path).config.beta_end == 0.01
    assert not [record for record in config_log.records if record.levelno > logging.INFO]

    path = tmp_path / kind.config_name
    config = json.loads(path.read_text())
    del config["beta_end"]
    path.write_text(json.dumps(config | {"unexpected": True}))
    with warnings.catch_warnings(record=True):  # ours warns as well
        loaded = kind.from_config(kind.load_config(tmp_path))
    assert type(loaded) is kind
    assert loaded.config.beta_end == 0.02
    assert "{'unexpected': True} were passed to " + kind.__name__ in config_log.text
    assert "beta_end" in config_log.text


@over(*NAMES)
def test_constructor_names_all_its_options(kind):
    assert "kwargs" not in options(kind)
    assert not kind._deprecated_kwargs


@over(*NAMES)
def test_trained_betas_survive_saving(kind, tmp_path):
    scheduler = kind(num_train_timesteps=2, trained_betas=np.array([0.1, 0.3]))
    scheduler.save_pretrained(tmp_path)
    for each in (scheduler, kind.from_pretrained(tmp_path)):
        torch.testing.assert_close(each.alphas_cumprod, torch.tensor([0.9, 0.63]))


@over(*NAMES)
def test_attributes_and_options_differ(kind, recwarn):
    scheduler = kind()
    scheduler.mine = 5
    scheduler.register_to_config(option=6)
    assert scheduler.mine == 5
    assert scheduler.save_pretrained == scheduler.save_pretrained
    assert not recwarn
    with pytest.warns(FutureWarning, match="option"):
        assert scheduler.option == 6
    with pytest.raises(AttributeError, match=f"'{kind.__name__}' object has no attribute 'absent'"):
        scheduler.absent  # noqa: B018


# ------------------------------------------------------------------ checks that pin a defect, and what is right instead
#
# Where theirs is among the classes, it must be wrong. Once it is right, the check moves up, to the checks on both.


def is_ours(kind):
    return kind in map(ours, NAMES)


def silent(x, t):
    return torch.zeros_like(x)


@over("PNDM")
def test_velocity_is_converted_before_it_is_averaged(kind):
    """They pin 67.3986, where a mean of v's of several levels is converted as if of one; only ε may be averaged.

    Right is their own run on ε, with the network's v converted at each call.
    """
    reference = made(theirs("PNDM"))

    def epsilon(x, t):
        return reference.alphas_cumprod[t] ** 0.5 * model(x, t) + (1 - reference.alphas_cumprod[t]) ** 0.5 * x

    right = run(reference, answer=epsilon)
    result = run(made(kind, **V))
    assert abs(right.abs().sum() - 86.5912) < 1e-2
    assert abs(result.abs().sum() - (86.5912 if is_ours(kind) else 67.3986)) < 1e-2
    assert torch.allclose(result, right, atol=1e-5) == is_ours(kind)


@over("PNDM")
def test_two_runs_on_one_scheduler(kind):
    """They set `ets`, the history in their object, by hand. There is one, so two runs spoil each other."""
    shared = made(kind)
    pair = [RISING, FALLING]
    for t in shared.timesteps:
        pair = [shared.step(model(x, t), t, x).prev_sample for x in pair]
    alone = [run(made(kind), x) for x in (RISING, FALLING)]
    assert torch.equal(torch.stack(pair), torch.stack(alone)) == is_ours(kind)


@pytest.mark.parametrize("skip_prk_steps", [False, True])
@over("PNDM")
def test_multistep_without_a_past(kind, skip_prk_steps):
    """They refuse it in `step_plms` only: `step`, begun half-way, uses the wrong formulas.

    φ is exact for a constant ε, so every method is exact from any start.
    """
    scheduler = made(kind, 20, skip_prk_steps=skip_prk_steps)
    times = scheduler.timesteps[len(scheduler.timesteps) // 2 :]
    result = run(scheduler, scheduler.add_noise(RISING, FALLING, times[:1]), times, answer=lambda x, t: FALLING)
    right = scheduler.add_noise(RISING, FALLING, torch.tensor([0]))
    assert torch.allclose(result, right, atol=1e-4) == is_ours(kind)


@over("PNDM", "DDIM")
def test_each_step_begins_where_the_last_ended(kind):
    """Their step goes to t − T//N on any grid. Where ε = 0, steps that join take x to α_end/α_first·x."""
    config = {"clip_sample": False} if kind.__name__ == "DDIMScheduler" else {}
    for steps, spacing in product((7, 10), ("leading", "trailing", "linspace")):
        joined = is_ours(kind) or spacing == "leading" or (spacing == "trailing" and 1000 % steps == 0)
        scheduler = with_exact_table(made(kind, steps, timestep_spacing=spacing, set_alpha_to_one=True, **config))
        right = RISING / scheduler.alphas_cumprod[scheduler.timesteps[0]].float() ** 0.5
        assert torch.allclose(run(scheduler, answer=silent), right, rtol=1e-5) == joined


ELSEWHERE = [
    *(("DDIM", {}, steps, t) for steps, t in [(50, 1), (50, 10), (50, 49), (10, 1)]),
    ("DDIM", {"steps_offset": 1}, 50, 0),
    ("DDIM", {"timestep_spacing": "trailing"}, 50, 0),
    *(("PNDM", {}, steps, t) for steps, t in [(50, 1), (50, 5), (50, 10)]),
]


def test_time_that_the_run_does_not_visit():
    """They step from there to t − T//N, which the run does not visit either."""
    for name, config, steps, t in ELSEWHERE:
        scheduler = made(ours(name), steps, **config)
        with pytest.raises(ValueError, match=f"timestep is {t}, which is none of this run's: "):
            scheduler.step(0.1 * RISING, t, RISING)


def test_their_step_from_elsewhere_leads_elsewhere():
    scheduler = with_exact_table(made(theirs("DDIM"), 50, clip_sample=False))
    landed = scheduler.step(silent(RISING, 49), 49, RISING).prev_sample
    level = (landed / RISING)[-1, -1, -1, -1].double() ** 2 * scheduler.alphas_cumprod[49]
    nearest = (scheduler.alphas_cumprod - level).abs().argmin()
    assert nearest == 29
    assert nearest not in scheduler.timesteps


@over("DDIM", "DDPM")
def test_betas_beyond_one(kind):
    """They let β rise to 2, and check t = 0 only: ᾱ changes its sign, and a run ends in NaN."""
    config = {"beta_start": 0.1, "beta_end": 2.0}
    if is_ours(kind):
        with pytest.raises(ValueError, match="betas must lie in"):
            kind(**config)
    else:
        assert run(made(kind, 50, **config)).isnan().any()


@over("DDIM", "DDPM")
def test_thresholding_below_one(kind):
    """At 0.5 theirs divides pictures by it that were not clipped: a grey of 0.25 becomes 0.5."""
    config = {"thresholding": True, "sample_max_value": 0.5, "prediction_type": "sample"}
    if is_ours(kind):
        with pytest.raises(ValueError, match=r"is 0\.5; it must be at least"):
            kind(**config)
    else:
        grey = torch.full_like(RISING, 0.25)
        assert made(kind, **config).step(grey, 900, RISING).pred_original_sample.unique().tolist() == [0.5]


@over("DDPM")
def test_variance_type_that_does_not_exist(kind):
    """Theirs takes any word for "fixed_small"."""
    if is_ours(kind):
        with pytest.raises(ValueError, match="variance_type is 'other'; known are 'fixed_small'"):
            kind(variance_type="other")
    else:
        assert torch.equal(run(made(kind, variance_type="other")), run(made(kind)))


@over("DDPM")
def test_zero_terminal_snr(kind):
    """At α = 0 ε does not determine the picture: theirs divides by 0 at the first step; they check the last only."""
    scheduler = kind(rescale_betas_zero_snr=True)
    if is_ours(kind):
        with pytest.raises(ValueError, match="t = 999: prediction is 'epsilon', which does not determine 'sample'"):
            run(scheduler)
    else:
        assert run(scheduler).isnan().any()
    assert run(made(kind, rescale_betas_zero_snr=True, timestep_spacing="trailing", **V)).isfinite().all()


@over("DDPM")
def test_table_in_float32(kind):
    """They pin 387.9466 for the last two steps: from ᾱ_0 in float32, β_0 = 1 − ᾱ_0 has three digits.

    With a table in float64, theirs ends where ours does.
    """
    scheduler = kind()
    times = scheduler.timesteps[998:]
    noised = scheduler.add_noise(RISING, FALLING, times[:1])
    assert abs(run(scheduler, noised, times).abs().sum() - (387.9672 if is_ours(kind) else 387.9466)) < 1e-3
    exact = with_exact_table(kind())
    noised = exact.add_noise(RISING, FALLING, times[:1])
    assert abs(run(exact, noised, times).abs().sum() - 387.9672) < 1e-3
