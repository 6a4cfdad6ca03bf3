"""Runs in files: saved, damaged, of another run, killed."""

import json
import os
import resource
import subprocess
import sys
from contextlib import nullcontext
from hashlib import sha256

import array_api_strict
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
import torch
from conftest import SCHEDULES, all_solvers, named
from hypothesis import given, settings
from hypothesis import strategies as st

from pndm_solvers import DDIMSolver, DDPMSolver, PLMSSolver, PNDMSolver, Prediction, State, initial_noise
from pndm_solvers.arrays import library

LINEAR = SCHEDULES["linear"]
NOISE = initial_noise((3, 2), seed=0)
PLMS = PLMSSolver(LINEAR).plan(6)
DDPM = DDPMSolver(LINEAR).plan(6, spacing="trailing")

LIBRARIES = {
    "numpy": (np.asarray, None, ["float16", "float32", "float64"]),
    "torch": (torch.from_numpy, None, ["float16", "bfloat16", "float32", "float64"]),
    "jax.numpy": (jnp.asarray, jnp.zeros(1), ["float16", "bfloat16", "float32"]),
    "array_api_strict": (array_api_strict.asarray, array_api_strict.zeros(1), ["float32", "float64"]),
}
CASES = [pytest.param(name, dtype, id=f"{name} {dtype}") for name, case in LIBRARIES.items() for dtype in case[2]]


def model(x, t):
    """Of any library, and of every dtype."""
    t = library(x).cast(t, x.dtype)[:, None] / 1000
    return x / (1 + x * x) + t


def begin(name, dtype):
    """NOISE in one of LIBRARIES and its dtypes, and what `like=` a file of it takes."""
    make, like, _ = LIBRARIES[name]
    x = make(NOISE)
    namespace = torch if name == "torch" else x.__array_namespace__()
    return library(x).cast(x, getattr(namespace, dtype)), like


def same(a, b):
    """To the last bit, in the same kind of array."""
    assert type(a) is type(b)
    assert a.dtype == b.dtype
    assert a.shape == b.shape
    if isinstance(a, torch.Tensor):
        a, b = (x.view(-1).view(torch.uint8).numpy() for x in (a, b))
    return np.asarray(a).tobytes() == np.asarray(b).tobytes()


def same_state(a, b):
    assert (a.plan, a.row, a.prediction, a.noise, a.dtype) == (b.plan, b.row, b.prediction, b.noise, b.dtype)
    assert (a.states.keys(), a.answers.keys()) == (b.states.keys(), b.answers.keys())
    pairs = [(a.states[i], b.states[i]) for i in a.states] + [(a.answers[j], b.answers[j]) for j in a.answers]
    return all(same(x, y) for x, y in pairs)


def states_of(plan, x, **options):
    state = plan.start(x, **options)
    yield state
    while not state.done:
        state = plan.advance(state, model(state.x, state.t))
        yield state


def finish(state):
    while not state.done:
        state = state.plan.advance(state, model(state.x, state.t))
    return state.x


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.safetensors"


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    """A path that many examples write to in turn."""
    return tmp_path_factory.mktemp("scratch") / "state"


@pytest.fixture(scope="module")
def small(scratch):
    """The bytes of a small file."""
    list(states_of(DDIMSolver(LINEAR).plan(2), NOISE[:1, :1], seed=3))[1].save(scratch)
    return scratch.read_bytes()


# ------------------------------------------------------------------ there and back


@pytest.mark.parametrize(("name", "dtype"), CASES)
@pytest.mark.parametrize("plan", [PLMS, DDPM], ids=named)
def test_every_library_and_dtype_comes_back_to_the_last_bit(name, dtype, plan, path):
    x, like = begin(name, dtype)
    *states, last = states_of(plan, x, seed=5)
    for state in states:
        state.save(path)
        loaded = State.load(path, like=like)
        assert same_state(loaded, state)
        assert same(finish(loaded), last.x)


@pytest.mark.parametrize("solver", all_solvers(LINEAR), ids=named)
def test_every_row_of_every_solver(solver, path):
    *states, last = states_of(solver.plan(5), NOISE, seed=(1, 2, 3))
    for state in (*states, last):
        state.save(path)
        assert same_state(State.load(path), state)
        assert same(finish(State.load(path)), last.x)


