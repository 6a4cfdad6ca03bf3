"""A folder goes on with its own settings alone, and a network of one's own needs one function."""

import fcntl
import json

import numpy as np
import pytest
import torch
from processes import DIGITS, folder_of_a_module, shards_of
from run_command import runner

from pndm_solvers import NoiseSchedule, Prediction
from pndm_solvers.generation import Network, Settings, job, read_shard
from pndm_solvers.generation.manifest import read_manifest


@pytest.fixture
def run(capsys, monkeypatch):
    return runner(capsys, monkeypatch)


SET = ("--num-images", 8, "--batch", 4)


@pytest.fixture
def folder(run, tmp_path):
    status, _, err = run("generate", *DIGITS, *SET, "--out", tmp_path / "set")
    assert status == 0, err
    return tmp_path / "set"


def test_other_settings_are_refused_by_name(run, folder):
    for options, told in (
        (("--seed", 3), "--seed (0 there, 3 here)"),
        (("--num-images", 9), "--num-images (8 there, 9 here)"),
        (("--batch", 8), "--batch (4 there, 8 here)"),
        (("--float",), "--float (uint8 there, float32 here)"),
        (("--dtype", "bfloat16"), "--dtype (float32 there, bfloat16 here)"),
        (("--calls", 5), "the plan (fitted 4, 4 model calls there, fitted 5, 5 model calls here)"),
        (("--network", "fashion"), "the network (--network digits there, --network fashion here)"),
        (("--threads", 2), "--threads (1 there, 2 here)"),
        (("--clip", 1), "the prediction and its --clip"),
    ):
        status, _, err = run("generate", *DIGITS, *SET, *options, "--out", folder)
        assert status == 1
        assert told in err
        # What is not said is as in the folder, so the one option alone is told in the same way.
        status, _, alone = run("generate", *options, "--out", folder)
        assert status == 1
        assert told in alone
        assert alone == err or "--clip" in options  # without which the plan is another one
        assert f"give --out {folder} alone" in err
        assert ("number of images cannot change" in err) == ("--num-images" in options)


def test_a_folder_alone_is_enough(run, folder):
    right = shards_of(folder)
    (folder / "shard-00001.npz").unlink()
    status, out, _ = run("generate", "--out", folder)
    assert status == 0
    assert "fitted 4" in out
    assert shards_of(folder) == right
    for options in (DIGITS + SET, ("--batch", 4), ("--network", "digits", "--calls", 4), ("--seed", 0)):
        status, out, _ = run("generate", *options, "--out", folder)
        assert status == 0
        assert "all were there" in out


