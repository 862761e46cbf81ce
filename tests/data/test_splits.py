"""Splits are fixed, stratified, disjoint and nested. A changed value changes the fingerprint. Errors name the place."""

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from helpers.data_files import data_error, rows
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from tune_interpreg import registry
from tune_interpreg.data import dataset as datasets
from tune_interpreg.data.dataset import (
    DataError,
    Dataset,
    Source,
    Split,
    load_and_check,
    load_dataset,
    load_test,
    to_pixels,
)
from tune_interpreg.study.config import Data

Sources = dict[str, Callable[[Path | None], Source]]


def user_split(images: int) -> Split:
    """Image n is black except for two pixels, n mod 100 and ⌊n/100⌋. Three classes have shares .6, .3, .1."""
    x_NCHW = torch.zeros(images, 1, 2, 100, dtype=torch.uint8)
    x_NCHW[:, 0, 0, 0] = torch.arange(images) % 100
    x_NCHW[:, 0, 1, 0] = torch.arange(images) // 100
    return Split(x_NCHW, (torch.arange(images) % 10 > 5).long() + (torch.arange(images) % 10 > 8).long())


@pytest.fixture(autouse=True)
def sources(monkeypatch: pytest.MonkeyPatch) -> Sources:
    """Replace the registered data sets by one of 200 images; 20 of them validate. A test can add its own."""
    user = Source(3, (1, 2, 100), 20, lambda: user_split(200), lambda: user_split(50))
    names: Sources = {"user": lambda root: user}
    monkeypatch.setattr(registry, "resolve", lambda group, name: {"datasets": names}[group][name])
    return names


def load(**keys: object) -> Dataset:
    return load_dataset(Data.model_validate({"name": "user", **keys}))


# ------------------------------------------------------------------- subsets
@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 40), min_size=1, max_size=8).filter(any))
@example([90] + [11] * 9)  # rounding fails when nine classes reach half an image at once
def test_apportioned_counts_stay_within_one_of_the_share_and_never_fall(sizes: list[int]) -> None:
    """|c_k − n·N_k/N| < 1 for each class and each n, c_k grows with n, Σ c_k = n, and c_k(N) = N_k."""
    images, before = sum(sizes), [0] * len(sizes)
    for total in range(images + 1):
        counts = datasets.apportion(sizes, total)
        assert sum(counts) == total
        assert all(abs(count * images - total * size) < images for count, size in zip(counts, sizes, strict=True))
        assert all(old <= new for old, new in zip(before, counts, strict=True))
        before = counts
    assert before == sizes


def test_subsets_are_nested_and_ascending() -> None:
    y_N, smaller = torch.tensor([0] * 50 + [1] * 30 + [2] * 5), set[int]()
    for size in range(86):
        chosen, rest = datasets.split_stratified(y_N, size, "a purpose")
        assert len(chosen) == size
        assert sorted(chosen.tolist() + rest.tolist()) == list(range(85))
        assert chosen.tolist() == sorted(chosen.tolist())
        assert smaller <= set(chosen.tolist())
        smaller = set(chosen.tolist())


def test_subsets_differ_by_purpose_and_are_pinned() -> None:
    """Golden choice: another one would silently change every stored split."""
    y_N = torch.arange(20) % 2
    assert datasets.split_stratified(y_N, 6, "validation")[0].tolist() == [8, 9, 11, 12, 14, 17]
    assert datasets.split_stratified(y_N, 6, "test_limit")[0].tolist() != [8, 9, 11, 12, 14, 17]


def test_a_subset_of_a_sorted_split_has_all_classes() -> None:
    """Image folders are read class by class."""
    split = Split(torch.rand(100, 1, 2, 2), torch.arange(4).repeat_interleave(25))
    assert torch.equal(split.subset(8, "preview").y_N, torch.arange(4).repeat_interleave(2))
    assert torch.equal(split.subset(500, "preview").x_NCHW, split.x_NCHW)


def test_global_generators_have_no_effect_and_keep_their_state() -> None:
    torch.manual_seed(1)
    first, state = load(), torch.get_rng_state()
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(2)
    np.random.seed(2)
    assert first.fingerprint == load().fingerprint


# -------------------------------------------------------------------- limits
def test_sets_of_all_splits_are_nested() -> None:
    """Training sets leave the validation set unchanged and are disjoint from it."""
    sets = [load(train_limit=limit) for limit in (5, 50, 120, 180)]
    for small, large in pairwise(sets):
        assert rows(small.train) < rows(large.train)
        assert torch.equal(small.validation.x_NCHW, large.validation.x_NCHW)
        assert not rows(large.train) & rows(large.validation)
    large = load(validation=60)
    assert rows(load(validation=10).validation) < rows(large.validation)
    assert not rows(large.train) & rows(large.validation)
    tests = [load_test(Data(name="user", test_limit=limit)) for limit in (10, 30, 50)]
    assert tests[0].y_N.bincount().tolist() == [6, 3, 1]
    assert rows(tests[0]) < rows(tests[1]) < rows(tests[2]) == rows(load_test(Data(name="user")))