@pytest.mark.parametrize("prediction", [Prediction("v_prediction", 1.5), Prediction("flow", 1, 0.9, 2.0)])
@pytest.mark.parametrize("seed", [None, 2**100, [7, 8, 9]])
def test_predictions_and_seeds(prediction, seed, path):
    state = list(states_of(PLMS, NOISE, prediction=prediction, seed=seed))[3]
    state.save(path)
    assert same_state(State.load(path), state)


@pytest.mark.parametrize("shape", [(0, 3), (2, 0), (5,), (1, 2, 3, 4)])
def test_shapes(shape, path):
    for x in (np.full(shape, 0.5), torch.full(shape, 0.5, dtype=torch.bfloat16)):
        state = PLMS.start(x)
        state.save(path)
        assert same_state(State.load(path), state)


@pytest.mark.parametrize("dtype", ["float8_e4m3fn", "float8_e5m2"])
def test_eight_bits(dtype, path):
    narrow = torch.from_numpy(NOISE).to(getattr(torch, dtype))
    for x, like in ((narrow, None), (jnp.asarray(NOISE, dtype), jnp.zeros(1))):
        for state_dtype in (None, x.dtype):
            state = PLMS.start(x, state_dtype=state_dtype)
            state.save(path)
            assert same_state(State.load(path, like=like), state)


def test_odd_numbers_and_odd_strides(path):
    """NaN, infinity, −0 and the smallest number; arrays that do not lie in order; a parameter."""
    odd = np.array([[np.nan, -np.inf, -0.0], [5e-324, 1.0, 2.0]])
    for x in (odd, odd.T, odd[:, ::-1]):
        for convert in (np.asarray, lambda x: torch.nn.Parameter(torch.from_numpy(x.copy(order="K")))):
            with torch.no_grad():
                PLMS.start(convert(x)).save(path)
            assert np.asarray(State.load(path).x).tobytes() == x.tobytes()


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (2, 1, 4, 5), (1, 1, 4, 5), (2, 3, 1, 1), (1, 3, 1, 5)])
def test_how_an_array_lies_in_memory_is_kept(shape, path):
    """Since a network may round otherwise where it is asked with another memory format."""
    noise = torch.from_numpy(initial_noise(shape, seed=1))
    for x in (noise, noise.to(memory_format=torch.channels_last)):
        state = PLMS.advance(PLMS.start(x), x)
        state.save(path)
        assert State.load(path).x.stride() == state.x.stride() == x.stride()
    x = np.asfortranarray(noise)
    state = PLMS.advance(PLMS.start(x), x)
    state.save(path)
    assert State.load(path).x.flags.f_contiguous


def test_from_one_library_and_device_to_another(path):
    PLMS.start(torch.from_numpy(NOISE).bfloat16(), state_dtype=torch.bfloat16).save(path)
    assert State.load(path, like=jnp.zeros(1)).x.dtype == jnp.bfloat16
    assert State.load(path, device="meta").x.device.type == "meta"
    assert State.load(path, like=torch.empty(1, device="meta")).x.device.type == "meta"
    with pytest.raises(ValueError, match=r"numpy has no bfloat16 here; pass like="):
        State.load(path, like=np.zeros(1))
    elsewhere = array_api_strict.Device("device1")
    PLMS.start(array_api_strict.asarray(NOISE, device=elsewhere)).save(path)
    with pytest.raises(ValueError, match="it holds arrays of array_api_strict; pass like="):
        State.load(path)
    loaded = State.load(path, device=elsewhere, like=array_api_strict.zeros(1)).x
    assert loaded.device == elsewhere
    assert np.array_equal(np.from_dlpack(loaded, device="cpu"), NOISE)
    with pytest.raises(ValueError, match="jax_enable_x64"):
        State.load(path, like=jnp.zeros(1))


@pytest.mark.parametrize("like", [NOISE, torch.from_numpy(NOISE), jnp.asarray(NOISE), array_api_strict.asarray(NOISE)])
def test_a_device_that_is_not_there_is_no_fault_of_the_file(like, path):
    PLMS.start(NOISE.astype(np.float32)).save(path)
    for device in ("cuda:99", "nowhere", -5, object()):
        with pytest.raises(ValueError, match=r"^device is .*, which .* does not have here$"):
            State.load(path, device=device, like=like)


