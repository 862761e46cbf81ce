"""A draft has every key with its meaning; the reference has every option; `init` and `spaces` print them."""

from pathlib import Path

import pytest
import yaml
from helpers.cli import call, output, refusal
from helpers.plugins import install_plugin, installed
from helpers.studies import parse_study

from tune_interpreg import registry
from tune_interpreg.study.config import Study
from tune_interpreg.study.file.draft import draft_study
from tune_interpreg.study.file.messages import inner_sections
from tune_interpreg.study.file.read import list_shipped_studies, read_study_file
from tune_interpreg.study.file.reference import SECTIONS, options_table
from tune_interpreg.study.problems import StudyError

DATASETS = registry.names("datasets")

#: A plugin with a data set that has a required option, and one that has none.
LAB = '''\
def stripes(root, *, classes: int, width: float = 0.5):
    """A bright column for each class, in noise. width: of a column, in pixels."""
def dots(root):
    pass
'''
POINTS = "[tune_interpreg.datasets]\nstripes = lab_data:stripes\ndots = lab_data:dots\nstale = gone:gone\n"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def squeeze(text: str) -> str:
    return " ".join(text.replace("#", " ").split())


# -------------------------------------------------------------------------- drafts
@pytest.mark.parametrize("dataset", DATASETS)
def test_a_draft_is_valid_and_its_comments_change_nothing(dataset: str, folder: Path) -> None:
    assert call("init", dataset).exit_code == 0
    text = (folder / f"{dataset}.yaml").read_text()
    bare = "".join(line for line in text.splitlines(keepends=True) if not line.lstrip().startswith("#"))
    study = read_study_file(f"{dataset}.yaml").study
    assert parse_study(bare, where=f"{dataset}.yaml") == study
    assert study.data.name == dataset
    if dataset in list_shipped_studies():
        assert study == read_study_file(dataset).study
    assert max(map(len, text.splitlines())) <= 120
    assert list(yaml.safe_load(text)["arms"])[:2] == ["standard", "adversarial"]


def test_a_draft_has_every_key_and_every_meaning() -> None:
    text = draft_study("image_folder")
    for section in inner_sections(Study).values():
        for key in section.model_fields:
            assert key == "options" or f"\n  {key}: " in text, key
    words = squeeze(text)
    for heading, section in SECTIONS.items():
        for key, field in section.model_fields.items():
            skipped = heading == "Top level" or field.exclude
            assert skipped or squeeze(field.description or "") in words, (heading, key)
    for name in registry.names("methods"):
        for key, parameter in registry.resolve("methods", name).parameters.items():
            assert f"{key}: {parameter.help}" in words
    assert "H and W in pixels" in words
    assert "\n  #size: null\n" in text


def test_the_reference_has_every_key_option_and_parameter() -> None:
    lines = options_table().splitlines()
    for section in SECTIONS.values():
        for key, field in section.model_fields.items():
            if key not in ("options", "params") and not field.exclude:
                assert field.description, key
                meaning = field.description.replace("|", "\\|")
                assert any(line.startswith(f"| `{key}` |") and line.endswith(f"| {meaning} |") for line in lines), key
    for name in registry.names("methods"):
        assert f"### {name}" in lines
    for row in (
        "| `fc_relu` | true or false | `true` |",
        "| `momentum` | a number ≥ 0, < 1 or null | `0.9` | Momentum of sgd. null, and the only value, with adamw. |",
        "| `lambda_j` | a finite number of at least 0 | required | strength λ_J of the penalty |",
    ):
        assert row in lines


def test_the_printed_commands_pass_the_folder_that_the_data_set_needs(folder: Path) -> None:
    assert "run image_folder.yaml --data-root FOLDER)" in output("init", "image_folder")
    assert "--data-root" not in output("init", "digits")


def test_an_existing_file_is_overwritten_only_with_force(folder: Path) -> None:
    (folder / "mine.yaml").write_text("mine")
    assert "mine.yaml: " in refusal("init", "digits", "--output", "mine.yaml")
    assert (folder / "mine.yaml").read_text() == "mine"
    assert call("init", "digits", "--output", "mine.yaml", "--force").exit_code == 0
    assert (folder / "mine.yaml").read_text() == draft_study("digits")


def test_an_unknown_data_set_or_folder_is_refused(folder: Path) -> None:
    assert 'unknown dataset "digit"; did you mean digits?' in refusal("init", "digit")
    assert "none/a.yaml: cannot be written" in refusal("init", "digits", "--output", "none/a.yaml")
    assert list(folder.iterdir()) == []


def test_a_draft_for_a_plugins_data_set_has_its_options_and_documentation(tmp_path: Path) -> None:
    install_plugin(tmp_path, "lab_data", LAB, POINTS)
    with installed(tmp_path):
        text = draft_study("stripes")
        assert "# stripes: A bright column for each class, in noise. width: of a column, in pixels." in text
        assert "  #classes: required" in text
        assert "  #width: 0.5\n" in text
        with pytest.raises(StudyError, match="data: dataset stripes needs classes"):
            parse_study(text)
        assert parse_study(text, "data.classes=3").data.options == {"classes": 3}
        assert parse_study(draft_study("dots")).data.name == "dots"
        with pytest.raises(StudyError, match=r"stale \(gone:gone, of lab-data\) cannot be imported"):
            draft_study("stale")
        assert "### stripes" in options_table()


# -------------------------------------------------------------------------- spaces
def test_each_shipped_study_has_a_line_with_its_contents() -> None:
    result = call("spaces")
    assert result.exit_code == 0
    lines = {line.split()[0]: line for line in result.stdout.splitlines()}
    assert list(lines) == list_shipped_studies()
    for name, line in lines.items():
        study = read_study_file(name).study
        trials = sum(arm.search.trials for arm in study.arms.values() if arm.search)
        assert f" {study.data.name}, {study.model.name}, {len(study.arms)} arms, {trials} search trials, " in line
        assert len(line) < 170
