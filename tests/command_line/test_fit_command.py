"""`pndm-solvers fit` writes a plan that the other commands take in the place of a solver."""

import json

import pytest
from run_command import runner

from pndm_solvers import Pilot, Plan
from pndm_solvers.fit import fitted


@pytest.fixture
def run(capsys, monkeypatch):
    return runner(capsys, monkeypatch)


QUICK = ("--network", "digits", "--samples", 8, "--levels", 24)


def test_a_plan_is_fitted_drawn_with_printed_and_compared(run, tmp_path):
    path, pilot = tmp_path / "plan.json", tmp_path / "pilot.npz"
    status, out, err = run("fit", *QUICK, "--calls", 4, "--out", path, "--pilot", pilot, "--note", "a test")
    assert status == 0, err
    for word in ("4 model calls", "default", "best plain rule", "called for", f"--network digits --plan {path}"):
        assert word in out
    assert "held-out error" in err
    plan = Plan.from_json(path.read_text())
    assert (plan.model_calls, plan.fitted.note, plan.fitted.prediction) == (4, "a test", "epsilon")
    status, out, _ = run("sample", "--network", "digits", "--plan", path, "--count", 2, "--out", tmp_path / "a.png")
    assert (status, plan.name in out) == (0, True)
    more = ("sample", "--network", "digits", "--plan", path, "--calls", 8, "--count", 2, "--out", tmp_path / "b.png")
    status, out, err = run(*more)
    assert (status, "makes 4 model calls" in err) == (0, True)
    status, out, _ = run("plan", "--plan", path)
    assert status == 0
    assert "fitted to: a test, epsilon" in out
    assert Plan.from_json(run("plan", "--plan", path, "--json")[1]) == plan
    compared = ("compare", "--problem", "digits", "--solver", "ddim", "--plan", path, "--starts", 4)
    status, out, _ = run(*compared, "--json")
    assert status == 0
    values = {curve["solver"]: curve["value"][0] for curve in json.loads(out)["curves"]}
    assert values["fitted"] < values["DDIM"]
    assert (
        f"{pilot} has 8 samples and 24 levels" in run("fit", *QUICK, "--calls", 2, "--out", path, "--pilot", pilot)[2]
    )
    again = run("fit", *QUICK, "--calls", 4, "--out", tmp_path / "again.json", "--pilot", pilot)
    assert again[0] == 0
    assert Plan.from_json((tmp_path / "again.json").read_text()) == plan


def test_mistakes(run, tmp_path):
    plan, pilot = tmp_path / "plan.json", tmp_path / "pilot.npz"
    assert run("fit", *QUICK, "--calls", 3, "--out", plan, "--pilot", pilot)[0] == 0
    cases = {
        ("sample", "--network", "fashion", "--plan", plan): "that predicts 'epsilon' (digits, ",
        ("sample", "--network", "digits", "--plan", plan, "--order", 2): "leave --order out",
        ("sample", "--network", "digits", "--plan", plan, "--calls", 2): "none of at most 2",
        ("sample", "--network", "digits", "--plan", tmp_path / "none.json"): "none.json",
        ("plan", "--plan", plan, "--solver", "ddim"): "leave --solver out",
        ("plan", "--plan", plan, "--prediction", "flow"): "leave the options out",
        ("plan", "--plan", plan, "--shape", 2): "leave the options out",
        ("compare", "--plan", plan): "name it with --problem",
        ("fit", "--network", "fashion", "--pilot", pilot): "of another network",
        ("fit", "--out", "/dev/null/plan.json"): "cannot be made",
    }
    for arguments, message in cases.items():
        status, _, err = run(*arguments)
        assert (status, message in err) == (1, True), err


def test_ctrl_c_during_the_pilot_says_that_nothing_is_written(run, tmp_path, monkeypatch):
    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(Pilot, "record", interrupted)
    status, _, err = run("fit", *QUICK, "--calls", 3, "--out", tmp_path / "plan.json")
    assert (status, "nothing is written" in err, (tmp_path / "plan.json").exists()) == (130, True, False)


def test_ctrl_c_during_the_fit_writes_the_best_plan_so_far(run, tmp_path, monkeypatch):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(fitted, "drafts", interrupted)
    status, out, err = run("fit", *QUICK, "--calls", 3, "--out", tmp_path / "plan.json")
    assert (status, "written" in out, "interrupted" in out) == (130, True, True), err
    assert Plan.from_json((tmp_path / "plan.json").read_text()).model_calls == 3
