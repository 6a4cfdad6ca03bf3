"""The network in a folder that a diffusers pipeline was saved to, for solvers."""

import json

import diffusers
import pytest
import torch
from tiny_unet import tiny_unet

from pndm_solvers import NoiseSchedule
from pndm_solvers.adapters.diffusers.networks import load_saved_network
from pndm_solvers.adapters.diffusers.pipelines import PNDMPipeline
from pndm_solvers.prediction import Prediction


def test_it_is_a_network_for_solvers(tmp_path):
    unet = tiny_unet(in_channels=1, out_channels=2, num_class_embeds=3, sample_size=(8, 4))
    scheduler = diffusers.DDPMScheduler(beta_end=0.01, prediction_type="sample", variance_type="learned_range")
    diffusers.DDPMPipeline(unet, scheduler).save_pretrained(tmp_path / "mine")
    network = load_saved_network(tmp_path / "mine")
    assert (network.name, network.shape, network.labels) == ("mine", (1, 8, 4), ("0", "1", "2"))
    assert network.prediction == Prediction("sample", clip=1.0)
    assert network.schedule == NoiseSchedule.linear(beta_end=0.01)
    x, t, label = torch.randn(2, 1, 8, 4), torch.tensor([3.0, 5.0]), torch.tensor([2, 0])
    with torch.no_grad():
        answer, expected = network.model(label)(x, t), unet(x, t, label).sample
    torch.testing.assert_close(answer, expected[:, :1])


@pytest.mark.parametrize(
    ("scheduler", "prediction"),
    [
        (diffusers.DDIMScheduler(clip_sample_range=2.0), Prediction(clip=2.0)),
        (diffusers.PNDMScheduler(prediction_type="v_prediction"), Prediction("v_prediction")),
        (
            diffusers.DDIMScheduler(thresholding=True, sample_max_value=3.0),
            Prediction(threshold=0.995, threshold_max=3.0),
        ),
        (diffusers.EulerDiscreteScheduler(use_karras_sigmas=True), Prediction()),
    ],
)
def test_its_scheduler_gives_the_prediction(scheduler, prediction, tmp_path):
    diffusers.DDPMPipeline(tiny_unet(), scheduler).save_pretrained(tmp_path)
    assert load_saved_network(tmp_path).prediction == prediction


def test_folders_of_other_pipelines_are_refused(tmp_path):
    index = tmp_path / "model_index.json"
    with pytest.raises(ValueError, match=r"there is no .*model_index\.json"):
        load_saved_network(tmp_path)
    parts = {"_class_name": "LDMPipeline", "unet": ["diffusers", "UNet2DModel"], "scheduler": ["diffusers", "DDIM"]}
    index.write_text(json.dumps(parts | {"vqvae": ["diffusers", "VQModel"]}))
    with pytest.raises(ValueError, match=r"LDMPipeline .*vqvae VQModel"):
        load_saved_network(tmp_path)
    index.write_text(json.dumps(parts))
    with pytest.raises(OSError, match="scheduler"):  # which is not there
        load_saved_network(tmp_path)


def test_a_network_without_a_size_has_no_shape(tmp_path):
    diffusers.DDPMPipeline(tiny_unet(sample_size=None), diffusers.DDPMScheduler()).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="no sample_size"):
        _ = load_saved_network(tmp_path).shape


def test_a_network_whose_answer_is_no_prediction_is_refused(tmp_path):
    """EDM's: its picture is made of the answer and the state. The remedy draws."""
    unet = tiny_unet()
    diffusers.DDIMPipeline(unet, diffusers.DDIMScheduler()).save_pretrained(tmp_path)
    diffusers.EDMEulerScheduler().save_pretrained(tmp_path / "scheduler")
    index = json.loads((tmp_path / "model_index.json").read_text())
    index["scheduler"] = ["diffusers", "EDMEulerScheduler"]
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=r"PNDMPipeline.from_pretrained\(folder\)"):
        load_saved_network(tmp_path)
    pipe = PNDMPipeline.from_pretrained(tmp_path)
    pipe.set_progress_bar_config(disable=True)
    assert pipe(num_inference_steps=4, output_type="np").images.shape[0] == 1
