"""A run between two rows as one file, in the safetensors format: docs/reference/checkpoint-format.md specifies it.

The format is simple enough to be written and read here, so saving needs no package beyond NumPy, and every
byte of the file can be covered by the digest. Nothing in a file is executed or imported.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pndm_solvers.array_library import dtype_name
from pndm_solvers.arrays import library
from pndm_solvers.files import write_whole
from pndm_solvers.noise import NoiseSource
from pndm_solvers.observers import Observer, Step
from pndm_solvers.prediction import Prediction
from pndm_solvers.table import Table

if TYPE_CHECKING:
    from pathlib import Path

    from pndm_solvers.plan import State

__all__ = ["CheckpointFile", "Saved", "load", "save"]

FORMAT = "pndm_solvers.state/3"
UNKNOWN = "0" * 64  # stands for the digest while it is computed
# A library's name of a dtype of states and answers: its name in the format, and its bytes.
DTYPES = {
    "float64": ("F64", 8),
    "float32": ("F32", 4),
    "float16": ("F16", 2),
    "bfloat16": ("BF16", 2),
    "float8_e4m3fn": ("F8_E4M3", 1),
    "float8_e5m2": ("F8_E5M2", 1),
}
# Of conditions alone.
EXACT_DTYPES = {
    "int64": ("I64", 8),
    "int32": ("I32", 4),
    "int16": ("I16", 2),
    "int8": ("I8", 1),
    "uint8": ("U8", 1),
    "bool": ("BOOL", 1),
}
ALL_DTYPES = DTYPES | EXACT_DTYPES


class Saved(NamedTuple):
    """The parts of a state, as a file holds them."""

    table: Table
    row: int
    states: dict[int, Any]
    answers: dict[int, Any]
    condition: dict[str, Any]
    prediction: Prediction
    noise: NoiseSource
    dtype: Any
    library: str
    first: str  # the digest of x_T: a run recognises its own file by it


class CheckpointFile(Observer):
    """Writes a run to a file before its first and after each model call, and goes on from the file that is there.

    With `finite`, it does not write a state that is not finite, and refuses to go on from one.
    """

    def __init__(self, path: Path, *, finite: bool) -> None:
        self.path = path.absolute()  # since the working directory may change during the run
        self.finite = finite

    def begin(self, state: State) -> State:
        x = state.states[0]
        _check_unrecorded([x])
        self.x_T = _array_digest(x)
        try:
            found = load(self.path, None, x)
        except FileNotFoundError:
            save(state, self.path, self.x_T)  # at once, so that a path that cannot be written is an error now
            return state
        self._check_same_run(found, state)
        if found.row:
            state = replace(state, row=found.row, states=found.states, answers=found.answers)
        if found.row and self.finite and not _is_finite(state):
            raise FloatingPointError(
                f"checkpoint {str(self.path)!r} holds numbers that are not finite, at row {state.row}; delete the file "
                f"to begin anew, or pass check_finite=None to go on with them"
            )
        return state

    def __call__(self, step: Step) -> None:
        if not self.finite or _is_finite(step.state):
            save(step.state, self.path, self.x_T)

    def _check_same_run(self, found: Saved, state: State) -> None:
        x, newest = state.states[0], found.states[found.row]
        kind = [
            ("library", found.library, state.library.name(x)),
            ("dtype", found.dtype, state.dtype),
            ("state_dtype", newest.dtype, x.dtype),
            ("shape", tuple(newest.shape), tuple(x.shape)),
        ]
        run = [
            ("plan", found.table, state.plan),
            ("prediction", found.prediction, state.prediction),
            ("seed", found.noise.seed, state.noise.seed),
            ("noise", found.noise.kind, state.noise.kind),
            ("SHA-256 of the condition", _digests(found.condition), _digests(state.condition)),
        ]
        if all(theirs == ours for _, theirs, ours in kind):  # else the digests differ anyway
            run.append(("SHA-256 of x_T", found.first or "not recorded", self.x_T))
        different = [f"{name} ({theirs!r}, not {ours!r})" for name, theirs, ours in (*kind, *run) if theirs != ours]
        if different:
            raise ValueError(
                f"checkpoint {str(self.path)!r} is of another run, which differs in {', '.join(different)}; to go on "
                f"with that run pass its own arguments, and to begin this one pass another path, or delete the file"
            )


def save(state: State, path: Path, x_T: str = "") -> None:  # noqa: N803 — the field's name for it
    """See `State.save`. `x_T` is the digest of the first state: a run recognises its checkpoint by it."""
    _check_repeatable(state.plan, state.row, state.noise)
    arrays = {f"state.{i}": x for i, x in state.states.items()}
    arrays |= {f"answer.{j}": x for j, x in state.answers.items()}
    arrays |= {f"condition.{name}": value for name, value in state.condition.items()}
    _check_unrecorded(arrays.values())
    prediction = {name: value for name, value in vars(state.prediction).items() if value != getattr(Prediction, name)}
    metadata = {
        "sha256": UNKNOWN,  # first, so that no other text is taken for it
        "format": FORMAT,
        "plan": state.plan.to_json(),
        "row": str(state.row),
        "prediction": json.dumps({"type": state.prediction.type} | prediction, default=float),
        "seed": json.dumps(state.noise.seed),
        "noise": state.noise.kind,
        "library": state.library.name(state.states[state.row]),
        "dtype": _dtype_name(state.dtype),
        "order": json.dumps({name: order for name, x in arrays.items() if (order := _order(x)) != [*range(x.ndim)]}),
        "x_T": x_T,
    }
    header: dict[str, Any] = {"__metadata__": metadata}
    parts, end = [], 0
    for name, x in arrays.items():
        parts.append(state.library.to_bytes(x))
        begin, end = end, end + len(parts[-1])
        code, _ = ALL_DTYPES[_dtype_name(x.dtype)]
        header[name] = {"dtype": code, "shape": list(x.shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # so that the numbers are aligned
    text = len(text).to_bytes(8, "little") + text
    digest = _digest(text, *parts)
    parts = [text.replace(UNKNOWN.encode(), digest.encode(), 1), *parts]
    write_whole(path, lambda file: file.writelines(parts))


def load(path: Path, device: Any = None, like: Any = None) -> Saved:
    """The parts of the state in a file: see `State.load`."""
    raw = path.read_bytes()
    with _refused(path):
        header, metadata, numbers = _read(raw)
        like = _like(metadata["library"]) if like is None else like
    ours = library(like)
    if device is None:
        device = ours.device(like)
    else:
        try:
            ours.namespace(like).empty(0, device=device)
        except Exception as error:  # each library's own, for an unknown device
            raise ValueError(f"device is {device!r}, which {ours.name(like)} does not have here") from error
    with _refused(path):
        return _saved(header, metadata, numbers, device, like)


def _read(raw: bytes) -> tuple[dict[str, Any], dict[str, str], memoryview]:
    """A file's entries for arrays, its metadata and its numbers, where the digest holds."""
    begin = 8 + int.from_bytes(raw[:8], "little")
    if len(raw) < begin:
        raise ValueError(f"it ends after {len(raw)} bytes, within its header")
    header = json.loads(raw[8:begin])
    metadata = header.pop("__metadata__")
    if not all(isinstance(value, str) for value in metadata.values()) or metadata["format"] != FORMAT:
        raise ValueError(f"format is {metadata['format']!r}; this version reads {FORMAT!r}")
    text = raw[:begin].replace(metadata["sha256"].encode(), UNKNOWN.encode(), 1)
    numbers = memoryview(raw)[begin:]
    if _digest(text, numbers) != metadata["sha256"]:
        raise ValueError("its SHA-256 does not match its bytes")
    return header, metadata, numbers