def test_a_folder_without_a_job(run, tmp_path):
    (tmp_path / "file").touch()
    for arguments, told in (
        (("generate", "--out", tmp_path), "no " + str(tmp_path / "generate.json")),
        (("verify", tmp_path), "no " + str(tmp_path / "generate.json")),
        (("generate", "--seed", 1, "--network", "digits", "--out", tmp_path / "new"), "pass --num-images"),
        (("generate", *SET, "--out", tmp_path / "file"), "which is a file"),
    ):
        status, _, err = run(*arguments)
        assert status == 1
        assert told in err
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_one_command_at_a_time(run, folder):
    with open(folder / "generate.json", "rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        status, _, err = run("generate", "--out", folder)
    assert status == 1
    assert "another command draws into" in err


def test_the_last_bits_of_a_plan_and_the_place_of_a_network_do_not_count(folder):
    ours = read_manifest(folder)
    document = json.loads(json.dumps(ours.facts()))
    document["plan"]["rows"][0]["alpha"] *= 1 + 1e-14
    other = Settings(**document | {"shape": tuple(document["shape"]), "source": "--model elsewhere"})
    assert not list(ours.differences(other))
    assert Settings(**document | {"shape": ours.shape, "plan": ours.plan, "source": "x"}).job == ours.job
    document["plan"]["rows"][0]["alpha"] *= 1 + 1e-6
    assert [name for name, *_ in ours.differences(Settings(**document))] == ["the plan"]


def test_a_folder_that_is_not_shared(folder, monkeypatch):
    monkeypatch.setattr(job, "SHARED", 0.0)
    assert job.seen_by_all(folder, read_manifest(folder).job, "elsewhere") == read_manifest(folder)
    for place in (folder, folder / "missing"):
        with pytest.raises(ValueError, match="rank 0 wrote it on elsewhere; all nodes need one shared folder"):
            job.seen_by_all(place, "0" * 64, "elsewhere")


OWN = """
import torch
from pndm_solvers import NoiseSchedule
from pndm_solvers.generation import Network

class Own(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(2, 2)
        torch.nn.init.eye_(self.linear.weight)
        torch.nn.init.zeros_(self.linear.bias)

    def forward(self, x, t, label=None):
        moved = 0 if label is None else label.view(-1, *[1] * (x.ndim - 1)) / 10
        return self.linear(x) / (1 + x * x) + moved

def points():
    return Network(Own(), NoiseSchedule.linear(), (2,))

def pictures(device):
    own = Own().to(device)
    return Network(own, NoiseSchedule.linear(), (3, 2, 2), "v_prediction", labels=["a", "b"], unconditional=2)

def with_attributes():
    network = Own()
    network.schedule, network.shape, network.prediction = NoiseSchedule.linear(), (3, 4, 2), "flow"
    return network

def exploding():
    return Network(lambda x, t: x / (1 + x * x), NoiseSchedule.ve(0.01, 50.0), (2,))

def number():
    return 5

value = 5
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """The working directory, with a module of networks."""
    return folder_of_a_module("networks_of_mine", OWN, tmp_path, monkeypatch)


def test_a_network_of_ones_own(run, own):
    for name, shape, classes in (
        ("points", (2,), 0),
        ("pictures", (2, 2, 3), 2),
        ("with_attributes", (4, 2, 3), 0),
        ("exploding", (2,), 0),
    ):
        status, _, err = run("generate", "--model", f"networks_of_mine:{name}", "--calls", 4, *SET, "--out", name)
        assert status == 0, err
        shard = read_shard(own / name / "shard-00000.npz")
        assert shard.images.shape == (4, *shape)
        assert shard.images.dtype == (np.uint8 if len(shape) == 3 else np.float32)
        assert (shard.label is None) == (not classes)
        assert run("generate", "--out", name)[0] == 0
    assert read_shard(own / "pictures" / "shard-00000.npz").label.tolist() == [0, 1, 0, 1]
    model = ("--model", "networks_of_mine:pictures", "--guidance", 3, "--calls", 4)
    assert run("sample", *model, "--count", 4, "--out", "a.png")[0] == 0
    assert run("fit", *model, "--samples", 16, "--levels", 16, "--out", "plan.json")[0] == 0
    assert run("generate", *model[:-2], "--plan", "plan.json", *SET, "--class", "b", "--out", "b")[0] == 0
    assert read_shard(own / "b" / "shard-00000.npz").label.tolist() == [1] * 4


def test_what_is_no_network(run, own):
    for named, told in (
        ("nowhere:points", "nowhere cannot be imported"),
        ("networks_of_mine:nothing", "has no nothing"),
        ("networks_of_mine:number", "which gave 5; return a pndm_solvers.generation.Network"),
        ("networks_of_mine:value", "which gave 5; return a pndm_solvers.generation.Network"),
    ):
        status, _, err = run("generate", "--model", named, *SET, "--out", "set")
        assert status == 1
        assert told in err
    status, _, err = run("sample", "--model", "networks_of_mine:points")
    assert status == 1
    assert "a picture is (channels, height, width)" in err
    status, _, err = run("generate", "--model", "networks_of_mine:exploding", "--compile", *SET, "--out", "set")
    assert status == 1
    assert "--compile compiles torch modules" in err


def test_networks_check_what_they_hold():
    for wrong, told in (
        ({"schedule": "linear"}, "schedule is 'linear'"),
        ({"network": 5}, "network is 5"),
        ({"labels": "abc"}, "names of the classes"),
        ({"prediction": "noise"}, "prediction is 'noise'"),
        ({"shape": (0,)}, "a length in shape"),
    ):
        with pytest.raises((TypeError, ValueError), match=told):
            Network(**{"network": torch.nn.Identity(), "schedule": NoiseSchedule.linear(), "shape": (2,)} | wrong)
    network = Network(torch.nn.Identity(), NoiseSchedule.linear(), (2,), Prediction("flow"), labels=2)
    assert network.labels == ("0", "1")
    with pytest.raises(ValueError, match="no label for no class"):
        network.model(torch.zeros(2), 3.0)


def test_half_precision_keeps_the_states_whole(run, own):
    options = ("--model", "networks_of_mine:points", "--calls", 4, *SET)
    assert run("generate", *options, "--out", "whole")[0] == 0
    assert run("generate", *options, "--dtype", "bfloat16", "--out", "half")[0] == 0
    whole, half = (read_shard(own / name / "shard-00000.npz").images for name in ("whole", "half"))
    assert half.dtype == np.float32
    assert 0 < np.abs(whole - half).max() < 0.05 * np.abs(whole).max()
