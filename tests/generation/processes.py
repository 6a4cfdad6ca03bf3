"""Commands in processes of their own, and the folders that they leave."""

import os
import subprocess
import sys
import time
from pathlib import Path

DIGITS = ("--network", "digits", "--calls", 4)
# For many images: nobody looks at them.
QUICK = ("--network", "digits", "--solver", "ddim", "--calls", 1)


def environment(**more):
    path = os.pathsep.join([str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path, **more}


def alone(*arguments):
    """The command line of one process."""
    return [sys.executable, "-m", "pndm_solvers", *map(str, arguments)]


def together(count, *arguments, launcher=("--standalone",)):
    """The command line of so many processes, under torchrun."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={count}", *launcher]
    return [*torchrun, "-m", "pndm_solvers", *map(str, arguments)]


def finished(command, status=0, **options):
    """(stdout, stderr) of a command that must end with `status`."""
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), **options)
    assert done.returncode == status, done.stderr
    return done.stdout, done.stderr


def folder_of_a_module(name, text, folder, monkeypatch):
    """The folder as the working directory, with a module that commands in this process and in others import."""
    (folder / f"{name}.py").write_text(text, encoding="utf-8")
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    return folder


def shards_of(folder):
    """The bytes of every file in a folder but the manifest, by name."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "generate.json"}


def wait_until(ready, process):
    """Wait for a condition, as long as the process lives."""
    while not ready():
        assert process.poll() is None, "the process has ended"
        time.sleep(0.02)


def children(process):
    """The processes that a process has started."""
    listed = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text(encoding="ascii")
    return [int(word) for word in listed.split()]


def awaits(number, signal):
    """Whether a signal was sent to the process of this number and not yet taken, as by one that is stopped."""
    status = Path(f"/proc/{number}/status").read_text(encoding="ascii")
    pending = next(line for line in status.splitlines() if line.startswith("ShdPnd:"))
    return bool(int(pending.split()[1], 16) >> (signal - 1) & 1)