def test_another_reader_of_the_format_reads_it(path):
    """The package safetensors', and the digest as docs/checkpoints.md says it is made."""
    state = list(states_of(PNDMSolver(LINEAR).plan(5), torch.from_numpy(NOISE).bfloat16(), seed=1))[7]
    state.save(path)
    with safetensors.safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 — no mapping
    expected = {f"state.{i}": x for i, x in state.states.items()} | {f"answer.{j}": x for j, x in state.answers.items()}
    assert arrays.keys() == expected.keys()
    assert all(same(arrays[name], expected[name]) for name in expected)
    assert int.from_bytes(path.read_bytes()[:8], "little") % 8 == 0  # aligned
    digest = metadata["sha256"].encode()
    assert sha256(path.read_bytes().replace(digest, b"0" * 64)).hexdigest().encode() == digest


def test_another_writer_of_the_format_is_read(small, path):
    header, numbers = parts_of(small)
    metadata = header.pop("__metadata__")
    arrays = {name: np.frombuffer(numbers).reshape(entry["shape"]) for name, entry in header.items()}
    written = safetensors.numpy.save(arrays, metadata | {"sha256": "0" * 64})
    path.write_bytes(written.replace(b"0" * 64, sha256(written).hexdigest().encode()))
    loaded = State.load(path)
    assert same_state(loaded, State.load(path))


# ------------------------------------------------------------- what is not a state


def parts_of(raw):
    begin = 8 + int.from_bytes(raw[:8], "little")
    return json.loads(raw[8:begin]), raw[begin:]


def sealed(header, numbers):
    """A file with the right digest, whatever it says."""
    if isinstance(header, dict) and isinstance(header.get("__metadata__"), dict):
        header = header | {"__metadata__": {"sha256": "0" * 64} | header["__metadata__"] | {"sha256": "0" * 64}}
    text = json.dumps(header).encode()
    blank = len(text).to_bytes(8, "little") + text + numbers
    return blank.replace(b"0" * 64, sha256(blank).hexdigest().encode(), 1)


def refused(path, raw, match=None):
    path.write_bytes(raw)
    with pytest.raises(ValueError, match=match):
        State.load(path)


def test_a_file_cut_short_anywhere_is_refused(small, path):
    path.write_bytes(small)
    State.load(path)
    for length in range(len(small)):
        refused(path, small[:length], "cannot be loaded")
    refused(path, small + b"\0", "cannot be loaded")
    refused(path, b"", "it is empty")
    refused(path, small[:100], "ends after 100 bytes, within what would be its header")


@pytest.mark.parametrize("turned", [0x01, 0x20, 0x80])
def test_every_altered_byte_is_refused(turned, small, path):
    """One bit of each: also of the digest's own, of the padding, and from capital letters to small ones."""
    for position, byte in enumerate(small):
        altered = small[:position] + bytes([byte ^ turned]) + small[position + 1 :]
        refused(path, altered, "cannot be loaded")


def meanings():
    """Values of the metadata that mean something else, or nothing, each under a right digest."""
    yield "format", "pndm_solvers.state/2", "this version reads"
    yield "plan", "{}", "not the JSON of a plan"
    yield "plan", "[" * 100_000, None
    yield "plan", DDIMSolver(LINEAR).plan(3).to_json().replace('"noise": 0.0', '"noise": 1' + "0" * 400), None
    yield from (("row", row, "in a plan of") for row in ("-1", "3", "9" * 15))
    yield from (("row", row, None) for row in ("one", "1e0", ""))
    yield from (("row", row, "needs") for row in ("0", "2"))
    yield from (
        ("prediction", p, None) for p in ('"epsilon"', '{"type": "noise"}', "{}x", '{"clip": -1}', '{"a": 1}', "[]")
    )
    yield from (("seed", seed, None) for seed in ("-1", "0.5", '"a"', "[1, -2]", "{", '["a"]'))
    yield "library", "os", "pass like="
    yield from (("dtype", dtype, None) for dtype in ("int64", "float", "F64", ""))
    yield from (
        ("order", order, None)
        for order in ("[]", '{"state.0": [0, 1]}', '{"state.1": [0]}', '{"state.1": [0, 0]}', '{"state.1": 1}')
    )
    yield "row", 1, None


