"""The papers' table: a run that was killed prints the same, the claims are complete, baselines are the papers'."""

import time
from fractions import Fraction

import kept
import numpy as np
import paper_cells
import paper_claims
import paper_pages
import paper_table
import pytest
import tables
import torch
from network_recipes import network_data
from networks import load_features
from paper_claims import HOLDS, NOT_SHOWN, WITHIN, Results
from paper_networks import Case

from pndm_solvers import FONSolver, NoiseSchedule, initial_noise
from pndm_solvers.analytic import GaussianMixture
from pndm_solvers.ode import probability_flow
from pndm_solvers.reference.unet import UNet

METHODS = {
    **{name: paper_cells.METHODS[name] for name in ("DDIM", "F-PNDM", "FON", "DDPM", "ours")},
    "PF": paper_cells.Method(None, (1e-1,)),
    "fine": paper_cells.Method(paper_cells.fine, (12,)),
}


@pytest.fixture
def case():
    torch.manual_seed(0)
    unet = UNet(size=8, width=8).eval().requires_grad_(False)
    return Case(
        "tiny", unet, NoiseSchedule.linear(), "epsilon", 0, network_data.digits()[0][:200], 6, 4,
        load_features("digits"), None,
    )  # fmt: skip


@pytest.fixture
def table(case, monkeypatch):
    """Runs the cells that are missing in a folder, and returns the Markdown of them all."""
    monkeypatch.setattr(paper_cells, "DRAWS", 5)
    monkeypatch.setattr(paper_pages, "FINE", 12)
    for module in (paper_cells, paper_claims, paper_pages):
        monkeypatch.setattr(module, "METHODS", METHODS)
    monkeypatch.setattr(time, "process_time", lambda: 0.0)

    def make(folder):
        monkeypatch.setattr(paper_cells, "CACHE", folder)
        paper_claims._FILES.clear()
        monkeypatch.setattr(paper_table, "forward_seconds", lambda runner: 0.0)
        paper_table.run(case, (5,), experiments=False, most=1, compiled=False)
        return paper_pages.body([Results("tiny", case.count)], "")

    return make


@pytest.mark.filterwarnings("ignore")
def test_a_killed_and_resumed_run_prints_the_same_table(table, tmp_path, monkeypatch):
    whole = table(tmp_path / "whole")
    written = []

    def killed(file, **figures):
        written.append(figures)
        if len(written) == 4:
            file.write(b"half a file")
            raise KeyboardInterrupt
        savez(file, **figures)

    savez = np.savez
    monkeypatch.setattr(np, "savez", killed)
    with pytest.raises(KeyboardInterrupt):
        table(tmp_path / "killed")
    monkeypatch.setattr(np, "savez", savez)
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "killed").glob("*.npz")}
    assert len(kept) == 3
    resumed = table(tmp_path / "killed")
    assert all(path.stat().st_mtime_ns == before for path, before in kept.items())
    assert resumed == whole
    assert table(tmp_path / "killed") == whole
    for name, calls in (("DDIM | 5", 5), ("F-PNDM | 5", 14), ("FON | 5", 14), ("DDPM | 5", 5), ("ours | 5", 5)):
        assert f"| {name} | {calls} | 0 |" in whole
    assert "PF | 0.1" in whole


def test_one_cell_is_made_by_one_process(tmp_path):
    """A lock belongs to an open file, so that the second one here stands for another process."""
    path = tmp_path / "cell.npz"
    with kept.mine(path) as first, kept.mine(path) as second:
        assert (first, second) == (True, False)
    with kept.mine(path) as again:
        assert again
        kept.store(path, {"value": 1.0})
    with kept.mine(path) as late:
        assert not late
    assert kept.stored(path) == {"value": 1.0}


def test_fon_has_the_weights_of_the_paper():
    """On the schedule with α = 1 and σ = t the equation is dx/dt = ε: its steps show the weights alone."""
    times = np.linspace(10, 2, 9)
    plan = FONSolver(NoiseSchedule.ve()).plan(timesteps=times[:-1], stop=2.0)
    states = [row for row in plan.rows if not row.stage]
    assert plan.model_calls == len(times) - 1 + 9
    for row in states[3:]:
        weights = [Fraction(weight).limit_denominator(1000) for _, weight in row.answers]
        assert weights == [Fraction(-w, 24) for w in (-9, 37, -59, 55)]
        assert [weight for _, weight in row.states] == [1.0]


