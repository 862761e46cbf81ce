"""Splits are fixed, stratified, disjoint and nested; a changed file changes the fingerprint; errors name the remedy."""

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tune_interpreg.data import dataset as data
from tune_interpreg.data.dataset import DataError, Dataset, Source, Split
from tune_interpreg.study import config


def user_source(root: Path | None) -> Source:
    """200 images of three classes in shares .6, .3, .1, no two alike; 20 are held out by default."""
    return Source(3, (1, 2, 100), 20, lambda: user_split(200), lambda: user_split(50))


def user_split(images: int) -> Split:
    """Image n is black but for two pixels, n mod 100 and ⌊n/100⌋."""
    x_NCHW = torch.zeros(images, 1, 2, 100, dtype=torch.uint8)
    x_NCHW[:, 0, 0, 0] = torch.arange(images) % 100
    x_NCHW[:, 0, 1, 0] = torch.arange(images) // 100
    return Split(x_NCHW, (torch.arange(images) % 10 > 5).long() + (torch.arange(images) % 10 > 8).long())


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> dict[str, Callable[[Path | None], Source]]:
    """Stand for the entry points, so that a test can add a data set."""
    names: dict[str, Callable[[Path | None], Source]] = {"user": user_source}
    monkeypatch.setattr(data.registry, "resolve", lambda group, name: {"datasets": names}[group][name])
    return names


def rows(split: Split) -> set[bytes]:
    """The identities of a split's images."""
    return {image.numpy().tobytes() for image in split.x_NCHW}


def shares(split: Split, classes: int) -> torch.Tensor:
    return split.y_N.bincount(minlength=classes).double()


# ---------------------------------------------------------------- quotas and subsets


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 40), min_size=1, max_size=8).filter(any))
def test_quotas_stay_within_one_of_the_share_and_never_fall(sizes: list[int]) -> None:
    """|c_k − n·N_k/N| < 1 for each class and each n, c_k grows with n, Σ c_k = n, and c_k(N) = N_k."""
    images, before = sum(sizes), [0] * len(sizes)
    for total in range(images + 1):
        counts = data.quotas(sizes, total)
        assert sum(counts) == total
        assert all(abs(count * images - total * size) < images for count, size in zip(counts, sizes, strict=True))
        assert all(old <= new for old, new in zip(before, counts, strict=True))
        before = counts
    assert before == sizes


def test_quotas_hold_where_plain_rounding_fails() -> None:
    """One class of 900 and nine of 11: when the nine reach half an image at once, the large one keeps its share."""
    sizes = [900] + [11] * 9
    for total in range(sum(sizes) + 1):
        assert abs(data.quotas(sizes, total)[0] - total * 900 / sum(sizes)) < 1


def test_subsets_are_nested_and_ascending() -> None:
    y_N = torch.tensor([0] * 50 + [1] * 30 + [2] * 5)
    smaller: set[int] = set()
    for size in range(86):
        chosen, rest = data.stratified(y_N, size, "a purpose")
        assert len(chosen) == size
        assert sorted(chosen.tolist() + rest.tolist()) == list(range(85))
        assert chosen.tolist() == sorted(chosen.tolist())
        assert smaller <= set(chosen.tolist())
        smaller = set(chosen.tolist())


def test_purposes_choose_differently() -> None:
    y_N = torch.zeros(100, dtype=torch.int64)
    assert not torch.equal(data.stratified(y_N, 50, "validation")[0], data.stratified(y_N, 50, "test_limit")[0])


def test_the_choice_is_pinned() -> None:
    """A golden choice: another one would silently change every stored split."""
    assert data.stratified(torch.arange(20) % 2, 6, "validation")[0].tolist() == [8, 9, 11, 12, 14, 17]


