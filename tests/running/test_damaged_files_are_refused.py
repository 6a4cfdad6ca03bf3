"""A file that `State.save` did not write is refused with ValueError, and nothing in it is executed."""

import re
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from runs import LINEAR
from state_files import parts_of, sealed, small_file

from pndm_solvers import DDIMSolver, State


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.safetensors"


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    """A path that many examples write to in turn."""
    return tmp_path_factory.mktemp("scratch") / "state"


def refused(path, raw, match=None, what=None, like=None):
    """Asserts that a file of these bytes is refused, in these words; `what` names the case."""
    path.write_bytes(raw)
    message = "it was loaded"
    try:
        State.load(path, like=like)
    except ValueError as error:
        message = str(error)
    assert re.search(match or "cannot be loaded", message), what


def test_a_file_cut_short_anywhere_is_refused(path):
    small = small_file()
    path.write_bytes(small)
    State.load(path)
    for length in range(len(small)):
        refused(path, small[:length], what=length)
    refused(path, small + b"\0")
    refused(path, small[:100], "ends after 100 bytes, within its header")


def test_every_altered_byte_is_refused(path):
    """Also those of the digest and the padding, and capital letters in the place of small ones."""
    small = small_file()
    for position, byte in enumerate(small):
        for turned in (0x01, 0x20, 0x80):
            altered = small[:position] + bytes([byte ^ turned]) + small[position + 1 :]
            refused(path, altered, what=(position, turned))


# Values that mean something else than the file's own or nothing, with a part of the message where it names the fault.
MEANINGLESS = {
    "format": [("pndm_solvers.state/1", "this version reads")],
    "plan": [
        ("{}", "not the JSON of a plan"),
        ("[" * 100_000, None),
        (DDIMSolver(LINEAR).plan(3).to_json().replace('"noise": 0.0', '"noise": 1' + "0" * 400), None),
    ],
    "row": [
        *((row, "in a plan of") for row in ("-1", "3", "9" * 15)),
        *((row, None) for row in ("one", "1e0", "", 1)),
        *((row, "needs") for row in ("0", "2")),
    ],
    "prediction": [
        (text, None) for text in ('"epsilon"', '{"type": "noise"}', "{}x", '{"clip": -1}', '{"a": 1}', "[]")
    ],
    "seed": [(seed, None) for seed in ("-1", "0.5", '"a"', "[1, -2]", "{", '["a"]')],
    "library": [("os", "pass like=")],
    "dtype": [(dtype, None) for dtype in ("int64", "float", "F64", "")],
    "order": [(order, None) for order in ("[]", '{"state.1": [0]}', '{"state.1": 1}', "{")],
}


@pytest.mark.parametrize("key", MEANINGLESS)
def test_metadata_without_meaning_is_refused(key, path):
    header, numbers = parts_of(small_file())
    path.write_bytes(sealed(header, numbers))
    State.load(path)  # so that what is refused below is the value
    for value, match in MEANINGLESS[key]:
        changed = header["__metadata__"] | {key: value}
        refused(path, sealed(header | {"__metadata__": changed}, numbers), match, str(value)[:80])
    del header["__metadata__"][key]
    refused(path, sealed(header, numbers), what="left out")


def test_another_set_of_arrays_is_refused(path):
    header, numbers = parts_of(small_file())
    for name in ("state.0", "state.2", "answer.0", "state", "state.1.0", "noise.0"):
        refused(path, sealed(header | {name: header["state.1"]}, numbers), what=name)
        renamed = {name if key == "state.1" else key: value for key, value in header.items()}
        refused(path, sealed(renamed, numbers), what=name)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_garbage_is_refused(scratch, data):
    """Bytes, or a header of any JSON under a right digest."""
    made = data.draw(st.binary(max_size=200) | st.builds(sealed, json_values, st.binary(max_size=50)))
    refused(scratch, made)


WATCHED = """
import sys, numpy, numpy.random, pndm_solvers
good, bad, seen = *sys.argv[1:], []
pndm_solvers.State.load(good)  # imports what is imported when it is first used
sys.addaudithook(lambda event, args: event in ("import", "exec", "compile", "os.system") and seen.append((event, args)))
for like in (None, numpy.zeros(1)):
    try:
        pndm_solvers.State.load(bad, like=like)
    except ValueError as error:
        pass
print(seen)
"""


def test_nothing_in_a_file_is_imported_or_executed(path, tmp_path):
    """The interpreter's own audit shows it."""
    path.write_bytes(small_file())
    header, numbers = parts_of(small_file())
    header["__metadata__"]["library"] = "this"
    (tmp_path / "bad").write_bytes(sealed(header, numbers))
    arguments = [sys.executable, "-c", WATCHED, path, tmp_path / "bad"]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
