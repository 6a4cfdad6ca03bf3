"""docs/explanation/default-rule.md copies the numbers of `RULE` into two tables."""

import re
from pathlib import Path

import pytest

from pndm_solvers.rule import RULE

PAGE = Path(__file__).parents[2] / "docs" / "explanation" / "default-rule.md"
ROUNDED = {"rel": 0.03}  # the page gives two or three digits


def rows_below(head):
    """The cells of each row of the page's table with this head, and the first and last number of steps."""
    text = PAGE.read_text().split(head, 1)[1]
    rows = [row.strip("|").split("|") for row in text.split("\n\n", 1)[0].splitlines() if row.startswith("| ")]
    found = []
    for steps, *cells in rows:
        lengths = [int(number) for number in re.findall(r"\d+", steps)] or [31, 500]
        found.append((lengths[0], lengths[-1], [cell.strip() for cell in cells]))
    return found


def numbers_in(cell):
    return [float(number) for number in re.findall(r"\d+\.?\d*", cell)]


def test_the_grids():
    rows = rows_below("| steps N | grid")
    assert [row[0] for row in rows] == [few[0] for few in RULE.by_length]
    for first, last, (grid, top, low, knee, tail, _) in rows:
        rule = RULE.of(first)
        assert RULE.of(last) is rule
        scale, rise, _, *fall = numbers_in(grid)  # the third is that of 1 − s
        assert [scale, rise, *fall] == pytest.approx([rule.grid_scale, rule.grid_rise, rule.grid_fall], **ROUNDED)
        assert numbers_in(top) == pytest.approx([rule.grid_top], **ROUNDED)
        assert numbers_in(low) == pytest.approx([rule.grid_low * (10 if "/N" in low else 1)], **ROUNDED)
        assert numbers_in(knee) + numbers_in(tail) == pytest.approx([rule.knee, rule.tail], **ROUNDED)


def test_the_shares():
    rows = rows_below("| steps | share |")
    assert [row[0] for row in rows] == [few[0] for few in RULE.by_length if few[2].last_share]
    for steps, _, cells in rows:
        rule = RULE.of(steps)
        found = [number for cell in cells for number in numbers_in(cell)]
        assert found == pytest.approx([rule.share, rule.last_share, rule.long_bound], **ROUNDED)


def test_the_largest_start_of_short_runs():
    pages = {
        "explanation/default-rule.md": r"In runs of 1 to (\d+)\s+steps .* it is at most (\d+)\.",
        "explanation/start-level.md": r"Runs of 1 to (\d+) steps .* begin at \$\\rho = (\d+)",
        "how-to/choosing.md": r"Runs of up to (\d+)\s+steps begin at (\d+) at most",
    }
    for page, words in pages.items():
        steps, most = map(int, re.search(words, (PAGE.parents[1] / page).read_text()).groups())
        assert RULE.of(steps).start_most == most < RULE.of(steps + 1).start_most