def _saved(header: dict[str, Any], metadata: dict[str, str], numbers: memoryview, device: Any, like: Any) -> Saved:
    """The parts of a state. The digest was right, so only the row and the arrays are checked once more."""
    table, row = Table.from_json(metadata["plan"]), int(metadata["row"])
    if not 0 <= row <= table.model_calls:
        raise ValueError(f"row is {row} in a plan of {table.cost()}")
    names, orders = {code: name for name, (code, _) in DTYPES.items()}, json.loads(metadata["order"])
    exact = {code: name for name, (code, _) in EXACT_DTYPES.items()}
    kinds: dict[str, dict[Any, Any]] = {"state": {}, "answer": {}, "condition": {}}
    for name, entry in header.items():
        kind, _, index = name.partition(".")
        begin, end = entry["data_offsets"]
        known = names | exact if kind == "condition" else names
        dtype, shape = known[entry["dtype"]], entry["shape"]
        order = orders.get(name, [*range(len(shape))])
        key = index if kind == "condition" else int(index)
        kinds[kind][key] = _array(numbers[begin:end], dtype, shape, order, device, like)
    for place, (kind, made) in enumerate((("state", row + 1), ("answer", row))):
        needed = set(range(made)).difference(*(dead[place] for dead in table.last_uses[:row]))
        if set(kinds[kind]) != needed:
            raise ValueError(f"row {row} needs {kind} {sorted(needed)}; the file holds {sorted(kinds[kind])}")
    states, answers, condition = kinds.values()
    prediction = Prediction(**({"type": None} | json.loads(metadata["prediction"])))
    noise = NoiseSource.of(json.loads(metadata["seed"]), None, metadata["noise"])
    if metadata["dtype"] not in DTYPES:
        raise ValueError(f"dtype is {metadata['dtype']!r}, in which no network receives a state")
    dtype = _array(numbers[:0], metadata["dtype"], [0], [0], None, like).dtype
    return Saved(table, row, states, answers, condition, prediction, noise, dtype, metadata["library"], metadata["x_T"])


