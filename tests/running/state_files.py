"""Files of states, taken apart and put together again by the tests."""

import json
from functools import cache
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory

from array_libraries import same
from runs import LINEAR, START, states_of

from pndm_solvers import DDIMSolver


@cache
def small_file():
    """The bytes of a small file: state 1 of 2, an array of one number."""
    with TemporaryDirectory() as folder:
        path = Path(folder, "state")
        states_of(DDIMSolver(LINEAR).plan(2), START[:1, :1], seed=3)[1].save(path)
        return path.read_bytes()


def same_state(a, b):
    """Whether two states are equal in every field, their arrays to the last bit."""
    assert (a.plan, a.row, a.prediction, a.noise, a.dtype) == (b.plan, b.row, b.prediction, b.noise, b.dtype)
    assert (a.states.keys(), a.answers.keys()) == (b.states.keys(), b.answers.keys())
    pairs = [(a.states[i], b.states[i]) for i in a.states] + [(a.answers[j], b.answers[j]) for j in a.answers]
    return all(same(x, y) for x, y in pairs)


def parts_of(raw):
    """A file's header and its numbers."""
    begin = 8 + int.from_bytes(raw[:8], "little")
    return json.loads(raw[8:begin]), raw[begin:]


def sealed(header, numbers):
    """A file of any header and numbers, under the right digest."""
    if isinstance(header, dict) and isinstance(header.get("__metadata__"), dict):
        header = header | {"__metadata__": {"sha256": "0" * 64} | header["__metadata__"] | {"sha256": "0" * 64}}
    text = json.dumps(header).encode()
    blank = len(text).to_bytes(8, "little") + text + numbers
    return blank.replace(b"0" * 64, sha256(blank).hexdigest().encode(), 1)
