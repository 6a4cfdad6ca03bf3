"""The figures of docs/development/paper.md, from the files of the cells."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from paper_cells import METHODS
from paper_claims import Results
from paper_experiments import ENCODE_STEPS, PREVIEW_TIMES

from pndm_solvers.plots import COLOURS, MARKERS

__all__ = ["draw"]

PALETTE = (*COLOURS, "#882255", "#999933")
COMPARED = ("DDIM", "S-PNDM", "F-PNDM", "FON", "PLMS", "PF", "DDPM", "ours", "fitted", "DDIM clipped")
ETA_STEPS = (10, 20, 50, 100)
ETA_CELLS = (("DDIM", 0.0), ("DDIM η=0.2", 0.2), ("DDIM η=0.5", 0.5), ("DDPM", 1.0))


def quality(networks: Sequence[Results], path: Path) -> None:
    """The distance on pixels against the model calls."""
    columns = min(2, len(networks))
    height = -(-len(networks) // columns)
    figure, lines = Figure(figsize=(5.2 * columns, 4.2 * height), layout="constrained"), {}
    for place, results in enumerate(networks, 1):
        axes = figure.add_subplot(height, columns, place, xscale="log", yscale="log")
        highest = 0.0
        for number, name in enumerate(COMPARED):
            cells = [cell for size in METHODS[name].sizes if (cell := results.cell(name, size))]
            points = sorted((cell["calls"], cell["pixels"], 1.96 * np.std(cell["pixels-drawn"])) for cell in cells
                            if np.isfinite(cell["pixels"]))  # fmt: skip
            if points:
                highest = max(highest, *(y for _, y, _ in points))
                x, y, spread = np.array(points, float).T
                lines[name] = axes.errorbar(
                    x, y, yerr=np.minimum(spread, 0.7 * y), color=PALETTE[number],
                    marker=MARKERS[number % len(MARKERS)], ms=4, lw=1.3, elinewidth=0.8,
                )  # fmt: skip
        floor = results.file("floor")
        if floor:
            axes.axhline(np.mean(floor["pixels"]), color="#999999", lw=0.9, ls=(0, (4, 3)))
            low = np.mean(floor["pixels"])
            axes.set_ylim(0.7 * low, min(max(1.5 * highest, 2 * low), 300 * low))
        axes.set_title(results.network, loc="left", fontsize=10)
        axes.set(xlabel="model calls", ylabel="Fréchet distance on pixels" if place == 1 else "")
        axes.grid(color="#e4e4e4", lw=0.8)
    figure.legend(lines.values(), lines.keys(), loc="outside lower center", ncols=5, frameon=False, fontsize=9)
    save(figure, path)


def eta(networks: Sequence[Results], path: Path) -> None:
    """The distance on pixels against η."""
    figure = Figure(figsize=(3.8 * len(networks), 3.6), layout="constrained")
    for place, results in enumerate(networks, 1):
        axes = figure.add_subplot(1, len(networks), place, yscale="log")
        for number, steps in enumerate(ETA_STEPS):
            points = [(value, cell["pixels"]) for name, value in ETA_CELLS if (cell := results.cell(name, steps))]
            if points:
                axes.plot(
                    *zip(*points, strict=True), marker=MARKERS[number], color=COLOURS[number], label=f"{steps} steps"
                )
        axes.set_title(results.network, loc="left", fontsize=10)
        axes.set(xlabel="η", ylabel="Fréchet distance on pixels" if place == 1 else "")
        axes.grid(color="#e4e4e4", lw=0.8)
        if place == 1 and axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False, fontsize=9)
    save(figure, path)


def encoding(networks: Sequence[Results], path: Path) -> None:
    """The error of encoding and decoding against the steps, and a line of slope −1."""
    figure = Figure(figsize=(5.6, 4), layout="constrained")
    axes = figure.add_subplot(xscale="log", yscale="log")
    first = 0.0
    for number, results in enumerate(networks):
        found = results.file("encoding")
        if found:
            means = np.sqrt((found["errors"] ** 2).mean(1))
            first = first or float(means[0])
            axes.plot(ENCODE_STEPS, means, marker=MARKERS[number], color=COLOURS[number], label=results.network)
    if first:
        axes.plot(
            ENCODE_STEPS, first * ENCODE_STEPS[0] / np.array(ENCODE_STEPS), color="#999999", ls=":", label="1 / N"
        )
    axes.set(xlabel="steps up, and as many down", ylabel="root-mean-square error")
    axes.grid(color="#e4e4e4", lw=0.8)
    axes.legend(frameon=False, fontsize=9)
    save(figure, path)


def mosaic(images: NDArray[Any]) -> NDArray[Any]:
    """Rows and columns of grey images in [-1, 1], `(rows, columns, 1, H, W)`, as one picture with gaps."""
    rows, columns, _, height, width = images.shape
    gap = max(1, height // 8)
    whole = np.ones((rows * (height + gap) - gap, columns * (width + gap) - gap))
    for row in range(rows):
        for column in range(columns):
            top, left = row * (height + gap), column * (width + gap)
            whole[top : top + height, left : left + width] = np.clip((images[row, column, 0] + 1) / 2, 0, 1)
    return whole


def pictures(parts: Sequence[tuple[str, NDArray[Any], Sequence[str]]], path: Path) -> None:
    """Mosaics side by side, each with a title and a name for each column."""
    figure = Figure(figsize=(6.2 * len(parts), 4.4), layout="constrained")
    for place, (title, images, names) in enumerate(parts, 1):
        axes = figure.add_subplot(1, len(parts), place)
        axes.imshow(mosaic(images), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        width = images.shape[-1]
        step = width + max(1, images.shape[-2] // 8)
        axes.set_xticks([width / 2 + step * column - 0.5 for column in range(len(names))], names, fontsize=8)
        axes.set_yticks([])
        axes.set_title(title, loc="left", fontsize=10)
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
    save(figure, path)


def slerp(networks: Sequence[Results], path: Path) -> None:
    """Arcs between starts."""
    files = [(results.network, file) for results in networks if (file := results.file("arcs"))]
    chosen = [(name, file["samples"][:6]) for name, file in files if name in ("digits-linear", "fashion")]
    weights = [f"{weight:.1f}" for weight in np.linspace(0, 1, chosen[0][1].shape[1])] if chosen else []
    if chosen:
        pictures([(f"{name}: from one start to another", images, weights) for name, images in chosen], path)


def previews(networks: Sequence[Results], path: Path) -> None:
    """x̂_0 in a run of DDPM."""
    files = [(results.network, file) for results in networks if (file := results.file("previews"))]
    parts = []
    for name, file in files:
        if name in ("digits-linear", "fashion"):
            images = np.concatenate([file["previews"], file["samples"][None]])[:, :6].swapaxes(0, 1)
            parts.append((f"{name}: x̂₀ at time t, and the sample", images, [*map(str, PREVIEW_TIMES), "end"]))
    if parts:
        pictures(parts, path)


def save(figure: Figure, path: Path) -> None:
    figure.savefig(path, dpi=110, metadata={"Software": None})


def draw(networks: Sequence[Results], folder: Path) -> None:
    """All figures, `paper-*.png`."""
    for function in (quality, eta, encoding, slerp, previews):
        function(networks, folder / f"paper-{function.__name__}.png")
