"""The tables of work_precision.py: how ours stands beside the best peer of a cell, with its interval."""

import numpy as np
import pytest
from work_precision_tables import Cell, cells_of

ERRORS = np.random.default_rng(0).lognormal(sigma=0.2, size=64)


def cell(ratio, sw2=(0.1, 0.1), theirs=(0.1, 0.1)):
    """A cell in which ours errs `ratio` times as much as the peer at each start, and SW² are as given."""
    peer = {"errors": [*ERRORS], "final": "clean", "sw2": theirs}
    worse = {"errors": [*(3 * ERRORS)], "final": "clean", "sw2": (1.0, 1.0)}
    ours = {"clean": [*(ratio * ERRORS)], "sw2": sw2, "sw2 from": sw2[1] - 0.05}
    return Cell({"worse": worse, "best": peer, "failed": "ValueError: no"}, {"default": ours})


@pytest.mark.parametrize(("ratio", "above"), [(0.5, False), (1.4, False), (1.6, True)])
def test_an_interval_of_ratios_lies_above_as_a_whole(ratio, above):
    found = cell(ratio)
    assert found.best("paired") == "best"
    assert found.interval("best") == pytest.approx((ratio, ratio))
    assert found.is_above("paired") is above


def test_an_interval_is_as_wide_as_the_starts_differ():
    found = cell(1.6)
    found.ours["default"]["clean"] = [*(1.6 * ERRORS * np.random.default_rng(1).lognormal(sigma=1.0, size=64))]
    low, high = found.interval("best")
    assert low < 1.5 < high
    assert not found.is_above("paired")


@pytest.mark.parametrize(
    ("ours", "theirs", "above"),
    [(0.3, 0.1, True), (0.19, 0.1, False), (0.06, -0.2, True), (0.04, -0.2, False), (-0.1, -0.2, False)],
)
def test_a_figure_below_the_floor_counts_as_nothing(ours, theirs, above):
    assert cell(1.0, (ours, ours), (theirs, theirs)).is_above("distance") is above


def test_a_cell_in_which_no_peer_ran_is_left_out():
    peers = {"5": {"peer": "ValueError: no"}, "8": cell(1.0).peers}
    ours = {"ring": {"default": {"5": {}, "8": {}}}}
    assert list(cells_of({"ring": {"own": peers}}, ours)) == [("ring", 8)]
