"""Figures 1 and 2: what teachers' saliency maps look like, raw and thresholded.

Shapes: N images, C·H·W image. A shade is a brightness in [0, 1].
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from safetensors import SafetensorError
from safetensors.numpy import load_file

from analysis.figures.canvas import FONT, MUTED, WIDTH, Ink, NothingToDraw, titles
from analysis.results.results import Results
from tune_interpreg.store.store import Store
from tune_interpreg.study.items import Maps

Array = np.ndarray
SHOWN = 8  # images in a row
PHI = 1.0  # of the paper's figures
LABELS = 1.75  # inches for the rows' names
GAP = 0.07  # between images, of an image's side


@dataclass(frozen=True)
class Teacher:
    """A trained model and its maps of a few validation images.

    phis: the thresholds shown, the paper's and the one that a student of this teacher was trained with.
    images_NCHW: pixels in [0, 1]. smoothgrad_NCHW, gradient_NCHW: output per pixel, raw, the latter signed.
    """

    arm: str
    title: str
    settings: Maps
    phis: tuple[float, ...]
    images_NCHW: Array
    smoothgrad_NCHW: Array
    gradient_NCHW: Array


@dataclass(frozen=True)
class Row:
    """One row of tiles: its name, what is done to it, and shades N·H·W (maps) or N·H·W·C (images)."""

    name: str
    detail: str
    tiles: Array


def teachers(results: Results, store: Store) -> list[Teacher]:
    """The study's teachers with their previews, robust ones first. Raises ``NothingToDraw`` where there are none."""
    found: dict[str, Teacher] = {}
    for arm, made in results.current.maps.items():
        known = [Maps.model_validate(record["recipe"]["maps"]) for record in made]
        there = [maps for maps in known if store.preview_file(maps.key).exists()]
        if there:
            found[arm] = _read(results, arm, min(there, key=lambda maps: maps.teacher_seed), store)
    if not found:
        raise NothingToDraw("no teacher's maps are in the store yet")
    return sorted(found.values(), key=lambda one: results.study.arms[one.arm].method == "standard")


def threshold(maps_NCHW: Array, phi: float) -> Array:
    """Each map with its values below mean + φ·std (unbiased, over its C·H·W values) set to 0."""
    mean_N111 = maps_NCHW.mean((1, 2, 3), keepdims=True)
    std_N111 = maps_NCHW.std((1, 2, 3), keepdims=True, ddof=1)
    return np.where(maps_NCHW < mean_N111 + phi * std_N111, 0.0, maps_NCHW)


def shades(raw_NCHW: Array, shown_NCHW: Array) -> Array:
    """Maps as brightness N·H·W: the sum over channels, from 0 to the 99th percentile of each raw map's."""
    bright_N = np.percentile(raw_NCHW.sum(1), 99, axis=(1, 2))
    scale_N11 = np.where(bright_N > 0, bright_N, 1.0)[:, None, None]
    return np.clip(shown_NCHW.sum(1) / scale_N11, 0.0, 1.0)


def figure_1(results: Results, store: Store) -> tuple[Figure, str]:
    """Images, and SmoothGrad maps of robust and non-robust teachers, raw and thresholded."""
    known = teachers(results, store)
    shown = [_images(known[0])]
    for one in known:
        shown += _map_rows(one.title, "SmoothGrad", one.smoothgrad_NCHW, one.phis)
    caption = (
        f"{len(shown[0].tiles)} validation images of {results.study.data.name}, and the SmoothGrad maps of"
        f" the teachers' label gradients, each of one model ({_settings(known)}). {_HOW}"
    )
    return _mosaic(shown), caption


def figure_2(results: Results, store: Store) -> tuple[Figure, str]:
    """SmoothGrad against the simple gradient of one teacher, raw and thresholded."""
    one = teachers(results, store)[0]
    simple = _map_rows("Simple gradient", "|g|", one.gradient_NCHW, (PHI,))
    smooth = _map_rows("SmoothGrad", f"N = {one.settings.samples}", one.smoothgrad_NCHW, (PHI,))
    caption = (
        f"Magnitude of the label's simple gradient and SmoothGrad (σ = {one.settings.sigma:g},"
        f" N = {one.settings.samples}) of {one.title}, seed {one.settings.teacher_seed}, on the same images. {_HOW}"
    )
    return _mosaic([_images(one), *simple, *smooth]), caption


