"""`pndm-solvers sample` draws from a bundled network: every option has its effect, and the picture is reproducible."""

import numpy as np
import pytest
from PIL import Image
from run_command import runner

from pndm_solvers import images


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


def test_a_solver_that_starts_with_runge_kutta_is_noted_at_few_calls(run, tmp_path):
    common = ("sample", "--network", "digits", "--calls", 9, "--count", 2, "--out", tmp_path / "a.png")
    assert "--solver plms" in run(*common, "--solver", "pndm")[2]
    assert "--solver plms" not in run(*common)[2]


def test_the_largest_number_of_images_is_bounded(run):
    """A batch that cannot fit in memory is refused before anything is allocated, and --help gives the bound."""
    status, _, err = run("sample", "--count", 10**9)
    assert status != 0
    assert "--count" in err
    assert "10000" in err
    assert "1<=x<=10000" in run("sample", "--help")[1]


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