@pytest.mark.parametrize(("key", "value", "match"), list(meanings()))
def test_metadata_without_meaning_is_refused(small, key, value, match, path):
    header, numbers = parts_of(small)
    path.write_bytes(sealed(header, numbers))
    State.load(path)  # so that what is refused below is the value
    header["__metadata__"][key] = value
    refused(path, sealed(header, numbers), match)
    del header["__metadata__"][key]
    refused(path, sealed(header, numbers))


@pytest.mark.parametrize(
    "entry",
    [
        {"shape": [-1, 1]},
        {"shape": [-1, -1]},
        {"shape": [1.0, 1]},
        {"shape": "1"},
        {"shape": [True, 1]},
        {"shape": [2, 1]},
        {"shape": [0, 10**30]},
        {"shape": [10**10, 10**10]},
        {"shape": []},
        {"shape": "11"},
        {"dtype": "F32"},
        {"dtype": "I64"},
        {"dtype": ["F64"]},
        {"data_offsets": [0, 10**30]},
        {"data_offsets": [-8, 8]},
        {"data_offsets": [0]},
        {"data_offsets": None},
    ],
    ids=str,
)
@pytest.mark.parametrize("like", [np.zeros(1), torch.zeros(1)], ids=["numpy", "torch"])
def test_arrays_that_are_none_are_refused(small, entry, like, path):
    header, numbers = parts_of(small)
    header["state.1"] |= entry
    path.write_bytes(sealed(header, numbers))
    with pytest.raises(ValueError, match="cannot be loaded"):
        State.load(path, like=like)


@pytest.mark.parametrize("name", ["state.0", "state.2", "answer.0", "state", "state.1.0", "noise.0"])
def test_another_set_of_arrays_is_refused(small, name, path):
    header, numbers = parts_of(small)
    refused(path, sealed(header | {name: header["state.1"]}, numbers), "cannot be loaded")
    renamed = {name if key == "state.1" else key: value for key, value in header.items()}
    refused(path, sealed(renamed, numbers), "cannot be loaded")


@pytest.mark.parametrize(("dtype", "shape"), [("F64", [2, 3]), ("F64", [6]), ("F32", [4, 3]), ("F32", [3, 4])])
def test_arrays_that_do_not_match_are_refused(dtype, shape, path):
    """Of equal bytes; only an answer may have a dtype of its own."""
    list(states_of(PNDMSolver(LINEAR).plan(5), NOISE))[3].save(path)
    header, numbers = parts_of(path.read_bytes())
    assert sum(name.startswith("state") for name in header) > 1
    assert header["answer.0"]["shape"] == [3, 2]
    for name in ("state.3", "answer.0"):
        refused(
            path, sealed(header | {name: header[name] | {"dtype": dtype, "shape": shape}}, numbers), "differ in shape"
        )
    entry = {"dtype": "F32", "shape": [3, 2], "data_offsets": [0, 24]}
    refused(path, sealed(header | {"state.3": entry}, numbers), "states in dtype")
    path.write_bytes(sealed(header | {"answer.0": entry}, numbers))
    assert State.load(path).answers[0].dtype == np.float32


def test_a_stochastic_file_without_a_seed_is_refused(path):
    DDPM.start(NOISE, seed=1).save(path)
    header, numbers = parts_of(path.read_bytes())
    header["__metadata__"]["seed"] = "null"
    refused(path, sealed(header, numbers), "pass seed=")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_garbage_is_refused_or_taken_as_it_is(small, scratch, data):
    """Bytes; headers of any JSON; and a file one of whose values is any JSON, under a right digest."""
    header, numbers = parts_of(small)
    part, key, value = "__metadata__", "x_T", None
    match data.draw(st.sampled_from(["bytes", "header", "__metadata__", "state.1"])):
        case "bytes":
            made = data.draw(st.binary(max_size=200))
        case "header":
            made = sealed(data.draw(json_values), data.draw(st.binary(max_size=50)))
        case part:
            key, value = data.draw(st.sampled_from(sorted(header[part].keys() - {"sha256"}))), data.draw(json_values)
            header[part][key] = value = json.dumps(value) if data.draw(st.booleans()) else value
            made = sealed(header, numbers)
    scratch.write_bytes(made)
    try:
        loaded = State.load(scratch)
    except ValueError:
        return
    assert part == "__metadata__"
    loaded.save(scratch)
    written = parts_of(scratch.read_bytes())[0][part]
    assert key == "x_T" or json.loads(written[key]) == json.loads(value)


