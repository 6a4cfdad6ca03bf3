"""Every script of `examples/` runs, and its output is true."""

import io
import re
import runpy
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import ThreadingHTTPServer
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import diffusers  # noqa: F401 — the examples need these
import jax  # noqa: F401
import monai  # noqa: F401
import numpy as np
import onnxruntime  # noqa: F401
import pytest
from PIL import Image

EXAMPLES = Path(__file__).parents[2] / "examples"
SHARED = {"tiny_flow_models", "tiny_stable_diffusion"}  # imported by the scripts
ENDLESS = {"server"}


def own_network(printed):
    ddim, plms = map(float, re.findall(r": (\S+) off the ring", printed))
    assert plms < ddim
    assert plms < 0.1
    assert Image.open("ring.png").size == (800, 400)


def errors_by_calls(printed):
    """PLMS is nearer than DDIM at each number of calls, and both come nearer with more calls."""
    calls, ddim, plms = zip(*(map(float, line.split()) for line in printed.splitlines()[1:]), strict=True)
    assert len(calls) >= 3
    assert list(calls) == sorted(calls)
    assert all(0 < near < far for near, far in zip(plms, ddim, strict=True))
    for errors in (ddim, plms):
        assert list(errors) == sorted(errors, reverse=True)


def stable_diffusion(printed):
    assert printed == "20 calls of the UNet, a picture of 16×16\n"
    assert Image.open("lighthouse.png").size == (16, 16)


def image_to_image(printed):
    rows = re.findall(r"strength (\S+): (\d+) calls, from t = (\d+)", printed)
    assert [(float(strength), int(calls), int(t)) for strength, calls, t in rows] == [
        (0.2, 4, 199),
        (0.5, 10, 499),
        (1.0, 20, 999),
    ]
    assert {Image.open(f"lighthouse-{strength}.png").size for strength, *_ in rows} == {(16, 16)}


def jax_function(printed):
    calls, *numbers = map(float, re.findall(r"-?\d+\.?\d*(?:e-?\d+)?", printed))
    assert calls == 10
    assert numbers == pytest.approx([2, -1, 0.5, 0.5, 1, 0, 0, 1], abs=0.02)


def flow_models(printed):
    rows = re.findall(r"(.+): (\d+) calls at σ = (.+)", printed)
    assert [name for name, *_ in rows] == ["FLUX", "Stable Diffusion 3", "Wan"]
    for _, calls, levels in rows:
        sigmas = list(map(float, levels.split(", ")))
        assert int(calls) == len(sigmas) - 1 == 10
        assert sigmas == sorted(sigmas, reverse=True)
        assert (sigmas[0], sigmas[-1]) == (1, 0)


def robot_policy(printed):
    (slow, slow_side), (fast, fast_side) = (
        map(float, found) for found in re.findall(r"calls: (\S+) off .* (\d+)% above", printed)
    )
    assert slow < 0.12
    assert fast < 0.15
    assert 35 < slow_side < 65
    assert 35 < fast_side < 65


def policy_gradient(printed):
    rewards = list(map(float, re.findall(r"mean reward (\S+)", printed)))
    assert len(rewards) == 5
    assert abs(rewards[0]) < 0.2  # the ring's own
    assert rewards == sorted(rewards)
    assert rewards[-1] > 0.5


def monai_inferer(printed):
    data, ten, twenty = map(float, re.findall(r"a share of (\S+) is bright", printed))
    assert ten == pytest.approx(data, rel=0.3)
    assert twenty == pytest.approx(data, rel=0.3)


def export_onnx(printed):
    assert re.fullmatch(r"digits.onnx: epsilon; plan.json: .*, 8 calls\n", printed.splitlines(keepends=True)[-1])


def onnx_runtime(printed):
    assert printed.startswith("8 calls, pixels from -1.0")


CHECKS = {
    "own_network": own_network,
    "diffusers_unet": errors_by_calls,
    "stable_diffusion": stable_diffusion,
    "image_to_image": image_to_image,
    "flow_models": flow_models,
    "robot_policy": robot_policy,
    "policy_gradient": policy_gradient,
    "monai_inferer": monai_inferer,
    "jax_function": jax_function,
    "export_onnx": export_onnx,
    "onnx_runtime": onnx_runtime,
    "numpy_function": errors_by_calls,
}


@pytest.mark.parametrize("name", sorted({path.stem for path in EXAMPLES.glob("*.py")} - SHARED - ENDLESS))
def test_an_example_runs(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(EXAMPLES)  # Python adds the folder of a script too
    if name == "onnx_runtime":  # on that one's files
        runpy.run_path(str(EXAMPLES / "export_onnx.py"), run_name="__main__")
        capsys.readouterr()
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    CHECKS[name](capsys.readouterr().out)


def test_the_server_answers_many_at_once():
    names = runpy.run_path(str(EXAMPLES / "server.py"))
    server = ThreadingHTTPServer(("localhost", 0), names["Handler"])
    for serve in (server.serve_forever, names["serve"]):
        threading.Thread(target=serve, daemon=True).start()
    address = f"http://localhost:{server.server_port}/"

    def picture(query):
        with urlopen(f"{address}?{query}") as answer:
            return answer.read()

    try:
        queries = [f"label={n % 3}&calls={5 + n % 4}&seed={n % 2}" for n in range(24)]
        with ThreadPoolExecutor(12) as pool:
            pictures = [np.asarray(Image.open(io.BytesIO(found)), int) for found in pool.map(picture, queries)]
        for query, found in zip(queries, pictures, strict=True):
            for other, shown in zip(queries, pictures, strict=True):
                # A network rounds differently in other batches.
                assert (np.abs(found - shown).max() <= 1) == (query == other)
        assert all(np.std(found) > 30 and np.mean((found == 0) | (found == 255)) < 0.8 for found in pictures)
        for query in ("label=10", "calls=0", "seed=-1", "label=shoe"):
            with pytest.raises(HTTPError, match="400"):
                picture(query)
        assert picture(queries[0])  # the others live on
    finally:
        server.shutdown()
        server.server_close()


def test_the_readme_lists_every_example():
    listed = re.findall(r"\((\w+)\.py\)", (EXAMPLES / "README.md").read_text(encoding="utf-8"))
    assert sorted(listed) == sorted([*CHECKS, *ENDLESS])
