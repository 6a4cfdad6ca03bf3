"""A server of fashion images whose requests share the network's calls. Open http://localhost:8000/?label=3&calls=10&seed=1

python examples/server.py [PORT]
"""

from __future__ import annotations

import io
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, urlsplit

import torch

from pndm_solvers import Batcher, PLMSSolver, initial_noise
from pndm_solvers.images import grid_image
from pndm_solvers.reference import load_network

network = load_network("fashion")
solver = PLMSSolver(network.schedule)
batcher = Batcher(network, max_samples=16)


def serve() -> None:
    """The step loop: one call of the network for all requests that are there."""
    with torch.inference_mode():
        while batcher.wait():
            batcher.step()


def numbers(query: str) -> tuple[int, int, int]:
    """The label, the number of calls and the seed of a request; ValueError for others than the network takes."""
    asked = {"label": "0", "calls": "10", "seed": "0"} | dict(parse_qsl(query))
    if not all(value.isdecimal() for value in asked.values()):
        raise ValueError("label, calls and seed are whole numbers")
    label, calls, seed = (int(asked[name]) for name in ("label", "calls", "seed"))
    if label > 9 or not 1 <= calls <= 100:
        raise ValueError("label is 0 to 9, and calls 1 to 100")
    return label, calls, seed


class Handler(BaseHTTPRequestHandler):
    """A thread for each request, which waits for its own sample."""

    def do_GET(self) -> None:
        asked = urlsplit(self.path)
        if asked.path != "/":  # browsers ask for an icon
            self.send_error(404)
            return
        try:
            label, calls, seed = numbers(asked.query)
        except ValueError as error:
            self.send_error(400, str(error))
            return
        x = torch.from_numpy(initial_noise((1, *network.shape), seed)).float()
        plan = solver.plan(calls, prediction=network.prediction, sample_shape=network.shape)
        state = plan.start(x, prediction=network.prediction, condition={"label": torch.tensor([label])})
        sample = batcher.submit(state).result()
        picture = io.BytesIO()
        grid_image(sample.numpy(), side=280).save(picture, "png")
        self.send_response(200)
        self.send_header("Content-Type", "image/png")
        self.end_headers()
        self.wfile.write(picture.getvalue())


if __name__ == "__main__":
    threading.Thread(target=serve, daemon=True).start()
    server = ThreadingHTTPServer(("localhost", int(sys.argv[1]) if len(sys.argv) > 1 else 8000), Handler)
    print(f"http://localhost:{server.server_port}/?label=3&calls=10&seed=1", flush=True)
    server.serve_forever()