def test_nothing_in_a_file_is_imported_or_executed(small, path):
    """By the interpreter's own audit."""
    header, numbers = parts_of(small)
    header["__metadata__"]["library"] = "this"
    path.write_bytes(sealed(header, numbers))
    code = """
import sys, pndm_solvers, numpy.random
from pndm_solvers import checkpoint
from pathlib import Path
path, seen = Path(sys.argv[1]), []
sys.addaudithook(lambda event, args: event in ("import", "exec", "compile", "os.system") and seen.append((event, args)))
for like in (None, numpy.zeros(1)):
    try:
        pndm_solvers.State.load(path, like=like)
    except ValueError as error:
        pass
print(seen)
"""
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# ---------------------------------------------------------------- what is not saved


def test_noise_that_a_file_cannot_repeat_is_refused(path):
    for options in ({}, {"generator": np.random.default_rng(0)}):
        *_, before_last, last = states_of(DDPM, NOISE, **options)
        with pytest.raises(ValueError, match="pass seed="):
            DDPM.start(NOISE, **options).save(path)
        with pytest.raises(ValueError, match="pass seed="):
            DDPM.run(lambda x, t: 1 / 0, NOISE, checkpoint=path, **options)
        assert not path.exists()
        assert not DDPM.rows[-1].noise
        before_last.save(path)  # nothing is drawn from here on
        assert same(finish(State.load(path)), last.x)
        path.unlink()
    PLMS.run(model, NOISE, generator=np.random.default_rng(0), checkpoint=path)


def test_dtypes_that_the_format_lacks_are_refused(path):
    with pytest.raises(ValueError, match=r"state of dtype >f8 cannot be saved; a file holds float64, float32"):
        PLMS.start(NOISE.astype(">f8")).save(path)


# --------------------------------------------------------------------- checkpoint=


class Interrupted(BaseException):
    pass


def interrupted_after(calls, error=Interrupted):
    left = [calls]

    def limited(x, t):
        left[0] -= 1
        if left[0] < 0:
            raise error
        return model(x, t)

    return limited


@pytest.mark.parametrize("name", LIBRARIES)
@pytest.mark.parametrize("solver", [PNDMSolver(LINEAR), PLMSSolver(LINEAR), DDPMSolver(LINEAR)], ids=named)
def test_a_run_interrupted_at_any_row_goes_on(name, solver, path):
    x, _ = begin(name, "float32")
    plan = solver.plan(5)
    whole = plan.run(model, x, seed=4)
    for calls in range(plan.model_calls):
        with pytest.raises(KeyboardInterrupt):
            plan.run(interrupted_after(calls, KeyboardInterrupt), x, seed=4, checkpoint=path)
        rest = plan.model_calls - calls
        assert same(plan.run(interrupted_after(rest), x, seed=4, checkpoint=path), whole)
        assert same(plan.run(interrupted_after(0), x, seed=4, checkpoint=path), whole)
        assert os.listdir(path.parent) == [path.name]
        path.unlink()


def test_sample_takes_it_too(path, capsys):
    solver = PLMSSolver(LINEAR)
    seen = []
    with pytest.raises(Interrupted):
        solver.sample(interrupted_after(4), NOISE, 6, checkpoint=str(path))
    sample = solver.sample(model, NOISE, 6, checkpoint=str(path), callback=seen.append, progress=True)
    assert same(sample, solver.sample(model, NOISE, 6))
    assert [step.row for step in seen] == [4, 5]
    assert "6/6" in capsys.readouterr().err


def test_half_precision_and_state_dtype(path):
    x = torch.from_numpy(NOISE).half()
    for options in ({}, {"state_dtype": torch.float16}, {"state_dtype": torch.float64}):
        with pytest.raises(Interrupted):
            PLMS.run(interrupted_after(3), x, checkpoint=path, **options)
        assert same(PLMS.run(model, x, checkpoint=path, **options), PLMS.run(model, x, **options))
        path.unlink()


OTHER_RUNS = {
    "plan": {"plan": PLMSSolver(LINEAR).plan(7)},
    "x_T": {"x": -NOISE},
    "shape": {"x": NOISE[:2]},
    "dtype": {"x": NOISE.astype(np.float32)},
    "state_dtype": {"state_dtype": np.float32},
    "seed": {"seed": 2},
    "prediction": {"prediction": Prediction(clip=1.0)},
    "library": {"x": torch.from_numpy(NOISE)},
}


@pytest.mark.parametrize("what", OTHER_RUNS)
def test_a_checkpoint_of_another_run_is_refused(what, path):
    run = {"plan": PLMS, "x": NOISE, "seed": 1}
    run.pop("plan").run(model, checkpoint=path, **run)
    before = path.read_bytes()
    other = {"plan": PLMS, "x": NOISE, "seed": 1} | OTHER_RUNS[what]
    with pytest.raises(ValueError, match=rf"of another run, which differs in .*\b{what} \(.*, not .*another path"):
        other.pop("plan").run(interrupted_after(0), checkpoint=path, **other)
    assert path.read_bytes() == before


def test_numbers_of_another_kind_are_not_said_to_be_others(path):
    """Their digests differ of themselves, which tells nobody anything."""
    PLMS.run(model, NOISE, checkpoint=path)
    with pytest.raises(ValueError, match=r"differs in state_dtype \([^,]*, not [^,]*\); to go on"):
        PLMS.run(model, NOISE, checkpoint=path, state_dtype=np.float32)


def test_a_state_that_was_saved_is_no_checkpoint_and_a_damaged_one_is_refused(path):
    PLMS.start(NOISE).save(path)
    with pytest.raises(ValueError, match=r"x_T \('not recorded', not "):
        PLMS.run(interrupted_after(0), NOISE, checkpoint=path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match="delete it and begin anew"):
        PLMS.run(interrupted_after(0), NOISE, checkpoint=path)


def test_a_plan_of_another_name_is_the_same_run(path):
    PLMS.run(model, NOISE, checkpoint=path)
    renamed = type(PLMS)(PLMS.rows, PLMS.end, PLMS.integer_times, "another name")
    renamed.run(interrupted_after(0), NOISE, checkpoint=path)


def test_states_that_are_not_finite_are_kept_out(path):
    def overflowing(x, t):
        return model(x, t) * np.where(t[:, None] < 300, np.inf, 1)

    with pytest.raises(FloatingPointError):
        PLMS.run(overflowing, NOISE, checkpoint=path, check_finite=True)
    assert np.isfinite(State.load(path).x).all()
    assert same(PLMS.run(model, NOISE, checkpoint=path, check_finite=True), PLMS.run(model, NOISE))


@pytest.mark.parametrize("check_finite", [False, None])
def test_numbers_that_are_not_finite_are_written_only_where_nobody_looks(check_finite, path):
    """So that a run goes on from what is whole, once its network is mended; a file that holds others says so."""

    def overflowing(x, t):
        return model(x, t) * np.where(t[:, None] < 300, np.nan, 1)

    with pytest.raises(FloatingPointError) if check_finite is not None else nullcontext():
        PLMS.run(overflowing, NOISE, checkpoint=path, check_finite=check_finite)
    assert np.isfinite(State.load(path).x).all() == (check_finite is not None)
    if check_finite is not None:
        assert same(PLMS.run(model, NOISE, checkpoint=path), PLMS.run(model, NOISE))
        return
    for again in (False, True):
        with pytest.raises(FloatingPointError, match=rf"{path}' holds numbers .* at row 6; delete the file"):
            PLMS.run(interrupted_after(0), NOISE, checkpoint=path, check_finite=again)
    assert np.isnan(PLMS.run(interrupted_after(0), NOISE, checkpoint=path, check_finite=None)).all()


def test_an_x_that_is_not_finite_makes_no_file(path):
    with pytest.raises(FloatingPointError, match="x is not finite as it is handed in"):
        PLMS.run(interrupted_after(0), NOISE * np.nan, checkpoint=path)
    assert not path.exists()


