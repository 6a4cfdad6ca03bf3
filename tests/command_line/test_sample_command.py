"""`pndm-solvers sample` draws from a bundled network: every option has its effect, and the picture is reproducible."""

import sys

import numpy as np
import pytest
import torch
from PIL import Image
from run_command import runner

from pndm_solvers import DDPMSolver, NoiseSchedule, images, initial_noise


@pytest.fixture
def run(capsys, monkeypatch):
    return runner(capsys, monkeypatch)


def test_the_demo_draws_by_the_plan_that_was_fitted(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, out, err = run("sample", "--count", 8)
    assert status == 0
    for word in ("fashion", "fitted 10", "10 model calls", "samples.png"):
        assert word in out
    assert "10/10" in err
    assert "fitted 5" in run("sample", "--calls", 5, "--count", 2, "--network", "digits")[1]
    assert "PLMS 4" in run("sample", "--calls", 5, "--count", 2, "--network", "digits", "--solver", "plms")[1]
    assert "fitted 5" in run("sample", "--calls", 5, "--count", 2, "--guidance", 3.3)[1]
    assert "PLMS 4" in run("sample", "--calls", 7, "--count", 2)[1]


def test_any_number_of_calls(run, tmp_path, monkeypatch):
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


def test_every_option_changes_the_picture(run, tmp_path):
    def picture(*options):
        path = tmp_path / "a.png"
        assert run("sample", "--calls", 4, "--count", 4, "--out", path, *options)[0] == 0
        return path.read_bytes()

    plain = picture()
    for options in (
        ("--guidance", 5),
        ("--clip", 0.5),
        ("--class", 3),
        ("--seed", 4),
        ("--solver", "ddpm"),
        ("--spacing", "karras"),
        ("--weights", "classical"),
    ):
        assert picture(*options) != plain, options


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


COUNTED = """
from pndm_solvers import NoiseSchedule
from pndm_solvers.generation import Network

sizes = []


def counted(x, t, label=None):
    sizes.append(len(x))
    return x / (1 + x * x) + (0 if label is None else label[:, None, None, None] / 10)


def network():
    return Network(counted, NoiseSchedule.linear(), (1, 4, 6), labels=3)
"""


@pytest.fixture
def counted(tmp_path, monkeypatch):
    """A module with a network that records the sizes of its batches."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "counted", raising=False)
    (tmp_path / "counted.py").write_text(COUNTED)
    yield lambda: sys.modules["counted"]
    monkeypatch.delitem(sys.modules, "counted", raising=False)


OWN = ("sample", "--model", "counted:network", "--solver", "ddpm", "--steps", 3)


def test_many_images_are_drawn_in_batches_with_one_bar(run, counted):
    status, _, err = run(*OWN, "--count", 7, "--batch", 3)
    assert status == 0, err
    assert counted().sizes == [3, 3, 3, 3, 3, 3, 1, 1, 1]
    assert "9/9" in err
    counted().sizes.clear()
    assert run(*OWN, "--count", 70)[0] == 0
    assert max(counted().sizes) == 64


def test_an_image_does_not_depend_on_the_batch(run, counted):
    """Its noise, that of a stochastic solver too, is addressed by its number; --npz has it in its place."""
    drawn = {}
    for count, batch in ((7, 7), (7, 2), (3, 3)):
        assert run(*OWN, "--count", count, "--batch", batch, "--npz", "a.npz", "--trajectory", "b.npz")[0] == 0
        with np.load("a.npz") as file, np.load("b.npz") as run_:
            drawn[count, batch] = file["samples"], file["label"], run_["states"]
    for other in drawn.values():
        samples, label, states = other
        np.testing.assert_allclose(samples, drawn[7, 7][0][: len(samples)], atol=1e-5)
        np.testing.assert_allclose(states, drawn[7, 7][2][:, : len(samples)], atol=1e-5)
        assert label.tolist() == [0, 1, 2, 0, 1, 2, 0][: len(samples)]


def test_the_first_batch_is_that_of_the_library(run, counted):
    """So the picture of the README stays: sample i is drawn from the i-th stream of the seed."""
    assert run(*OWN, "--count", 4, "--seed", 5, "--npz", "a.npz")[0] == 0
    schedule = NoiseSchedule.linear()
    label = torch.tensor([0, 1, 2, 0])
    noise = torch.from_numpy(initial_noise((4, 1, 4, 6), 5)).float()
    options = {"condition": {"label": label}, "seed": 5, "sample_shape": (1, 4, 6)}
    expected = DDPMSolver(schedule).sample(counted().counted, noise, 3, **options)
    with np.load("a.npz") as file:
        np.testing.assert_array_equal(file["samples"], expected)


def test_arrays_and_states(run, tmp_path):
    npz, states, gif = (tmp_path / name for name in ("a.npz", "b.npz", "c.gif"))
    options = ("--network", "digits", "--solver", "pndm", "--steps", 5, "--count", 5, "--batch", 2)
    files = ("--npz", npz, "--trajectory", states, "--gif", gif, "--out", tmp_path / "a.png")
    status, out, _ = run("sample", *options, *files)
    assert status == 0
    assert all(path.name in out for path in (npz, states, gif))
    with np.load(npz) as drawn, np.load(states) as run_:
        assert drawn.files == ["samples"]
        assert (drawn["samples"].shape, drawn["samples"].dtype) == ((5, 1, 8, 8), np.float32)
        assert run_["states"].shape == (6, 5, 1, 8, 8)
        np.testing.assert_array_equal(run_["states"][-1], drawn["samples"])
        np.testing.assert_array_equal(run_["states"][0], initial_noise((5, 1, 8, 8), 0).astype(np.float32))
        t, alpha, sigma = run_["t"], run_["alpha"], run_["sigma"]
    assert t.shape == alpha.shape == sigma.shape == (6,)
    assert (np.diff(t) < 0).all()
    assert (alpha[-1], sigma[-1]) == (1, 0)
    np.testing.assert_allclose(alpha**2 + sigma**2, 1)
    with Image.open(gif) as animation:
        assert animation.n_frames == 14 + 1


def test_a_tolerance_is_met_in_batches_too(run, counted):
    status, out, err = run(
        *OWN[:3], "--solver", "ddim", "--tolerance", 0.05, "--count", 20, "--batch", 6, "--gif", "a.gif"
    )
    assert status == 0, err
    assert "error about" in out
    assert counted().sizes[-1] == 2


def test_arrays_are_written_whole_or_not_at_all(run, tmp_path, monkeypatch):
    npz = tmp_path / "a.npz"
    npz.write_bytes(b"earlier")
    common = ("sample", "--network", "digits", "--calls", 4, "--count", 2, "--out", tmp_path / "a.png", "--npz", npz)

    def full(file, **arrays):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    status, _, err = run(*common)
    assert status == 1
    assert f"{npz}: No space left on device" in err
    assert npz.read_bytes() == b"earlier"


def test_a_solver_that_starts_with_runge_kutta_is_noted_at_few_calls(run, tmp_path):
    common = ("sample", "--network", "digits", "--calls", 9, "--count", 2, "--out", tmp_path / "a.png")
    assert "--solver plms" in run(*common, "--solver", "pndm")[2]
    assert "--solver plms" not in run(*common)[2]


def test_the_largest_number_of_images_is_bounded(run):
    """A picture of too many images is refused before anything is allocated, and --help gives the bound."""
    status, _, err = run("sample", "--count", 10**9)
    assert status != 0
    assert "--count" in err
    assert "100000" in err
    assert "1<=x<=100000" in run("sample", "--help")[1]


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
