"""Our pipelines draw diffusers' images where diffusers is right, and elsewhere those of the solver's plan."""

import copy

import diffusers
import numpy as np
import pytest
import torch
from tiny_unet import tiny_unet

from pndm_solvers import DDIMSolver, NoiseSchedule, PLMSSolver, PNDMSolver
from pndm_solvers.adapters import diffusers as ours
from pndm_solvers.adapters.diffusers.networks import load_saved_network
from pndm_solvers.adapters.diffusers.pipelines import DDIMPipeline, DDPMPipeline, PNDMPipeline
from pndm_solvers.reference import load_network

PIPELINES = [PNDMPipeline, DDIMPipeline, DDPMPipeline]
SHORT = {"num_inference_steps": 4, "output_type": "np"}

UNET = tiny_unet()


def quiet(pipe):
    pipe.set_progress_bar_config(disable=True)
    return pipe


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def generators(count):
    return tuple(seeded(i) for i in range(count))


def picture(x0):
    """A sample `(B, C, H, W)` as output_type="np" gives it."""
    return (x0 / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy()


def pixels(images):
    return np.stack([np.asarray(image) for image in images])


# ------------------------------------------------------------------ diffusers' own


# From t = 999 down an error grows by as much as 1/α = 157: in single precision only a few steps can be compared.
LENGTHS = [*((torch.float32, n) for n in (2, 10)), *((torch.float64, n) for n in (2, 10, 50))]


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("DDPM", {}),
        ("DDIM", {}),
        ("DDIM", {"eta": 1.0}),
        ("DDIM", {"eta": 0.5, "use_clipped_model_output": True}),
    ],
    ids=str,
)
def test_the_same_seed_gives_the_image_of_diffusers(kind, options):
    for dtype, steps in LENGTHS:
        assert_same_images(kind, options, steps, dtype)


def assert_same_images(kind, options, steps, dtype):
    theirs, mine = (
        quiet(make(copy.deepcopy(UNET).to(dtype), getattr(diffusers, f"{kind}Scheduler")()))
        for make in (getattr(diffusers, f"{kind}Pipeline"), {"DDPM": DDPMPipeline, "DDIM": DDIMPipeline}[kind])
    )
    if dtype == torch.float64:  # their table is in single precision
        betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
        theirs.scheduler.alphas_cumprod = torch.cumprod(1 - betas, 0)
        theirs.scheduler.betas, theirs.scheduler.one = betas, torch.ones((), dtype=dtype)
    for generator in (seeded, lambda: list(generators(3))):
        a, b = (
            pipe(3, generator(), num_inference_steps=steps, output_type="pt", **options).images
            for pipe in (mine, theirs)
        )
        assert b.std() > 0.1
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5 if dtype == torch.float32 else 1e-10)
    a, b = (pixels(pipe(2, seeded(), num_inference_steps=steps, **options).images) for pipe in (mine, theirs))
    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(("kind", "calls"), [(PNDMPipeline, 50 + 9), (DDIMPipeline, 50), (DDPMPipeline, 1000)])
def test_the_defaults_are_those_of_the_field(kind, calls):
    times = []
    pipe = quiet(kind(lambda x, t: times.append(t) or x, diffusers.DDPMScheduler()))
    (image,) = pipe(image_shape=(1, 3, 2)).images
    assert image.size == (2, 3)
    assert len(times) == calls
    assert all(t.shape == (1,) and not t.is_floating_point() for t in times)


def test_image_shapes():
    unet = tiny_unet(sample_size=(8, 12))
    pipe = quiet(PNDMPipeline(unet, diffusers.DDPMScheduler()))
    assert pipe(2, **SHORT).images.shape == (2, 8, 12, 3)
    assert pipe(1, image_shape=(3, 16, 8), **SHORT).images.shape == (1, 16, 8, 3)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_output_types_are_one_image(channels):
    pipe = quiet(DDIMPipeline(tiny_unet(in_channels=channels, out_channels=channels), diffusers.DDIMScheduler()))
    pil, array, tensor = (pipe(2, seeded(), num_inference_steps=4, output_type=kind) for kind in ("pil", "np", "pt"))
    assert [image.mode for image in pil.images] == [{1: "L", 3: "RGB", 4: "RGBA"}[channels]] * 2
    assert 0 <= array.images.min() < array.images.max() <= 1
    np.testing.assert_array_equal(tensor.images.permute(0, 2, 3, 1).numpy(), array.images)
    shown = pixels(pil.images).reshape(array.images.shape)
    np.testing.assert_array_equal(shown, np.round(array.images * 255).astype(np.uint8))
    (alone,) = pipe(2, seeded(), return_dict=False, **SHORT)
    np.testing.assert_array_equal(alone, array.images)


