"""Measurements, plans and grids as pictures for people (matplotlib)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import cycle

import numpy as np

from pndm_solvers.grid import Grid
from pndm_solvers.measure import Curve
from pndm_solvers.orders import ObservedOrder
from pndm_solvers.table import SYMBOLS, Table

try:
    from matplotlib.axes import Axes
    from matplotlib.colors import LinearSegmentedColormap, Normalize
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator, ScalarFormatter
except ImportError as error:
    raise ImportError("plots need matplotlib: pip install 'pndm_solvers[analysis]'") from error

__all__ = ["plot_curves", "plot_grids", "plot_orders", "plot_plan"]

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
    the flow itself has. Points that are not finite are left out, and the axis ends at most a thousand times above the
    best curve; the legend names curves that lie above it. Write the figure with `savefig(path, dpi=…)`.

    Raises ValueError for no curve, and for curves of several problems or measures.
    """
    curves = [curves] if isinstance(curves, Curve) else list(curves)
    if len({(curve.problem, curve.measure) for curve in curves}) != 1:
        raise ValueError(f"curves are {len(curves)}; plot those of one problem and one measure at a time")
    first = curves[0]
    paired = first.measure == "paired"
    title = title or f"{first.problem}: {LABELS[first.measure][0]}"
    figure, axes = _axes(len(curves), title, "model calls", ylabel or LABELS[first.measure][1])
    colours = dict(zip(dict.fromkeys(curve.solver for curve in curves), cycle(COLOURS), strict=False))
    spacings = list(dict.fromkeys(curve.spacing for curve in curves))
    curves, lines = sorted(curves, key=lambda curve: -curve.value[-1]), []
    for curve in curves:
        kind, colour = spacings.index(curve.spacing) % len(STYLES), colours[curve.solver]
        value, low, high = (np.where(np.isfinite(v), v, np.nan) for v in (curve.value, curve.low, curve.high))
        calls = curve.made or curve.calls
        axes.fill_between(calls, low, high, color=colour, alpha=0.12, lw=0)
        lines += axes.plot(
            calls, value, color=colour, ls=STYLES[kind], marker=MARKERS[kind], ms=4, lw=1.6, label=curve.name
        )
    limit = max(curve.limit for curve in curves)
    if limit and np.isfinite(limit):
        label = "error of the reference" if paired else "the flow, from other starts"
        axes.axhline(limit, color="#999999", lw=0.9, ls=(0, (4, 3)), zorder=1, label=label)
    _limit_height(axes, curves, lines)
    _ticks(axes, first.calls)
    _legend(axes, "sorted at the most calls")
    return figure


def plot_grids(grids: Mapping[str, Grid | Table], title: str = "") -> Figure:
    """Plot the levels that each grid or plan visits, one row each, on a logarithmic axis of σ/α from noise to data.

    `grids` are what `make_grid` returns, or plans, by the names of their rows. Levels at σ/α = 0 and ∞ have places of
    their own at the ends of the axis. Write the figure with `savefig(path, dpi=…)`.

    Raises ValueError for no grid.
    """
    if not grids:
        raise ValueError("grids is empty; pass at least one, as {'default': make_grid(schedule, 10)}")
    figure = Figure(figsize=(8.4, 1.3 + 0.3 * len(grids)), layout="constrained")
    axes = figure.add_subplot()
    place = _ratio_axis(axes, [level.ratio for grid in grids.values() for level in grid.levels])
    for row, grid in enumerate(grids.values()):
        places = [place(level.ratio) for level in grid.levels]
        axes.plot(places, [row] * len(places), color=COLOURS[0], lw=0.8, marker="o", ms=5.5, mec="white", mew=0.6)
    axes.set_yticks(range(len(grids)), list(grids))
    axes.set_ylim(len(grids) - 0.4, -0.6)
    axes.set_title(title, loc="left", fontsize=11)
    return figure


def plot_plan(plan: Table, title: str = "") -> Figure:
    """Plot a plan row by row: the levels that it visits, and the share of each answer of the network in each step.

    On the left, a dot is a call of the network, and an arrow leads from the state with which the row begins to the one
    that it makes. On the right are the weights of the answers, divided by their sum. A row whose weights add up to 0
    shows the weights themselves, and a column "noise" is there where the plan draws noise. Numbers are printed for up
    to 24 rows. Write the figure with `savefig(path, dpi=…)`.

    Raises ValueError for a plan without rows.
    """
    if not plan.rows:
        raise ValueError(f"{plan!r} has no rows, so there is nothing to draw")
    count = plan.model_calls
    noisy = int(plan.is_stochastic)
    width = 4.6 + min(0.52 * (count + noisy), 12.5)
    size = (width, 1.7 + min(0.36 * count, 9))
    figure = Figure(figsize=size, layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(4, width - 4))
    title = title or f"{plan.name}: {plan.cost()}"
    figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    _draw_steps(left, plan)
    _draw_shares(right, plan, noisy)
    left.set_yticks(range(count))
    left.set_ylim(count - 0.5, -0.5)
    left.set_ylabel("row: one call of the network")
    if count > 24:
        left.yaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def _draw_steps(axes: Axes, plan: Table) -> None:
    """Each row's call, and its way from state to state."""
    place = _ratio_axis(axes, [level.ratio for level in plan.levels])
    places = [place(level.ratio) for level in plan.levels]
    for k, row in enumerate(plan.rows):
        colour = COLOURS[5] if row.stage else COLOURS[0]
        for begin in [i for i, _ in row.states] or [k]:
            axes.annotate(
                "", (places[k + 1], k), (places[begin], k), annotation_clip=False,
                arrowprops={"arrowstyle": "-|>", "color": colour, "lw": 1.4, "shrinkA": 0, "shrinkB": 0},
            )  # fmt: skip
            if begin != k:
                axes.plot(places[begin], k, "o", ms=6, mfc="white", mec=colour, zorder=3)
        axes.plot(places[k], k, "o", ms=6, color=colour, zorder=3)
        if k + 1 < plan.model_calls:
            axes.plot([places[k + 1]] * 2, [k, k + 1], color="#999999", lw=0.9, ls=":", zorder=1)
    if any(row.stage for row in plan.rows):
        for colour, label in ((COLOURS[0], "makes a point of the solution"), (COLOURS[5], "makes a stage of a step")):
            axes.plot([], [], "-", marker="o", color=colour, label=label)
        axes.legend(loc="lower left", fontsize=8, frameon=False)
    axes.set_title("each row calls the network at its dot,\nand steps to the end of its arrow", loc="left", fontsize=9)


