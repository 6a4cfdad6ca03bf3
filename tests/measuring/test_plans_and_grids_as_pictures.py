"""Pictures of plans and of grids show every level and every weight."""

import math

import numpy as np
import pytest

from pndm_solvers import (
    DDPMSolver,
    DPMMultistepSolver,
    Level,
    NoiseSchedule,
    Plan,
    PLMSSolver,
    PNDMSolver,
    Row,
    make_grid,
)
from pndm_solvers.plots import plot_grids, plot_plan
from pndm_solvers.reference import PLANS

LINEAR = NoiseSchedule.linear()
FITTED = Plan.from_json((PLANS / "fashion-2-8.json").read_text("utf-8"))
PURE_NOISE = PLMSSolver(NoiseSchedule.rectified_flow()).plan(5, start="top")
UPWARDS = PLMSSolver(LINEAR).plan(10, start=0, stop=999)
LONG = PLMSSolver(LINEAR).plan(40)
PLANS_OF_ALL_KINDS = {
    "multistep": PLMSSolver(LINEAR).plan(8),
    "stages": PNDMSolver(LINEAR).plan(8),
    "noise": DDPMSolver(LINEAR).plan(6),
    "data space": DPMMultistepSolver(LINEAR).plan(6),
    "fitted": FITTED,
    "pure noise": PURE_NOISE,
    "upwards": UPWARDS,
    "long": LONG,
}


@pytest.mark.parametrize("kind", PLANS_OF_ALL_KINDS)
def test_the_matrix_holds_the_shares_of_the_answers(kind, tmp_path):
    plan = PLANS_OF_ALL_KINDS[kind]
    figure = plot_plan(plan)
    figure.savefig(tmp_path / "plan.png")
    drawn = np.ma.filled(figure.axes[1].get_images()[0].get_array(), np.nan)[:, : plan.model_calls]
    for row, shares in zip(plan.rows, drawn, strict=True):
        answers = [j for j, _ in row.answers]
        assert np.flatnonzero(np.isfinite(shares)).tolist() == answers
        assert np.nansum(shares) == pytest.approx(1)
        weights = np.array([weight for _, weight in row.answers])
        np.testing.assert_allclose(shares[answers] * weights.sum(), weights, rtol=1e-12)


@pytest.mark.parametrize("kind", PLANS_OF_ALL_KINDS)
def test_a_dot_stands_at_the_level_of_each_call(kind):
    plan = PLANS_OF_ALL_KINDS[kind]
    left, _ = plot_plan(plan).axes
    dots = {(round(float(x), 9), int(y)) for line in left.get_lines() if line.get_marker() == "o"
            for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True)}  # fmt: skip
    ratios = [(row.level.ratio, k) for k, row in enumerate(plan.rows)]
    assert {(round(math.log10(ratio), 9), k) for ratio, k in ratios if 0 < ratio < math.inf} <= dots


def test_numbers_are_printed_unless_the_plan_is_long():
    texts = {text.get_text() for text in plot_plan(PLANS_OF_ALL_KINDS["noise"]).axes[1].texts}
    assert {"1.00", "0.98"} <= texts  # the share of an answer, and the deviation of the first row's noise
    assert not plot_plan(LONG).axes[1].texts


def test_answers_that_cancel_are_shown_as_they_are(tmp_path):
    rows = (Row(5.0, 0.6, 0.8, ((0, 1.0),), ((0, -0.5),)), Row(2.0, 0.8, 0.6, ((1, 1.0),), ((0, 0.25), (1, -0.25))))
    figure = plot_plan(Plan(rows, Level(0.0, 1.0, 0.0)), "by hand")
    figure.savefig(tmp_path / "plan.png")
    np.testing.assert_allclose(figure.axes[1].get_images()[0].get_array()[1], (0.25, -0.25))


def test_a_plan_without_answers_in_a_row_is_drawn(tmp_path):
    rows = (Row(5.0, 0.6, 0.8, ((0, 1.0),), ()),)
    plot_plan(Plan(rows, Level(0.0, 1.0, 0.0))).savefig(tmp_path / "plan.png")


def test_grids_are_rows_of_levels_from_noise_to_data(tmp_path):
    grids = {"even": make_grid(LINEAR, 5, spacing="trailing"), "a plan": PURE_NOISE}
    figure = plot_grids(grids, "two grids")
    figure.savefig(tmp_path / "grids.png")
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.get_yticklabels()] == ["even", "a plan"]
    assert {"0", "∞", "1", "10"} <= {text.get_text() for text in axes.get_xticklabels()}
    lines = [line.get_xdata() for line in axes.get_lines() if line.get_marker() == "o"]
    assert [len(line) for line in lines] == [len(grid.levels) for grid in grids.values()]
    inner = [math.log10(level.ratio) for level in grids["even"].levels[:-1]]
    np.testing.assert_allclose(lines[0][:-1], inner)
    assert all((np.diff(line) < 0).all() for line in lines)  # with places for 0 and ∞ at the right ends
    left, right = axes.get_xlim()
    assert all(right < min(line) and max(line) < left for line in lines)


def test_nothing_to_draw_is_an_error():
    with pytest.raises(ValueError, match="no rows"):
        plot_plan(Plan((), Level(0.0, 1.0, 0.0)))
    with pytest.raises(ValueError, match="grids is empty"):
        plot_grids({})
