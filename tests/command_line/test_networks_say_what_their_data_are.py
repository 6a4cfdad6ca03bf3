"""A network of one's own says the mean and the range of its data, and every command that draws from it heeds them."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
import pytest
from run_command import runner

from pndm_solvers import NoiseSchedule, Plan, PLMSSolver
from pndm_solvers.generation import Network, read_shard

MEAN, DEVIATION, SIZE = -0.9, 0.5, 12.0
# Exact ε-networks of round Gaussians: far from zero, and far wider than ±1.
OWN = f"""
import torch

from pndm_solvers import NoiseSchedule
from pndm_solvers.generation import Network

SCHEDULE = NoiseSchedule.linear()


def gaussian(mean, deviation):
    def epsilon(x, t):
        level = SCHEDULE.level(float(t[0]))
        return level.sigma * (x - level.alpha * mean) / ((level.alpha * deviation) ** 2 + level.sigma**2)

    return epsilon


def made(mean, deviation, **data):
    return Network(gaussian(mean, deviation), SCHEDULE, (1, 4, 4), name="own", **data)


def silent():
    return made({MEAN}, {DEVIATION})


def said():
    return made({MEAN}, {DEVIATION}, data_mean={MEAN})


def centred():
    return made({MEAN}, {DEVIATION}, data_mean=0.0)


def of_each_number():
    return made({MEAN}, {DEVIATION}, data_mean=torch.full((1, 4, 4), {MEAN}))


class Own(torch.nn.Module):
    schedule, shape, data_mean = SCHEDULE, (1, 4, 4), [[[{MEAN}]]]

    def forward(self, x, t):
        return gaussian({MEAN}, {DEVIATION})(x, t)


def with_attributes():
    return Own()


def text():
    return made({MEAN}, {DEVIATION}, data_mean="{MEAN}")


def misshapen():
    return made({MEAN}, {DEVIATION}, data_mean=[1.0, 2.0, 3.0])


def exploding():
    return Network(lambda x, t: t[:, None] * x / (1 + t[:, None] ** 2), NoiseSchedule.ve(0.01, 50.0), (16,))


def wide():
    return made(0.0, {SIZE})


def wide_said():
    return made(0.0, {SIZE}, data_range={SIZE})
"""
SAID = "said", "of_each_number", "with_attributes"
GENERATE = ("generate", "--num-images", 256, "--batch", 256, "--float", "--out", "set")
GENERATE_8 = ("generate", "--num-images", 256, "--batch", 256, "--out", "set", "--calls", 8, "--model")
SAMPLE = ("sample", "--count", 256, "--batch", 256, "--npz", "a.npz")


@pytest.fixture
def run(capsys, monkeypatch):
    return runner(capsys, monkeypatch)


@pytest.fixture
def own(tmp_path, monkeypatch):
    """The module of the networks, in the working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "told.py").write_text(OWN)


def drawn(run, *command, told=""):
    """The samples of a command that tells so much on stderr."""
    status, _, err = run(*command)
    assert status == 0, err
    assert told in err
    if command[0] == "generate":
        return read_shard("set/shard-00000.npz").images
    with np.load("a.npz") as file:
        return file["samples"]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", SAID)
@pytest.mark.parametrize("command", [GENERATE, SAMPLE, (*SAMPLE, "--tolerance", 0.01)])
def test_a_mean_that_is_said_is_heeded(run, own, name, command):
    samples = drawn(run, *command, "--model", f"told:{name}")
    assert samples.mean() == pytest.approx(MEAN, abs=0.025)
    assert samples.std() == pytest.approx(DEVIATION, rel=0.05)


@pytest.mark.parametrize("command", [GENERATE, SAMPLE])
def test_a_mean_that_is_not_said_draws_a_warning(run, own, command):
    samples = drawn(run, *command, "--model", "told:silent", told="data_mean=")
    assert abs(samples.mean() - MEAN) > 0.03


@pytest.mark.filterwarnings("error")
def test_a_range_that_is_said_is_heeded(run, own):
    samples = drawn(run, *GENERATE_8, "told:wide_said")  # no bytes, unlike a picture
    assert samples.std() == pytest.approx(SIZE, rel=0.04)
    assert "beyond ±1" in run("sample", "--model", "told:wide_said")[2]


