"""The maps that a trial reads: shared through the page cache, permuted where asked, refused where they are foreign.

Shapes: N training images, B previewed ones, C·H·W image.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from trainables.base.assignment import Assignment
from trainables.base.maps import load_preview_maps, load_training_maps
from tune_interpreg import seeding
from tune_interpreg.data.dataset import load_dataset
from tune_interpreg.gradients import saliency
from tune_interpreg.store.store import Store
from tune_interpreg.study.config import Data
from tune_interpreg.study.items import Item
from tune_interpreg.study.recipe import Maps, Recipe

N = 40
DATA = Data(name="digits", train_limit=N)
IMAGES = load_dataset(DATA)
RAW = torch.rand(N, 1, 8, 8, generator=torch.Generator().manual_seed(0)).numpy()


def study(
    folder: Path, permute: str | None = None, raw: np.ndarray = RAW, seeds: tuple[int, ...] = (0, 1)
) -> Assignment:
    """A job of a study whose store holds the maps ``raw`` and previews of them."""
    store, maps = Store(folder), Maps(teacher="t", teacher_seed=0, samples=1, permute=permute)
    store.maps_file(maps.key).parent.mkdir(parents=True)
    np.save(store.maps_file(maps.key), raw)
    save_file({"smoothgrad_NCHW": torch.from_numpy(raw[:8]).float()}, store.preview_file(maps.key))
    recipe = Recipe(method="interpretation", data=DATA, maps=maps)
    item = Item(arm="interp", role="search", recipe=recipe, seeds=seeds)
    return Assignment(item, "cpu", store, store.maps_file(maps.key))


def plain(file: Path) -> Assignment:
    """A job without a study."""
    item = Item(arm="plain", role="search", recipe=Recipe(method="interpretation", data=DATA), seeds=(0,))
    return Assignment(item, "cpu", maps=file)


def refusal(file: Path) -> str:
    with pytest.raises(ValueError) as caught:
        load_training_maps(plain(file), IMAGES)
    return str(caught.value)


def file_behind(tensor: torch.Tensor) -> str:
    """The file that the kernel has mapped where the tensor's values lie."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        first, _, last = line.split()[0].partition("-")
        if int(first, 16) <= tensor.data_ptr() < int(last, 16):
            return line.split(maxsplit=5)[5] if len(line.split()) > 5 else "memory of the process"
    raise AssertionError("no mapping holds the tensor")


# ------------------------------------------------------------------------ reading
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("permute", [None, "redrawn"])
def test_maps_come_as_they_are_stored(permute: str | None, dtype: type, tmp_path: Path) -> None:
    """The raw maps, in their own precision, one tensor for all seeds; who redraws permutations does so by the batch."""
    raw = RAW.astype(dtype)
    maps = load_training_maps(study(tmp_path, permute, raw), IMAGES)
    assert maps.keys() == {0, 1}
    assert maps[0] is maps[1]
    assert maps[0].numpy().dtype == dtype
    assert np.array_equal(maps[0].numpy(), raw)


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="the kernel does not tell what is mapped")
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_maps_are_the_mapped_file_and_no_copy(dtype: type, tmp_path: Path) -> None:
    """Its pages are those of every worker on the machine; a permuted copy is the worker's own."""
    job = study(tmp_path / "raw", raw=RAW.astype(dtype))
    assert file_behind(load_training_maps(job, IMAGES)[0]) == str(job.maps)
    permuted = study(tmp_path / "permuted", "fixed", RAW.astype(dtype))
    assert file_behind(load_training_maps(permuted, IMAGES)[0]) != str(permuted.maps)


def test_a_worker_cannot_change_the_file(tmp_path: Path) -> None:
    """What it writes is its own: a page is copied when it is written."""
    job = study(tmp_path)
    load_training_maps(job, IMAGES)[0].zero_()
    assert np.array_equal(np.load(job.store.maps_file(job.item.recipe.maps.key)), RAW)
    assert np.array_equal(load_training_maps(job, IMAGES)[0].numpy(), RAW)