def _check_repeatable(table: Table, row: int, noise: NoiseSource) -> None:
    if noise.first:
        raise ValueError(f"the run begins at sample {noise.first} of its seed, and a file holds the seed alone")
    if noise.seed is None and any(later.noise for later in table.rows[row:]):
        raise ValueError(
            "later rows draw their noise from a generator, and a file cannot hold a generator's position; pass seed= "
            "where the run starts"
        )


def _check_unrecorded(arrays: Iterable[Any]) -> None:
    if any(library(x).records_gradients(x) for x in arrays):
        raise ValueError(
            "torch records this run for gradients, and a file cannot hold them; run it in torch.no_grad(), or keep "
            "its states in memory"
        )


def _is_finite(state: State) -> bool:
    arrays = (*state.states.values(), *state.answers.values())
    return all(map(state.library.is_finite, arrays)) and (not state.done or state.library.is_finite(state.x))


def _digests(condition: Mapping[str, Any]) -> dict[str, str]:
    return {name: _array_digest(value) for name, value in condition.items()}


def _array_digest(x: Any) -> str:
    name, shape = _dtype_name(x.dtype), str(tuple(x.shape))
    return _digest(name.encode(), shape.encode(), library(x).to_bytes(x))


def _digest(*parts: Any) -> str:
    from hashlib import sha256

    digest = sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


# ---------------------------------------------------------------------- arrays


def _like(name: str) -> Any:
    """An array of the library that a file names. Files are not trusted: no module is imported by that name."""
    if name == "numpy":
        return np.empty(0)
    if name == "torch":
        import torch

        return torch.empty(0)
    raise ValueError(f"it holds arrays of {name}; pass like=, an array of the library in which to make them")


def _dtype_name(dtype: Any) -> str:
    name = dtype_name(dtype)
    if name not in ALL_DTYPES:
        held = ", ".join(ALL_DTYPES)
        raise ValueError(f"checkpoint cannot hold an array of dtype {dtype}, only {held}; convert x first")
    return name


def _order(x: Any) -> list[int]:
    """The dimensions of `x`, from the outermost in memory. Convolutions and matrix products round by it."""
    strides = library(x).strides(x)
    # Among equal strides a dimension of one entry goes last, which finds torch's channels_last again.
    return sorted(range(x.ndim), key=lambda d: (-abs(strides[d]), x.shape[d] == 1) if strides else ())


def _array(data: memoryview, dtype: str, shape: list[int], order: list[int], device: Any, like: Any) -> Any:
    """The array with the numbers `data`, whose dimensions lie in memory in `order`."""
    if len(data) != math.prod(shape) * ALL_DTYPES[dtype][1]:
        raise ValueError(f"{len(data)} bytes are no array of shape {shape} and dtype {dtype}")
    return library(like).from_bytes(data, dtype, shape, order, device, like)


# ----------------------------------------------------------------------- files


@contextmanager
def _refused(path: Path) -> Iterator[None]:
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(
            f"{str(path)!r} cannot be loaded as a state: {error or repr(error)}. If it was cut short or altered, take "
            f"another copy, or delete it and begin anew; State.save and checkpoint= write such files"
        ) from error