# ------------------------------------------------------------------ networks


@pytest.mark.parametrize("name", ["digits", "fashion"])
def test_a_bundled_network_brings_its_schedule(name):
    network = load_network(name)
    pipe = quiet(PNDMPipeline(network))
    times = np.arange(network.schedule.num_train_timesteps)
    np.testing.assert_allclose(pipe.scheduler.schedule.log_snr(times), network.schedule.log_snr(times), rtol=1e-12)
    noise = torch.randn(2, *network.shape, generator=seeded())
    plan = PNDMSolver(network.schedule).plan(5, spacing="leading", final="first")
    with torch.no_grad():
        expected = plan.run(network, noise, prediction=network.prediction)
    images = pipe(2, 5, seeded(), output_type="np").images
    np.testing.assert_allclose(images, picture(expected), atol=1e-4)
    pipe.to(torch.float64)
    assert next(network.unet.parameters()).dtype == pipe.dtype == torch.float64


def test_classes_and_guidance_of_a_bundled_network():
    network = load_network("fashion")
    pipe = quiet(PNDMPipeline(network, ours.PLMSScheduler.from_config(PNDMPipeline(network).scheduler.config)))
    noise = torch.randn(3, *network.shape, generator=seeded())
    with torch.no_grad():
        model = network.model(torch.tensor([1, 7, 8]), 2.0)
        plan = PLMSSolver(network.schedule).plan(8, prediction=network.prediction)  # a scheduler knows no shape
        expected = plan.run(model, noise, prediction=network.prediction)
    drawn = pipe(3, 8, seeded(), output_type="np", class_labels=[1, 7, 8], guidance_scale=2.0).images
    np.testing.assert_allclose(drawn, picture(expected), atol=1e-3)
    again = quiet(PNDMPipeline(**pipe.components))  # the same as a component of another pipeline
    shirts, one = (each(2, 4, seeded(), output_type="np", class_labels=6).images for each in (pipe, again))
    np.testing.assert_array_equal(shirts, one)
    assert np.abs(shirts - pipe(2, 4, seeded(), output_type="np").images).max() > 0.1


def test_classes_of_a_unet():
    unet = tiny_unet(num_class_embeds=4)
    unet.conv_out.weight.data *= 20
    pipe = quiet(PNDMPipeline(unet, diffusers.DDPMScheduler()))
    both = pipe(2, generator=generators(2), class_labels=[3, 1], **SHORT).images
    for i, label in enumerate((3, 1)):
        one = pipe(1, generator=[generators(2)[i]], class_labels=label, **SHORT).images
        np.testing.assert_allclose(both[i : i + 1], one, atol=1e-4)
    assert np.abs(both - pipe(2, generator=generators(2), class_labels=0, **SHORT).images).max() > 1e-2


class OwnNetwork(torch.nn.Module):
    shape = (2, 4, 4)

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(0.5))

    def forward(self, x, t):
        assert t.shape == (len(x),)
        return self.scale * x


def test_a_network_of_ones_own():
    network = OwnNetwork()
    pipe = quiet(DDIMPipeline(network, ours.DDIMScheduler(clip_sample=False)))
    assert (pipe.device, pipe.dtype) == (torch.device("cpu"), torch.float32)
    assert pipe.to(torch.float64).dtype == network.scale.dtype == torch.float64
    images = pipe(3, seeded(), num_inference_steps=7, output_type="pt").images
    noise = torch.randn(3, *network.shape, generator=seeded(), dtype=torch.float64)
    with torch.no_grad():
        expected = DDIMSolver(NoiseSchedule.linear()).sample(network, noise, 7, spacing="leading")
    torch.testing.assert_close(images, (expected / 2 + 0.5).clamp(0, 1), rtol=0, atol=1e-12)


def test_a_compiled_unet_is_a_unet(tmp_path):
    compiled = torch.compile(UNET, backend="eager")
    pipe, plain = (quiet(DDIMPipeline(unet, diffusers.DDIMScheduler())) for unet in (compiled, UNET))
    drawn, expected = (each(1, seeded(), **SHORT).images for each in (pipe, plain))
    np.testing.assert_allclose(drawn, expected, atol=1e-6)
    pipe.save_pretrained(tmp_path)
    assert load_saved_network(tmp_path).shape == (3, 8, 8)


