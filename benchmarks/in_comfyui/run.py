"""Our samplers and nodes in a real ComfyUI: its own loader, its HTTP API, on models whose end is known exactly.

    python benchmarks/in_comfyui/run.py --comfyui CHECKOUT --python PYTHON --report docs/development/results-comfyui.md

The folder that `pndm-solvers comfyui` writes is dropped into custom_nodes (`--clone`: a clone of this repository).
PYTHON has torch, NumPy and ComfyUI's other requirements, but not pndm_solvers; stubs/ stands for torchvision,
torchaudio and av. This script needs aiohttp. The server runs on a free port of this machine with its data below --work,
and is stopped at the end. Each error is the root mean square over the latent's elements, in the model's space, where
the data's deviation is near 1, to the exact end of the probability flow from the same seed over the same sigmas.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
from graphs import SEED, Branch, Link, Node, Setting, custom, ksampler, named, round_trip, split
from server import Client, server

from pndm_solvers import NoiseSchedule, PLMSSolver
from pndm_solvers.adapters.folders import HOSTS, write_folder

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[1]
SCHEDULERS = (
    "simple",
    "sgm_uniform",
    "karras",
    "exponential",
    "ddim_uniform",
    "beta",
    "normal",
    "linear_quadratic",
    "kl_optimal",
)
KINDS = ("eps", "v", "v_zsnr", "sd3", "flux")
BASELINES = ("euler", "ipndm", "dpmpp_2m")  # ComfyUI's own
SAMPLERS = ("plms", "plms_classical", "pndm", "dpmpp_2s", "dpmpp_3m")  # ours, as far as ComfyUI lacks the name


def plms(order: int = 4, space: str = "epsilon", starter: str = "ramp", weights: str = "exact") -> Node:
    return "SamplerPLMS", {"order": order, "space": space, "starter": starter, "weights": weights}, 0


# Our nodes that give a SAMPLER, for any sigmas.
NODES = {
    "SamplerPLMS 4": plms(),
    "SamplerPLMS 2": plms(2),
    "SamplerPLMS 2 sample": plms(2, "sample"),
    "SamplerPLMS 3 flow": plms(3, "flow"),
    "SamplerPLMS 3 sample heun": plms(3, "sample", "heun"),
    "SamplerPLMS 4 rk4 classical": plms(4, "epsilon", "rk4", "classical"),
}


def plans() -> dict[str, tuple[str, Any]]:
    """Plans by the names of their files: the kinds of model that they are for, and the plan."""
    latent, flow = NoiseSchedule.scaled_linear(), NoiseSchedule.rectified_flow()
    return {
        "latent-20.json": ("eps v", PLMSSolver(latent).plan(20)),
        "latent-10-from-500.json": ("eps v", PLMSSolver(latent).plan(max_model_calls=10, start=500)),
        "flow-20.json": ("sd3 flux", PLMSSolver(flow).plan(20, start="top", prediction="flow")),
        "flow-10-from-half.json": ("sd3 flux", PLMSSolver(flow).plan(max_model_calls=10, start=0.5, prediction="flow")),
    }


@dataclass
class Row:
    """A result of the report."""

    test: str
    setting: str
    sampler: str
    error: str | None = None  # the text of a failure
    rms: float | None = None
    calls: int | None = None
    facts: dict[str, Any] = field(default_factory=dict)


def rms(difference: np.ndarray) -> float:
    return float(np.sqrt(np.mean(difference.astype(float) ** 2)))


async def compare(
    client: Client, test: str, setting: Setting, branches: dict[str, Branch], target: str = "exact"
) -> list[Row]:
    """Runs the branches in one prompt and measures each against the exact end, or against the latent at the start.

    An error ends a prompt, so the branches are then run one by one.
    """
    files = {name: f"{client.prompts}-{i}" for i, name in enumerate(branches)}
    graph, links = setting.build()
    exact = {k: f"${k}" for k in ("model", "sigmas", "latent")} | {"noise_seed": SEED, "add_noise": True, "shift": 0.0}
    truth = graph.place(("TinyExact", exact, 0), links) if target == "exact" else links["$latent"]
    saved: dict[str, tuple[Link, Link]] = {"truth": (links["$model"], truth)}
    # A model of its own for each branch, so that its calls are its own.
    for name, branch in branches.items():
        own, _ = setting.build(tag=name)
        model = graph.add("TinyModel", own.nodes["1"]["inputs"])
        saved[files[name]] = (model, branch(graph, {**links, "$model": model}))
    for name, (model, latent) in saved.items():
        graph.add("TinySave", {"model": model, "latent": latent, "name": name, "sigmas": links["$sigmas"]})
    run = await client.run(graph)
    if run.error and len(branches) > 1:
        return [
            row for name in branches for row in await compare(client, test, setting, {name: branches[name]}, target)
        ]
    if run.error:
        return [Row(test, setting.label(), name, run.error) for name in branches]
    goal, rows = client.load("truth")[0], []
    for name, file in files.items():
        sample, facts = client.load(file)
        row = Row(test, setting.label(), name, rms=rms(sample - goal), calls=facts["calls"])
        row.facts = {"steps": len(facts["sigmas"]) - 1, "dtype": facts["dtype"]}
        if setting.mask:  # how far the half that is kept moved
            kept = slice(0, sample.shape[-1] // 2)
            row.facts["kept"] = rms((sample - goal)[..., kept])
            if row.facts["kept"] > 1e-4:
                row.error = f"the part outside the mask moved by {row.facts['kept']:.2g}"
        if not np.isfinite(sample).all():
            row.error = "the sample is not finite"
        rows.append(row)
    return rows


async def matrix(client: Client, samplers: list[str], steps: int) -> list[Row]:
    """KSampler and SamplerCustom over kinds, schedulers and denoise, and our nodes with SamplerCustom."""
    rows = []
    for kind, scheduler, denoise in itertools.product(KINDS, SCHEDULERS, (1.0, 0.5)):
        setting = Setting(kind, scheduler, denoise, steps)
        tests = {"KSampler": {s: ksampler(s, setting) for s in samplers}}
        tests["SamplerCustom"] = {s: custom(named(s)) for s in samplers} | {
            n: custom(node) for n, node in NODES.items()
        }
        for test, branches in tests.items():
            rows += await compare(client, test, setting, branches)
    return rows


async def own_scheduler(client: Client, samplers: list[str], steps: int) -> list[Row]:
    """The scheduler "pndm" beside ComfyUI's, also with few steps."""
    rows = []
    for kind, count, scheduler in itertools.product(KINDS, (8, steps), ("pndm", "karras", "simple", "beta")):
        setting = Setting(kind, scheduler, steps=count)
        test = f"{count} steps with {scheduler}"
        rows += await compare(client, test, setting, {s: ksampler(s, setting) for s in samplers})
    return rows


