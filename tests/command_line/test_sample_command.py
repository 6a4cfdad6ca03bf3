import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import pndm_solvers.__main__
from pndm_solvers import DDIMSolver, NoiseSchedule, Plan, PNDMSolver, analysis, cli, images
from pndm_solvers.noise import initial_noise
from pndm_solvers.prediction import Prediction


@pytest.fixture
def run(capsys, monkeypatch):
    """Runs a command line in this process; returns (exit status, stdout, stderr)."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["pndm-solvers", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_:
            cli.main()
        out, err = capsys.readouterr()
        status = exit_.value.code
        return (status, out, err) if isinstance(status, int) else (1, out, err + str(status))

    return call


def test_the_demo(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, out, err = run("sample", "--calls", 3)
    assert status == 0
    for word in ("fashion", "PLMS 4 (exact, ramp)", "3 model calls", " s ", "samples.png"):
        assert word in out
    assert "3/3" in err
    with Image.open(tmp_path / "samples.png") as picture:
        assert min(picture.size) > 400


def test_sample_with_everything(run, tmp_path):
    out, gif = tmp_path / "one.png", tmp_path / "one.gif"
    options = (
        "--solver pndm --order 2 --steps 4 --class Bag --guidance 2 --count 3 --seed 1 --spacing quadratic --clip 1"
    )
    arguments = ("sample", *options.split(), "--out", out, "--gif", gif)
    assert run(*arguments)[0] == 0
    first = out.read_bytes()
    with Image.open(gif) as animation:
        assert animation.n_frames == 5 + 1
    assert run(*arguments)[0] == 0
    assert out.read_bytes() == first


@pytest.mark.parametrize(
    "option",
    [
        ("--guidance", 5),
        ("--clip", 0.5),
        ("--class", 3),
        ("--seed", 4),
        ("--solver", "ddpm"),
        ("--spacing", "karras"),
        ("--weights", "classical"),
    ],
    ids=str,
)
def test_every_option_changes_the_picture(run, tmp_path, option):
    common = ("sample", "--calls", 4, "--count", 4)
    assert run(*common, "--out", tmp_path / "a.png")[0] == 0
    assert run(*common, *option, "--out", tmp_path / "b.png")[0] == 0
    assert (tmp_path / "a.png").read_bytes() != (tmp_path / "b.png").read_bytes()


def test_a_class_by_name_is_the_class_by_number(run, tmp_path):
    for name in ("sneaker", "7"):
        assert run("sample", "--calls", 3, "--count", 2, "--class", name, "--out", tmp_path / f"{name}.png")[0] == 0
    assert (tmp_path / "sneaker.png").read_bytes() == (tmp_path / "7.png").read_bytes()


def test_an_image_does_not_depend_on_how_many_are_drawn(run, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(images, "grid_image", lambda batch: drawn.append(batch) or Image.new("L", (1, 1)))
    for count in (2, 5):
        assert run("sample", "--calls", 3, "--count", count, "--out", tmp_path / "a.png")[0] == 0
    np.testing.assert_allclose(drawn[0], drawn[1][:2], atol=1e-3)


def test_runge_kutta_at_few_calls_is_warned_of(run, tmp_path):
    assert "--solver plms" in run("sample", "--calls", 9, "--solver", "pndm", "--out", tmp_path / "a.png")[2]


def test_without_its_extra_the_command_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "typer", None)
    monkeypatch.delitem(sys.modules, "pndm_solvers.cli")
    monkeypatch.delattr(pndm_solvers, "cli")
    with pytest.raises(SystemExit, match=r"pndm_solvers\[demo\]"):
        pndm_solvers.__main__.main()


def test_a_tolerance_chooses_the_calls(run, tmp_path):
    out = ("--out", tmp_path / "a.png", "--count", 9)
    status, coarse, _ = run("sample", "--network", "digits", "--tolerance", 0.1, *out)
    assert status == 0
    assert "error about" in coarse
    fine = run("sample", "--network", "digits", "--tolerance", 0.03, *out)[1]
    calls = [int(text.split(" model calls")[0].split()[-1]) for text in (coarse, fine)]
    assert 4 <= calls[0] < calls[1]


def test_sample_digits(run, tmp_path):
    out = tmp_path / "digits.png"
    assert run("sample", "--network", "digits", "--solver", "ddpm", "--steps", 5, "--out", out)[0] == 0
    assert out.exists()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Makes a folder of a diffusers pipeline, by the options of its network and its scheduler."""
    import diffusers
    import torch

    def save(scheduler=None, **options):
        torch.manual_seed(0)
        unet = diffusers.UNet2DModel(
            **{"sample_size": 8, "in_channels": 3, "out_channels": 3, **options},
            block_out_channels=(8, 16),
            norm_num_groups=8,
            down_block_types=("DownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "UpBlock2D"),
        ).eval()
        folder = tmp_path_factory.mktemp("checkpoint")
        diffusers.DDPMPipeline(unet, scheduler or diffusers.DDPMScheduler()).save_pretrained(folder)
        return folder, unet

    return save


@pytest.mark.parametrize("classes", [None, 3])
@pytest.mark.parametrize("clip", [True, False])
def test_a_checkpoint_of_diffusers(run, tmp_path, monkeypatch, checkpoint, classes, clip):
    """The picture is that of the solver, run by hand on the network as the checkpoint's scheduler describes it."""
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


@pytest.mark.parametrize(
    "option",
    [
        ("--class", 2),
        ("--clip", "inf"),
        ("--seed", 4),
        ("--solver", "pndm"),
        ("--solver", "ddim", "--eta", 1),
        ("--solver", "ddpm", "--variance", "fixed_large"),
        ("--spacing", "karras"),
        ("--steps", 4),
        ("--order", 2),
        ("--weights", "classical"),
        ("--tolerance", 0.1),
    ],
    ids=str,
)
def test_every_option_works_on_a_checkpoint(run, tmp_path, checkpoint, option):
    folder, _ = checkpoint(num_class_embeds=3, in_channels=1, out_channels=2)  # its variance is learned
    common = ("sample", "--model", folder, "--count", 4)
    calls = () if {"--steps", "--tolerance"} & set(option) else ("--calls", 15)
    assert run(*common, "--calls", 15, "--out", tmp_path / "a.png")[0] == 0
    assert run(*common, *calls, *option, "--out", tmp_path / "b.png", "--gif", tmp_path / "b.gif")[0] == 0
    assert (tmp_path / "a.png").read_bytes() != (tmp_path / "b.png").read_bytes()


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
    assert (status, err) == (1, "pndm-solvers: --model needs diffusers: pip install 'pndm_solvers[demo,diffusers]'")


def test_plan_prints_and_exports(run):
    status, out, _ = run("plan", "--solver", "pndm", "--steps", 6)
    assert status == 0
    assert out.startswith("F-PNDM: 15 model calls")
    status, out, _ = run("plan", "--solver", "pndm", "--steps", 6, "--json")
    assert Plan.from_json(out) == PNDMSolver(NoiseSchedule.linear()).plan(6)
    assert run("plan", "--calls", 7, "--schedule", "rectified_flow", "--final", "first")[0] == 0
    assert run("plan", "--solver", "ddim", "--steps", 4, "--start", 0, "--stop", 999)[0] == 0


def test_plan_reads_a_config(run, tmp_path):
    path = tmp_path / "scheduler_config.json"
    path.write_text(json.dumps({"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}))
    assert run("plan", "--schedule", path)[1] == run("plan", "--schedule", "scaled_linear")[1]


def test_order_prints_plots_and_exports(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, out, err = run("order", "--steps", "10,20", "--steps", 40, "--solver", "ddim,pndm", "--grid", "graded")
    assert status == 0
    lines = out.splitlines()
    assert lines[1].split() == ["solver", "declared", "observed", "10", "20", "40"]
    assert [line.split()[:2] for line in lines[2:4]] == [["DDIM", "1"], ["F-PNDM", "2"]]
    assert "gaussian" in err
    with Image.open(tmp_path / "order.png") as picture:
        assert min(picture.size) > 400


def test_compare_prints_plots_and_exports(run, tmp_path):
    path = tmp_path / "a.png"
    command = ("compare", "--calls", "2,6", "--calls", 12, "--solver", "ddim", "--solver", "plms", "--starts", 3)
    command += ("--spacing", "trailing,karras", "--problem", "power-law", "--schedule", "cosine")
    status, out, _ = run(*command, "--out", path)
    assert status == 0
    lines = out.splitlines()
    assert lines[1].split() == ["solver,", "spacing", "2", "6", "12"]
    assert len({len(line.rstrip("* ")) // 4 for line in lines[2:6]}) == 1
    assert "\n".join(lines[2:6]).count("*") == 3
    assert path.exists()
    path.unlink()

    status, out, _ = run(*command, "--json")
    document = json.loads(out)
    assert not path.exists()
    assert (document["problem"], document["schedule"], document["starts"]) == ("power-law", "cosine", 3)
    problem = analysis.exact_problem("power-law", NoiseSchedule.cosine(), starts=3)
    (curve,) = analysis.compare(problem, [DDIMSolver(problem.schedule)], ["karras"], [2, 6, 12])
    assert (
        analysis.Curve(**{k: tuple(v) if isinstance(v, list) else v for k, v in document["curves"][1].items()}) == curve
    )


def test_json_has_no_infinity(run):
    status, out, _ = run(
        "compare", "--schedule", "rectified_flow", "--calls", 3, "--starts", 2, "--spacing", "log_snr", "--json"
    )
    assert status == 0
    assert [curve["median"] for curve in json.loads(out)["curves"]] == [[None]] * 4


def test_order_as_json(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    document = json.loads(run("order", "--steps", "10,20", "--solver", "plms", "--json")[1])
    (found,) = document["solvers"]
    assert (document["grid"], found["name"], found["steps"]) == ("uniform", "PLMS 4 (exact, ramp)", [10, 20])
    assert not list(tmp_path.iterdir())
    assert run("order", "--steps", "10,20", "--solver", "ddim", "--json", "--out", "b.png")[0] == 0
    assert (tmp_path / "b.png").exists()


def test_an_interrupted_measurement_gives_what_is_finished(run, tmp_path, monkeypatch):
    measure, seen = analysis.observed_order, []

    def once(*arguments, **options):
        if seen:
            raise KeyboardInterrupt
        seen.append(1)
        return measure(*arguments, **options)

    monkeypatch.setattr(cli, "observed_order", once)
    status, out, err = run("order", "--steps", "10,20", "--out", tmp_path / "a.png")
    assert status == 0
    assert "DDIM" in out
    assert "interrupted: 1 of" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("sample", "--network", "cats"), "bundled are"),
        (("sample", "--solver", "euler"), "known are ddim"),
        (("sample", "--solver", "ddpm", "--eta", 1), "--eta is not an option"),
        (("sample", "--solver", "prk-heun", "--order", 1), "--order is not an option"),
        (("sample", "--class", "hat"), "9 ankle boot"),
        (("sample", "--network", "digits", "--class", "3"), "no classes"),
        (("sample", "--steps", 3, "--calls", 3), "not both"),
        (("sample", "--tolerance", 0.1, "--calls", 3), "not both"),
        (("sample", "--tolerance", -1, "--network", "digits"), "above 0"),
        (("sample", "--tolerance", 0.1, "--network", "digits", "--solver", "ddpm"), "draws noise"),
        (("sample", "--network", "digits", "--guidance", "3"), "no classes"),
        (("sample", "--out", "/nowhere/x.png"), "no folder"),
        (("sample", "--out", "x.pnq"), "extension"),
        (("sample", "--out", "/"), "is a folder"),
        (("sample", "--calls", 4, "--count", 2, "--guidance", "1e30"), "not finite"),
        (("sample", "--gif", "x.png"), "must be .gif"),
        (("sample", "--out", "x.gif", "--gif", "x.gif"), "overwrite"),
        (("sample", "--guidance", "nan"), "finite"),
        (("sample", "--device", "nonsense"), "--device is 'nonsense'"),
        (("plan", "--schedule", "sigmoid"), "schedule is 'sigmoid'"),
        (("plan", "--steps", 0), "at least 1"),
        (("plan", "--weights", "even"), "'exact'"),
        (("plan", "--solver", "plms-classical", "--weights", "exact"), "--weights is not an option"),
        (("order", "--solver", "euler"), "known are ddim"),
        (("order", "--solver", "ddpm"), "known are ddim"),
        (("order", "--problem", "cats"), "known are gaussian"),
        (("order", "--grid", "log"), "known are uniform"),
        (("order", "--steps", "10"), "two numbers of steps"),
        (("order", "--steps", "10,x"), "whole numbers"),
        (("order", "--schedule", "sigmoid"), "schedule is 'sigmoid'"),
        (("order", "--out", "/nowhere/x.png"), "no folder"),
        (("compare", "--solver", "ddpm"), "known are ddim"),
        (("compare", "--spacing", "even"), "quadratic, log_snr, karras"),
        (("compare", "--problem", "cats"), "fashion"),
        (("compare", "--problem", "digits", "--schedule", "cosine"), "its own schedule"),
        (("compare", "--calls", "0"), "at least 1"),
        (("compare", "--out", "x.pnq"), "extension"),
    ],
)
def test_mistakes_are_one_clear_line(run, arguments, message):
    status, out, err = run(*arguments)
    assert status != 0
    assert message in err
    assert "Traceback" not in err
    assert not out


def test_help_names_every_choice(run):
    for command in ("sample", "plan", "order", "compare"):
        status, out, _ = run(command, "--help")
        assert status == 0
        assert all(word in out for word in ("ddim", "prk-rk4", "linear" if command == "order" else "trailing"))


def test_as_a_module():
    command = [sys.executable, "-m", "pndm_solvers", "plan", "--calls", "3"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "3 model calls" in done.stdout
