"""A network of one's own says the mean and the range of its data, and every command that draws from it heeds them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from run_command import runner

from pndm_solvers import NoiseSchedule, Plan, PLMSSolver
from pndm_solvers.generation import Network, read_shard
from pndm_solvers.generation.network import parameters_digest

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


def wide():
    return made(0.0, {SIZE})


def wide_said():
    return made(0.0, {SIZE}, data_range={SIZE})
"""
SAID = "said", "of_each_number", "with_attributes"
GENERATE = ("generate", "--num-images", 256, "--batch", 256, "--float", "--out", "set")
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


def drawn(run, *command):
    """The samples of a command."""
    status, _, err = run(*command)
    assert status == 0, err
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
    with pytest.warns(UserWarning, match="data_mean="):
        samples = drawn(run, *command, "--model", "told:silent")
    assert abs(samples.mean() - MEAN) > 0.03


@pytest.mark.filterwarnings("error")
def test_a_range_that_is_said_is_heeded(run, own):
    command = *GENERATE[:-3], "--out", "set", "--calls", 8, "--model"
    assert drawn(run, *command, "told:wide_said").std() == pytest.approx(SIZE, rel=0.04)  # no bytes, unlike a picture
    assert "beyond ±1" in run("sample", "--model", "told:wide_said")[2]
    with pytest.warns(UserWarning, match="data_range="):
        drawn(run, *command, "told:wide", "--out", "other")


@pytest.mark.filterwarnings("ignore")
def test_a_fit_heeds_them(run, own):
    fit = "fit", "--samples", 16, "--levels", 40, "--calls", 4, "--out", "plan.json", "--model"
    assert run(*fit, "told:said", "--pilot", "pilot.npz")[0] == 0
    samples = drawn(run, *SAMPLE, "--model", "told:said", "--plan", "plan.json")
    assert samples.mean() == pytest.approx(MEAN, abs=0.025)
    assert run(*fit, "told:said", "--pilot", "pilot.npz")[0] == 0
    for other, differs in (("silent", "data_mean"), ("wide_said", "data_range, data_mean")):
        status, _, err = run(*fit, f"told:{other}", "--pilot", "pilot.npz")
        assert status != 0
        assert "of another network" in err
        assert set(differs.split(", ")) <= set(err.replace(";", ",").replace("in ", ", ").split(", "))
    assert run(*fit, "told:wide")[0] == 0
    assert "fit a plan anew" in run(*GENERATE, "--plan", "plan.json", "--model", "told:wide_said")[2]


def test_plan_prints_the_plan_of_such_data(run):
    out = run("plan", "--calls", 5, "--data-range", 12, "--shape", "1,4,4", "--json")[1]
    plan = PLMSSolver(NoiseSchedule.linear()).plan(5, data_range=12.0, sample_shape=(1, 4, 4))
    assert Plan.from_json(out) == plan != PLMSSolver(NoiseSchedule.linear()).plan(5)


def test_another_mean_is_another_network():
    def digest(**data):
        return parameters_digest(Network(lambda x, t: x, NoiseSchedule.linear(), (2,), **data))

    kinds = {}, {"data_mean": 1}, {"data_mean": 2}, {"data_mean": [1, 2]}, {"data_range": 2}
    assert len({digest(**data) for data in kinds}) == len(kinds)
    assert digest() is None


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


def test_a_mistake_in_it_is_one_line(run, own):
    for command in ("generate", "--num-images", 2, "--out", "set"), ("sample",), ("fit",):
        status, _, err = run(*command, "--model", "told:text")
        assert status == 1
        assert "told:text: data_mean is '-0.9'" in err