def test_a_range_that_is_not_said_draws_a_warning(run, own):
    drawn(run, *GENERATE_8, "told:wide", told="data_range=")


@pytest.mark.filterwarnings("ignore")
def test_a_fit_heeds_them(run, own):
    fit = "fit", "--samples", 16, "--levels", 40, "--calls", 4, "--out", "plan.json", "--model"
    assert run(*fit, "told:said", "--pilot", "pilot.npz")[0] == 0
    samples = drawn(run, *SAMPLE, "--model", "told:said", "--plan", "plan.json")
    assert samples.mean() == pytest.approx(MEAN, abs=0.025)
    assert run(*fit, "told:of_each_number", "--pilot", "pilot.npz")[0] == 0  # the same mean
    for other, differs in (("silent", "in data_mean;"), ("wide_said", "in data_mean, data_range;")):
        status, _, err = run(*fit, f"told:{other}", "--pilot", "pilot.npz")
        assert (status, f"of another network: it differs {differs}" in err) == (1, True), err
    assert run(*fit, "told:wide")[0] == 0
    assert "fit a plan anew" in run(*GENERATE, "--plan", "plan.json", "--model", "told:wide_said")[2]


def test_a_fit_takes_noise_of_the_schedules_size(run, own):
    few = "--samples", 16, "--levels", 40, "--calls", 4, "--out", "plan.json"
    status, _, err = run("fit", "--model", "told:exploding", *few)
    assert status == 0, err
    assert "x_T has" not in err


def test_plan_prints_the_plan_of_such_data(run):
    out = run("plan", "--calls", 5, "--data-range", 12, "--shape", "1,4,4", "--json")[1]
    plan = PLMSSolver(NoiseSchedule.linear()).plan(5, data_range=12.0, sample_shape=(1, 4, 4))
    assert Plan.from_json(out) == plan != PLMSSolver(NoiseSchedule.linear()).plan(5)


@pytest.mark.filterwarnings("ignore")
def test_a_job_is_of_one_statement(run, own):
    """A job that went on with another mean, or another function of the same mean, would mix two sets in one."""
    begin = "generate", "--num-images", 4, "--batch", 2, "--out"
    for first, other in (("said", "silent"), ("silent", "said"), ("said", "centred"), ("centred", "silent")):
        folder = Path(first + other)
        assert run(*begin, folder, "--model", f"told:{first}")[0] == 0
        (folder / "shard-00000.npz").unlink()
        status, _, err = run(*begin, folder, "--model", f"told:{other}")
        assert status == 1
        assert "the network (--model told" in err
        text = Path("told.py").read_text()
        Path("told.py").write_text(
            text.replace(f"def {first}()", "def kept()").replace(f"def {other}()", f"def {first}()")
        )
        sys.modules.pop("told")
        status, _, err = run("generate", "--out", folder)
        assert status == 1
        assert "says of its data" in err
        Path("told.py").write_text(text)
        sys.modules.pop("told")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"data_mean": [1, 2, 3]}, "does not broadcast"),
        ({"data_mean": "1"}, "data_mean is '1'"),
        ({"data_mean": math.nan}, "data_mean is nan; it must be finite"),
        ({"data_range": 0}, "data_range is 0"),
        ({"data_range": None}, "data_range is None"),
    ],
)
def test_what_fits_no_sample_is_refused(wrong, message):
    with pytest.raises((TypeError, ValueError), match=message):
        Network(lambda x, t: x, NoiseSchedule.linear(), (2,), **wrong)


@pytest.mark.parametrize(
    ("name", "message"), [("text", "data_mean is '-0.9'"), ("misshapen", "data_mean is of shape (3,)")]
)
def test_a_mistake_in_it_is_one_line(run, own, name, message):
    for command in ("generate", "--num-images", 2, "--out", "set"), ("sample",), ("fit",):
        status, _, err = run(*command, "--model", f"told:{name}")
        assert status == 1
        assert f"told:{name}: {message}" in err
