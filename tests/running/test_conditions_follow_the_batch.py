"""A condition is cut, joined, saved and resumed with the samples that it belongs to."""

import numpy as np
import pytest
import torch
from array_libraries import LIBRARIES, same
from conftest import named
from runs import LINEAR, ONE_OF_EACH_KIND, START, Interrupted

from pndm_solvers import PLMSSolver, State, advance_together
from pndm_solvers.arrays import library as of

PLMS = PLMSSolver(LINEAR).plan(6)
SHIFT = np.arange(12.0).reshape(4, 3) / 12
LABEL = np.array([3, 0, 1, 2])


def shifted(x, t, shift, label):
    """A network of its condition: each sample's answer depends on its own rows alone."""
    assert x.shape[0] == shift.shape[0] == label.shape[0]
    # Written so that every library promotes integers to floating numbers in its own way.
    return x * 0.5 + shift + x * 0 + (shift * 0 + 1) * _column(label, x)


def _column(label, x):
    return of(x).cast(label, x.dtype)[:, None]


def condition(library, rows=slice(None)):
    label = library.namespace.asarray(LABEL[rows], dtype=library.dtype(library.integer))
    return {"shift": library.array(SHIFT[rows]), "label": label}


@pytest.mark.parametrize("library", LIBRARIES, ids=named)
def test_a_conditional_run_is_that_of_a_model_bound_to_its_condition(library):
    x, given = library.array(START), condition(library)
    for solver in ONE_OF_EACH_KIND:
        plan = solver.plan(5)
        bound = plan.run(lambda x, t: shifted(x, t, **given), x, seed=1)
        assert same(plan.run(shifted, x, seed=1, condition=given), bound), solver.name
        state = plan.start(x, seed=1, condition=given)
        while not state.done:
            state = plan.advance(state, shifted(state.x, state.t, **state.condition))
        assert same(state.x, bound), solver.name


@pytest.mark.parametrize("library", LIBRARIES, ids=named)
def test_runs_with_conditions_share_calls(library):
    x = library.array(START)
    parts = [slice(0, 1), slice(1, 4), slice(2, 3)]
    states = [PLMS.start(x[part, ...], condition=condition(library, part)) for part in parts]
    while not all(state.done for state in states):
        states = advance_together(shifted, states)
    for part, state in zip(parts, states, strict=True):
        assert same(state.x, PLMS.run(shifted, x[part, ...], condition=condition(library, part)))


def test_a_pilot_takes_the_rows_of_its_samples():
    x, rows = np.tile(START, (6, 1)), np.arange(24) % 4
    given, seen = {"shift": SHIFT[rows], "label": LABEL[rows]}, []

    def model(x, t, shift, label):
        seen.append(len(x))
        return shifted(x, t, shift, label)

    solver = PLMSSolver(LINEAR)
    sample = solver.sample(model, x, tolerance=1.0, condition=given)
    assert set(seen) == {8, 24}
    pilot = solver.plan_within(1.0, model, x[:8], condition={name: value[:8] for name, value in given.items()})
    assert same(sample, pilot.run(model, x, condition=given))


@pytest.mark.parametrize("library", LIBRARIES, ids=named)
def test_a_saved_state_holds_its_condition(library, tmp_path):
    path = tmp_path / "state.safetensors"
    state = PLMS.start(library.array(START), condition=condition(library))
    state.save(path)
    found = State.load(path, like=library.like)
    assert all(same(found.condition[name], value) for name, value in state.condition.items())
    assert same(*(advance_together(shifted, [s])[0].x for s in (state, found)))


def test_a_mask_survives_a_file(tmp_path):
    for like in (np.zeros(1), torch.zeros(1)):
        x = like.reshape(1, 1) + 1
        state = PLMS.start(x, condition={"mask": x > 0})
        state.save(tmp_path / "state.safetensors")
        assert same(State.load(tmp_path / "state.safetensors").condition["mask"], x > 0)


def test_an_interrupted_run_goes_on_with_the_same_condition_alone(tmp_path):
    path, given = tmp_path / "run.safetensors", {"shift": SHIFT, "label": LABEL}
    calls = []

    def interrupted(x, t, **condition):
        calls.append(1)
        if len(calls) == 4:
            raise Interrupted
        return shifted(x, t, **condition)

    with pytest.raises(Interrupted):
        PLMS.run(interrupted, START, condition=given, checkpoint=path)
    for other in (None, {"shift": SHIFT, "label": LABEL[::-1]}, {"shift": SHIFT}):
        with pytest.raises(ValueError, match="differs in SHA-256 of the condition"):
            PLMS.run(shifted, START, condition=other, checkpoint=path)
    assert same(PLMS.run(shifted, START, condition=given, checkpoint=path), PLMS.run(shifted, START, condition=given))


def test_a_run_keeps_the_condition_that_it_was_started_with():
    shift = SHIFT.copy()
    state = PLMS.start(START, condition={"shift": shift, "label": LABEL})
    shift += 1
    assert np.array_equal(state.condition["shift"], SHIFT)


def test_a_condition_carries_gradients():
    shift = torch.zeros(4, 3, dtype=torch.float64, requires_grad=True)
    x = torch.from_numpy(START)
    PLMS.run(shifted, x, condition={"shift": shift, "label": torch.from_numpy(LABEL)}).sum().backward()
    assert shift.grad.abs().min() > 0


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ([LABEL], TypeError, "it must be a dict from the model's keywords to arrays"),
        ({"label": [0, 1, 2, 3]}, TypeError, "condition 'label' is .* it must be a dense array"),
        ({"label": torch.zeros(4)}, TypeError, "condition 'label' is a Tensor and the state a ndarray"),
        ({"label": LABEL[:3]}, ValueError, r"condition 'label' is of shape \(3,\); .* must be of shape \(4,\)"),
        ({"label": LABEL[0]}, ValueError, r"condition 'label' is of shape \(\)"),
    ],
)
def test_a_condition_that_does_not_fit_is_refused(given, error, message):
    with pytest.raises(error, match=message):
        PLMS.run(shifted, START, condition=given)
    with pytest.raises(error, match=message):
        PLMSSolver(LINEAR).sample(shifted, START, tolerance=0.1, condition=given)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({}, r"state 1 has the condition \[\] and the first state \['label'\]"),
        ({"label": LABEL.astype(np.int32)}, "int32, and that of the first state"),
        ({"label": LABEL[:, None]}, "beyond the batch they must be alike"),
    ],
)
def test_runs_whose_conditions_differ_in_kind_cannot_share_calls(other, message):
    states = [PLMS.start(START, condition=given) for given in ({"label": LABEL}, other)]
    with pytest.raises(ValueError, match=message):
        advance_together(shifted, states)