def test_a_network_in_bfloat16():
    unet = copy.deepcopy(UNET).to(torch.bfloat16)
    images = quiet(PNDMPipeline(unet, ours.PLMSScheduler()))(2, 5, seeded(), output_type="np").images
    assert (images.dtype, images.shape) == (np.float32, (2, 8, 8, 3))
    assert np.isfinite(images).all()


# ------------------------------------------------------------------ schedulers


@pytest.mark.parametrize(
    ("kind", "given", "kept"),
    [
        (PNDMPipeline, diffusers.PNDMScheduler(), ours.PNDMScheduler),
        (PNDMPipeline, diffusers.EulerDiscreteScheduler(), ours.PNDMScheduler),
        (PNDMPipeline, ours.DDIMScheduler(), ours.PNDMScheduler),
        (PNDMPipeline, ours.PLMSScheduler(), ours.PLMSScheduler),
        (DDIMPipeline, diffusers.DDPMScheduler(), ours.DDIMScheduler),
        (DDIMPipeline, ours.PLMSScheduler(), ours.DDIMScheduler),
        (DDPMPipeline, diffusers.DDPMScheduler(), ours.DDPMScheduler),
        (DDPMPipeline, diffusers.DDIMScheduler(), ours.DDIMScheduler),
        (DDPMPipeline, diffusers.UniPCMultistepScheduler(), ours.DDPMScheduler),
    ],
)
def test_schedulers_are_converted(kind, given, kept):
    pipe = kind(UNET, type(given).from_config(given.config, beta_end=0.01, prediction_type="v_prediction"))
    assert type(pipe.scheduler) is kept
    assert (pipe.scheduler.config.beta_end, pipe.scheduler.config.prediction_type) == (0.01, "v_prediction")
    assert np.isfinite(quiet(pipe)(**SHORT).images).all()


def test_our_scheduler_is_kept_and_shared():
    scheduler = ours.DDIMScheduler()
    assert DDIMPipeline(UNET, scheduler).scheduler is DDPMPipeline(UNET, scheduler).scheduler is scheduler


def test_a_warning_names_the_options_of_another_method():
    with pytest.warns(UserWarning, match="variance_type='fixed_large'"):
        DDIMPipeline(UNET, diffusers.DDPMScheduler(variance_type="fixed_large"))


def test_a_run_that_was_stopped_leaves_nothing_behind(capsys):
    stopped = []

    def model(x, t):
        if len(stopped) == 5:
            raise KeyboardInterrupt
        stopped.append(t)
        return x * 0.5

    pipe = PNDMPipeline(model, ours.PNDMScheduler())
    with pytest.raises(KeyboardInterrupt):
        pipe(1, 4, seeded(), image_shape=(1, 4, 4))
    assert "5/13" in capsys.readouterr().err
    fresh = PNDMPipeline(lambda x, t: x * 0.5, ours.PNDMScheduler())
    pipe.unet = fresh.unet
    again, once = (quiet(p)(1, 4, seeded(), "np", image_shape=(1, 4, 4)).images for p in (pipe, fresh))
    assert not capsys.readouterr().err
    np.testing.assert_array_equal(again, once)


# ------------------------------------------------------------------ folders


@pytest.mark.parametrize("kind", PIPELINES)
def test_saved_by_us_loads_everywhere(kind, tmp_path):
    pipe = quiet(kind(UNET, diffusers.DDPMScheduler(beta_end=0.015)))
    pipe.save_pretrained(tmp_path)
    assert "pndm_solvers" not in (tmp_path / "model_index.json").read_text()
    mine, theirs = (quiet(each.from_pretrained(tmp_path)) for each in (kind, diffusers.DiffusionPipeline))
    assert type(mine.scheduler) is type(pipe.scheduler)
    assert type(theirs) is getattr(diffusers, kind.__name__)
    assert type(theirs.scheduler) is getattr(diffusers, type(pipe.scheduler).__name__)
    expected = pipe(2, generator=seeded(), **SHORT).images
    np.testing.assert_allclose(mine(2, generator=seeded(), **SHORT).images, expected, atol=1e-6)
    if kind is not PNDMPipeline:  # theirs breaks off below four steps
        np.testing.assert_allclose(theirs(2, generator=seeded(), **SHORT).images, expected, atol=1e-5)


def test_a_scheduler_that_diffusers_lacks_is_saved_too(tmp_path):
    pipe = quiet(PNDMPipeline(UNET, ours.PLMSScheduler(multistep_order=3)))
    pipe.save_pretrained(tmp_path)
    loaded = quiet(PNDMPipeline.from_pretrained(tmp_path))
    assert isinstance(loaded.scheduler, ours.PLMSScheduler)
    images = [each(1, 6, seeded(), output_type="np").images for each in (pipe, loaded)]
    np.testing.assert_allclose(*images, atol=1e-6)


