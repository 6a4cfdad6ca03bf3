"""The manifest of a set of images: all that determines them, in one JSON file beside the shards."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from hashlib import sha256
from pathlib import Path
from typing import Any

from pndm_solvers.files import write_whole
from pndm_solvers.plan import Plan
from pndm_solvers.prediction import Prediction

__all__ = ["MANIFEST", "Settings", "read_manifest", "write_manifest"]

FORMAT = "pndm_solvers.generate/1"
MANIFEST = "generate.json"
CLOSE = 1e-9  # two machines may compute a plan's numbers with other last bits
OPTIONS = {  # of the command line, by the name of the setting
    "num_images": "--num-images",
    "shard_batches": "--shard-batches",
    "class_": "--class",
    "values": "--float",
    "source": "the network",
    "shape": "the shape of a sample",
    "classes": "the number of classes",
    "prediction": "the prediction and its --clip",
    "data": "what the network says of its data",
}
OF_THE_NETWORK = ("source", "shape", "classes", "plan", "prediction", "guidance", "class_", "data")


@dataclass(frozen=True)
class Settings:
    """All that determines the images of a job.

    Attributes
    ----------
    num_images, batch, shard_batches:
        How many images there are, how many the network draws at once, and how many such batches a shard holds.
    seed:
        Image i is drawn from the seed `seed + i`.
    source:
        The option that names the network, as `--network digits`.
    parameters:
        The SHA-256 of the network's parameters; None where it is no torch module.
    shape, classes:
        The shape of one sample, and how many classes the network has.
    plan, prediction:
        The plan's JSON, and what the network predicts: the fields of a `Prediction`.
    guidance, class_:
        The scale of guidance, and the class of all images; None for image i of class i modulo `classes`.
    dtype, compile, device, threads:
        How the network is run: float32 or bfloat16, compiled or not, on which type of device, on the CPU by how many
        threads.
    values:
        What the shards hold: uint8 or float32.
    data:
        What the network says of its data: `data_mean`, `data_range`, or neither.
    """

    num_images: int
    batch: int
    shard_batches: int
    seed: int
    source: str
    parameters: str | None
    shape: tuple[int, ...]
    classes: int
    plan: Mapping[str, Any]
    prediction: Mapping[str, Any]
    guidance: float
    class_: int | None
    dtype: str
    compile: bool
    device: str
    threads: int | None
    values: str
    data: Mapping[str, Any] = field(default_factory=dict)

    @property
    def job(self) -> str:
        """The digest of the settings, by which shards name their job.

        Where the network's parameters are known, the place that they come from does not count: a folder may move.
        """
        facts = self.facts() | ({} if self.parameters is None else {"source": None})
        return sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    @property
    def noun(self) -> str:
        """What the shards hold, for messages."""
        return "images" if self.values == "uint8" else "samples"

    @property
    def count_of_all(self) -> str:
        """How much that is, as "2,000 images in 2 shards"."""
        return f"{self.num_images:,} {self.noun} in {self.shards} shard{'s' * (self.shards != 1)}"

    @property
    def batches(self) -> int:
        """How many batches there are; the last one may have fewer images."""
        return math.ceil(self.num_images / self.batch)

    @property
    def shards(self) -> int:
        """How many shards there are."""
        return math.ceil(self.batches / self.shard_batches)

    def span(self, shard: int) -> tuple[int, int]:
        """The numbers of a shard's first image and of the one after its last."""
        images = self.shard_batches * self.batch
        return shard * images, min((shard + 1) * images, self.num_images)

    @property
    def image_bytes(self) -> int:
        """The bytes that one image takes in a shard."""
        return math.prod(self.shape) * (1 if self.values == "uint8" else 4) + 8 * bool(self.classes)

    def facts(self) -> dict[str, Any]:
        """The settings as JSON has them."""
        prediction = {name: _strict(value) for name, value in self.prediction.items()}
        facts = asdict(self) | {"shape": list(self.shape), "prediction": prediction}
        if not self.data:
            del facts["data"]
        return facts

    def made_plan(self) -> Plan:
        """The plan, ready to run."""
        return Plan.from_json(json.dumps(self.plan))

    def made_prediction(self) -> Prediction:
        """What the network predicts."""
        given: dict[str, Any] = {name: math.inf if v == "inf" else v for name, v in self.prediction.items()}
        return Prediction(**given)

    def differences(self, theirs: Settings) -> Iterator[tuple[str, Any, Any]]:
        """(option, our value, their value) of each setting that differs, in the order of the fields."""
        if self.parameters != theirs.parameters:
            # All else about the network differs with it.
            same = self.source == theirs.source
            ours, other = (self.parameters, theirs.parameters) if same else (self.source, theirs.source)
            yield "the parameters of the network" if same else "the network", ours, other
        for one in fields(self):
            name, ours, other = one.name, getattr(self, one.name), getattr(theirs, one.name)
            if name == "parameters" or (self.parameters != theirs.parameters and name in OF_THE_NETWORK):
                continue
            if name == "source" and self.parameters is not None:
                continue
            if name == "plan":
                if not _close(_numbers(ours), _numbers(other)):
                    ours, other = self.made_plan(), theirs.made_plan()
                    yield "the plan", f"{ours.name}, {ours.cost()}", f"{other.name}, {other.cost()}"
            elif not _close(ours, other):
                yield OPTIONS.get(name, f"--{name.replace('_', '-')}"), ours, other


def read_manifest(folder: Path) -> Settings | None:
    """The settings of the job in a folder; None where it has no manifest. ValueError for an altered one."""
    path = folder / MANIFEST
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if document["format"] != FORMAT:
            raise ValueError(f"format is {document['format']!r}; this version reads {FORMAT!r}")
        facts = document["settings"]
        settings = Settings(**facts | {"shape": tuple(facts["shape"])})
        if settings.job != document["job"]:
            raise ValueError("its digest does not match its settings")
        settings.made_plan()
        settings.made_prediction()
    except FileNotFoundError:
        return None
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} cannot be read as a manifest ({error or repr(error)}); restore it, or delete it and give the "
            f"whole command again: intact shards of the same settings stay"
        ) from error
    return settings


def made_with(folder: Path) -> dict[str, str]:
    """What the manifest says of the programs that made it. It does not count for the job."""
    return json.loads((folder / MANIFEST).read_text(encoding="utf-8")).get("made", {})


def write_manifest(folder: Path, settings: Settings, made: Mapping[str, str]) -> None:
    """Write the manifest, whole or not at all. `made` says by what and when."""
    document = {"format": FORMAT, "job": settings.job, "settings": settings.facts(), "made": dict(made)}
    text = json.dumps(document, indent=1, allow_nan=False) + "\n"
    write_whole(folder / MANIFEST, lambda file: file.write(text.encode()))


def _strict(value: Any) -> Any:
    """JSON has no infinity."""
    return "inf" if value == math.inf else value


def _numbers(plan: Mapping[str, Any]) -> Any:
    """What a plan computes, without its name."""
    return [plan["rows"], plan["end"], plan["integer_times"]]


def _close(ours: Any, theirs: Any) -> bool:
    """Whether two values are alike but for the last bits of numbers that are not whole."""
    if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
        return ours.keys() == theirs.keys() and all(_close(ours[name], theirs[name]) for name in ours)
    if isinstance(ours, (list, tuple)) and isinstance(theirs, (list, tuple)):
        return len(ours) == len(theirs) and all(map(_close, ours, theirs))
    if isinstance(ours, float) and isinstance(theirs, float):
        return math.isclose(ours, theirs, rel_tol=CLOSE, abs_tol=1e-12)
    return ours == theirs