def _draw_shares(axes: Axes, plan: Table, noisy: int) -> None:
    """The matrix of the answers' shares, and the noise of each row."""
    count = plan.model_calls
    shares = np.full((count, count + noisy), np.nan)
    for k, row in enumerate(plan.rows):
        weights = np.array([weight for _, weight in row.answers])
        total = weights.sum()
        if abs(total) > 1e-9 * np.abs(weights).sum():
            weights = weights / total
        shares[k, [j for j, _ in row.answers]] = weights
        if row.noise:
            shares[k, count] = row.noise
    most = float(np.nanmax(np.abs(np.append(shares[:, :count], 1.0))))
    map_ = LinearSegmentedColormap.from_list("shares", (COLOURS[1], "#ffffff", COLOURS[0]))
    answers = np.where(np.arange(count + noisy) < count, shares, np.nan)
    axes.imshow(answers, cmap=map_, norm=Normalize(-most, most), aspect="auto", interpolation="nearest")
    if count <= 24:
        for (k, j), share in np.ndenumerate(shares):
            if np.isfinite(share):
                colour = "#ffffff" if j < count and share > 0.7 * most else "#000000"
                text = f"{share:.2f}".replace("-", "−")
                axes.text(j, k, text, ha="center", va="center", fontsize=8, color=colour)
        names = [_indexed(SYMBOLS[row.space], k) for k, row in enumerate(plan.rows)]
        axes.set_xticks(range(count + noisy), [*names, "noise"][: count + noisy])
        axes.secondary_yaxis("right").set_yticks(range(count), [f"→ {_indexed('x', k + 1)}" for k in range(count)])
    axes.tick_params(length=0, labelleft=False)
    axes.tick_params(axis="x", top=True, labeltop=True, bottom=False, labelbottom=False)
    axes.spines[:].set_visible(False)
    axes.set_title("… by this mix of the answers so far", loc="left", fontsize=9)
    axes.set_xlabel("shares of the answers; each row adds up to 1")


def _indexed(symbol: str, index: int) -> str:
    return symbol + str(index).translate(str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉"))


def _ratio_axis(axes: Axes, ratios: Iterable[float]) -> Callable[[float], float]:
    """Make x a logarithmic axis of σ/α, falling from noise to data; returns the place of a ratio, 0 and ∞ included."""
    ratios = set(ratios)
    finite = [math.log10(ratio) for ratio in ratios if 0 < ratio < math.inf] or [0.0]
    gap = max(0.5, 0.12 * (max(finite) - min(finite)))
    ends = {0.0: min(finite) - gap, math.inf: max(finite) + gap}
    decades = range(math.ceil(min(finite)), math.floor(max(finite)) + 1)
    ticks = {float(decade): f"{10.0**decade:g}" for decade in decades}
    for ratio, text in ((0.0, "0"), (math.inf, "∞")):
        if ratio in ratios:
            ticks[ends[ratio]] = text
            inner = ends[ratio] + math.copysign(gap / 2, -ratio if ratio else 1.0)
            axes.axvline(inner, color="#999999", lw=0.9, ls=(0, (2, 3)), zorder=0)
    axes.set_xticks([*ticks], [*ticks.values()])
    axes.set_xlim(max(finite) + gap * (1.4 if math.inf in ratios else 0.4), min(ends[0.0], *ticks) - 0.4 * gap)
    axes.set_xlabel("noise level σ/α, logarithmic: from noise to data")
    axes.grid(axis="x", color="#e4e4e4", lw=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return lambda ratio: ends[ratio] if ratio in ends else math.log10(ratio)


def _limit_height(axes: Axes, curves: Sequence[Curve], lines: Sequence[Line2D]) -> None:
    """Cut off what diverges, and make the axis linear near 0 where a figure is not positive.

    The label of a line that is not seen says so.
    """
    values = np.array([curve.value for curve in curves], float)
    best = np.where(np.isfinite(values), values, np.inf).min(0)
    best = best[np.isfinite(best)]
    if not best.size:
        return
    if values.min() <= 0:  # a distance less its floor
        size = float(np.abs(values[np.isfinite(values)]).min())
        axes.set_yscale("symlog", linthresh=max(size, 1e-3 * float(np.abs(best).max()), 1e-12))
    cut, finite = 1e3 * float(best.max()), values[np.isfinite(values)]
    if finite.max() > cut > 0:
        axes.set_ylim(top=min(cut, 3 * float(finite[finite <= cut].max())))
    for curve, line in zip(curves, lines, strict=True):
        if not (np.array(curve.value) <= abs(cut)).any():
            line.set_label(f"{curve.name}: off the plot")


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
