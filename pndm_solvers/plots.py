"""Measurements as pictures for people (matplotlib)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle

import numpy as np

from pndm_solvers.measure import Curve, ObservedOrder

try:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.ticker import FixedLocator, NullLocator, ScalarFormatter
except ImportError as error:
    raise ImportError("plots need matplotlib: pip install 'pndm_solvers[analysis]'") from error

__all__ = ["plot_curves", "plot_orders"]

# The colours of Okabe and Ito, which colour-blind readers can tell apart, without their yellow, which is too light.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#444444", "#8C564B")
STYLES = ("-", "--", ":", "-.", (0, (6, 1, 1, 1, 1, 1)), (0, (1, 3)))
MARKERS = "osD^vP"


def plot_orders(found: Sequence[ObservedOrder], title: str) -> Figure:
    """Plot error against steps: one line per solver, and a thin guide with the slope of each declared order.

    Write the figure with `savefig(path, dpi=…)`. The state of pyplot does not change.
    """
    figure, axes = _axes(len(found), title, "steps", "root-mean-square distance to the exact flow")
    for order in sorted({result.declared for result in found}):
        # Each guide passes above the highest line of its order.
        highest = max((result for result in found if result.declared == order), key=lambda result: result.errors[0])
        steps = np.array([highest.steps[0], highest.steps[-1]], float)
        guide = 1.6 * highest.errors[0] * (steps / steps[0]) ** -order
        axes.plot(steps, guide, color="#999999", lw=0.9, ls=(0, (4, 3)), zorder=1)
        axes.annotate(
            f"slope {order}", (steps[1], guide[1]), (5, 0), textcoords="offset points", va="center",
            fontsize=8, color="#777777", annotation_clip=False,
        )  # fmt: skip
    for number, result in enumerate(sorted(found, key=lambda result: -result.errors[-1])):
        kind = number % 3  # dotted over dashed over solid, so that three coinciding lines are all visible
        axes.plot(
            result.steps, result.errors, color=COLOURS[number % len(COLOURS)], ls=STYLES[kind], zorder=2 + kind,
            marker=MARKERS[number % len(MARKERS)], ms=7 - 1.5 * kind, lw=1.8,
            label=f"{result.name}: {result.observed:.2f} ({result.declared})",
        )  # fmt: skip
    _ticks(axes, found[0].steps)
    _legend(axes, "observed (declared) order")
    return figure


def plot_curves(curves: Sequence[Curve], title: str, ylabel: str) -> Figure:
    """Plot median error against model calls: one colour per solver, one line style per spacing.

    Points that are not finite are left out. Write the figure with `savefig(path, dpi=…)`.
    """
    figure, axes = _axes(len(curves), title, "model calls", ylabel)
    colours = dict(zip(dict.fromkeys(curve.solver for curve in curves), cycle(COLOURS), strict=False))
    spacings = list(dict.fromkeys(curve.spacing for curve in curves))
    for curve in sorted(curves, key=lambda curve: -curve.median[-1]):
        kind = spacings.index(curve.spacing) % len(STYLES)
        axes.plot(
            curve.calls, np.where(np.isfinite(curve.median), curve.median, np.nan), color=colours[curve.solver],
            ls=STYLES[kind], marker=MARKERS[kind], ms=4, lw=1.6, label=curve.name,
        )  # fmt: skip
    _ticks(axes, curves[0].calls)
    _legend(axes, "by the error at the most calls")
    return figure


def _axes(lines: int, title: str, xlabel: str, ylabel: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(8.4, max(4.8, 1 + 0.19 * lines)), layout="constrained")
    axes = figure.add_subplot(xscale="log", yscale="log")
    axes.set_title(title, loc="left", fontsize=11)
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    axes.grid(which="major", color="#e4e4e4", lw=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _ticks(axes: Axes, values: Sequence[float]) -> None:
    """Ticks at the measured numbers only, in plain digits."""
    axes.xaxis.set_major_locator(FixedLocator(list(values)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(ScalarFormatter())


def _legend(axes: Axes, title: str) -> None:
    axes.legend(
        title=title, loc="center left", bbox_to_anchor=(1.06, 0.5), frameon=False, fontsize=8.5, title_fontsize=8.5,
        alignment="left", handlelength=2.6,
    )  # fmt: skip
