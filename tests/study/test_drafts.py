"""`init` writes a study file that says what its keys mean; `spaces` lists those that come along."""

import inspect
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from click.testing import Result
from typer.testing import CliRunner

from tune_interpreg import registry
from tune_interpreg.cli import app
from tune_interpreg.study import config, space
from tune_interpreg.study.file.draft import draft_study
from tune_interpreg.study.file.read import list_shipped_studies, load_study, parse_study

DATASETS = registry.names("datasets")
SECTIONS = (config.Data, config.Training, config.Attack, config.Evaluation, config.Checks, config.Resources)

#: A plugin in a single file, as installed, whose data set has an option to be given.
LAB = '''\
def stripes(root, *, classes: int, width: float = 0.5):
    """A bright column for each class, in noise. width: of a column, in pixels."""
def dots(root):
    pass
'''
METADATA = "Metadata-Version: 2.1\nName: lab-data\nVersion: 1.2\n"
POINTS = "[tune_interpreg.datasets]\nstripes = lab_data:stripes\ndots = lab_data:dots\nstale = gone_lab:gone\n"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def told(*arguments: str) -> Result:
    return CliRunner(env={"COLUMNS": "200"}).invoke(app, arguments)


def refused(*arguments: str) -> str:
    result = told(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    return result.stderr


# ---------------------------------------------------------------------------- init
@pytest.mark.parametrize("dataset", DATASETS)
def test_a_draft_is_valid_and_its_comments_change_nothing(dataset: str, folder: Path) -> None:
    result = told("init", dataset)
    assert result.exit_code == 0
    assert result.stdout.startswith(f"{dataset}.yaml  ")
    checked = told("validate", f"{dataset}.yaml")
    assert (checked.exit_code, checked.stderr) == (0, "")
    text = (folder / f"{dataset}.yaml").read_text()
    bare = "".join(line for line in text.splitlines(keepends=True) if not line.lstrip().startswith("#"))
    study = load_study(f"{dataset}.yaml")
    assert parse_study(bare, where="bare.yaml", name=dataset) == study
    assert study.data.name == dataset


@pytest.mark.parametrize("name", [name for name in list_shipped_studies() if name in DATASETS])
def test_a_draft_on_a_shipped_studys_data_is_that_study(name: str) -> None:
    assert parse_study(draft_study(name), where="draft", name=name) == load_study(name)


def test_every_key_stands_in_a_draft_and_none_is_left_unexplained_that_the_code_explains() -> None:
    text = draft_study("digits")
    words = " ".join(text.replace("#", " ").split())
    for section in SECTIONS:
        for key in section.model_fields.keys() - {"options"}:
            assert f"\n  {key}: " in text, key
    for what in (*SECTIONS, config.Targets, space.Search, space.Range):
        for sentence in " ".join((inspect.getdoc(what) or "").replace("``", "").split()).split(". ")[:1]:
            assert sentence.rstrip(".") in words, sentence
    for name in registry.names("methods"):
        for key, parameter in registry.resolve("methods", name).parameters.items():
            assert f"{key}: {parameter.help}" in words


def test_the_draft_on_a_folder_of_images_says_how_it_must_look() -> None:
    text = draft_study("image_folder")
    assert "# image_folder: The images in <root>/train/CLASS and <root>/test/CLASS, " in text
    assert "\n  # H and W in pixels: " in text
    assert "\n  #size: null\n" in text


def test_an_existing_file_is_overwritten_only_by_force(folder: Path) -> None:
    (folder / "mine.yaml").write_text("mine")
    said = refused("init", "digits", "--output", "mine.yaml")
    assert said == "error: mine.yaml: is there already; --force overwrites it, --output names another file\n"
    assert (folder / "mine.yaml").read_text() == "mine"
    assert told("init", "digits", "--output", "mine.yaml", "--force").exit_code == 0
    assert (folder / "mine.yaml").read_text() == draft_study("digits")


def test_what_cannot_be_drafted_or_written_is_refused(folder: Path) -> None:
    assert refused("init", "digit") == 'error: DATASET: unknown dataset "digit"; did you mean digits?\n'
    assert "cannot be written (No such file or directory)" in refused("init", "digits", "--output", "none/a.yaml")
    assert list(folder.iterdir()) == []


def test_a_plugins_data_set_is_drafted_with_its_options_and_words(folder: Path) -> None:
    installed = folder / "site" / "lab_data-1.2.dist-info"
    installed.mkdir(parents=True)
    (folder / "site" / "lab_data.py").write_text(LAB)
    (installed / "METADATA").write_text(METADATA)
    (installed / "entry_points.txt").write_text(POINTS)
    environment = os.environ | {"PYTHONPATH": str(folder / "site"), "COLUMNS": "200"}
    code = (
        "from typer.testing import CliRunner\nfrom tune_interpreg.cli import app\n"
        "for arguments in (['init', 'stripes'], ['init', 'dots'], ['validate', 'dots.yaml'], "
        "['validate', 'stripes.yaml'], ['validate', 'stripes.yaml', '--set', 'data.classes=3'], ['init', 'stale']):\n"
        "    print(CliRunner().invoke(app, arguments).output.splitlines()[0])"
    )
    ran = subprocess.run([sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True)
    *_, dots, missing, given, stale = ran.stdout.splitlines()
    text = (folder / "stripes.yaml").read_text()
    assert "# stripes: A bright column for each class, in noise." in text
    assert "  #classes: … (to be given)\n  # of a column, in pixels.\n  #width: 0.5\n" in text
    assert (dots[:11], given[:14]) == ("dots: valid", "stripes: valid")
    assert "data: dataset stripes needs classes" in missing
    assert stale.startswith("error: DATASET: stale (gone_lab:gone, of lab-data) cannot be imported: ")


def test_drafts_are_yaml_in_lines_that_fit_a_page() -> None:
    for dataset in DATASETS:
        text = draft_study(dataset)
        assert max(map(len, text.splitlines())) <= 120
        assert list(yaml.safe_load(text)["arms"])[:2] == ["standard", "adversarial"]


# -------------------------------------------------------------------------- spaces
def test_spaces_are_a_line_each_with_what_they_hold() -> None:
    result = told("spaces")
    assert result.exit_code == 0
    lines = {line.split()[0]: line for line in result.stdout.splitlines()}
    assert list(lines) == list_shipped_studies()
    for name, line in lines.items():
        study = load_study(name)
        trials = sum(arm.search.trials for arm in study.arms.values() if arm.search)
        counts = f"{len(study.arms)} arms, {trials} search trials, {len(study.seeds)} seeds: "
        assert f" {study.data.name}, {study.model.name}, {counts}" in line
        assert line.endswith(".")
        assert len(line) < 170
    assert "digits: no download, minutes on a laptop." in lines["digits"]


def test_spaces_load_no_library_of_training() -> None:
    code = (
        "import sys\nfrom typer.testing import CliRunner\nfrom tune_interpreg.cli import app\n"
        "assert CliRunner().invoke(app, ['spaces']).exit_code == 0\n"
        "print(*{'torch', 'ray', 'optuna', 'numpy'} & set(sys.modules))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == []
