"""The maps that a trial reads: shared through the page cache, permuted if requested, and checked.

Shapes: N training images, B previewed ones, C·H·W image.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.jobs import training_job
from safetensors.torch import save_file

from trainables.base.assignment import Assignment
from trainables.base.maps import load_preview_maps, load_training_maps
from tune_interpreg import seeding
from tune_interpreg.data.dataset import load_dataset
from tune_interpreg.gradients import saliency
from tune_interpreg.store.store import Store
from tune_interpreg.study.config import Data
from tune_interpreg.study.items import Train
from tune_interpreg.study.recipe import Recipe, TargetMaps

N = 40
DATA = Data(name="digits", train_limit=N)
IMAGES = load_dataset(DATA)
REMEDY = "give the maps of these training images, in their order"
RAW = torch.rand(N, 1, 8, 8, generator=torch.Generator().manual_seed(0)).numpy()


def study(folder: Path, permute: str | None = None, raw: np.ndarray = RAW) -> Assignment:
    """Return the assignment of a study with the maps ``raw``, and previews of them, in its store."""
    store, maps = Store(folder), TargetMaps(key="made", permute=permute)
    store.maps_file(maps.key).parent.mkdir(parents=True)
    np.save(store.maps_file(maps.key), raw)
    save_file({"smoothgrad_NCHW": torch.from_numpy(raw[:8]).float()}, store.preview_file(maps.key))
    recipe = Recipe(method="interpretation", data=DATA, maps=maps)
    models = tuple(Train(recipe=recipe, seed=seed) for seed in (0, 1))
    return Assignment(training_job(recipe, models=models), "cpu", store, store.maps_file(maps.key))


def plain(file: Path) -> Assignment:
    """Return an assignment without a study."""
    return Assignment(training_job(Recipe(method="interpretation", data=DATA), "plain"), "cpu", maps=file)


def refusal(file: Path) -> str:
    with pytest.raises(ValueError) as caught:
        load_training_maps(plain(file), IMAGES)
    return str(caught.value)


def file_behind(tensor: torch.Tensor) -> str:
    """Return the file that the kernel has mapped to the tensor's memory."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        first, _, last = line.split()[0].partition("-")
        if int(first, 16) <= tensor.data_ptr() < int(last, 16):
            return line.split(maxsplit=5)[5] if len(line.split()) > 5 else "memory of the process"
    raise AssertionError("no mapping holds the tensor")


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs /proc/self/maps")
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("permute", [None, "redrawn"])
def test_maps_are_the_mapped_file_for_all_seeds(permute: str | None, dtype: type, tmp_path: Path) -> None:
    """In their stored precision. So all workers of a machine share its pages, but none can change the file."""
    raw, assignment = RAW.astype(dtype), study(tmp_path, permute, RAW.astype(dtype))
    maps = load_training_maps(assignment, IMAGES)
    assert maps.keys() == {0, 1}
    assert maps[0] is maps[1]
    assert maps[0].numpy().dtype == dtype
    assert np.array_equal(maps[0].numpy(), raw)
    assert file_behind(maps[0]) == str(assignment.maps)
    maps[0].zero_()  # copies the page
    assert np.array_equal(np.load(assignment.maps), raw)
    assert np.array_equal(load_training_maps(assignment, IMAGES)[0].numpy(), raw)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_fixed_permutations_depend_on_the_seed_alone(dtype: type, tmp_path: Path) -> None:
    """Each map keeps its values, and each seed has its own order, the same in every trial."""
    assignment = study(tmp_path, "fixed", RAW.astype(dtype))
    first, second = load_training_maps(assignment, IMAGES).values()
    raw = torch.from_numpy(RAW.astype(dtype))
    for maps in (first, second):
        assert maps.dtype == raw.dtype
        assert torch.equal(maps.flatten(1).sort().values, raw.flatten(1).sort().values)
        assert not torch.equal(maps, raw)
    assert not torch.equal(first, second)
    torch.manual_seed(99)
    assert torch.equal(load_training_maps(assignment, IMAGES)[0], first)
    assert torch.equal(saliency.permute(raw, seeding.generator(1, "permutation")), second)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("permute", [None, "fixed", "redrawn"])
def test_previews_are_permuted_like_the_training_maps(permute: str | None, dtype: type, tmp_path: Path) -> None:
    preview = load_preview_maps(study(tmp_path, permute, RAW.astype(dtype)))
    raw = torch.from_numpy(RAW[:8].astype(dtype)).float()
    assert preview is not None
    assert preview.dtype == torch.float32
    assert torch.equal(preview.flatten(1).sort().values, raw.flatten(1).sort().values)
    assert torch.equal(preview, raw) == (permute is None)


def test_a_plain_trial_has_no_previews(tmp_path: Path) -> None:
    assert load_preview_maps(plain(tmp_path / "maps.npy")) is None


@pytest.mark.parametrize(
    "foreign",
    [RAW[1:], RAW[:, :, 1:], RAW.reshape(N, 64), RAW.astype(np.float64), RAW.astype(">f4"), RAW.astype(np.int32)],
)
def test_maps_of_other_images_or_types_are_refused(foreign: np.ndarray, tmp_path: Path) -> None:
    """The message names the file, the expected and the actual shape and type, and the remedy."""
    file = tmp_path / "foreign.npy"
    np.save(file, foreign)
    parts = (str(file), f"[{N}, 1, 8, 8]", f"{foreign.dtype} of shape {list(foreign.shape)}", REMEDY)
    assert all(part in refusal(file) for part in parts)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_refused(value: float, tmp_path: Path) -> None:
    raw = RAW.astype(np.float16)
    raw[17, 0, 3, 5] = value
    np.save(tmp_path / "maps.npy", raw)
    assert "map 17 has another value" in refusal(tmp_path / "maps.npy")


@pytest.mark.parametrize("length", [None, 0, 4, -1])
def test_a_file_without_maps_is_refused(length: int | None, tmp_path: Path) -> None:
    """Missing, empty or truncated. The message has the file and the remedy, whatever NumPy's error is."""
    file = tmp_path / "maps.npy"
    if length is not None:
        np.save(file, RAW)
        file.write_bytes(file.read_bytes()[:length])
    message = refusal(file)
    assert message.startswith(str(file))
    assert message.endswith(REMEDY)


def test_the_remedy_for_a_studys_maps_is_to_run_again(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="run again: the next start sets a damaged file aside and makes it again"):
        load_training_maps(study(tmp_path, raw=RAW[1:]), IMAGES)


def test_a_method_that_needs_maps_asks_for_a_teacher() -> None:
    job = training_job(Recipe(method="interpretation"), "interp")
    with pytest.raises(ValueError, match="interpretation needs target maps, but the arm interp names no targets"):
        load_training_maps(Assignment(job, "cpu"), IMAGES)
