"""A saved state comes back to the last bit: every library, dtype, shape and memory order, prediction and seed."""

from hashlib import sha256

import array_api_strict
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
import torch
from array_libraries import LIBRARIES, same
from conftest import all_solvers, named
from runs import LINEAR, ONE_OF_EACH_KIND, START, finish, smooth, states_of
from state_files import parts_of, same_state, small_file

from pndm_solvers import DDPMSolver, PLMSSolver, PNDMSolver, Prediction, State, initial_noise

PLMS = PLMSSolver(LINEAR).plan(6)
DDPM = DDPMSolver(LINEAR).plan(6, spacing="trailing")
DTYPES = [
    pytest.param(library, dtype, id=f"{library.name} {dtype}")
    for library in LIBRARIES
    for dtype in (*library.dtypes, *library.eight_bits)
]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.safetensors"


@pytest.mark.parametrize(("library", "dtype"), DTYPES)
def test_every_library_and_dtype_comes_back_to_the_last_bit(library, dtype, path):
    x = library.array(START, dtype)
    if dtype in library.eight_bits:  # which the model cannot compute with
        states = [PLMS.start(x, state_dtype=state_dtype) for state_dtype in (None, x.dtype)]
    else:
        states = [state for plan in (PLMS, DDPM) for state in states_of(plan, x, seed=5)]
    for state in states:
        state.save(path)
        assert same_state(State.load(path, like=library.like), state)