def test_some_of_a_split_whose_classes_lie_apart_are_of_all_classes() -> None:
    """Image folders are read class by class."""
    y_N = torch.arange(4).repeat_interleave(25)
    split = data.Split(torch.rand(100, 1, 2, 2), y_N)
    assert torch.equal(split.some(8, "preview").y_N, torch.arange(4).repeat_interleave(2))
    assert torch.equal(split.some(500, "preview").x_NCHW, split.x_NCHW)


def test_global_generators_neither_matter_nor_move() -> None:
    torch.manual_seed(1)
    one, before = data.load(config.Data(name="user")), torch.get_rng_state()
    torch.manual_seed(2)
    np.random.seed(2)
    two = data.load(config.Data(name="user"))
    assert one.fingerprint == two.fingerprint
    torch.manual_seed(1)
    assert torch.equal(before, torch.get_rng_state())


# ---------------------------------------------------------------- limits, on a user's data set


@pytest.mark.parametrize("limit", [1, 7, 20, 99, 180])
def test_class_shares_lie_within_one_image(limit: int) -> None:
    """Of 200 images in shares .6, .3, .1: validation against the pool, the training subset against what is left."""
    user = data.load(config.Data(name="user", train_limit=limit))
    whole = data.load(config.Data(name="user"))
    pool = torch.tensor([120.0, 60.0, 20.0], dtype=torch.float64)
    assert (shares(user.validation, 3) - 20 * pool / 200).abs().max() < 1
    assert (shares(user.train, 3) - limit * shares(whole.train, 3) / 180).abs().max() < 1


def test_smaller_training_sets_lie_within_larger_ones() -> None:
    train = [rows(data.load(config.Data(name="user", train_limit=limit)).train) for limit in (5, 50, 120, 180)]
    assert [len(part) for part in train] == [5, 50, 120, 180]
    assert all(small < large for small, large in pairwise(train))


def test_the_training_limit_leaves_validation_alone() -> None:
    whole, small = data.load(config.Data(name="user")), data.load(config.Data(name="user", train_limit=9))
    assert torch.equal(whole.validation.x_NCHW, small.validation.x_NCHW)
    assert not rows(small.train) & rows(small.validation)
    assert rows(small.train) <= rows(whole.train)


def test_validation_sets_are_nested_and_disjoint_from_training() -> None:
    small, large = (data.load(config.Data(name="user", validation=size)) for size in (10, 60))
    assert rows(small.validation) < rows(large.validation)
    assert not rows(large.train) & rows(large.validation)
    assert (len(large.train), len(large.validation)) == (140, 60)


def test_test_limits_are_nested_and_stratified() -> None:
    tests = [data.load_test(config.Data(name="user", test_limit=limit)) for limit in (10, 30, 50)]
    assert shares(tests[0], 3).tolist() == [6, 3, 1]
    assert rows(tests[0]) < rows(tests[1]) < rows(tests[2])
    assert rows(tests[2]) == rows(data.load_test(config.Data(name="user")))


def test_fingerprints_name_the_splits_and_nothing_else(tmp_path: Path) -> None:
    base = data.load(config.Data(name="user")).fingerprint
    assert len(base) == 16
    assert int(base, 16) >= 0
    same = config.Data(name="user", validation=20, train_limit=180, root=str(tmp_path))
    assert data.load(same).fingerprint == base
    others = [{"train_limit": 179}, {"validation": 21}, {"test_limit": 10}, {"test_limit": 11}]
    prints = {data.load(config.Data.model_validate({"name": "user", **other})).fingerprint for other in others}
    assert len(prints | {base}) == 5


@pytest.mark.parametrize("changed", ["x_NCHW", "y_N"])
def test_one_changed_value_changes_the_fingerprint(
    registered: dict[str, Callable[[Path | None], Source]], changed: str
) -> None:
    base = data.load(config.Data(name="user")).fingerprint
    split = user_split(200)
    tensor = getattr(split, changed)
    tensor.view(-1)[0] += 1
    registered["user"] = lambda root: Source(3, (1, 2, 100), 20, lambda: split, lambda: split)
    assert data.load(config.Data(name="user")).fingerprint != base