def test_gradients_are_not_cut_in_silence(path):
    """By x_T, or by the network's weights: what a file cannot hold it is not handed."""
    x, layer = torch.from_numpy(NOISE), torch.nn.Linear(2, 2, dtype=torch.float64)

    def network(x, t):
        return layer(x)

    with pytest.raises(ValueError, match=r"run it in torch\.no_grad"):
        PLMS.run(interrupted_after(0), x.clone().requires_grad_(), checkpoint=path)
    assert not path.exists()
    with pytest.raises(ValueError, match="torch records this run for gradients"):
        PLMS.run(network, x, checkpoint=path)
    assert State.load(path).row == 0
    state = PLMS.start(x)
    with pytest.raises(ValueError, match="torch records"):
        PLMS.advance(state, network(state.x, state.t)).save(path)
    with pytest.raises(Interrupted):
        PLMS.run(interrupted_after(3), x, checkpoint=path)
    for made in (3, 6):  # from a file, too, whatever is in it
        assert State.load(path).row == made
        with pytest.raises(ValueError, match="torch records"):
            PLMS.run(model, x.clone().requires_grad_(), checkpoint=path)
        PLMS.run(model, x, checkpoint=path)
    path.unlink()
    with torch.no_grad():
        assert same(PLMS.run(network, x, checkpoint=path), PLMS.run(network, x))


def test_a_default_device_of_torch_is_no_fault_of_the_file(path):
    x = torch.from_numpy(NOISE)
    PLMS.run(model, x, checkpoint=path)
    torch.set_default_device("meta")
    try:
        assert same(State.load(path, device="cpu").x, PLMS.run(model, x))
        assert same(PLMS.run(interrupted_after(0), x, checkpoint=path), PLMS.run(model, x))
    finally:
        torch.set_default_device(None)


SPREAD = """
import sys, numpy, jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from pndm_solvers import NoiseSchedule, PLMSSolver
mesh = Mesh(numpy.array(jax.devices()), ("batch",))
x = jax.device_put(numpy.ones((4, 2), numpy.float32), NamedSharding(mesh, PartitionSpec("batch", None)))
plan = PLMSSolver(NoiseSchedule.linear()).plan(5)
once = plan.run(lambda x, t: 0.5 * x, x, checkpoint=sys.argv[1])
again = plan.run(lambda x, t: 1 / 0, x, checkpoint=sys.argv[1])
assert len(again.devices()) == 2 and (once == again).all()
"""


def test_a_batch_that_is_spread_over_devices(path):
    """By JAX, over two that it makes of the processor."""
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=2", "JAX_PLATFORMS": "cpu"}
    subprocess.run([sys.executable, "-c", SPREAD, path], env=environment, check=True)


@pytest.mark.parametrize("transform", [jax.jit, lambda f: jax.grad(lambda x: f(x).sum())])
def test_what_has_no_numbers_yet_is_not_saved(transform, path):
    with pytest.raises(ValueError, match=r"save outside of jax\.jit and jax\.grad"):
        transform(lambda x: PLMS.run(model, x, checkpoint=path))(jnp.asarray(NOISE))


def test_a_trajectory_is_refused(path):
    with pytest.raises(ValueError, match="checkpoint= or trajectory=, not both"):
        PLMS.run(interrupted_after(0), NOISE, checkpoint=path, trajectory=True)


# --------------------------------------------------------------------------- files


def test_what_is_no_path_is_refused():
    for wrong, error in ((5, TypeError), (b"run", TypeError), (True, TypeError), ("", ValueError)):
        with pytest.raises(error, match=r"checkpoint is .*the path of a file"):
            PLMS.run(interrupted_after(0), NOISE, checkpoint=wrong)
        with pytest.raises(error, match=r"path is .*the path of a file"):
            PLMS.start(NOISE).save(wrong)
        with pytest.raises(error, match=r"path is .*the path of a file"):
            State.load(wrong)


def test_the_folder_of_the_user(path, monkeypatch):
    monkeypatch.setenv("HOME", str(path.parent))
    PLMS.run(model, NOISE, checkpoint=f"~/{path.name}")
    assert State.load(f"~/{path.name}").done
    assert path.exists()


