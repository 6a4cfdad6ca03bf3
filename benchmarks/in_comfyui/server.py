"""A ComfyUI of its own, and its HTTP API."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
from graphs import Graph

HERE = Path(__file__).parent


@contextmanager
def server(comfyui: Path, python: str, base: Path, install: Callable[[], None]) -> Iterator[str]:
    """The address of a ComfyUI with its data below `base`, which is emptied first."""
    shutil.rmtree(base, ignore_errors=True)
    for folder in ("custom_nodes", "models", "input", "output"):
        (base / folder).mkdir(parents=True)
    shutil.copytree(HERE / "tiny_models", base / "custom_nodes" / "tiny_models")
    install()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [python, "main.py", "--cpu", "--listen", "127.0.0.1", "--port", str(port)]
    command += ["--base-directory", str(base), "--database-url", "sqlite:///:memory:", "--disable-auto-launch"]
    command += ["--disable-api-nodes", "--preview-method", "latent2rgb", "--preview-size", "64"]
    environment = os.environ | {"PYTHONPATH": str(HERE / "stubs"), "OMP_NUM_THREADS": "1"}
    with (base / "server.log").open("w") as log:
        process = subprocess.Popen(command, cwd=comfyui, env=environment, stdout=log, stderr=log)
        try:
            for _ in range(600):
                if process.poll() is not None:
                    raise RuntimeError(f"ComfyUI ended at its start: {base / 'server.log'}")
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        break
                time.sleep(0.2)
            else:
                raise TimeoutError(f"ComfyUI does not listen: {base / 'server.log'}")
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(20)


@dataclass
class Run:
    """What became of one prompt."""

    error: str | None
    status: str
    seconds: float
    steps: dict[str, list[tuple[int, int]]] = field(default_factory=dict)  # node: (value, max) of each progress message
    previews: int = 0


class Client:
    def __init__(self, session: aiohttp.ClientSession, url: str, output: Path) -> None:
        self.session, self.url, self.output = session, url, output
        self.name = uuid.uuid4().hex
        self.prompts = 0

    async def connect(self) -> Client:
        self.socket = await self.session.ws_connect(f"{self.url}/ws?clientId={self.name}", max_msg_size=0)
        return self

    async def get(self, path: str) -> Any:
        async with self.session.get(self.url + path) as answer:
            return await answer.json()

    async def post(self, path: str, body: Any) -> Any:
        async with self.session.post(self.url + path, json=body) as answer:
            text = await answer.text()
            return json.loads(text) if text else None

    async def run(self, graph: Graph, interrupt_at: int | None = None, timeout: float = 300) -> Run:
        """Runs a prompt to its end, and interrupts it after so many progress messages."""
        start = time.perf_counter()
        answer = await self.post("/prompt", {"prompt": graph.nodes, "client_id": self.name})
        self.prompts += 1
        # A prompt that is refused in part is run in part, so its end is waited for too.
        run = Run(json.dumps(answer) if answer.get("node_errors") or "error" in answer else None, "refused", 0.0)
        if "prompt_id" not in answer:
            return run
        number = answer["prompt_id"]
        async with asyncio.timeout(timeout):
            async for message in self.socket:
                if message.type == aiohttp.WSMsgType.BINARY:
                    run.previews += int.from_bytes(message.data[:4]) in (1, 4)
                    continue
                if message.type != aiohttp.WSMsgType.TEXT:
                    raise ConnectionError(f"the server closed the websocket: {message}")
                event = json.loads(message.data)
                data = event["data"]
                if data.get("prompt_id") != number:
                    continue
                if event["type"] == "progress":
                    run.steps.setdefault(data["node"], []).append((data["value"], data["max"]))
                    if sum(map(len, run.steps.values())) == interrupt_at:
                        start = time.perf_counter()
                        await self.post("/interrupt", {"prompt_id": number})
                if event["type"] == "executing" and data["node"] is None:
                    break
        run.seconds = time.perf_counter() - start
        status = (await self.get(f"/history/{number}"))[number]["status"]
        run.status = status["status_str"]
        for kind, facts in status["messages"]:
            if kind == "execution_error":  # in place of the answer, if that was an error too
                run.error = f"{facts['node_type']}: {facts['exception_type']}: {facts['exception_message'].strip()}"
            elif kind == "execution_interrupted":
                run.status = "interrupted"
        return run

    def load(self, name: str) -> tuple[np.ndarray, dict[str, Any]]:
        return np.load(self.output / f"{name}.npy"), json.loads((self.output / f"{name}.json").read_text())
