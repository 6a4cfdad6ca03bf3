"""Measurements as pictures for people (matplotlib)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle

import numpy as np

from pndm_solvers.measure import Curve
from pndm_solvers.orders import ObservedOrder

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
# By measure: what a plot shows, and its axis.
LABELS = {
    "paired": ("distance to the flow's end from the same start", "root-mean-square distance, median"),
    "sliced-wasserstein": (
        "distance to the data, or to another fine run",
        "sliced Wasserstein distance², less its floor",
    ),
    "frechet": ("distance to the data, or to another fine run", "Fréchet distance"),
    "nearest-data": ("from each sample to the nearest point of the data", "root-mean-square distance, mean"),
    "nearest-sample": ("from each point of the data to the nearest sample", "root-mean-square distance, mean"),
}


def plot_orders(found: Sequence[ObservedOrder], title: str) -> Figure:
    """Plot error against steps: one line per solver, and a thin guide with the slope of each declared order.

    Write the figure with `savefig(path, dpi=…)`. The state of pyplot does not change.
    """
    figure, axes = _axes(len(found), title, "steps", "root-mean-square distance to the flow")
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


def plot_curves(curves: Sequence[Curve] | Curve, title: str = "", ylabel: str = "") -> Figure:
    """Plot the figure of each curve against model calls: one colour per solver, one line style per spacing.

    A band is the interval of 90 %. A grey line is the error of the reference, or, for a measure of distributions, what
    the flow itself has. Points that are not finite are left out, and the axis ends a thousand times above the best
    curve. Write the figure with `savefig(path, dpi=…)`.

    Raises ValueError for no curve, and for curves of several problems or measures.
    """
    curves = [curves] if isinstance(curves, Curve) else list(curves)
    if len({(curve.problem, curve.measure) for curve in curves}) != 1:
        raise ValueError(f"curves are {len(curves)}; plot those of one problem and one measure at a time")
    first = curves[0]
    paired = first.measure == "paired"
    title = title or f"{first.problem}: {LABELS[first.measure][0]}"
    figure, axes = _axes(len(curves), title, "model calls, at most", ylabel or LABELS[first.measure][1])
    colours = dict(zip(dict.fromkeys(curve.solver for curve in curves), cycle(COLOURS), strict=False))
    spacings = list(dict.fromkeys(curve.spacing for curve in curves))
    for curve in sorted(curves, key=lambda curve: -curve.value[-1]):
        kind, colour = spacings.index(curve.spacing) % len(STYLES), colours[curve.solver]
        value, low, high = (np.where(np.isfinite(v), v, np.nan) for v in (curve.value, curve.low, curve.high))
        axes.fill_between(curve.calls, low, high, color=colour, alpha=0.12, lw=0)
        axes.plot(
            curve.calls, value, color=colour, ls=STYLES[kind], marker=MARKERS[kind], ms=4, lw=1.6, label=curve.name
        )
    limit = max(curve.limit for curve in curves)
    if limit and np.isfinite(limit):
        label = "error of the reference" if paired else "the flow, from other starts"
        axes.axhline(limit, color="#999999", lw=0.9, ls=(0, (4, 3)), zorder=1, label=label)
    _limit_height(axes, curves)
    _ticks(axes, first.calls)
    _legend(axes, "sorted at the most calls")
    return figure


def _limit_height(axes: Axes, curves: Sequence[Curve]) -> None:
    """Cut off what diverges, and make the axis linear near 0 where a figure is not positive."""
    values = np.array([curve.value for curve in curves], float)
    best = np.where(np.isfinite(values), values, np.inf).min(0)
    best = best[np.isfinite(best)]
    if not best.size:
        return
    if values.min() <= 0:  # a distance less its floor
        size = float(np.abs(values[np.isfinite(values)]).min())
        axes.set_yscale("symlog", linthresh=max(size, 1e-3 * float(np.abs(best).max()), 1e-12))
    worst = float(values[np.isfinite(values)].max())
    if worst > 1e3 * best.max() > 0:
        axes.set_ylim(top=1e3 * float(best.max()))


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
