"""Names of other packages: two that claim one name, one that breaks, one that is no method; versions of the rest."""

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
    """Two installed packages, as their metadata tell; the registry reads them anew, before and after."""
    install(tmp_path, "lab-one", "1.5", models="lab_net = lab:net\njacobian = lab:net", methods="odd = lab:net")
    install(tmp_path, "lab-two", "2.0", methods="jacobian = lab:Jacobian\nraises = raising_lab:Method")
    (tmp_path / "lab.py").write_text("from tune_interpreg.networks.zoo import digits_cnn as net\nJacobian = None\n")
    (tmp_path / "raising_lab.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    forget()
    yield
    forget()


def install(folder: Path, name: str, version: str, **groups: str) -> None:
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    texts = [f"[tune_interpreg.{group}]\n{points}\n" for group, points in groups.items()]
    (info / "entry_points.txt").write_text("\n".join(texts))
    assert Distribution.at(info).version == version


def forget() -> None:
    for cached in (registry._group, registry._rivals, registry.resolve, registry.load_method):
        cached.cache_clear()


def test_an_unknown_name_lists_those_there_are() -> None:
    with pytest.raises(UnknownName, match=r"there are: .*standard"):
        registry.resolve("methods", "standrd")


@pytest.mark.usefixtures("lab")
def test_a_name_that_two_packages_register_is_refused() -> None:
    assert registry.resolve("models", "jacobian") is registry.resolve("models", "lab_net")
    with pytest.raises(BrokenPlugin, match="registered by lab-two and by tune-interpreg; remove all but one"):
        registry.load_method("jacobian")


@pytest.mark.usefixtures("lab")
def test_whatever_a_package_raises_while_it_is_imported_names_it() -> None:
    with pytest.raises(
        BrokenPlugin, match=r"raises \(raising_lab:Method, of lab-two\) cannot be imported: division by zero"
    ):
        registry.load_method("raises")


@pytest.mark.usefixtures("lab")
def test_what_is_no_trainable_is_no_method() -> None:
    with pytest.raises(
        BrokenPlugin, match=r"odd is no training method .* derive a class from trainables.MethodTrainable"
    ):
        registry.load_method("odd + standard")


@pytest.mark.usefixtures("lab")
def test_the_version_of_another_packages_code_is_part_of_a_recipe() -> None:
    own = parse_study("arms: {a: {method: standard}}", where="t.yaml")
    other = parse_study("model: lab_net\narms: {a: {method: standard}}", where="t.yaml")
    assert Recipe.from_study(own, method="standard").plugins == {}
    assert Recipe.from_study(other, method="standard").plugins == {"lab-one": "1.5"}
    assert Recipe.from_study(other, method="standard + raises").plugins == {"lab-one": "1.5", "lab-two": "2.0"}
