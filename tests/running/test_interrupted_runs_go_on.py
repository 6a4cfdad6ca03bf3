"""A run with `checkpoint=` that is interrupted at any moment ends, when it is called again, with the same bits."""

import os
import subprocess
import sys
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from array_libraries import LIBRARIES, same
from conftest import named
from runs import LINEAR, ONE_OF_EACH_KIND, START, Interrupted, interrupted_after, smooth

from pndm_solvers import DDPMSolver, Plan, PLMSSolver, Prediction, State

PLMS = PLMSSolver(LINEAR).plan(6)
DDPM = DDPMSolver(LINEAR).plan(6, spacing="trailing")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.safetensors"


@pytest.mark.parametrize("library", LIBRARIES, ids=named)
def test_a_run_interrupted_at_any_row_goes_on(library, path):
    x = library.array(START)
    for solver in ONE_OF_EACH_KIND:
        plan = solver.plan(5)
        whole = plan.run(smooth, x, seed=4)
        for calls in range(plan.model_calls):
            with pytest.raises(KeyboardInterrupt):
                plan.run(interrupted_after(calls, KeyboardInterrupt), x, seed=4, checkpoint=path)
            rest = plan.model_calls - calls
            assert same(plan.run(interrupted_after(rest), x, seed=4, checkpoint=path), whole)
            assert same(plan.run(interrupted_after(0), x, seed=4, checkpoint=path), whole)
            assert os.listdir(path.parent) == [path.name]
            path.unlink()


def test_sample_takes_a_checkpoint_and_shows_the_calls_that_are_left(path, capsys):
    solver, seen = PLMSSolver(LINEAR), []
    with pytest.raises(Interrupted):
        solver.sample(interrupted_after(4), START, 6, checkpoint=str(path))
    sample = solver.sample(smooth, START, 6, checkpoint=str(path), callback=seen.append, progress=True)
    assert same(sample, solver.sample(smooth, START, 6))
    assert [step.row for step in seen] == [4, 5]
    assert "6/6" in capsys.readouterr().err


def test_half_precision_and_the_dtype_of_states_survive(path):
    x = torch.from_numpy(START).half()
    for options in ({}, {"state_dtype": torch.float16}, {"state_dtype": torch.float64}):
        with pytest.raises(Interrupted):
            PLMS.run(interrupted_after(3), x, checkpoint=path, **options)
        assert same(PLMS.run(smooth, x, checkpoint=path, **options), PLMS.run(smooth, x, **options))
        path.unlink()


def test_a_checkpoint_of_another_run_is_refused_and_kept(path):
    """The message names what differs."""
    run = {"plan": PLMS, "x": START, "seed": 1}

    def call(model, *, plan, **options):
        plan.run(model, checkpoint=path, **options)

    call(smooth, **run)
    before = path.read_bytes()
    for what, other in {
        "plan": {"plan": PLMSSolver(LINEAR).plan(7)},
        "x_T": {"x": -START},
        "shape": {"x": START[:2]},
        "dtype": {"x": START.astype(np.float32)},
        "state_dtype": {"state_dtype": np.float32},
        "seed": {"seed": 2},
        "prediction": {"prediction": Prediction(clip=1.0)},
        "library": {"x": torch.from_numpy(START)},
    }.items():
        with pytest.raises(ValueError, match=rf"of another run, which differs in .*\b{what} \(.*, not .*another path"):
            call(interrupted_after(0), **run | other)
        assert path.read_bytes() == before


def test_the_digests_of_numbers_of_another_kind_are_not_compared(path):
    """They differ of themselves, which tells nobody anything."""
    PLMS.run(smooth, START, checkpoint=path)
    with pytest.raises(ValueError, match=r"differs in state_dtype \([^,]*, not [^,]*\); to go on"):
        PLMS.run(smooth, START, checkpoint=path, state_dtype=np.float32)


def test_a_saved_state_is_no_checkpoint_and_a_damaged_one_is_refused(path):
    PLMS.start(START).save(path)
    with pytest.raises(ValueError, match=r"x_T \('not recorded', not "):
        PLMS.run(interrupted_after(0), START, checkpoint=path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match="delete it and begin anew"):
        PLMS.run(interrupted_after(0), START, checkpoint=path)


