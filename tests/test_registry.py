"""Names of other packages: two packages with one name, a broken one, one that is no method; versions of the rest."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.plugins import install_plugin, installed
from helpers.studies import parse_study

from tune_interpreg import registry
from tune_interpreg.registry import BrokenPlugin, UnknownName
from tune_interpreg.study.recipe import Recipe

ONE = """\
[tune_interpreg.models]
lab_net = lab_one:net
jacobian = lab_one:net
[tune_interpreg.methods]
odd = lab_one:f
"""
TWO = "[tune_interpreg.methods]\njacobian = lab_two:Jacobian\nraises = lab_two:Method\n"


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[None]:
    """Two installed packages; the import of the second raises."""
    install_plugin(
        tmp_path / "one", "lab_one", "from tune_interpreg.networks.zoo import digits_cnn as net\nf = 3\n", ONE
    )
    install_plugin(tmp_path / "two", "lab_two", "1 / 0", TWO)
    with installed(tmp_path / "one"), installed(tmp_path / "two"):
        yield


def test_an_unknown_name_is_reported_with_a_similar_one() -> None:
    with pytest.raises(UnknownName, match="did you mean standard"):
        registry.resolve("methods", "standrd")


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("epsilon", "did you mean eps?"),  # not precision, which resembles it more
        ("steps_size", "did you mean step_size?"),
        ("prcision", "did you mean precision?"),
        ("colour", "there are: eps, precision, step_size, steps"),
    ],
)
def test_a_remedy_is_a_similar_name_or_the_start_of_the_name_or_all_names(name: str, remedy: str) -> None:
    assert registry.suggest(name, ["steps", "precision", "eps", "step_size"]) == remedy


@pytest.mark.usefixtures("lab")
@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("jacobian", "registered by lab-two and by tune-interpreg"),
        ("raises", r"raises \(lab_two:Method, of lab-two\).* ZeroDivisionError: division by zero \(.*lab_two\.py:1\)"),
        ("odd + standard", "^odd is .* derive a class from trainables.MethodTrainable"),
    ],
)
def test_a_name_that_cannot_be_used_is_reported_with_its_package(method: str, message: str) -> None:
    assert registry.resolve("models", "jacobian") is registry.resolve("models", "lab_net")  # groups are independent
    with pytest.raises(BrokenPlugin, match=message):
        registry.load_method(method)


@pytest.mark.usefixtures("lab")
def test_the_version_of_another_packages_code_is_part_of_a_recipe() -> None:
    shipped = parse_study("arms: {a: {method: standard}}")
    plugged = parse_study("model: lab_net\narms: {a: {method: standard}}")
    assert Recipe.from_study(shipped, method="standard").plugins == {}
    assert Recipe.from_study(plugged, method="standard").plugins == {"lab-one": "1.2"}
    assert Recipe.from_study(plugged, method="standard + raises").plugins == {"lab-one": "1.2", "lab-two": "1.2"}
