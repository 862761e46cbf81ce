"""Figures 1 and 2: saliency maps of teachers, raw and thresholded.

Shapes: N images, C·H·W image. A shade is a brightness in [0, 1].
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from safetensors import SafetensorError
from safetensors.numpy import load_file

from analysis.figures import canvas
from analysis.figures.canvas import NothingToDraw, Options
from analysis.results.results import Results
from tune_interpreg.store.store import Record, Store
from tune_interpreg.study.config import MapSettings

Array = np.ndarray
SHOWN = 8  # images per row
PHI = 1.0  # threshold in the paper's figures
LABELS = 1.75  # inches for the rows' names
GAP = 0.07  # between images, as a fraction of an image's side
PROCESSING = (
    "Thresholded: values below mean + φ·std of their map are set to 0. Brightness: sum over channels, from 0 to the"
    " 99th percentile of each raw map."
)


@dataclass(frozen=True)
class TeacherMaps:
    """A teacher's maps of a few validation images: pixels in [0, 1], and gradients as output per pixel unit.

    seed: of the teacher. phis: the thresholds to show, the paper's and that of a student's training.
    gradient_NCHW: signed.
    """

    arm: str
    title: str
    seed: int
    settings: MapSettings
    phis: tuple[float, ...]
    images_NCHW: Array
    smoothgrad_NCHW: Array
    gradient_NCHW: Array


class TileRow(NamedTuple):
    """One row of images: its name, its processing, and shades N·H·W (maps) or N·H·W·C (images)."""

    name: str
    detail: str
    tiles: Array


def teacher_maps(results: Results, store: Store) -> list[TeacherMaps]:
    """Return the study's teachers with previews, robust ones first. Raises ``NothingToDraw`` if there are none."""
    teachers = []
    for arm, records in results.current.maps.items():
        on_disk = [record for record in records if store.preview_file(record["key"]).exists()]
        if on_disk:
            teachers.append(_read(results, arm, min(on_disk, key=lambda record: int(record["seed"])), store))
    if not teachers:
        raise NothingToDraw("no teacher's maps are in the store yet")
    return sorted(teachers, key=lambda teacher: results.study.arms[teacher.arm].method == "standard")


def threshold(maps_NCHW: Array, phi: float) -> Array:
    """Set the values of each map below mean + φ·std (unbiased, over its C·H·W values) to 0."""
    mean_N111 = maps_NCHW.mean((1, 2, 3), keepdims=True)
    std_N111 = maps_NCHW.std((1, 2, 3), keepdims=True, ddof=1)
    return np.where(maps_NCHW < mean_N111 + phi * std_N111, 0.0, maps_NCHW)


def shades(raw_NCHW: Array, shown_NCHW: Array) -> Array:
    """Return maps as brightness N·H·W: the sum over channels, scaled by the 99th percentile of each raw map's."""
    bright_N11 = np.percentile(raw_NCHW.sum(1), 99, axis=(1, 2), keepdims=True)
    return np.clip(shown_NCHW.sum(1) / np.where(bright_N11 > 0, bright_N11, 1.0), 0.0, 1.0)


def figure_1(results: Results, store: Store) -> tuple[Figure, str]:
    """Draw images, and SmoothGrad maps of robust and non-robust teachers, raw and thresholded."""
    teachers = teacher_maps(results, store)
    shown = [_image_row(teachers[0])]
    for teacher in teachers:
        shown += _map_rows(teacher.title, "SmoothGrad", teacher.smoothgrad_NCHW, teacher.phis)
    settings = (f"{teacher.title}: {_describe(teacher)}" for teacher in teachers)
    caption = (
        f"{len(shown[0].tiles)} validation images of {results.study.data.name}, and SmoothGrad maps of the teachers'"
        f" label gradients, each from one model ({'; '.join(settings)}). {PROCESSING}"
    )
    return _mosaic(shown), caption


