"""A user's data set: its exceptions and its mistakes become one message that names the line or the value."""

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from helpers.data_files import data_error

from tune_interpreg import registry
from tune_interpreg.commands.shared import report_errors
from tune_interpreg.data.dataset import DataError, Source, Split, load_and_check, load_dataset, load_test
from tune_interpreg.running.preflight import check_data
from tune_interpreg.study.config import Data
from tune_interpreg.study.file.read import read_study_file

SHAPE, DATA = (1, 2, 2), Data(name="user")


def split(images: int = 12) -> Split:
    generator = torch.Generator().manual_seed(0)
    return Split(torch.rand(images, *SHAPE, generator=generator), torch.arange(images) % 3)


GOOD = Source(3, SHAPE, 3, split, lambda: split(6))


@pytest.fixture
def register(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[..., object]], None]:
    def register(function: Callable[..., object]) -> None:
        monkeypatch.setattr(registry, "resolve", lambda group, name: function)

    return register


Register = Callable[[Callable[..., object]], None]


# ---------------------------------------------------------------- exceptions
def fail(*_: object) -> Source:
    return {}["images"]  # type: ignore[no-any-return]


LINE = fail.__code__.co_firstlineno + 1


@pytest.mark.parametrize(
    ("function", "step"),
    [
        (fail, "opening it"),
        (lambda root: replace(GOOD, train=fail), "reading its training images"),
        (lambda root: replace(GOOD, test=fail), "reading its test images"),
    ],
)
def test_an_exception_names_its_type_its_text_and_its_line(
    register: Register, function: Callable[..., object], step: str
) -> None:
    register(function)
    message = data_error(lambda: load_and_check(DATA))
    assert message.startswith(f"data user raises an exception while {step}: KeyError: 'images' ({__file__}:{LINE}); ")


def test_the_exception_is_the_cause(register: Register) -> None:
    register(fail)
    with pytest.raises(DataError) as raised:
        load_dataset(DATA)
    assert isinstance(raised.value.__cause__, KeyError)


def test_a_function_cannot_end_the_run_silently(register: Register) -> None:
    register(lambda root: sys.exit(0))
    assert "SystemExit: 0" in data_error(lambda: load_dataset(DATA))


def test_wrong_options_of_the_function(register: Register) -> None:
    register(lambda root: GOOD)
    assert "TypeError: " in data_error(lambda: load_dataset(Data.model_validate({"name": "user", "classes": 3})))


@pytest.mark.parametrize(("debug", "expected"), [(False, typer.Exit), (True, KeyError)])
def test_the_command_line_prints_the_message_and_raises_the_cause_under_debug(
    register: Register, capsys: pytest.CaptureFixture[str], debug: bool, expected: type[Exception]
) -> None:
    file = read_study_file("digits")
    register(fail)
    with pytest.raises(expected) as raised, report_errors(debug=debug):
        check_data(file)
    (line,) = capsys.readouterr().err.splitlines()
    assert "data: data digits raises an exception while opening it: KeyError: 'images'" in line
    if not debug:
        assert raised.value.exit_code == 2  # type: ignore[attr-defined]


# -------------------------------------------------------------------- values
@pytest.mark.parametrize(
    ("source", "parts"),
    [
        (None, ("must return a tune_interpreg.data.Source, got NoneType",)),
        (replace(GOOD, classes=1), ("classes is a whole number of at least 2, got 1",)),
        (replace(GOOD, shape=[1, 2, 2]), ("shape is a tuple (C, H, W) of whole numbers, got [1, 2, 2]",)),
        (replace(GOOD, shape=(2, 2), train=None), ("shape is a tuple", "train is a function")),
        (replace(GOOD, validation=0.5, tests="6"), ("validation is a number of images, got 0.5", "got '6'")),
        (replace(GOOD, validation=0), ("holds out 0 images; set it to at least 1",)),
        (replace(GOOD, validation=12), ("must be less than the 12 training images, got 12",)),
        (replace(GOOD, classes=5), ("2 of 5 classes lack images: 3, 4; labels count from 0",)),
        (replace(GOOD, train=lambda: (1, 2)), ("training images: a tune_interpreg.data.Split is needed, got tuple",)),
        (replace(GOOD, test=lambda: Split(split().x_NCHW[..., :1], split().y_N)), ("test images: ", "got (1, 2, 1)")),
    ],
)
def test_a_source_that_is_not_sound(register: Register, source: object, parts: tuple[str, ...]) -> None:
    register(lambda root: source)
    message = data_error(lambda: load_and_check(DATA))
    assert all(part in message for part in parts), message


@pytest.mark.parametrize(
    ("x", "y", "part"),
    [
        (split().x_NCHW.numpy(), split().y_N, "images are a torch.Tensor, got ndarray"),
        (split().x_NCHW, np.arange(12) % 3, "labels are a torch.Tensor, got ndarray"),
        (split().x_NCHW.clone().requires_grad_(), split().y_N, "images need no gradient"),
        (split().x_NCHW.to("meta"), split().y_N, "got torch.strided on meta"),
        (split().x_NCHW.to_sparse(), split().y_N, "got torch.sparse_coo on cpu"),
        (split().x_NCHW.double(), split().y_N, "uint8 or float32, got torch.float64"),
        (split().x_NCHW.half(), split().y_N, "uint8 or float32, got torch.float16"),
        ((split().x_NCHW > 0.5).to(torch.uint8), split().y_N, "multiply by 255"),
        (split().x_NCHW / 255, split().y_N, "do not divide them twice"),
        (split().x_NCHW * float("nan"), split().y_N, "pixels lie in [0, 1], got [nan, nan]"),
        (split().x_NCHW, split().y_N + 1, "labels lie in 0..2, got 1..3"),
        (split().x_NCHW, split().y_N.int(), "labels are int64, got torch.int32"),
        (split().x_NCHW, split().y_N[:, None], "each image has one label"),
    ],
)
def test_a_split_that_is_not_sound(register: Register, x: torch.Tensor, y: torch.Tensor, part: str) -> None:
    for bad in (replace(GOOD, train=lambda: Split(x, y)), replace(GOOD, test=lambda: Split(x, y))):
        register(lambda root, bad=bad: bad)
        assert part in data_error(lambda: load_and_check(DATA))


# --------------------------------------------------------------- fingerprint
def test_the_drivers_fingerprint_covers_the_test_images(register: Register) -> None:
    changed = split(6)
    changed.x_NCHW[5, 0, 0, 0] += 1e-3
    fingerprints = []
    for test in (split(6), changed):
        register(lambda root, test=test: replace(GOOD, test=lambda: test))
        dataset = load_and_check(DATA)
        assert dataset.tests == 6
        first, _, second = dataset.fingerprint.partition("-")
        assert first == load_dataset(DATA).fingerprint
        assert len(load_test(DATA, second)) == 6
        fingerprints.append((first, second))
    assert fingerprints[0][0] == fingerprints[1][0]
    assert fingerprints[0][1] != fingerprints[1][1]
    message = data_error(lambda: load_test(DATA, fingerprints[0][1]))
    assert message.endswith("give every machine the same files")


def test_a_data_root_is_given_to_the_function(register: Register, tmp_path: Path) -> None:
    roots = []
    register(lambda root: roots.append(root) or GOOD)
    load_dataset(DATA.model_copy(update={"root": str(tmp_path)}))
    assert roots == [tmp_path]
