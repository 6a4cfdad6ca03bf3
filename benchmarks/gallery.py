"""The pictures of docs/gallery.md: garments and digits by the bundled networks, and galaxies by other people's.

    python benchmarks/gallery.py                    all, into docs/images; about ten minutes on one core
    python benchmarks/gallery.py --only walk        one of them, or several

The galaxies need the package galaxygrad (README.md here); without it they are left out.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import packages
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from tqdm import tqdm

from pndm_solvers import DDIMSolver, DPMMultistepSolver, Plan, PLMSSolver, initial_noise, slerp
from pndm_solvers.reference import ReferenceNetwork, load_network

OUT = Path(__file__).parents[1] / "docs" / "images"
FASHION = ("T-shirt", "trouser", "pullover", "dress", "sandal", "sneaker", "bag", "ankle boot")
GUIDANCE = 2.0
FINE = 200
BATCH = 8
STEP_MS, PAUSE_MS = 110, 2500

Pictures = NDArray[np.floating]


# ------------------------------------------------------------------------ networks


def start(network: Any, count: int, seed: int = 0) -> Any:
    return torch.from_numpy(initial_noise((count, *network.shape), seed)).float()


def indices(network: ReferenceNetwork, names: Iterable[str]) -> torch.Tensor:
    return torch.tensor([network.labels.index(name) for name in names])


def drawn(
    network: ReferenceNetwork, plan: Plan, x: torch.Tensor, label: Any = None, scale: float = GUIDANCE
) -> Pictures:
    """The samples from `x` by a plan, in batches that a small machine holds."""
    parts = []
    with torch.inference_mode():
        for i in range(0, len(x), BATCH):
            model = network.model(None if label is None else label[i : i + BATCH], scale)
            parts.append(plan.run(model, x[i : i + BATCH], prediction=network.prediction))
    return torch.cat(parts).numpy()


def grid_of(network: Any) -> dict[str, Any]:
    return {"prediction": network.prediction, "sample_shape": network.shape}


# ------------------------------------------------------------------------ pictures


def grey(images: Pictures) -> NDArray[np.uint8]:
    """Images `(…, 1, H, W)` in [-1, 1], dark on white, as bytes `(…, H, W)`."""
    return np.clip(np.rint((1 - images[..., 0, :, :]) * 127.5), 0, 255).astype(np.uint8)


def colours(images: Pictures, low: float, high: float) -> NDArray[np.uint8]:
    """Images `(…, 1, H, W)` from `low` to `high` in the colours of "magma", as bytes `(…, H, W, 3)`.

    The root lifts the faint outskirts of a galaxy.
    """
    shares = np.sqrt(np.clip((images[..., 0, :, :] - low) / (high - low), 0, 1))
    return (matplotlib.colormaps["magma"](shares)[..., :3] * 255).astype(np.uint8)


def sheet(images: NDArray[np.uint8], columns: int, scale: int, gap: int = 4) -> Image.Image:
    """Pictures `(B, H, W)` or `(B, H, W, 3)` in rows of `columns`, each pixel `scale` wide, on white."""
    images = np.kron(images, np.ones((1, scale, scale, 1)[: images.ndim], np.uint8))
    height, width = images.shape[1:3]
    rows = -(-len(images) // columns)
    page = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, *images.shape[3:]), 255, np.uint8)
    for i, image in enumerate(images):
        y, x = (i // columns) * (height + gap), (i % columns) * (width + gap)
        page[y : y + height, x : x + width] = image
    return Image.fromarray(page).convert("RGB")


def write(draw: ImageDraw.ImageDraw, place: tuple[int, int], text: str, size: int = 15) -> None:
    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    draw.text(place, text, fill=(40, 40, 40), font=ImageFont.truetype(str(path), size))


def panels(parts: Sequence[tuple[str, Image.Image]], line: str, share: float) -> Image.Image:
    """Sheets side by side, each below its title, with a bar of progress and a line of text at the bottom."""
    margin, space, top, foot = 8, 24, 28, 40
    width = 2 * margin + sum(part.width for _, part in parts) + space * (len(parts) - 1)
    height = top + max(part.height for _, part in parts) + foot
    page = Image.new("RGB", (width, height), (255, 255, 255))
    draw, x = ImageDraw.Draw(page), margin
    for title, part in parts:
        write(draw, (x, 4), title)
        page.paste(part, (x, top))
        x += part.width + space
    draw.rectangle((margin, height - 34, width - margin, height - 31), fill=(225, 225, 225))
    if share > 0:
        draw.rectangle((margin, height - 34, margin + round(share * (width - 2 * margin)), height - 31), fill="#0072B2")
    write(draw, (margin, height - 24), line)
    return page


def save_film(frames: Sequence[Image.Image], path: Path, durations: Sequence[int], levels: int = 64) -> None:
    """An endless GIF. All frames share one palette, so that what stands still does not flicker."""
    middle = Image.new("RGB", (frames[0].width, 3 * frames[0].height))
    for i, frame in enumerate((frames[0], frames[len(frames) // 2], frames[-1])):
        middle.paste(frame, (0, i * frame.height))
    palette = middle.quantize(levels)
    numbers = np.reshape(palette.getpalette(), (-1, 3))
    numbers[(numbers > 247).all(1)] = 255  # white as the page is
    palette.putpalette(numbers.ravel().tolist())
    first, *rest = (frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames)
    first.save(path, save_all=True, append_images=rest, duration=list(durations), loop=0, optimize=True)


def table_of(
    cells: Sequence[Sequence[Image.Image]],
    rows: Sequence[str],
    columns: Sequence[str],
    path: Path,
    notes: Sequence[Sequence[str]] | None = None,
    title: str = "",
    size: float = 1.25,
) -> None:
    """Pictures as a table with names for its rows and columns, and a note below each."""
    height = size * cells[0][0].height / cells[0][0].width + (0.18 if notes else 0.05)
    figure = Figure(figsize=(1.0 + size * len(columns), 0.6 + height * len(rows)), layout="constrained")
    figure.get_layout_engine().set(h_pad=0.02, w_pad=0.02, hspace=0.01, wspace=0.01)
    axes = figure.subplots(len(rows), len(columns), squeeze=False)
    for i, line in enumerate(axes):
        for j, ax in enumerate(line):
            ax.imshow(cells[i][j], interpolation="nearest")
            ax.set(xticks=[], yticks=[])
            ax.spines[:].set_color("#cccccc")
            if notes:
                ax.set_xlabel(notes[i][j], fontsize=8, labelpad=2)
        line[0].set_ylabel(rows[i], fontsize=10, rotation=0, ha="right", va="center", labelpad=6)
    for ax, name in zip(axes[0], columns, strict=True):
        ax.set_title(name, fontsize=10)
    figure.suptitle(title, fontsize=11)
    figure.savefig(path, dpi=120, metadata={"Software": None})


# ------------------------------------------------------------------------- gallery


def film_of(plan: Plan, model: Any, x: Any, prediction: str, picture: Callable[[Any], Image.Image], path: Path) -> None:
    """A run as a film: the state x beside the preview x̂₀, a frame for each call, and the sample at the end."""
    frames, count = [], plan.model_calls

    def add(state: Any, preview: Any, line: str) -> None:
        parts = [("the state x", picture(state)), ("the preview x̂₀", picture(preview))]
        frames.append(panels(parts, line, len(frames) / count))

    def callback(step: Any) -> None:
        level = plan.levels[step.row]
        add(step.x, step.x0, f"call {step.row + 1} of {count}, at the noise level σ/α = {level.ratio:.3g}")

    with torch.inference_mode():
        sample = plan.run(model, x, prediction=prediction, callback=callback)
    add(sample, sample, f"the sample, after {count} calls of the network")
    save_film(frames, path, [600, *[STEP_MS] * (len(frames) - 2), PAUSE_MS])


def denoise(folder: Path) -> None:
    """Eight garments out of noise, as a film"""
    network = load_network("fashion")
    plan = PLMSSolver(network.schedule).plan(24, **grid_of(network))
    model = network.model(indices(network, FASHION), GUIDANCE)
    path = folder / "gallery-denoise.gif"
    film_of(plan, model, start(network, 8), network.prediction, lambda x: sheet(grey(x.numpy()), 4, 3), path)


def denoise_galaxies(folder: Path) -> None:
    """Six galaxies out of noise, as a film"""
    network = packages.load("hsc-64")
    plan = PLMSSolver(network.schedule).plan(24, **grid_of(network))
    x = galaxy_noise(network, plan, 6)
    low, high = np.quantile(plan.run(network.model, x, prediction=network.prediction), (0.02, 0.9995))
    path = folder / "gallery-denoise-galaxies.gif"
    film_of(plan, network.model, x, network.prediction, lambda x: sheet(colours(x, low, high), 3, 2), path)


def seeds(folder: Path) -> None:
    """The same noise by solvers and numbers of calls"""
    network = load_network("fashion")
    names, budgets = ("T-shirt", "sandal", "bag", "ankle boot"), (4, 6, 8, 10, 20)
    label, x = indices(network, names), start(network, len(names))
    schedule = network.schedule
    solvers = {
        "DDIM": DDIMSolver(schedule),
        "PLMS,\nclassical": PLMSSolver(schedule, weights="classical"),
        "DPM++(2M)": DPMMultistepSolver(schedule),
        "default": PLMSSolver(schedule),
        "fitted": network.fitted(GUIDANCE),
    }
    flow = drawn(network, PLMSSolver(schedule).plan(FINE, **grid_of(network)), x, label)
    cells, notes = [], []
    for solver in tqdm(solvers.values(), desc="solvers", leave=False):
        plans = [solver.plan(max_model_calls=calls, **grid_of(network)) for calls in budgets]
        found = [drawn(network, plan, x, label) for plan in plans]
        cells.append([sheet(grey(images), 2, 4, 2) for images in (*found, flow)])
        notes.append([*(f"error {np.sqrt(np.mean((images - flow) ** 2)):.3f}" for images in found), ""])
    columns = [*(f"{calls} calls" for calls in budgets), f"flow: {FINE}"]
    table_of(cells, [*solvers], columns, folder / "gallery-seeds.png", notes)


def walk(folder: Path) -> None:
    """A walk between three noises, as a film"""
    network = load_network("fashion")
    plan = network.fitted(GUIDANCE).plan(max_model_calls=8, **grid_of(network))
    names, between = ("T-shirt", "dress", "sneaker", "sandal", "bag", "ankle boot"), 10
    label = indices(network, names)
    stations = [start(network, len(names), seed) for seed in (1, 2, 3)]
    frames, count = [], 3 * between
    for i in tqdm(range(count), desc="frames", leave=False):
        leg, step = divmod(i, between)
        x = slerp(stations[leg], stations[(leg + 1) % 3], step / between)
        picture = sheet(grey(drawn(network, plan, x, label)), len(names), 4)
        where = f"noise {leg + 1}" if not step else f"from noise {leg + 1} to {(leg + 1) % 3 + 1}"
        frames.append(panels([("8 calls for each picture", picture)], where, i / count))
    save_film(frames, folder / "gallery-walk.gif", [100 if i % between else 1000 for i in range(count)])


def inversion(folder: Path) -> None:
    """Arcs between pictures, by way of their inverted noise"""
    network = load_network("fashion")
    names, weights = ("T-shirt", "sneaker", "bag", "ankle boot"), np.linspace(0, 1, 7)
    label, solver = indices(network, names), PLMSSolver(network.schedule)
    ends = [drawn(network, solver.plan(50, **grid_of(network)), start(network, 4, seed), label) for seed in (4, 5)]
    up = solver.plan(60, start=0, stop=network.schedule.t_max)
    down = solver.plan(20, start="top")
    a, b = (torch.from_numpy(drawn(network, up, torch.from_numpy(x), label, 1.0)) for x in ends)
    path = [drawn(network, down, slerp(a, b, weight), label, 1.0) for weight in tqdm(weights, leave=False)]
    columns = [ends[0], *path, ends[1]]
    cells = [[sheet(grey(column[i : i + 1]), 1, 4) for column in columns] for i in range(len(names))]
    heads = ["picture A", *(f"{weight:.2f}" for weight in weights), "picture B"]
    table_of(cells, names, heads, folder / "gallery-inversion.png", size=1.0)


def guidance(folder: Path) -> None:
    """Scales of guidance from the same noise"""
    network, scales = load_network("fashion"), (0.0, 1.0, 2.0, 4.0)
    label, x = torch.arange(10), start(network, 10, 7)
    plan = PLMSSolver(network.schedule).plan(20, **grid_of(network))
    cells = []
    for scale in tqdm(scales, leave=False):
        images = drawn(network, plan, x, label, scale)
        cells.append([sheet(grey(image[None]), 1, 4) for image in images])
    table_of(
        cells, [f"scale {scale:g}" for scale in scales], network.labels, folder / "gallery-guidance.png", size=0.95
    )


def previews(folder: Path) -> None:
    """What the network sees in the noise, call by call"""
    network, found = load_network("digits"), []
    plan = network.fitted().plan(max_model_calls=8, **grid_of(network))
    with torch.inference_mode():
        sample = plan.run(network, start(network, 5), callback=lambda step: found.append(step.x0.numpy()))
    columns = [*found, sample.numpy()]
    cells = [[sheet(grey(column[i : i + 1]), 1, 10) for column in columns] for i in range(5)]
    heads = [*(f"call {k + 1}\nσ/α {row.level.ratio:.2g}" for k, row in enumerate(plan.rows)), "sample\n"]
    table_of(cells, [f"noise {i + 1}" for i in range(5)], heads, folder / "gallery-previews.png", size=0.85)


def galaxy_noise(network: packages.Foreign, plan: Plan, count: int) -> NDArray[np.float32]:
    return initial_noise((count, *network.shape), 5).astype(np.float32) * plan.levels[0].sigma


def galaxies(folder: Path) -> None:
    """Galaxies in few calls beside a fine run"""
    budgets, each = (5, 8, 12, 256), 3
    cells, notes, heads = [[] for _ in budgets], [[] for _ in budgets], []
    for name, survey in (("hsc-64", "HSC, 64×64"), ("ztf-32", "ZTF, 32×32")):
        network = packages.load(name)
        plans = [PLMSSolver(network.schedule).plan(calls, **grid_of(network)) for calls in budgets]
        runs = [
            plan.run(network.model, galaxy_noise(network, plan, each), prediction=network.prediction)
            for plan in tqdm(plans, desc=survey, leave=False)
        ]
        low, high = np.quantile(runs[-1], (0.1, 0.9995))
        for row, run in enumerate(runs):
            cells[row] += [sheet(colours(image[None], low, high), 1, 4) for image in run]
            off = np.sqrt(np.mean((run - runs[-1]) ** 2, axis=(1, 2, 3)))
            notes[row] += [f"error {error:.3f}" if row < len(budgets) - 1 else "" for error in off]
        heads += [survey] * each
    rows = [*(f"{calls} calls" for calls in budgets[:-1]), f"fine: {budgets[-1]}"]
    table_of(cells, rows, heads, folder / "gallery-galaxies.png", notes, size=1.2)


PICTURES: dict[str, Callable[[Path], None]] = {
    function.__name__.replace("_", "-"): function
    for function in (denoise, seeds, walk, inversion, guidance, previews, galaxies, denoise_galaxies)
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=[*PICTURES], default=[*PICTURES], help="which pictures")
    parser.add_argument("--out", type=Path, default=OUT, help="the folder to write to")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    for name in (bar := tqdm(options.only, desc="gallery")):
        bar.set_postfix_str(name)
        try:
            PICTURES[name](options.out)
        except ImportError as error:  # the networks of others
            tqdm.write(f"{name} is left out: {error}")


if __name__ == "__main__":
    main()