def test_the_fingerprint_depends_on_the_splits_only(tmp_path: Path) -> None:
    base = load().fingerprint
    assert len(base) == 16
    assert load(validation=20, train_limit=180, root=str(tmp_path)).fingerprint == base
    others = [{"train_limit": 179}, {"validation": 21}, {"test_limit": 10}, {"test_limit": 11}]
    assert len({load(**other).fingerprint for other in others} | {base}) == 5


@pytest.mark.parametrize("changed", ["x_NCHW", "y_N"])
def test_a_changed_value_changes_the_fingerprint(sources: Sources, changed: str) -> None:
    base, split = load().fingerprint, user_split(200)
    getattr(split, changed).view(-1)[0] += 1
    sources["user"] = lambda root: Source(3, (1, 2, 100), 20, lambda: split, lambda: split)
    assert load().fingerprint != base


def test_bytes_become_255ths_and_floats_stay() -> None:
    bytes_N = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_pixels(bytes_N), torch.arange(256, dtype=torch.float32) / 255)
    floats_N = torch.rand(5, generator=torch.Generator().manual_seed(0))
    assert torch.equal(to_pixels(floats_N), floats_N)
    assert to_pixels(floats_N.double()).dtype == torch.float32


# -------------------------------------------------------------------- errors
@pytest.mark.parametrize(
    ("keys", "place", "numbers"),
    [
        ({"train_limit": 150, "validation": 60}, "data.train_limit: ", ("140", "60", "150")),
        ({"validation": 200}, "data.validation: ", ("200",)),
        ({"root": "/nowhere/at/all"}, "data.root: ", ("/nowhere/at/all", "--data-root")),
    ],
)
def test_impossible_keys_are_refused(keys: dict[str, object], place: str, numbers: tuple[str, ...]) -> None:
    message = data_error(lambda: load(**keys))
    assert message.startswith(place)
    assert all(number in message for number in numbers), message


def test_loading_never_reads_the_test_images(sources: Sources) -> None:
    """A worker reads them for the final evaluation alone. The driver has checked them before."""
    sources["half"] = lambda root: Source(3, (1, 2, 100), 20, lambda: user_split(200), Mock(side_effect=DataError("x")))
    assert len(load(name="half").train) == 180
    for call in (load_test, load_and_check):
        assert data_error(partial(call, Data(name="half"))) == "x"


def test_a_test_limit_above_the_number_of_images_is_refused() -> None:
    message = data_error(lambda: load_test(Data(name="user", test_limit=51)))
    assert message == "data.test_limit: there are 50 test images, got 51; lower it or drop it"


GOOD_X, GOOD_Y = torch.full((6, 1, 2, 2), 0.5), torch.arange(6) % 2


@pytest.mark.parametrize(
    ("x_NCHW", "y_N", "parts"),
    [
        (GOOD_X - 1, GOOD_Y, ("pixels lie in [0, 1]", "[-0.5, -0.5]")),
        (GOOD_X * float("nan"), GOOD_Y, ("pixels lie in [0, 1]", "nan")),
        (GOOD_X.double(), GOOD_Y, ("uint8 or float32", "float64")),
        (GOOD_X, GOOD_Y - 1, ("labels lie in 0..1", "got -1..0")),
        (GOOD_X, GOOD_Y.float(), ("labels are int64", "float32")),
        (GOOD_X[:5], GOOD_Y, ("each image has one label", "(5, 1, 2, 2)", "(6,)")),
        (GOOD_X[:0], GOOD_Y[:0], ("each image has one label", "(0,)")),
        (GOOD_X[:, 0], GOOD_Y, ("images are (1, 2, 2)", "got (2, 2)")),
        (GOOD_X * 3, GOOD_Y + 1, ("pixels lie in [0, 1]", "[1.5, 1.5]", "labels lie in 0..1", "got 1..2")),
    ],
)
def test_bad_images_and_labels_are_refused_with_all_problems(
    sources: Sources, x_NCHW: Tensor, y_N: Tensor, parts: tuple[str, ...]
) -> None:
    sources["bad"] = lambda root: Source(2, (1, 2, 2), 2, lambda: Split(x_NCHW, y_N), lambda: Split(x_NCHW, y_N))
    for call, place in ((load_dataset, "training images"), (load_test, "test images")):
        message = data_error(partial(call, Data(name="bad")))
        assert message.startswith(f"data bad, {place}: ")
        assert all(part in message for part in parts), message