@pytest.mark.parametrize("kind", PIPELINES)
def test_saved_by_diffusers_loads_in_ours(kind, tmp_path):
    for theirs in (diffusers.DDPMScheduler, diffusers.DDIMScheduler, diffusers.EulerDiscreteScheduler):
        scheduler = theirs(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
        diffusers.DDPMPipeline(UNET, scheduler).save_pretrained(tmp_path)
        pipe = quiet(kind.from_pretrained(tmp_path))
        times = np.arange(1000)
        np.testing.assert_allclose(pipe.scheduler.schedule.alpha(times) ** 2, scheduler.alphas_cumprod, rtol=1e-4)
        assert pipe(2, **SHORT).images.shape == (2, 8, 8, 3)


@pytest.mark.parametrize("network", [lambda x, t: x, load_network("digits")], ids=["callable", "bundled"])
def test_a_callable_cannot_be_saved(network, tmp_path):
    pipe = PNDMPipeline(network, ours.PNDMScheduler())
    with pytest.raises(TypeError, match=r"scheduler\.save_pretrained"):
        pipe.save_pretrained(tmp_path)
    assert not list(tmp_path.iterdir())


# ------------------------------------------------------------------ mistakes


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"output_type": "jpg"}, "output_type is 'jpg'; known are 'pil', 'np', 'pt'"),
        ({"batch_size": 0}, "batch_size .* a whole number of at least 1"),
        ({"batch_size": 2.5}, "batch_size .* a whole number of at least 1"),
        ({"batch_size": 3, "generator": generators(2)}, "generator has 2 entries for batch_size 3"),
        ({"num_inference_steps": 0}, "at least 1"),
        ({"num_inference_steps": 1001}, "1000"),
        ({"class_labels": 1}, "has no classes"),
        ({"guidance_scale": 2.0}, "without class_labels"),
        ({"image_shape": (8, 8)}, r"image_shape=\(channels, height, width\)"),
    ],
)
def test_calls_that_are_refused(arguments, message):
    for kind in PIPELINES:
        with pytest.raises(ValueError, match=message):
            quiet(kind(UNET, diffusers.DDPMScheduler()))(**arguments)


@pytest.mark.parametrize(
    ("options", "arguments", "message"),
    [
        ({"num_class_embeds": 4}, {}, "one of its classes, 0 to 3"),
        ({"num_class_embeds": 4}, {"class_labels": 4}, "0 to 3"),
        ({"num_class_embeds": 4}, {"class_labels": [1, 2]}, "one for each of 1 images"),
        ({"num_class_embeds": 4}, {"class_labels": 0.5}, "number of a class"),
        ({"num_class_embeds": 4}, {"class_labels": 1, "guidance_scale": 2.0}, "without a class"),
        ({"sample_size": None}, {}, "pass image_shape="),
        ({"in_channels": 5, "out_channels": 5}, {}, "5 channels are no pictures"),
        ({"time_embedding_type": "learned", "num_train_timesteps": 1000}, {}, "spacing of integers"),
    ],
    ids=str,
)
def test_calls_that_a_unet_refuses(options, arguments, message):
    with pytest.raises(ValueError, match=message):
        quiet(PNDMPipeline(tiny_unet(**options), ours.PLMSScheduler()))(num_inference_steps=4, **arguments)


def test_calls_that_a_callable_refuses():
    pipe = quiet(PNDMPipeline(lambda x, t: x, ours.PNDMScheduler()))
    with pytest.raises(ValueError, match="pass image_shape="):
        pipe()
    for extra in ({"class_labels": 1}, {"class_labels": 1, "guidance_scale": 2.0}):
        with pytest.raises(ValueError, match="mean nothing to a callable"):
            pipe(image_shape=(1, 4, 4), **extra)


def test_what_is_no_network_and_no_scheduler():
    with pytest.raises(TypeError, match="unet is a str"):
        PNDMPipeline("digits")
    with pytest.raises(TypeError, match="unet is a VQModel"):
        PNDMPipeline(diffusers.VQModel(), ours.PNDMScheduler())
    with pytest.raises(ValueError, match="scheduler is None"):
        PNDMPipeline(UNET)
    with pytest.raises(ValueError, match="keep diffusers' own SCMScheduler"):
        DDIMPipeline(UNET, diffusers.SCMScheduler())