def test_paths_that_cannot_be_written_are_errors_before_the_first_call(tmp_path):
    (tmp_path / "file").touch()
    for path, kind in (
        (tmp_path / "missing" / "run", FileNotFoundError),
        (tmp_path, IsADirectoryError),
        (tmp_path / "file" / "run", NotADirectoryError),
    ):
        with pytest.raises(kind, match=f"in a folder that exists.*{path}"):
            PLMS.run(interrupted_after(0), NOISE, checkpoint=path)
        with pytest.raises(kind, match=f"in a folder that exists.*{path}"):
            PLMS.start(NOISE).save(path)
        with pytest.raises(kind, match=f"in a folder that exists.*{path}"):
            State.load(path)
    assert os.listdir(tmp_path) == ["file"]


def test_no_permission_is_an_error_before_the_first_call(tmp_path):
    tmp_path.chmod(0o500)
    user = os.geteuid()
    try:
        if user == 0:  # who may write everywhere; nobody may not
            os.seteuid(65534)
        with pytest.raises(PermissionError, match="that may be written"):
            PLMS.run(interrupted_after(0), NOISE, checkpoint=tmp_path / "run")
    finally:
        os.seteuid(user)
        tmp_path.chmod(0o700)
    assert os.listdir(tmp_path) == []


def test_a_write_that_fails_leaves_what_was_there_and_no_litter(path):
    """A file of at most so many bytes, as on a full disk: for real, in the middle of the second write."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    x = np.zeros((2000, 1))
    first, second, *_ = states_of(PLMS, x, seed=1)
    first.save(path)
    before = path.read_bytes()
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before), limits[1]))
    try:
        with pytest.raises(OSError, match="with room"):
            second.save(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


def test_an_interruption_of_a_write_leaves_what_was_there_and_no_litter(path, monkeypatch):
    first, second, *_ = states_of(PLMS, NOISE)
    first.save(path)
    for function in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, function, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                second.save(path)
        assert same_state(State.load(path), first)
        assert os.listdir(path.parent) == [path.name]


def test_a_name_as_long_as_names_may_be(tmp_path):
    PLMS.start(NOISE).save(tmp_path / ("x" * 255))
    assert os.listdir(tmp_path) == ["x" * 255]


def test_a_run_that_changes_its_folder_keeps_its_file(tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)

    def wandering(x, t):
        os.chdir(tmp_path / "elsewhere")
        return model(x, t)

    PLMS.run(wandering, NOISE, checkpoint="run")
    assert State.load(tmp_path / "run").done
    assert os.listdir(tmp_path / "elsewhere") == []


def test_a_pipe_is_not_waited_for(path):
    os.mkfifo(path)
    with pytest.raises(OSError, match="a state is one file"):
        PLMS.run(interrupted_after(0), NOISE, checkpoint=path)


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    link, target = tmp_path / "run", tmp_path / "elsewhere" / "run"
    link.symlink_to(target)
    PLMS.start(NOISE).save(link)
    assert link.is_symlink()
    assert same_state(State.load(link), State.load(target))


KILLED = """
import os, sys, time
import numpy as np
from pndm_solvers import DDPMSolver, NoiseSchedule, initial_noise
path, place, number = sys.argv[1], sys.argv[2], int(sys.argv[3])

def hang_at(name, function):
    calls = []
    def instead(*arguments):
        calls.append(name)
        if name == place and len(calls) == number:
            print("here", flush=True)
            time.sleep(600)
        return function(*arguments)
    return instead

os.fsync, os.replace = hang_at("fsync", os.fsync), hang_at("replace", os.replace)
model = hang_at("model", lambda x, t: x / (1 + x * x) + t[:, None] / 1000)
plan = DDPMSolver(NoiseSchedule.linear()).plan(6, spacing="trailing")
plan.run(model, initial_noise((3, 2), seed=0), seed=9, checkpoint=path)
"""


@pytest.mark.parametrize(("place", "number", "row"), [("model", 3, 2), ("fsync", 4, 2), ("replace", 1, None)])
def test_a_killed_run_goes_on(place, number, row, path):
    """SIGKILL within a model call, within a write, and within the first write of all."""
    arguments = [sys.executable, "-c", KILLED, path, place, str(number)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout.readline() == "here\n"
        run.kill()
    assert path.exists() == (row is not None)
    if row is not None:
        assert State.load(path).row == row
    rest = DDPM.model_calls - (row or 0)
    sample = DDPM.run(interrupted_after(rest), NOISE, seed=9, checkpoint=path)
    assert same(sample, DDPM.run(model, NOISE, seed=9))