# ---------------------------------------------------------------- pixels


def test_pixels_of_bytes_are_255ths() -> None:
    x = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(data.pixels(x), torch.arange(256, dtype=torch.float32) / 255)


def test_pixels_of_floats_are_themselves() -> None:
    x = torch.rand(5, generator=torch.Generator().manual_seed(0))
    assert torch.equal(data.pixels(x), x)
    assert data.pixels(x.double()).dtype == torch.float32


# ---------------------------------------------------------------- errors


def message(call: Callable[[], object]) -> str:
    with pytest.raises(DataError) as raised:
        call()
    return str(raised.value)


def load(**keys: object) -> Dataset:
    return data.load(config.Data.model_validate(keys))


@pytest.mark.parametrize(
    ("keys", "parts"),
    [
        ({"train_limit": 181}, ("data.train_limit", "180", "after 20 for validation", "got 181", "lower it")),
        ({"train_limit": 150, "validation": 60}, ("data.train_limit", "140", "got 150")),
        ({"validation": 200}, ("data.validation", "200 training images", "got 200", "lower it")),
        ({"validation": 5000}, ("data.validation", "got 5,000")),
    ],
)
def test_limits_above_what_there_is(keys: dict[str, int], parts: tuple[str, ...]) -> None:
    said = message(lambda: load(name="user", **keys))
    assert all(part in said for part in parts), said


def test_test_limit_above_what_there_is() -> None:
    said = message(lambda: data.load_test(config.Data(name="user", test_limit=51)))
    assert "data.test_limit: there are 50 test images, got 51; lower it or drop it" in said


def good() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.full((6, 1, 2, 2), 0.5), torch.arange(6) % 2


@pytest.mark.parametrize(
    ("x_NCHW", "y_N", "parts"),
    [
        (good()[0] * 3, good()[1], ("pixels lie in [0, 1]", "[1.5, 1.5]")),
        (good()[0] - 1, good()[1], ("pixels lie in [0, 1]", "[-0.5, -0.5]")),
        (good()[0] * float("nan"), good()[1], ("pixels lie in [0, 1]", "nan")),
        (good()[0].double(), good()[1], ("uint8 or float32", "float64")),
        (good()[0], good()[1] + 1, ("labels lie in 0..1", "got 1..2")),
        (good()[0], good()[1] - 1, ("labels lie in 0..1", "got -1..0")),
        (good()[0], good()[1].float(), ("labels are int64", "float32")),
        (good()[0][:5], good()[1], ("each image has one label", "(5, 1, 2, 2)", "(6,)")),
        (good()[0][:0], good()[1][:0], ("each image has one label", "(0,)")),
        (good()[0][:, 0], good()[1], ("images are (1, 2, 2)", "got (2, 2)")),
        (good()[0] * 3, good()[1] + 1, ("pixels lie in [0, 1]", "labels lie in 0..1")),
    ],
)
def test_bad_images_and_labels_of_a_user(
    registered: dict[str, Callable[[Path | None], Source]],
    x_NCHW: torch.Tensor,
    y_N: torch.Tensor,
    parts: tuple[str, ...],
) -> None:
    """All problems are told at once, with the data set's name."""
    registered["bad"] = lambda root: Source(2, (1, 2, 2), 2, lambda: Split(x_NCHW, y_N), lambda: Split(x_NCHW, y_N))
    for call, place in ((data.load, "training images"), (data.load_test, "test images")):
        said = message(partial(call, config.Data(name="bad")))
        assert all(part in said for part in ("data bad, " + place, *parts)), said


def test_root_that_is_no_folder(tmp_path: Path) -> None:
    said = message(lambda: load(name="user", root=str(tmp_path / "nowhere")))
    assert "data.root" in said
    assert str(tmp_path / "nowhere") in said
    assert "--data-root" in said
