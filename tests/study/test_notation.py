"""Values without quotes: decimal numbers, true, false and null. No text silently becomes another value."""

import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers.studies import parse_study
from hypothesis import example, given
from hypothesis import strategies as st

from tune_interpreg.store.store import Store
from tune_interpreg.study.fields import is_number
from tune_interpreg.study.file.read import read_study_file
from tune_interpreg.study.file.yaml_text import UnreadableText, YamlText, dump
from tune_interpreg.study.notation import Unquoted, read_plain, suggest_flag, suggest_number

#: Texts that resemble numbers, truth values, null and dates.
RESEMBLING = st.text("0189_+-.:eExXobinfaNyYsturl~", min_size=1, max_size=12)

#: A text, and the end of the message that refuses it where a number belongs.
OTHER_NUMBERS = [
    ("0100", "write 100 (or 64 if octal was meant)"),
    ("-010", "write -10 (or -8 if octal was meant)"),
    ("001", "write 1"),
    ("089", "write 89"),
    ("01.5", "write 1.5"),
    ("1:30", "write a decimal number, 90 if base 60 was meant"),
    ("190:20:30.15", "write a decimal number, 685230.15 if base 60 was meant"),
    ("0b101", "write 5"),
    ("0x1f", "write 31"),
    ("0o17", "write 15"),
    ("1_000", "write 1000"),
    ("1_000.5", "write 1000.5"),
    ("\u0661", "write 1"),
    ("\uff11\uff10", "write 10"),
    (".inf", "a number must be finite"),
    ("-.INF", "a number must be finite"),
    (".nan", "a number must be finite"),
    ("nan", "a number must be finite"),
    ("1e400", "a float cannot hold it, write a number from 2.3e-308 to 1.7e308"),
    ("1e-400", "a float cannot hold it, write a number from 2.3e-308 to 1.7e308"),
    ("9" * 400, "write a decimal number with fewer digits"),
    ("0x" + "f" * 400, "write a decimal number with fewer digits"),
]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", 0),
        ("-2", -2),
        ("+1", 1),
        ("100", 100),
        ("1e-3", 0.001),
        ("1.", 1.0),
        (".5", 0.5),
        ("1E3", 1000.0),
        ("-2.5e+3", -2500.0),
        ("0.10", 0.1),
        ("0e9", 0.0),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("", None),
    ],
)
def test_decimal_numbers_and_constants_have_their_value_and_type(text: str, value: Any) -> None:
    assert (read_plain(text), type(read_plain(text))) == (value, type(value))


@pytest.mark.parametrize(("text", "advice"), OTHER_NUMBERS)
def test_numbers_of_other_notations_are_text_of_doubtful_meaning(text: str, advice: str) -> None:
    assert type(read_plain(text)) is Unquoted
    assert suggest_number(text) == f"; {advice}"


def test_truth_values_of_yaml_1_1_are_text_of_doubtful_meaning() -> None:
    for text, value in (("yes", "true"), ("On", "true"), ("NO", "false"), ("off", "false")):
        assert type(read_plain(text)) is Unquoted
        assert suggest_flag(text) == f"; write {value}"


@pytest.mark.parametrize("text", ["2024-01-01", "8/255", "1,5", "3x3", "10%", "y", "None", "=", "-", "0x", "1.2.3"])
def test_other_texts_are_text(text: str) -> None:
    assert (read_plain(text), type(read_plain(text))) == (text, str)
    assert suggest_number(text) == suggest_flag(text) == ""


@given(RESEMBLING)
@example("1_0:3.")
@example("0_")
def test_what_yaml_1_1_reads_as_a_number_or_flag_is_the_same_or_doubtful(text: str) -> None:
    try:
        other = yaml.safe_load(f"[{text}]")[0]
    except (yaml.YAMLError, ValueError):
        return
    here = read_plain(text)
    if isinstance(other, bool) or is_number(other):
        assert type(here) is Unquoted or (here, type(here)) == (other, type(other))
    if is_number(here):
        assert here == float(text)
        assert math.isfinite(here)


@given(st.one_of(RESEMBLING, st.text(max_size=8)))
@example("1e-3")
@example("0o17")
def test_a_written_text_is_read_back_by_study_files_and_by_yaml_1_1(text: str) -> None:
    content = {"key": [text, {text: text}]}
    written = dump(content)
    here = YamlText(written).value
    assert here == yaml.safe_load(written) == content
    assert type(here["key"][0]) is str


def test_a_stored_study_is_read_back_and_runs_as_a_study_file(tmp_path: Path) -> None:
    texts = ["1e-3", "010", "no", "null", "1:30", "2024-01-01", "0o17", " a: b #"]
    arms = "".join(f"  a{index}: {{method: standard, title: '{text}'}}\n" for index, text in enumerate(texts))
    study = parse_study(f"training: {{lr: 1e-5}}\nattack: {{eps: 1e16}}\narms:\n{arms}")
    store = Store(tmp_path)
    store.save_study(study)
    assert store.load_study() == study
    assert read_study_file(str(store.study_file), ["name=study"]).study == study
    assert [arm.title for arm in study.arms.values()] == texts


# ------------------------------------------------------------------------ lines of YAML
@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("a: 1\nb: !foo 2\n", 2, "the tag !foo is not allowed; drop it"),
        ("a: !!int 010\n", 1, "the tag !!int is not allowed; drop it"),
        ("a:\n  !!python/object:os.system x\n", 2, "the tag !!python/object:os.system is not allowed; drop it"),
        ("a: 1\n---\nb: 2\n", 2, "another document"),
        ("a: 1\n\tb: 2\n", 2, "'\\t'"),
        ("a: 1\r\nb: x\0\r\n", 2, "unacceptable character #x0000"),
        ("a: 1\nb: &x [*x]\n", 2, "alias"),
        ("a: 1\nb: &x {<<: *x}\n", 2, "alias"),
        ("a: *y\n", 1, "undefined alias 'y'"),
        ("a:\n" + "- " * 3000, 2, "nested too deeply"),
        ("a: [" * 60 + "]" * 60, 1, "nested too deeply"),
        ("a: 1\n? [b]\n: 2\n", 2, "a key must be plain text"),
        ("a: [1,\n  2\nb: 3\n", 3, "expected ',' or ']'"),
        ("a: 1\n<<: 3\n", 2, "merging"),
    ],
)
def test_a_text_that_no_study_needs_is_refused_with_its_line(text: str, line: int, message: str) -> None:
    with pytest.raises(UnreadableText) as error:
        YamlText(text)
    assert error.value.line == line
    assert message in str(error.value)


@pytest.mark.parametrize("level", ["[{}]", "{{<<: [{}]}}"])
def test_aliases_of_aliases_are_refused_before_they_fill_the_memory(level: str) -> None:
    lines = ["a0: &a0 {b: 1}"]
    lines += [f"a{i}: &a{i} {level.format(', '.join([f'*a{i - 1}'] * 9))}" for i in range(1, 30)]
    with pytest.raises(UnreadableText, match="too many values"):
        YamlText("\n".join(lines))


def test_lines_follow_the_precedence_of_merges() -> None:
    text = """\
a: &a {x: 1, y: {p: 1}}
b: &b
  x: 2
  z: 3
c:
  <<: [*a, *b]
  y: {q: 1}
"""
    content = YamlText(text)
    assert content.value["c"] == {"x": 1, "y": {"q": 1}, "z": 3}
    merged = {place[1:]: line for place, line in content.lines.items() if place[0] == "c"}
    assert merged == {(): 5, ("x",): 1, ("y",): 7, ("y", "q"): 7, ("z",): 4}
    assert not content.duplicates