async def fitted(client: Client) -> list[Row]:
    """The node SamplerPlan: its sampler on its own sigmas, from noise and from a picture."""
    rows = []
    for name, (kinds, _) in plans().items():
        for kind in kinds.split():
            node = ("SamplerPlan", {"plan": name})
            setting = Setting(kind, sigmas=(*node, 1), data="from" in name, denoise=0.5 if "from" in name else 1.0)
            rows += await compare(client, "SamplerPlan", setting, {name: custom((*node, 0))})
            rows += await compare(
                client, "SamplerPlan", replace(setting, mask=True, data=True), {name: custom((*node, 0))}
            )
    return rows


async def reference(client: Client) -> list[Row]:
    """How near ComfyUI's own euler of 400 steps comes to the exact end: a check of TinyExact."""
    rows = []
    for kind, denoise in itertools.product(KINDS, (1.0, 0.5)):
        setting = Setting(kind, "normal", denoise, 400)
        rows += await compare(client, "reference", setting, {s: ksampler(s, setting) for s in ("euler", "heun")})
    return rows


async def special(client: Client, samplers: list[str], steps: int) -> list[Row]:
    """Split and flipped sigmas, masks, half precision, and the time as ComfyUI rounds it."""
    rows = []
    nodes = {s: named(s) for s in samplers} | NODES
    for kind in KINDS:
        base = Setting(kind, steps=steps)
        rows += await compare(client, "split", base, {name: split(node, steps // 2) for name, node in nodes.items()})
        flip = replace(base, denoise=0.5, data=True)
        rows += await compare(client, "flip", flip, {name: round_trip(node) for name, node in nodes.items()}, "latent")
        for denoise in (1.0, 0.5):
            mask = replace(base, mask=True, denoise=denoise)
            rows += await compare(client, "mask", mask, {s: ksampler(s, mask) for s in samplers})
            rows += await compare(client, "mask", mask, {name: custom(node) for name, node in NODES.items()})
        # Half latents need a cfg other than 1: for the absent negative ComfyUI divides 0 by 1e-37, which is 0 there.
        for half in ({"dtype": "float16"}, {"dtype": "float16", "latent_dtype": "float16", "cfg": 2.0}):
            setting = replace(base, **half)
            rows += await compare(client, "half", setting, {s: ksampler(s, setting) for s in samplers})
        rounded = replace(base, rounded=True)
        rows += await compare(client, "rounded", rounded, {s: ksampler(s, rounded) for s in samplers})
    return rows


async def watched(client: Client, samplers: list[str], steps: int) -> list[Row]:
    """Progress, previews and an interrupt, as a browser sees them."""
    rows = []
    nodes = {s: named(s) for s in samplers} | NODES
    for kind, (sampler, node) in itertools.product(("eps", "v", "flux"), nodes.items()):
        setting = Setting(kind, steps=steps)
        graph, links = setting.build(tag=f"watched {sampler}")
        end = custom(node)(graph, links)
        graph.add("TinySave", {"model": links["$model"], "latent": end, "name": "watched"})
        run = await client.run(graph)
        seen = [value for value, _ in run.steps.get(end[0], [])]
        row = Row("progress", kind, sampler, run.error, facts={"messages": len(seen), "previews": run.previews})
        if not row.error and seen != list(range(1, steps + 1)):
            row.error = f"{steps} steps, but progress {seen}"
        if not row.error and not run.previews:
            row.error = "no preview"
        rows.append(row)

        slow = replace(setting, delay=0.2)
        graph, links = slow.build(tag=sampler)
        end = custom(node)(graph, links)
        graph.add("TinySave", {"model": links["$model"], "latent": end, "name": "slow"})
        run = await client.run(graph, interrupt_at=3)
        row = Row("interrupt", kind, sampler, run.error, facts={"status": run.status, "seconds": round(run.seconds, 2)})
        if not row.error and (run.status != "interrupted" or run.seconds > 1.5):
            row.error = f"{run.status} {run.seconds:.1f} s after the interrupt"
        rows.append(row)
        rows += await compare(client, "after interrupt", setting, {sampler: custom(node)})
    return rows


async def listed(client: Client, samplers: list[str], nodes: list[str]) -> list[Row]:
    """Whether /object_info shows the samplers' names in each list, and the nodes."""
    info, rows = await client.get("/object_info"), []
    for class_type, node in info.items():
        for name, spec in {**node["input"].get("required", {}), **node["input"].get("optional", {})}.items():
            options = spec[1].get("options") if spec[0] == "COMBO" and len(spec) > 1 else spec[0]
            if isinstance(options, list) and "dpmpp_2m" in options:
                missing = [s for s in samplers if s not in options]
                error = f"{class_type}.{name} lacks {missing}" if missing else None
                rows.append(Row("listed", f"{class_type}.{name}", ",".join(samplers), error))
    for node in nodes:
        rows.append(Row("listed", node, "", None if node in info else f"no node {node}"))
    return rows


def tables(rows: list[Row]) -> str:
    """For each test: the median error over schedulers and denoise by sampler and kind, the largest, and the calls."""
    text = []
    for test in dict.fromkeys(row.test for row in rows if row.rms is not None):
        mine = [row for row in rows if row.test == test and row.rms is not None]
        text += [
            f"## {test}",
            "",
            f"| sampler | {' | '.join(KINDS)} | runs | calls |",
            f"|---|{'---|' * (len(KINDS) + 2)}",
        ]
        for sampler in dict.fromkeys(row.sampler for row in mine):
            own = [row for row in mine if row.sampler == sampler]
            cells = []
            for kind in KINDS:
                errors = [row.rms for row in own if row.setting.split()[0] == kind]
                cells.append(f"{statistics.median(errors):.2g} ({max(errors):.2g})" if errors else "")
            calls = sorted({row.calls or 0 for row in own})
            span = "–".join(str(n) for n in dict.fromkeys((calls[0], calls[-1])))
            text.append(f"| {sampler} | {' | '.join(cells)} | {len(own)} | {span} |")
        text.append("")
    return "\n".join(text)


def report(rows: list[Row], arguments: argparse.Namespace, seconds: float) -> str:
    """The page: what was run, and what came of it."""
    version = (arguments.comfyui / "comfyui_version.py").read_text().split('"')[-2]
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=arguments.comfyui, check=True, capture_output=True, text=True
    ).stdout.strip()
    how = "a clone of this repository" if arguments.clone else "the folder that `pndm-solvers comfyui` writes"
    failed = [row for row in rows if row.error]
    counts = {test: sum(row.test == test for row in rows) for test in dict.fromkeys(row.test for row in rows)}
    return (
        f"""# In a real ComfyUI

`python benchmarks/in_comfyui/run.py --comfyui CHECKOUT --python PYTHON`, {date.today()}, 2 CPU cores: ComfyUI
{version}, commit {commit}, headless, with {how} in `custom_nodes`, nothing installed.
{len(rows)} results in {seconds:.0f} s, {len(failed)} failed: {"; ".join(f"{n} {test}" for test, n in counts.items())}.

Each cell is the median error over nine schedulers and `denoise` 1.0 and 0.5 at {arguments.steps} steps, and the largest
in brackets: the root mean square to the exact end of the probability flow from the same seed and sigmas. `euler`,
`ipndm` and `dpmpp_2m` are ComfyUI's own. The models are exact for a mixture of three Gaussians in each element of a
latent; `eps` and `v` have latent diffusion's schedule, `v_zsnr` ends it at zero SNR, `sd3` has a flow of shift 3 and
`flux` Flux's. In the test "flip" the error is that of the picture after a way to its noise and back.

torchvision, torchaudio and av were import stubs, which raise where something in them is called.

"""
        + tables(rows)
        + "".join(f"\nFAILED {row.test}, {row.setting}, {row.sampler}: {row.error}\n" for row in failed)
    )


async def drive(arguments: argparse.Namespace, url: str, output: Path) -> list[Row]:
    samplers, rows = [*BASELINES, *SAMPLERS], []
    async with aiohttp.ClientSession() as session:
        client = await Client(session, url, output).connect()
        tests = {
            "listed": lambda: listed(client, samplers, ["SamplerPLMS", "SamplerPlan"]),
            "reference": lambda: reference(client),
            "matrix": lambda: matrix(client, samplers, arguments.steps),
            "own": lambda: own_scheduler(client, samplers, arguments.steps),
            "plans": lambda: fitted(client),
            "special": lambda: special(client, samplers, arguments.steps),
            "watched": lambda: watched(client, samplers, arguments.steps),
        }
        for name in arguments.tests or tests:
            print(f"{name} …", file=sys.stderr, flush=True)
            rows += await tests[name]()
    return rows


def install(arguments: argparse.Namespace, base: Path) -> None:
    """Our folder and the plans, below the server's `base`."""
    if arguments.clone:
        where = str(base / "custom_nodes" / "a-clone")
        subprocess.run(["git", "clone", "--quiet", str(REPOSITORY), where], check=True)
    else:
        write_folder(HOSTS["comfyui"], base)
    (base / "models" / "pndm_plans").mkdir()
    for name, (_, plan) in plans().items():
        (base / "models" / "pndm_plans" / name).write_text(plan.to_json())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--comfyui", type=Path, required=True, help="a checkout of ComfyUI")
    parser.add_argument("--python", default=sys.executable, help="the Python that has ComfyUI's requirements")
    parser.add_argument("--clone", action="store_true", help="test a clone of this repository in custom_nodes")
    parser.add_argument("--tests", nargs="+", help="some of listed, reference, matrix, own, plans, special, watched")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument(
        "--work", type=Path, default=Path("/tmp/in_comfyui"), help="emptied; ComfyUI's --base-directory"
    )
    parser.add_argument("--report", type=Path, help="the page to write")
    arguments = parser.parse_args()
    base, start = arguments.work.resolve(), time.perf_counter()
    with server(arguments.comfyui, arguments.python, base, lambda: install(arguments, base)) as url:
        rows = asyncio.run(drive(arguments, url, base / "output"))
    page = report(rows, arguments, time.perf_counter() - start)
    print(page)
    if arguments.report:
        arguments.report.write_text(page)
    return any(row.error for row in rows)


if __name__ == "__main__":
    sys.exit(main())