def test_every_row_of_every_solver_comes_back_and_goes_on(path):
    for solver in all_solvers(LINEAR):
        *states, last = states_of(solver.plan(4), START, seed=(1, 2, 3, 4))
        for state in (*states, last):
            state.save(path)
            assert same_state(State.load(path), state), solver.name
        states[len(states) // 2].save(path)
        assert same(finish(State.load(path)), last.x), solver.name


@pytest.mark.parametrize("library", LIBRARIES, ids=named)
def test_a_loaded_state_goes_on_in_every_library(library, path):
    for solver in ONE_OF_EACH_KIND:
        *states, last = states_of(solver.plan(5), library.array(START), seed=5)
        states[3].save(path)
        assert same(finish(State.load(path, like=library.like)), last.x)


def test_predictions_and_seeds_come_back(path):
    for prediction in (Prediction("v_prediction", 1.5), Prediction("flow", 1, 0.9, 2.0)):
        for seed in (None, 2**100, [6, 7, 8, 9]):
            state = states_of(PLMS, START, prediction=prediction, seed=seed)[3]
            state.save(path)
            assert same_state(State.load(path), state)


def test_every_shape_comes_back(path):
    for library in LIBRARIES:
        for shape in ((0, 3), (2, 0), (5,), (1, 2, 3, 4)):
            state = PLMS.start(library.array(np.full(shape, 0.5)))
            state.save(path)
            assert same_state(State.load(path, like=library.like), state)


def test_odd_numbers_in_odd_strides_come_back(path):
    """NaN, infinity, −0 and the smallest number, in arrays that do not lie in order, and in a parameter."""
    odd = np.array([[np.nan, -np.inf, -0.0], [5e-324, 1.0, 2.0]])
    for x in (odd, odd.T, odd[:, ::-1]):
        for convert in (np.asarray, lambda x: torch.nn.Parameter(torch.from_numpy(x.copy(order="K")))):
            with torch.no_grad():
                PLMS.start(convert(x)).save(path)
            assert np.asarray(State.load(path).x).tobytes() == x.tobytes()


def test_the_order_of_an_array_in_memory_is_kept(path):
    """A network may round otherwise in another memory format."""
    for shape in ((2, 3, 4, 5), (2, 1, 4, 5), (1, 1, 4, 5), (2, 3, 1, 1), (1, 3, 1, 5)):
        noise = torch.from_numpy(initial_noise(shape, seed=1))
        for x in (noise, noise.to(memory_format=torch.channels_last)):
            state = PLMS.advance(PLMS.start(x), x)
            state.save(path)
            assert State.load(path).x.stride() == state.x.stride() == x.stride()
        x = np.asfortranarray(noise)
        PLMS.advance(PLMS.start(x), x).save(path)
        assert State.load(path).x.flags.f_contiguous


def test_a_state_moves_from_one_library_and_device_to_another(path):
    PLMS.start(torch.from_numpy(START).bfloat16(), state_dtype=torch.bfloat16).save(path)
    assert State.load(path, like=jnp.zeros(1)).x.dtype == jnp.bfloat16
    assert State.load(path, device="meta").x.device.type == "meta"
    assert State.load(path, like=torch.empty(1, device="meta")).x.device.type == "meta"
    with pytest.raises(ValueError, match=r"numpy has no bfloat16 here; pass like="):
        State.load(path, like=np.zeros(1))
    # NumPy reads arrays of other devices from version 2 on.
    elsewhere = array_api_strict.Device("device1" if hasattr(START, "__array_namespace__") else "CPU_DEVICE")
    PLMS.start(array_api_strict.asarray(START, device=elsewhere)).save(path)
    with pytest.raises(ValueError, match="it holds arrays of array_api_strict; pass like="):
        State.load(path)
    loaded = State.load(path, device=elsewhere, like=array_api_strict.zeros(1)).x
    assert loaded.device == elsewhere
    back = array_api_strict.asarray(loaded, device=array_api_strict.Device("CPU_DEVICE"), copy=True)
    assert np.array_equal(np.asarray(back), START)
    with pytest.raises(ValueError, match="jax_enable_x64"):
        State.load(path, like=jnp.zeros(1))


def test_a_device_that_is_not_there_is_not_blamed_on_the_file(path):
    PLMS.start(START.astype(np.float32)).save(path)
    for library in LIBRARIES:
        for device in ("cuda:99", "nowhere", -5, object()):
            with pytest.raises(ValueError, match=r"^device is .*, which .* does not have here$"):
                State.load(path, device=device, like=library.array([0.0]))


def test_a_default_device_of_torch_is_not_blamed_on_the_file(path):
    x = torch.from_numpy(START)
    PLMS.run(smooth, x, checkpoint=path)
    torch.set_default_device("meta")
    try:
        assert same(State.load(path, device="cpu").x, PLMS.run(smooth, x))
        assert same(PLMS.run(smooth, x, checkpoint=path), PLMS.run(smooth, x))
    finally:
        torch.set_default_device(None)


def test_another_reader_of_the_format_reads_it(path):
    """The reader is the package safetensors; the digest is that of docs/reference/checkpoint-format.md."""
    state = states_of(PNDMSolver(LINEAR).plan(5), torch.from_numpy(START).bfloat16(), seed=1)[7]
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


def test_another_writer_of_the_format_is_read(path):
    path.write_bytes(small_file())
    expected = State.load(path)
    header, numbers = parts_of(small_file())
    metadata = header.pop("__metadata__")
    arrays = {name: np.frombuffer(numbers).reshape(entry["shape"]) for name, entry in header.items()}
    written = safetensors.numpy.save(arrays, metadata | {"sha256": "0" * 64})
    path.write_bytes(written.replace(b"0" * 64, sha256(written).hexdigest().encode()))
    assert same_state(State.load(path), expected)


# ---------------------------------------------------------------- what is not saved


def test_noise_that_a_file_cannot_repeat_is_refused(path):
    for options in ({}, {"generator": np.random.default_rng(0)}):
        *_, before_last, last = states_of(DDPM, START, **options)
        with pytest.raises(ValueError, match="pass seed="):
            DDPM.start(START, **options).save(path)
        with pytest.raises(ValueError, match="pass seed="):
            DDPM.run(lambda x, t: 1 / 0, START, checkpoint=path, **options)
        assert not path.exists()
        assert not DDPM.rows[-1].noise
        before_last.save(path)  # nothing is drawn from here on
        assert same(finish(State.load(path)), last.x)
        path.unlink()
    PLMS.run(smooth, START, generator=np.random.default_rng(0), checkpoint=path)


def test_dtypes_that_the_format_lacks_are_refused(path):
    with pytest.raises(ValueError, match=r"checkpoint cannot hold an array of dtype >f8, only float64, float32"):
        PLMS.start(START.astype(">f8")).save(path)


def test_what_has_no_numbers_yet_is_not_saved(path):
    for transform in (jax.jit, lambda f: jax.grad(lambda x: f(x).sum())):
        with pytest.raises(ValueError, match=r"save outside of jax\.jit and jax\.grad"):
            transform(lambda x: PLMS.run(smooth, x, checkpoint=path))(jnp.asarray(START))
    with pytest.raises(ValueError, match="meta device has no numbers to save"):
        PLMS.start(torch.empty(2, 3, device="meta")).save(path)
    assert not path.exists()