# -------------------------------------------------------------------- permutations
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_fixed_permutations_are_made_once_by_the_seed(dtype: type, tmp_path: Path) -> None:
    """Each map keeps its values and each seed has an order of its own, the same whenever the trial begins."""
    job = study(tmp_path, "fixed", RAW.astype(dtype))
    first, second = load_training_maps(job, IMAGES).values()
    raw = torch.from_numpy(RAW.astype(dtype))
    for maps in (first, second):
        assert maps.dtype == raw.dtype
        assert torch.equal(maps.flatten(1).sort().values, raw.flatten(1).sort().values)
        assert not torch.equal(maps, raw)
    assert not torch.equal(first, second)
    torch.manual_seed(99)
    assert torch.equal(load_training_maps(job, IMAGES)[0], first)
    assert torch.equal(saliency.permute(raw, seeding.generator(1, "permutation")), second)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("permute", [None, "fixed", "redrawn"])
def test_previews_show_what_is_trained_on(permute: str | None, dtype: type, tmp_path: Path) -> None:
    """In float32, permuted under both kinds of permutation."""
    shown = load_preview_maps(study(tmp_path, permute, RAW.astype(dtype)))
    raw = torch.from_numpy(RAW[:8].astype(dtype)).float()
    assert shown is not None
    assert shown.dtype == torch.float32
    assert torch.equal(shown.flatten(1).sort().values, raw.flatten(1).sort().values)
    assert torch.equal(shown, raw) == (permute is None)


def test_previews_are_of_a_studys_targets_only(tmp_path: Path) -> None:
    np.save(tmp_path / "maps.npy", RAW)
    assert load_preview_maps(plain(tmp_path / "maps.npy")) is None


# ------------------------------------------------------------------------- refusals
@pytest.mark.parametrize(
    "foreign",
    [RAW[1:], RAW[:, :, 1:], RAW.reshape(N, 64), RAW.astype(np.float64), RAW.astype(">f4"), RAW.astype(np.int32)],
)
def test_maps_of_other_images_or_types_are_refused(foreign: np.ndarray, tmp_path: Path) -> None:
    """With the file, the rule, what is there, and the remedy."""
    file = tmp_path / "foreign.npy"
    np.save(file, foreign)
    assert refusal(file) == (
        f"{file}: maps are float32, or float16, one for each training image: shape [{N}, 1, 8, 8]; these are "
        f"{foreign.dtype} of shape {list(foreign.shape)}; give the maps of these training images, in their order"
    )


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_a_value_that_is_not_finite_is_refused(dtype: type, value: float, tmp_path: Path) -> None:
    """Anywhere in the file; the map is named."""
    raw = RAW.astype(dtype)
    raw[17, 0, 3, 5] = value
    np.save(tmp_path / "maps.npy", raw)
    told = "values of maps are finite numbers; one of map 17 is not; give the maps of these training images"
    assert told in refusal(tmp_path / "maps.npy")


def spoilt(file: Path, kind: str) -> None:
    if kind == "truncated":
        np.save(file, RAW)
        file.write_bytes(file.read_bytes()[:-1])
    elif kind == "several":
        np.savez(file.with_suffix(".npz"), RAW)
        file.with_suffix(".npz").rename(file)
    elif kind != "missing":
        file.write_bytes({"empty": b"", "text": b"maps"}[kind])


@pytest.mark.parametrize("kind", ["missing", "empty", "text", "truncated", "several"])
def test_a_file_that_holds_no_maps_is_refused(kind: str, tmp_path: Path) -> None:
    """Whatever NumPy stumbles over, the message begins with the file and ends with what to do."""
    file = tmp_path / "maps.npy"
    spoilt(file, kind)
    told = refusal(file)
    assert told.startswith(f"{file}: is no .npy file of maps (")
    assert told.endswith("; give the maps of these training images, in their order")


def test_a_study_is_told_how_to_make_its_maps_anew(tmp_path: Path) -> None:
    """Its maps are made by a stage, whose record would keep it from running again."""
    with pytest.raises(ValueError, match=r"remove it and the record of the stage .* and `run` makes both anew"):
        load_training_maps(study(tmp_path, raw=RAW[1:]), IMAGES)


def test_a_method_that_needs_maps_says_so() -> None:
    item: dict[str, Any] = {"arm": "interp", "role": "search", "recipe": {"method": "interpretation"}, "seeds": [0]}
    with pytest.raises(ValueError, match="interpretation needs target maps, but the arm interp names no targets"):
        load_training_maps(Assignment(Item.model_validate(item), "cpu"), IMAGES)
