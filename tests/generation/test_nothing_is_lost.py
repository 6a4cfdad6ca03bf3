"""SIGTERM, Ctrl-C, errors and a full disk: what is finished is kept, no file is half written, the message helps."""

import errno
import os
import shutil
import signal
import subprocess

import numpy as np
import pytest
from processes import QUICK, alone, environment, finished, folder_of_a_module, shards_of, wait_until
from run_command import runner

from pndm_solvers.generation import folder as folders
from pndm_solvers.generation import job as jobs
from pndm_solvers.generation import read_shard


@pytest.fixture
def run(capsys, monkeypatch):
    return runner(capsys, monkeypatch)


# A network of one parameter. At the call number HANG it waits for a signal, or sends SIGINT to itself.
OWN = """
import os, pathlib, signal, time
import torch
from pndm_solvers import NoiseSchedule
from pndm_solvers.generation import Network

class Own(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.size = torch.nn.Parameter(torch.ones(()))
        self.calls = 0

    def forward(self, x, t):
        self.calls += 1
        if self.calls == int(os.environ.get("HANG", -1)):
            if "INTERRUPT" in os.environ:
                os.kill(os.getpid(), signal.SIGINT)
            pathlib.Path("hangs").touch()
            time.sleep(60)
        return self.size * x / (1 + x * x)

def network():
    return Network(Own(), NoiseSchedule.linear(), (3,))
"""
COMMAND = ("generate", "--model", "own:network", "--calls", 4, "--num-images", 30, "--batch", 4, "--shard-batches", 3)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """The working directory, with the network's module."""
    return folder_of_a_module("own", OWN, tmp_path, monkeypatch)


def check_stopped(folder, err):
    """One shard is whole, and of the second two batches are kept."""
    told = f"1 of 3 shards are complete in {folder}, and the finished batches of 1 more are kept; give the same command"
    assert told in err
    assert "Traceback" not in err
    assert set(shards_of(folder)) == {"shard-00000.npz", "shard-00001.unfinished.npz"}
    assert len(read_shard(folder / "shard-00001.unfinished.npz").images) == 8


@pytest.fixture
def interruptible():
    """A shell lets what it starts in the background ignore SIGINT."""
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, previous)


@pytest.mark.usefixtures("interruptible")
def test_signals_keep_what_is_finished(run, place, monkeypatch):
    """They come within the third batch of the second shard. The next command goes on from there, to the same bytes."""
    assert run(*COMMAND, "--out", "whole")[0] == 0
    inside = str(5 * 4 + 2)
    command = alone(*COMMAND, "--out", place / "term")
    with subprocess.Popen(
        command, env=environment(HANG=inside), cwd=place, stderr=subprocess.PIPE, text=True
    ) as process:
        wait_until((place / "hangs").exists, process)
        process.terminate()
        _, err = process.communicate()
    assert process.returncode == 128 + signal.SIGTERM
    check_stopped(place / "term", err)

    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    with monkeypatch.context() as patch:
        patch.setenv("HANG", inside)
        patch.setenv("INTERRUPT", "1")
        status, _, err = run(*COMMAND, "--out", place / "int")
    assert status == 128 + signal.SIGINT
    check_stopped(place / "int", err)
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before
    status, out, _ = run("verify", place / "int")
    assert status == 1
    assert "shard-00001.unfinished.npz: unfinished, 8 of 12 samples" in out

    monkeypatch.setenv("HANG", str(4 * 4 + 1))  # four batches are left, and a fifth would hang
    for name in ("term", "int"):
        assert run("generate", "--out", place / name)[0] == 0
        assert shards_of(place / name) == shards_of(place / "whole")


def drawing(settings, seen):
    """A `draw` that returns the numbers of the images, and calls `seen` first."""

    def draw(batch):
        seen(batch)
        first = batch * settings.batch
        count = min(settings.batch, settings.num_images - first)
        return jobs.Shard(np.arange(first, first + count, dtype=np.float32)[:, None], None, first)

    return draw


@pytest.fixture
def job(run, place):
    """A job of three shards, of which none is made yet."""
    assert run(*COMMAND, "--out", "set")[0] == 0
    settings = jobs.read_manifest(place / "set")
    for name in shards_of(place / "set"):
        (place / "set" / name).unlink()
    made = jobs.Job(place / "set", settings, jobs.Team())
    made.team.publish(settings.job, made.clean().wanted)
    made.team.follow()
    return made


def test_an_unfinished_shard_is_written_again_and_again(job, monkeypatch):
    monkeypatch.setattr(jobs, "EVERY", 0.0)
    seen = []
    job.run(drawing(job.settings, lambda _: seen.append(sorted(shards_of(job.folder)))))
    assert seen[:4] == [[], ["shard-00000.unfinished.npz"], ["shard-00000.unfinished.npz"], ["shard-00000.npz"]]
    assert sorted(shards_of(job.folder)) == ["shard-00000.npz", "shard-00001.npz", "shard-00002.npz"]


def test_an_error_keeps_what_is_finished(job):
    def fail(batch):
        if batch == 5:
            raise RuntimeError("a fault of the network")

    with pytest.raises(RuntimeError, match="a fault of the network"):
        job.run(drawing(job.settings, fail))
    assert folders.look(job.folder, job.settings).unfinished == {1: 8}


def test_what_another_process_does_not_make_rank_0_makes(job, monkeypatch):
    monkeypatch.setattr(jobs, "PATIENCE", 0.0)
    assert job.team.take() == 0  # by a process that then dies
    job.run(drawing(job.settings, lambda _: None))
    assert folders.look(job.folder, job.settings).whole


def test_the_room_is_measured_before_the_work(job, monkeypatch):
    assert job.room() == ""
    usage = jobs.shutil.disk_usage("/")
    monkeypatch.setattr(jobs.shutil, "disk_usage", lambda _: usage._replace(free=1000))
    assert "1,000 free" in job.room()


AGAIN = '"$@"; echo "status $?"; cp -r set copy'
# A disk of 64 KiB, in a namespace of its own, that then grows.
SMALL_DISK = "mkdir -p set && mount -t tmpfs -o size=64k disk set"
ON_A_DISK = f'{SMALL_DISK}; "$@"; echo "status $?"; ls -A set; mount -o remount,size=1m set; {AGAIN}'
# Where the system forbids that: files of at most 3 KiB.
ON_FILES = f'(ulimit -f 3; "$@"); echo "status $?"; ls -A set; {AGAIN}'


def test_a_full_disk(tmp_path, run):
    """The error names the file, the bytes and the remedy. After room was made, the same command ends with the same."""
    space = ["unshare", "--map-root-user", "--mount"]
    real = shutil.which("unshare") and not subprocess.run([*space, "sh", "-c", SMALL_DISK], cwd=tmp_path).returncode
    space, script, because = (space, ON_A_DISK, errno.ENOSPC) if real else ([], ON_FILES, errno.EFBIG)
    options = (*QUICK, "--num-images", 1000, "--batch", 100, "--shard-batches", 1, "--out", "set")
    out, err = finished([*space, "sh", "-c", script, "sh", *alone("generate", *options)], cwd=tmp_path)
    first, *names, last = out.splitlines()[: out.splitlines().index("status 0") + 1]
    assert (first, last) == ("status 1", "status 0")
    assert os.strerror(because) in err
    assert "make room, then give the same command again" in err
    assert not [name for name in names if name.endswith(".partial")]
    assert run("generate", *options[:-1], tmp_path / "other")[0] == 0
    assert shards_of(tmp_path / "copy") == shards_of(tmp_path / "other")
