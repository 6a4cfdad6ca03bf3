"""What `pndm-solvers generate` gains by a second process, and whether two machines make the same images as one.

    python benchmarks/generation.py              weak scaling; writes its table to docs/how-to/scale.md
    python benchmarks/generation.py print        the same, printed alone
    sudo python benchmarks/generation.py nodes   two network namespaces are two nodes; one is killed, and returns

Weak scaling: one process draws N images, two processes draw 2·N. Each time is that of the drawing, without the start of
Python and torch. Runs of both kinds alternate, and the table has their medians.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from tables import fill_page, heading, table

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
NETWORKS = {"digits": 1024, "fashion": 192}  # and N
REPEATS, MOST = 5, 2
NODES = {"pndm-a": "10.213.7.1", "pndm-b": "10.213.7.2"}  # namespaces and their addresses
NODE_IMAGES, PORT = 4096, 29517


def launched(processes: int) -> list[str]:
    """The command that starts so many processes."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    return [sys.executable, *(torchrun if processes > 1 else []), "-m", "pndm_solvers"]


def environment() -> dict[str, str]:
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}


def shards_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("shard-*.npz"))}


# ---------------------------------------------------------------- weak scaling


def rate(network: str, processes: int, images: int) -> float:
    """Images a second, as the command prints them."""
    with TemporaryDirectory() as folder:
        command = [*launched(processes), "generate", "--network", network, "--num-images", str(images)]
        command += ["--shard-batches", "1", "--out", f"{folder}/set"]
        done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=True)
    found = re.search(r"([\d,.]+) images/s", done.stdout)
    if found is None:
        raise SystemExit(f"the command printed no rate: {done.stdout}")
    return float(found[1].replace(",", ""))


def scaling() -> str:
    """Weak scaling, by network."""
    rows = []
    for network, images in NETWORKS.items():
        rates: dict[int, list[float]] = {processes: [] for processes in range(1, MOST + 1)}
        for _ in range(REPEATS):
            for processes, found in rates.items():
                found.append(rate(network, processes, processes * images))
        one = statistics.median(rates[1])
        for processes, found in rates.items():
            median = statistics.median(found)
            span = f"{min(found):,.0f} to {max(found):,.0f}"
            share = f"{median / (processes * one):.2f}"
            rows.append((network, processes, f"{processes * images:,}", f"{median:,.0f}", span, share))
    heads = ("network", "processes", "images", "images/s, median", f"of {REPEATS} runs", "of the ideal")
    return table(heads, rows)


# ------------------------------------------------------------------- two nodes


def ip(*arguments: str, check: bool = True) -> None:
    subprocess.run(["ip", *arguments], check=check, capture_output=not check)


def connect(names: Sequence[str]) -> None:
    """Two network namespaces with a cable between them, and no other network."""
    disconnect(names)
    for name in names:
        ip("netns", "add", name)
    ip("link", "add", "cable", "netns", names[0], "type", "veth", "peer", "name", "cable", "netns", names[1])
    for name in names:
        ip("-n", name, "addr", "add", f"{NODES[name]}/24", "dev", "cable")
        for device in ("lo", "cable"):
            ip("-n", name, "link", "set", device, "up")


def disconnect(names: Sequence[str]) -> None:
    for name in names:
        ip("netns", "delete", name, check=False)


def node(rank: int, folder: Path) -> subprocess.Popen[bytes]:
    """One torchrun with one process, in a namespace of its own."""
    name, first = [*NODES][rank], next(iter(NODES.values()))
    torchrun = ["--nnodes=2", f"--node-rank={rank}", f"--master-addr={first}", f"--master-port={PORT}"]
    command = ["ip", "netns", "exec", name, sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=1"]
    command += [*torchrun, "-m", "pndm_solvers", "generate", "--network", "digits", "--calls", "5"]
    command += ["--num-images", str(NODE_IMAGES), "--out", str(folder)]
    log = (folder.parent / f"node{rank}.log").open("ab")
    return subprocess.Popen(command, env=environment(), stdout=log, stderr=log, start_new_session=True)


def nodes() -> None:
    """One process, and two nodes: the second is killed, both are started again, and the bytes are compared."""
    if not shutil.which("ip") or os.geteuid() != 0:
        raise SystemExit("network namespaces need the command ip, of iproute2, and the rights of root")
    names = [*NODES]
    with TemporaryDirectory() as place:
        one, two = Path(place) / "one", Path(place) / "two"
        command = [*launched(1), "generate", "--network", "digits", "--calls", "5"]
        subprocess.run([*command, "--num-images", str(NODE_IMAGES), "--out", str(one)], env=environment(), check=True)
        try:
            connect(names)
            first, second = node(0, two), node(1, two)
            while len(list(two.glob("shard-*.npz"))) < 5:
                if first.poll() is not None:
                    raise SystemExit((Path(place) / "node0.log").read_text(encoding="utf-8"))
                time.sleep(0.05)
            os.killpg(second.pid, 9)
            print(f"the second node is killed: {len(shards_of(two))} shards are complete", flush=True)
            first.terminate()
            first.wait()
            second.wait()
            kept = len(shards_of(two))
            for process in [node(0, two), node(1, two)]:
                if process.wait():
                    raise SystemExit((Path(place) / "node0.log").read_text(encoding="utf-8"))
        finally:
            disconnect(names)
        same = shards_of(one) == shards_of(two)
        print(f"after the first node's stop {kept}; then both went on, by addresses {', '.join(NODES.values())}")
        print(f"{len(shards_of(two))} shards, {'the same bytes as' if same else 'NOT the bytes'} of one process")
        if not same:
            raise SystemExit(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", nargs="?", choices=["print", "nodes"], help="by default the page is written")
    part = parser.parse_args().part
    if part == "nodes":
        nodes()
        return
    text = f"{heading('torch', 'pndm_solvers')}\n\n{scaling()}"
    print(text)
    if part is None:
        fill_page(DOCS / "how-to" / "scale.md", Path(__file__).name, text)


if __name__ == "__main__":
    main()