def test_the_claims_are_complete():
    named = {
        "50 steps against 1000": 2, "50 steps against 250": 2, "η": 2, "encoding": 1, "interpolation": 1,
        "few steps": 2, "ancestral sampling": 1, "previews": 1, "FON": 1, "PF": 1, "orders": 3,
    }  # fmt: skip
    assert set(paper_claims.SUBJECTS) == set(named)
    for subject, least in named.items():
        assert sum(claim.subject == subject for claim in paper_claims.CLAIMS) >= least
    assert {claim.source for claim in paper_claims.CLAIMS} == {"PNDM", "DDIM", "DDPM"}


@pytest.mark.parametrize(("value", "verdict"), [(-1.0, HOLDS), (0.01, WITHIN), (1.0, NOT_SHOWN), (np.nan, NOT_SHOWN)])
def test_a_verdict_follows_the_interval(value, verdict):
    drawn = value + 0.1 * np.random.default_rng(0).standard_normal(100)
    assert paper_claims.evidence("", "", value, drawn, "").verdict == verdict


def test_claims_read_the_files_that_runs_leave(monkeypatch, tmp_path):
    """Errors that fall with N² have order 2, and a distance is that of the cells."""
    monkeypatch.setattr(paper_cells, "CACHE", tmp_path)
    paper_claims._FILES.clear()
    tmp_path.mkdir(exist_ok=True)
    results, noise = Results("made", 6), 1 + 0.01 * np.random.default_rng(0).standard_normal((4, 9))
    steps = paper_claims.ORDER_STEPS
    orders = {f"F-PNDM {n}": noise[place] / n**2 for place, n in enumerate(steps)}
    kept.store(paper_cells.path_of("made", 6, "orders"), orders)
    (row,) = paper_claims.order_is("F-PNDM", 2)(results)
    assert abs(row.value) < 0.05
    assert row.verdict == HOLDS
    (row,) = paper_claims.order_is("F-PNDM", 4)(results)
    assert row.verdict == NOT_SHOWN

    for name, size, distance in (("F-PNDM", 50, 1.0), ("DDIM", 1000, 3.0)):
        drawn = distance + noise[0]
        cell = {"calls": 59, "pixels": distance, "features": distance, "pixels-drawn": drawn, "features-drawn": drawn}
        kept.store(paper_cells.path_of("made", 6, name, f"{size:g}"), cell)
    claim = next(c for c in paper_claims.CLAIMS if c.subject == "50 steps against 1000")
    for row in claim.evaluate(results):
        assert row.value == -2
        assert row.low == pytest.approx(row.high) == pytest.approx(-2)  # the draws are paired
        assert row.what == "F-PNDM-50 − DDIM-1000"


def test_the_flow_by_scipy_is_exact_and_counts_its_calls():
    schedule, mixture = NoiseSchedule.linear(), GaussianMixture.ring()
    model, calls = mixture.model(schedule), []

    def counted(x, t):
        calls.append(len(x))
        return model(x, t)

    x = initial_noise((5, 2), 3)
    found = [probability_flow(counted, x, schedule, rtol=tol, atol=tol, final="first") for tol in (1e-4, 1e-8)]
    assert sum(solution.model_calls for solution in found) == len(calls)
    assert found[0].model_calls < found[1].model_calls
    exact = paper_cells.PLMSSolver(schedule).plan(500, start="top", final="first").run(model, x)
    errors = [np.abs(solution.x - exact).max() for solution in found]
    assert errors[1] < errors[0] < 2e-3
    assert errors[1] < 1e-4
    back = probability_flow(model, found[1].x, schedule, rtol=1e-8, atol=1e-8, start=0, stop=999)
    assert np.abs(back.x - x).max() < 1e-4


def test_the_page_has_a_place_for_the_tables(tmp_path):
    before, _ = tables.parts_of(paper_table.PAGE, paper_table.SCRIPT)
    assert before.startswith("# ")
    with pytest.raises(SystemExit, match="no place"):
        tables.parts_of(tmp_path / "missing.md", paper_table.SCRIPT)
