"""Names of other packages: two packages with one name, a broken one, one that is no method; versions of the rest."""

from collections.abc import Iterator
from importlib.metadata import Distribution
from pathlib import Path

import pytest

from tune_interpreg import registry
from tune_interpreg.registry import BrokenPlugin, UnknownName
from tune_interpreg.study.file.read import parse_study
from tune_interpreg.study.recipe import Recipe


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Two installed packages. The registry's caches are cleared before and after."""
    install(tmp_path, "lab-one", "1.5", models="lab_net = lab:net\njacobian = lab:net", methods="odd = lab:net")
    install(tmp_path, "lab-two", "2.0", methods="jacobian = lab:Jacobian\nraises = raising_lab:Method")
    (tmp_path / "lab.py").write_text("from tune_interpreg.networks.zoo import digits_cnn as net\nJacobian = None\n")
    (tmp_path / "raising_lab.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    clear_caches()
    yield
    clear_caches()


def install(folder: Path, name: str, version: str, **groups: str) -> None:
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    texts = [f"[tune_interpreg.{group}]\n{points}\n" for group, points in groups.items()]
    (info / "entry_points.txt").write_text("\n".join(texts))
    assert Distribution.at(info).version == version


def clear_caches() -> None:
    for cached in (registry._entry_points, registry._packages, registry.resolve, registry.load_method):
        cached.cache_clear()


def test_an_unknown_name_lists_the_registered_ones() -> None:
    with pytest.raises(UnknownName, match=r"there are: .*standard"):
        registry.resolve("methods", "standrd")


@pytest.mark.usefixtures("lab")
@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("jacobian", "registered by lab-two and by tune-interpreg"),
        ("raises", r"raises \(raising_lab:Method, of lab-two\) cannot be imported: division by zero"),
        ("odd + standard", "^odd is .* derive a class from trainables.MethodTrainable"),
    ],
)
def test_a_name_that_cannot_be_used_is_reported_with_its_package(method: str, message: str) -> None:
    assert registry.resolve("models", "jacobian") is registry.resolve("models", "lab_net")  # groups are independent
    with pytest.raises(BrokenPlugin, match=message):
        registry.load_method(method)


@pytest.mark.usefixtures("lab")
def test_the_version_of_another_packages_code_is_part_of_a_recipe() -> None:
    shipped = parse_study("arms: {a: {method: standard}}", where="t.yaml")
    plugged = parse_study("model: lab_net\narms: {a: {method: standard}}", where="t.yaml")
    assert Recipe.from_study(shipped, method="standard").plugins == {}
    assert Recipe.from_study(plugged, method="standard").plugins == {"lab-one": "1.5"}
    assert Recipe.from_study(plugged, method="standard + raises").plugins == {"lab-one": "1.5", "lab-two": "2.0"}
