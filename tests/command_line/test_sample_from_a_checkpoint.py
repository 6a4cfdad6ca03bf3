"""`pndm-solvers sample --model` draws from a folder that a diffusers pipeline was saved to."""

import json
import sys

import numpy as np
import pytest
from PIL import Image
from run_command import runner

from pndm_solvers import DDIMSolver, NoiseSchedule, images
from pndm_solvers.noise import initial_noise
from pndm_solvers.prediction import Prediction


@pytest.fixture
def run(capsys, monkeypatch):
    return runner(capsys, monkeypatch)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A function that saves a diffusers pipeline, and returns its folder and its network."""
    import diffusers
    from tiny_unet import tiny_unet

    def save(scheduler=None, **options):
        unet = tiny_unet(**options)
        folder = tmp_path_factory.mktemp("checkpoint")
        diffusers.DDPMPipeline(unet, scheduler or diffusers.DDPMScheduler()).save_pretrained(folder)
        return folder, unet

    return save


@pytest.mark.parametrize("classes", [None, 3])
@pytest.mark.parametrize("clip", [True, False])
def test_a_checkpoint_of_diffusers(run, tmp_path, monkeypatch, checkpoint, classes, clip):
    """The picture equals a run of the solver by hand, with the schedule and prediction of the scheduler."""
    import diffusers
    import torch

    scheduler = diffusers.DDIMScheduler(prediction_type="v_prediction", beta_schedule="scaled_linear", clip_sample=clip)
    folder, unet = checkpoint(scheduler, num_class_embeds=classes, sample_size=(8, 12))
    drawn = []
    monkeypatch.setattr(images, "grid_image", lambda batch: drawn.append(batch) or Image.new("L", (1, 1)))
    status, out, err = run(
        "sample", "--model", folder, "--solver", "ddim", "--steps", 5, "--count", 4, "--out", tmp_path / "a.png"
    )
    assert status == 0
    assert all(word in out for word in (folder.name, "DDIM", "5 model calls"))
    assert ("--clip inf" in err) == clip
    label = classes and torch.tensor([0, 1, 2, 0])
    noise = torch.from_numpy(initial_noise((4, 3, 8, 12), 0)).float()
    with torch.no_grad():
        expected = DDIMSolver(NoiseSchedule.scaled_linear(1000, 0.0001, 0.02)).sample(
            lambda x, t: unet(x, t, label).sample,
            noise,
            5,
            prediction=Prediction("v_prediction", clip=1.0 if clip else None),
        )
    np.testing.assert_allclose(drawn[0], expected[[0, 3, 1, 2] if classes else [0, 1, 2, 3]], atol=1e-4)


def test_every_option_works_on_a_checkpoint(run, tmp_path, checkpoint):
    folder, _ = checkpoint(num_class_embeds=3, in_channels=1, out_channels=2)  # its variance is learned

    def picture(*options):
        path = tmp_path / "a.png"
        assert run("sample", "--model", folder, "--count", 4, "--out", path, *options)[0] == 0
        return path.read_bytes()

    plain = picture("--calls", 8)
    for options in (
        ("--calls", 8, "--class", 2),
        ("--calls", 8, "--clip", "inf"),
        ("--calls", 8, "--seed", 4),
        ("--calls", 8, "--solver", "pndm"),
        ("--calls", 8, "--solver", "ddim", "--eta", 1),
        ("--calls", 8, "--solver", "ddpm", "--variance", "fixed_large"),
        ("--calls", 8, "--spacing", "karras"),
        ("--calls", 8, "--order", 1),
        ("--calls", 8, "--weights", "classical"),
        ("--steps", 4),
        ("--tolerance", 0.1, "--gif", tmp_path / "a.gif"),
    ):
        assert picture(*options) != plain, options
    with Image.open(tmp_path / "a.gif") as animation:
        assert animation.n_frames > 2


@pytest.mark.parametrize(
    ("made", "arguments", "message"),
    [
        ({}, ("--network", "digits"), "not both"),
        ({}, ("--class", 1), "no classes"),
        ({}, ("--guidance", 2), "no classes"),
        ({"num_class_embeds": 30}, ("--class", 30), "known are 0 to 29"),
        ({"num_class_embeds": 3}, ("--guidance", 2), "without a class"),
        ({"in_channels": 4, "out_channels": 4}, (), "4 channels"),
        ({"sample_size": None}, (), "no sample_size"),
        ({"time_embedding_type": "learned", "num_train_timesteps": 1000}, (), "'trailing'"),
        ({}, ("--device", "nonsense"), "--device is 'nonsense'"),
    ],
    ids=str,
)
def test_a_checkpoint_that_cannot_be_drawn_from(run, checkpoint, made, arguments, message):
    status, out, err = run("sample", "--model", checkpoint(**made)[0], *arguments)
    assert status == 1
    assert message in err
    assert "Traceback" not in err
    assert not out


def test_a_folder_that_is_no_checkpoint(run, tmp_path):
    status, _, err = run("sample", "--model", tmp_path)
    assert (status, err.count("\n")) == (1, 0)
    assert "save_pretrained" in err
    parts = {"unet": ["diffusers", "UNet2DConditionModel"], "text_encoder": ["transformers", "CLIPTextModel"]}
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionPipeline"} | parts))
    status, _, err = run("sample", "--model", tmp_path)
    assert (status, err.count("\n")) == (1, 0)
    assert "StableDiffusionPipeline (unet UNet2DConditionModel, text_encoder CLIPTextModel)" in err


def test_a_checkpoint_without_diffusers_says_how_to_get_it(run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    for module in [name for name in sys.modules if name.startswith("pndm_solvers.adapters.diffusers")]:
        monkeypatch.delitem(sys.modules, module)
    status, _, err = run("sample", "--model", tmp_path)
    assert (status, err) == (1, "pndm-solvers: the schedulers need diffusers: pip install 'pndm_solvers[diffusers]'")
