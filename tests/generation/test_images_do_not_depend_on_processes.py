"""The shards are the same bytes by one process or several, on one node or two, and after a kill."""

import importlib
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from processes import QUICK, awaits, children, environment, finished, shards_of, together, wait_until
from run_command import runner
from torch.distributed.elastic.utils.distributed import get_free_port

from pndm_solvers import DDPMSolver, cli, initial_noise
from pndm_solvers.generation import read_shard, team
from pndm_solvers.images import pixels
from pndm_solvers.reference import load_network


@pytest.fixture
def run(capsys, monkeypatch):
    return runner(capsys, monkeypatch)


COUNT = 4000


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """The shards that one process makes, without torchrun."""
    folder = tmp_path_factory.mktemp("one") / "set"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", list(map(str, ["", "generate", *QUICK, "--num-images", COUNT, "--out", folder])))
        with pytest.raises(SystemExit, match="0"):
            cli.main()
    return shards_of(folder)


def has_shards(folder):
    return len(list(folder.glob("shard-*.npz"))) > 3


def kill_a_worker(launched):
    """SIGKILL for one of the processes that torchrun has started."""
    os.kill(children(launched)[-1], signal.SIGKILL)


def test_a_killed_run_that_three_processes_resume(tmp_path, expected):
    command = ("generate", *QUICK, "--num-images", COUNT, "--out", tmp_path / "set")
    with subprocess.Popen(together(2, *command), env=environment(), stderr=subprocess.PIPE, text=True) as launched:
        wait_until(lambda: has_shards(tmp_path / "set"), launched)
        kill_a_worker(launched)
        _, err = launched.communicate()
    assert launched.returncode
    assert "give the same command again" in err
    before = shards_of(tmp_path / "set")
    assert 3 < len([name for name in before if name.endswith(".npz")]) < len(expected)
    out, _ = finished(together(3, *command))
    assert f"{COUNT:,} images" in out
    assert shards_of(tmp_path / "set") == expected


def test_two_nodes_one_of_which_starts_again(tmp_path, expected):
    """Two torchruns on one machine, as on two nodes. A worker of the second is killed, and started again.

    The first one's worker is stopped until its torchrun asks it to end. Otherwise it might make all the shards first,
    and the second one's worker would wait in vain for another to start again with.
    """
    port, folder = get_free_port(), tmp_path / "set"
    launcher = ("--nnodes=2", "--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{port}", "--max-restarts=2")
    command = together(1, "generate", *QUICK, "--num-images", COUNT, "--out", folder, launcher=launcher)
    nodes = [subprocess.Popen(command, env=environment()) for _ in range(2)]
    wait_until(lambda: has_shards(folder), nodes[0])
    other = children(nodes[0])[-1]
    os.kill(other, signal.SIGSTOP)
    try:
        kill_a_worker(nodes[1])
        wait_until(lambda: awaits(other, signal.SIGTERM), nodes[0])
    finally:
        os.kill(other, signal.SIGCONT)
    assert [node.wait() for node in nodes] == [0, 0]
    assert shards_of(folder) == expected


def test_an_image_is_a_function_of_its_number(tmp_path, run):
    """By hand: x_T and the noise of image i from seed + i, the label i modulo 10, in the batch of its place."""
    folder, network = tmp_path / "set", load_network("fashion")
    options = ("--network", "fashion", "--solver", "ddpm", "--steps", 3, "--seed", 5, "--batch", 4)
    status, out, err = run("generate", *options, "--num-images", 6, "--shard-batches", 1, "--out", folder)
    assert status == 0, err
    assert f"6 images in 2 shards in {folder} · fashion" in out
    plan = DDPMSolver(network.schedule).plan(3, prediction=network.prediction, sample_shape=network.shape)
    for first in (0, 4):
        seeds, label = range(5 + first, 9 + first), torch.arange(first, first + 4) % 10
        x = torch.from_numpy(initial_noise((4, 1, 28, 28), seeds)).float()
        with torch.inference_mode():
            drawn = plan.run(network.model(label, 2.0), x, prediction=network.prediction, seed=seeds).numpy()
        shard, there = read_shard(folder / f"shard-{first // 4:05}.npz"), min(4, 6 - first)
        assert shard.first == first
        assert shard.images.shape == (there, 28, 28, 1)
        assert np.array_equal(shard.label, label[:there])
        np.testing.assert_array_equal(shard.images, pixels(drawn)[:there])


def test_a_mistake_is_reported_once(run, tmp_path, monkeypatch):
    """Rank 0 reports what all processes do wrong. Another one reports what it alone does wrong, with its number."""
    store = team._Alone()
    monkeypatch.setattr("pndm_solvers.cli.generate.TOGETHER", 0.2)
    meeting = importlib.import_module("torch.distributed.rendezvous")  # a function of this name hides it
    monkeypatch.setattr(meeting, "rendezvous", lambda url, timeout: iter([(store, None, None)]))
    monkeypatch.setenv("WORLD_SIZE", "2")

    def command(rank, network):
        monkeypatch.setenv("RANK", rank)
        return run("generate", "--network", network, "--num-images", 8, "--out", tmp_path / "set")

    status, _, err = command("0", "cats")
    assert status == 1
    assert "bundled are 'digits', 'fashion'" in err
    assert command("1", "cats") == (1, "", "")
    status, _, err = command("1", "dogs")
    assert status == 1
    assert err.startswith("pndm-solvers: rank 1: --network is 'dogs'")
    assert command("1", "digits") == (1, "", "")  # which waits for rank 0 in vain
    assert not (tmp_path / "set").exists()