_HOW = (
    "Thresholded: values below mean + φ·std of their map are set to 0. Brightness: sum over channels, from 0 to the"
    " 99th percentile of each raw map."
)


def _settings(known: list[Teacher]) -> str:
    """What the maps are made of, of each teacher where they differ."""
    made = {
        one.title: f"σ = {one.settings.sigma:g}, N = {one.settings.samples}, seed {one.settings.teacher_seed}"
        for one in known
    }
    if len(set(made.values())) == 1:
        return next(iter(made.values()))
    return "; ".join(f"{title}: {said}" for title, said in made.items())


def draw_rows(axes: Axes, shown: list[Row]) -> Axes:
    """Rows of square tiles, the first on top, their names to the left; returns the axes."""
    for place, row in enumerate(shown):
        top = -place * (1 + GAP)
        for column, tile in enumerate(row.tiles):
            left = column * (1 + GAP)
            colours: Ink = {"cmap": "gray" if place == 0 else "magma", "vmin": 0.0, "vmax": 1.0}
            axes.imshow(tile, extent=(left, left + 1, top - 1, top), interpolation="none", **colours)
        apart = 0.12 if row.name and row.detail else 0.0
        spot: Ink = {"x": -0.15, "ha": "right", "va": "center"}
        axes.text(y=top - 0.5 + apart, s=row.name, fontweight="bold", fontsize=FONT - 0.5, **spot)
        axes.text(y=top - 0.5 - apart, s=row.detail, color=MUTED, fontsize=FONT - 1, **spot)
    columns = max(len(row.tiles) for row in shown)
    axes.set(xlim=(0, columns * (1 + GAP) - GAP), ylim=(-len(shown) * (1 + GAP) + GAP, 0))
    axes.set_axis_off()
    return axes


def _mosaic(shown: list[Row]) -> Figure:
    columns = max(len(row.tiles) for row in shown) * (1 + GAP) - GAP
    lines = len(shown) * (1 + GAP) - GAP
    side = (WIDTH - LABELS - 0.08) / max(columns, SHOWN)
    figure = Figure(figsize=(WIDTH, side * lines + 0.16))
    low, high = 0.08 / figure.get_figheight(), side * lines / figure.get_figheight()
    draw_rows(figure.add_axes((LABELS / WIDTH, low, side * columns / WIDTH, high)), shown)
    return figure


def _map_rows(name: str, detail: str, maps_NCHW: Array, phis: tuple[float, ...]) -> list[Row]:
    size_NCHW = np.abs(maps_NCHW)
    cut = [Row("", f"thresholded, φ = {phi:g}", shades(size_NCHW, threshold(size_NCHW, phi))) for phi in phis]
    return [Row(name, detail, shades(size_NCHW, size_NCHW)), *cut]


def _images(teacher: Teacher) -> Row:
    pixels_NHWC = teacher.images_NCHW.transpose(0, 2, 3, 1)
    return Row("Image", "", pixels_NHWC[..., 0] if pixels_NHWC.shape[-1] == 1 else pixels_NHWC.clip(0, 1))


def _read(results: Results, arm: str, maps: Maps, store: Store) -> Teacher:
    path = store.preview_file(maps.key)
    try:
        held = {name: values[:SHOWN] for name, values in load_file(path).items()}
        arrays = [held[name] for name in ("images_NCHW", "smoothgrad_NCHW", "gradient_NCHW")]
    except (OSError, SafetensorError, KeyError) as error:
        raise NothingToDraw(f"{path.name} cannot be read ({error!r})") from None
    title = titles(results, longest=22)[arm]
    return Teacher(arm, title, maps, _phis(results, arm), *arrays)


def _phis(results: Results, teacher: str) -> tuple[float, ...]:
    """The paper's φ, and that of the first arm taught by these maps, unpermuted, if it is another."""
    repeats = results.current.repeats
    taught = [arm for arm, one in results.study.arms.items() if one.targets and one.targets.teacher == teacher]
    plain = [group[-1]["recipe"] for arm in taught if (group := repeats[arm])]
    used = [recipe["params"].get("phi") for recipe in plain if not recipe["maps"]["permute"]]
    chosen = [float(phi) for phi in used[:1] if isinstance(phi, (int, float))]
    return tuple(dict.fromkeys((PHI, *chosen)))
