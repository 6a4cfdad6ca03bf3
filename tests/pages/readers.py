"""What the readers of a page have before and after it: functions of the page's namespace."""

import sys
from pathlib import Path

READERS, OUTCOMES = {}, {}
EXAMPLES = Path(__file__).parents[2] / "examples"


def users_of_diffusers(names):
    """Tiny pipelines of Stable Diffusion and FLUX, FLUX's `prompt`, and the `folder` of a saved pipeline."""
    sys.path.append(str(EXAMPLES))  # until the test ends, which restores the path
    import diffusers
    from tiny_flow_models import pipeline
    from tiny_stable_diffusion import parts
    from tiny_unet import tiny_unet

    pipe = diffusers.StableDiffusionPipeline(**parts())
    pipe.set_progress_bar_config(disable=True)
    flux, prompt = pipeline("FLUX")
    diffusers.DDPMPipeline(tiny_unet(), diffusers.DDPMScheduler()).save_pretrained("saved")
    names |= {"pipe": pipe, "flux": flux, "prompt": prompt, "folder": "saved"}


READERS["README.md"] = READERS["docs/how-to/diffusers.md"] = users_of_diffusers


def users_of_programs(names):
    """The folders of a ComfyUI and of a web UI."""
    for folder in ("path/to/ComfyUI/custom_nodes", "path/to/stable-diffusion-webui/extensions"):
        Path(folder).mkdir(parents=True)


READERS["docs/how-to/comfyui.md"] = users_of_programs


def users_of_flows(names):
    """A `pipe` with the scheduler of SD 3."""
    from types import SimpleNamespace

    import diffusers

    names["pipe"] = SimpleNamespace(scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0))


READERS["docs/how-to/flow.md"] = users_of_flows


def users_with_a_folder(names):
    """The folder `FOLDER` that a pipeline was saved to, and `data.npy` with pictures of its size, 4×4 pixels."""
    import diffusers
    import numpy as np
    from tiny_unet import tiny_unet

    unet = tiny_unet(sample_size=4, in_channels=1, out_channels=1, layers_per_block=1, add_attention=False)
    names["pipe"] = diffusers.DDPMPipeline(unet, diffusers.DDPMScheduler())
    names["pipe"].set_progress_bar_config(disable=True)
    names["pipe"].save_pretrained("FOLDER")
    np.save("data.npy", np.random.default_rng(0).uniform(-1, 1, (200, 1, 4, 4)).astype(np.float32))


READERS["docs/tutorials/measure.md"] = users_with_a_folder


def users_who_fit(names):
    """Also a `denoiser` in k-diffusion's form, for data of deviation 1."""
    users_with_a_folder(names)
    names["denoiser"] = lambda x, sigma: x / (1 + sigma.reshape(-1, 1, 1, 1) ** 2)


READERS["docs/tutorials/fit.md"] = users_who_fit


def ring_was_measured(names):
    from PIL import Image

    assert min(Image.open("compare.png").size) > 400
    assert Path("ring.npz").exists()
    assert names["gap"].low < names["gap"].value < names["gap"].high < 0
    for curve in names["curves"]:
        assert curve.limit < curve.value[0]


OUTCOMES["docs/tutorials/measure.md"] = ring_was_measured


def plan_was_fitted(names):
    assert names["fit"].gain < 0.1
    assert (names["x0"] ** 2).mean() < 100


OUTCOMES["docs/tutorials/fit.md"] = plan_was_fitted