def test_a_plan_of_another_name_is_the_same_run(path):
    PLMS.run(smooth, START, checkpoint=path)
    renamed = Plan(PLMS.rows, PLMS.end, PLMS.integer_times, "another name")
    renamed.run(interrupted_after(0), START, checkpoint=path)


# --------------------------------------------------------- numbers that are not finite


@pytest.mark.parametrize("check_finite", [True, False, None])
def test_numbers_that_are_not_finite_are_written_only_where_nobody_looks(check_finite, path):
    """So a run goes on from finite numbers once its network is mended, and a file of others is refused."""

    def overflowing(x, t):
        return smooth(x, t) * np.where(t[:, None] < 300, np.nan, 1)

    with pytest.raises(FloatingPointError) if check_finite is not None else nullcontext():
        PLMS.run(overflowing, START, checkpoint=path, check_finite=check_finite)
    assert np.isfinite(State.load(path).x).all() == (check_finite is not None)
    if check_finite is not None:
        sample = PLMS.run(smooth, START, checkpoint=path, check_finite=check_finite)
        assert same(sample, PLMS.run(smooth, START))
        return
    for again in (False, True):
        with pytest.raises(FloatingPointError, match=rf"{path}' holds numbers .* at row 6; delete the file"):
            PLMS.run(interrupted_after(0), START, checkpoint=path, check_finite=again)
    assert np.isnan(PLMS.run(interrupted_after(0), START, checkpoint=path, check_finite=None)).all()


def test_an_x_that_is_not_finite_makes_no_file(path):
    with pytest.raises(FloatingPointError, match="the state x is not finite at the start"):
        PLMS.run(interrupted_after(0), START * np.nan, checkpoint=path)
    assert not path.exists()


# --------------------------------------------------------- what a file cannot hold


def test_gradients_are_not_cut_in_silence(path):
    """A run that torch records, by x_T or by the network's weights, is refused: a file cannot hold its gradients."""
    x, layer = torch.from_numpy(START), torch.nn.Linear(3, 3, dtype=torch.float64)

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
    for made in (3, 6):  # a run that goes on from a file is refused too, whatever the file holds
        assert State.load(path).row == made
        with pytest.raises(ValueError, match="torch records"):
            PLMS.run(smooth, x.clone().requires_grad_(), checkpoint=path)
        PLMS.run(smooth, x, checkpoint=path)
    path.unlink()
    with torch.no_grad():
        assert same(PLMS.run(network, x, checkpoint=path), PLMS.run(network, x))


def test_a_trajectory_is_refused(path):
    with pytest.raises(ValueError, match="checkpoint= or trajectory=, not both"):
        PLMS.run(interrupted_after(0), START, checkpoint=path, trajectory=True)


# --------------------------------------------------------- other processes

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


def test_a_batch_that_is_spread_over_devices_comes_back_spread(path):
    """JAX makes two devices of the processor."""
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=2", "JAX_PLATFORMS": "cpu"}
    subprocess.run([sys.executable, "-c", SPREAD, path], env=environment, check=True)


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
model = hang_at("model", lambda x, t: x / (1 + x * x) + x**0 * t.astype(x.dtype)[:, None] / 1000)
plan = DDPMSolver(NoiseSchedule.linear()).plan(6, spacing="trailing")
plan.run(model, initial_noise((4, 3), seed=0), seed=9, checkpoint=path)
"""


@pytest.mark.parametrize(("place", "number", "row"), [("model", 3, 2), ("fsync", 4, 2), ("replace", 1, None)])
def test_a_killed_run_goes_on(place, number, row, path):
    """SIGKILL falls within a model call, within a write, and within the first write of all."""
    arguments = [sys.executable, "-c", KILLED, path, place, str(number)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout.readline() == "here\n"
        run.kill()
    assert path.exists() == (row is not None)
    if row is not None:
        assert State.load(path).row == row
    rest = DDPM.model_calls - (row or 0)
    sample = DDPM.run(interrupted_after(rest), START, seed=9, checkpoint=path)
    assert same(sample, DDPM.run(smooth, START, seed=9))
