"""Prompts of ComfyUI in its API's format: a model, a latent, and any node that gives a SAMPLER or SIGMAS."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

SEED = 7

Link = list[Any] | float  # [node, output], or a value
# Class and inputs of a node, and the output to take. "$model", "$latent", "$sigmas" and so on are a setting's links.
Node = tuple[str, dict[str, Any], int]
Branch = Callable[["Graph", dict[str, Link]], Link]  # adds a sampler's nodes to a graph, and gives the resulting LATENT


class Graph:
    """A prompt in the API's format. Equal nodes are added once."""

    def __init__(self) -> None:
        self.nodes: dict[str, dict[str, Any]] = {}
        self._ids: dict[str, str] = {}

    def add(self, class_type: str, inputs: dict[str, Any], output: int = 0) -> Link:
        node = {"class_type": class_type, "inputs": inputs}
        number = self._ids.setdefault(json.dumps(node, sort_keys=True), str(len(self._ids) + 1))
        self.nodes[number] = node
        return [number, output]

    def place(self, node: Node, links: dict[str, Link]) -> Link:
        class_type, inputs, output = node
        return self.add(
            class_type, {k: links.get(v, v) if isinstance(v, str) else v for k, v in inputs.items()}, output
        )


@dataclass(frozen=True)
class Setting:
    """What the branches of one prompt share."""

    kind: str = "eps"
    scheduler: str = "normal"
    denoise: float = 1.0
    steps: int = 20
    mask: bool = False
    data: bool | None = None  # starts at data and not at an empty latent; None: where denoise < 1 or there is a mask
    sigmas: Node | None = None  # None: BasicScheduler's
    dtype: str = "float32"  # the network's
    latent_dtype: str = "float32"
    rounded: bool = False
    delay: float = 0.0
    cfg: float = 1.0  # without effect on the result, since both conditionings are one

    def build(self, tag: str = "") -> tuple[Graph, dict[str, Link]]:
        graph, links = Graph(), {}
        model = {"kind": self.kind, "dtype": self.dtype, "rounded": self.rounded, "delay": self.delay, "tag": tag}
        links["$model"] = model_link = graph.add("TinyModel", model)
        links["$positive"] = links["$negative"] = graph.add("TinyConditioning", {"shift": 0.0})
        data = self.denoise < 1 or self.mask if self.data is None else self.data
        latent = {
            "model": model_link,
            "data": data,
            "mask": self.mask,
            "batch": 4,
            "seed": 1,
            "dtype": self.latent_dtype,
        }
        links["$latent"] = graph.add("TinyLatent", latent)
        basic = {"model": "$model", "scheduler": self.scheduler, "steps": self.steps, "denoise": self.denoise}
        links["$cfg"] = self.cfg
        links["$sigmas"] = graph.place(self.sigmas or ("BasicScheduler", basic, 0), links)
        return graph, links

    def label(self) -> str:
        """The kind, and what differs from the defaults."""
        default = Setting()
        rest = {k: v for k, v in asdict(self).items() if k not in ("kind", "sigmas") and v != getattr(default, k)}
        return " ".join([self.kind, *(f"{k}={v}" for k, v in rest.items()), *(self.sigmas[:1] if self.sigmas else ())])


def named(sampler: str) -> Node:
    return "KSamplerSelect", {"sampler_name": sampler}, 0


def ksampler(sampler: str, setting: Setting) -> Branch:
    """The node KSampler."""

    def add(graph: Graph, links: dict[str, Link]) -> Link:
        inputs = {
            "model": "$model",
            "seed": SEED,
            "steps": setting.steps,
            "cfg": "$cfg",
            "sampler_name": sampler,
            "scheduler": setting.scheduler,
            "positive": "$positive",
            "negative": "$negative",
            "latent_image": "$latent",
            "denoise": setting.denoise,
        }
        return graph.place(("KSampler", inputs, 0), links)

    return add


def custom(sampler: Node, sigmas: Node | None = None, latent: str = "$latent", noise: bool = True) -> Branch:
    """The node SamplerCustom, with any node that gives a SAMPLER and any that gives SIGMAS."""

    def add(graph: Graph, links: dict[str, Link]) -> Link:
        inputs = {
            "model": "$model",
            "add_noise": noise,
            "noise_seed": SEED,
            "cfg": "$cfg",
            "positive": "$positive",
            "negative": "$negative",
            "sampler": graph.place(sampler, links),
            "sigmas": graph.place(sigmas, links) if sigmas else "$sigmas",
            "latent_image": latent,
        }
        return graph.place(("SamplerCustom", inputs, 0), links)

    return add


def split(sampler: Node, step: int) -> Branch:
    """Two SamplerCustom, one after the other, on the two parts of the run."""

    def add(graph: Graph, links: dict[str, Link]) -> Link:
        part = "SplitSigmas", {"sigmas": "$sigmas", "step": step}
        half = custom(sampler, (*part, 0))(graph, links)
        return custom(sampler, (*part, 1), "$half", noise=False)(graph, {**links, "$half": half})

    return add


def round_trip(sampler: Node) -> Branch:
    """From the latent to its noise with FlipSigmas, and back."""

    def add(graph: Graph, links: dict[str, Link]) -> Link:
        noised = custom(sampler, ("FlipSigmas", {"sigmas": "$sigmas"}, 0), noise=False)(graph, links)
        return custom(sampler, None, "$noised", noise=False)(graph, {**links, "$noised": noised})

    return add