def figure_2(results: Results, store: Store) -> tuple[Figure, str]:
    """Draw SmoothGrad and the simple gradient of one teacher, raw and thresholded."""
    teacher = teacher_maps(results, store)[0]
    simple = _map_rows("Simple gradient", "|g|", teacher.gradient_NCHW, (PHI,))
    smooth = _map_rows("SmoothGrad", f"N = {teacher.settings.samples}", teacher.smoothgrad_NCHW, (PHI,))
    caption = (
        f"Magnitude of the label's simple gradient and SmoothGrad of {teacher.title}, on the same images"
        f" ({_describe(teacher)}). {PROCESSING}"
    )
    return _mosaic([_image_row(teacher), *simple, *smooth]), caption


def _describe(teacher: TeacherMaps) -> str:
    return f"σ = {teacher.settings.sigma:g}, N = {teacher.settings.samples}, seed {teacher.seed}"


def _mosaic(shown: list[TileRow]) -> Figure:
    """Draw rows of square tiles, the first on top, their names to the left."""
    width, height = len(shown[0].tiles) * (1 + GAP) - GAP, len(shown) * (1 + GAP) - GAP  # in tiles
    side = (canvas.WIDTH - LABELS - 0.08) / max(width, SHOWN)
    figure = Figure(figsize=(canvas.WIDTH, side * height + 0.16))
    low, high = 0.08 / figure.get_figheight(), side * height / figure.get_figheight()
    axes = figure.add_axes((LABELS / canvas.WIDTH, low, side * width / canvas.WIDTH, high))
    for place, row in enumerate(shown):
        top = -place * (1 + GAP)
        for column, tile in enumerate(row.tiles):
            left = column * (1 + GAP)
            colours: Options = {"cmap": "gray" if place == 0 else "magma", "vmin": 0.0, "vmax": 1.0}
            axes.imshow(tile, extent=(left, left + 1, top - 1, top), interpolation="none", **colours)
        apart = 0.12 if row.name and row.detail else 0.0
        spot: Options = {"x": -0.15, "ha": "right", "va": "center"}
        axes.text(y=top - 0.5 + apart, s=row.name, fontweight="bold", fontsize=canvas.FONT - 0.5, **spot)
        axes.text(y=top - 0.5 - apart, s=row.detail, color=canvas.MUTED, fontsize=canvas.FONT - 1, **spot)
    axes.set(xlim=(0, width), ylim=(-height, 0))
    axes.set_axis_off()
    return figure


def _map_rows(name: str, detail: str, maps_NCHW: Array, phis: tuple[float, ...]) -> list[TileRow]:
    size_NCHW = np.abs(maps_NCHW)
    cut = [TileRow("", f"thresholded, φ = {phi:g}", shades(size_NCHW, threshold(size_NCHW, phi))) for phi in phis]
    return [TileRow(name, detail, shades(size_NCHW, size_NCHW)), *cut]


def _image_row(teacher: TeacherMaps) -> TileRow:
    pixels_NHWC = teacher.images_NCHW.transpose(0, 2, 3, 1)
    return TileRow("Image", "", pixels_NHWC[..., 0] if pixels_NHWC.shape[-1] == 1 else pixels_NHWC.clip(0, 1))


def _read(results: Results, arm: str, record: Record, store: Store) -> TeacherMaps:
    path, settings = store.preview_file(record["key"]), MapSettings.model_validate(record["settings"])
    try:
        preview = {name: values[:SHOWN] for name, values in load_file(path).items()}
        arrays = [preview[name] for name in ("images_NCHW", "smoothgrad_NCHW", "gradient_NCHW")]
    except (OSError, SafetensorError, KeyError) as error:
        raise NothingToDraw(f"{path.name} cannot be read ({error!r})") from None
    title = canvas.short_title(results, arm, longest=22)
    return TeacherMaps(arm, title, record["seed"], settings, _phis(results, arm), *arrays)


def _phis(results: Results, teacher: str) -> tuple[float, ...]:
    """Return the paper's φ and, if different, the φ of the first arm trained with these maps unpermuted."""
    for name, arm in results.study.arms.items():
        repeats = [*results.current.repeats[name].values()]
        if arm.targets and arm.teacher == teacher and repeats and not arm.targets.permute:
            return tuple(dict.fromkeys((PHI, float(repeats[-1]["recipe"]["params"].get("phi", PHI)))))
    return (PHI,)
