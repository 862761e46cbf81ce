"""A study file with mistakes is refused with all of them at once, each with line, place, value and remedy."""

import re
from pathlib import Path

import pytest
from helpers.studies import parse_study

from tune_interpreg import registry
from tune_interpreg.study.config import Attack, Data, Model, Study, Training
from tune_interpreg.study.file.read import list_shipped_studies, read_study_file
from tune_interpreg.study.problems import StudyError

ARMS = "arms:\n  standard: {method: standard}\n"
ARM = "  i:\n    method: interpretation\n    targets: {teacher: standard}\n    "

MISTAKES = """\
data: mnits
model: mnist_cnn
training:
  epochs: 0
  lr: fast
atack: {eps: 1.5}
attack: {norm: l2,
  eps: -1.5}
seeds: [0, 1, 0]
arms:
  standard: {method: standrad}
  robust:
    method: interpretation
    targets: {teacher: advers}
    phi: high
    search:
      space:
        lambda: {log_uniform: [1.0, 0.001]}
      maximize: val/adv_accuracy
      match_loss_of: standard
  jacobian:
    method: jacobian
    search:
      space:
        lamda_j: {log_uniform: [0.0001, 1.0]}
      match_loss_of: jacobian
  jacobian: {method: standard, phi: 1.0}
"""
PROBLEMS = """\
s.yaml:1: data: unknown dataset "mnits"; did you mean mnist?
s.yaml:4: training.epochs: takes a number of at least 1, got 0
s.yaml:5: training.lr: takes a number, got "fast"
s.yaml:6: atack: unknown key; did you mean attack?
s.yaml:8: attack.eps: takes a number above 0, got -1.5
s.yaml:9: seeds: takes each value once, got [0, 1, 0]
s.yaml:11: arms.standard.method: unknown method "standrad"; did you mean standard?
s.yaml:14: arms.robust.targets.teacher: unknown arm "advers"; there are: jacobian, robust, standard
s.yaml:15: arms.robust.phi: takes a finite number, got "high"
s.yaml:18: arms.robust.search.space.lambda.log_uniform: low must lie below high, got [1.0, 0.001]
s.yaml:20: arms.robust.search.match_loss_of: a search takes exactly one of maximize, match and match_loss_of, \
got maximize and match_loss_of
s.yaml:27: arms.jacobian: appears twice; drop one
s.yaml:27: arms.jacobian.phi: unknown parameter; method standard takes none"""


def problems(text: str, *overrides: str) -> str:
    """Return the problems of a study, one per line; empty if it is valid."""
    try:
        parse_study(text, *overrides, where="s.yaml")
    except StudyError as error:
        return str(error)
    return ""


def parse(text: str, *overrides: str) -> Study:
    return parse_study(text, *overrides)


def test_all_mistakes_are_reported_at_once_in_the_order_of_the_file() -> None:
    assert problems(MISTAKES) == PROBLEMS


SEARCH = "search: {space: {lambda: {log_uniform: [0.1, 1]}}, maximize: %s}\n"

#: A text, and its problem; * stands for anything.
BAD = [
    ("", "s.yaml: a study is a mapping *got null"),
    ("data: digits\n\tmodel: x\n", "s.yaml:2: not valid YAML: *'\\t'*; indent with spaces"),
    ("data: 1\nmodel: a\0b\n", "s.yaml:2: not valid YAML: unacceptable character #x0000"),
    ("data: &a [*a]\n" + ARMS, "s.yaml:1: nested too deeply*"),
    ("seeds:\n- !!int x\n", "s.yaml:2: the tag !!int is not allowed; drop it"),
    ("data: mnist\ndata: digits\n" + ARMS, "s.yaml:2: data: appears twice; drop one"),
    ("data: mnist\n", "s.yaml: arms: is required*"),
    ("arms: [standard]\n", 's.yaml:1: arms: takes a mapping, got ["standard"]'),
    ("arms:\n  a:\n", "s.yaml:2: arms.a: takes a mapping such as {method: …}, got null; give it a value, or drop it"),
    ("name: ../x\n" + ARMS, "s.yaml:1: name: takes a printable name of a folder*, got '../x'"),
    ("arms:\n  null: {method: standard}\n", 's.yaml:2: arms.null: an arm\'s name takes *, and is not null, got "null"'),
    ("name: 2024\n" + ARMS, "s.yaml:1: name: takes text, got 2024; put it in quotes"),
    ("training: {augment: {flip: yes}}\n" + ARMS, "*augment.flip: takes true or false, got yes; write true"),
    (
        ARMS + ARM + "lambda: 1\n  p: {method: interpretation, lambda: 1, targets: {teacher: i, permute: no}}\n",
        "s.yaml:7: arms.p.targets.permute: takes fixed, redrawn, true, false or null, got no; write false",
    ),
    ('seeds:\n- "7"\n' + ARMS, 's.yaml:2: seeds.0: takes a whole number, got "7"; write 7'),
    ("arms:\n  ../x: {method: standard}\n", "s.yaml:2: arms.'../x': an arm's name takes *, got \"../x\""),
    ("epochs: 3\n" + ARMS, "s.yaml:1: epochs: unknown key; did you mean training.epochs?"),
    ("seeds:\n  - 0\n  - x\n" + ARMS, 's.yaml:3: seeds.1: takes a whole number, got "x"'),
    ("attack: {norm: L2}\n" + ARMS, "s.yaml:1: attack.norm: takes one of 'l2' or 'linf', got \"L2\""),
    ("attack: {epsilon: 1}\n" + ARMS, "s.yaml:1: attack.epsilon: unknown key; did you mean eps?"),
    ("attack: {eps: 8/255}\n" + ARMS, '*attack.eps: takes a number, got "8/255"; write a decimal number, 0.031372549'),
    ("attack: {norm: linf}\n" + ARMS, "s.yaml:1: attack: needs eps, because its default 1.5 is a radius under l2"),
    ("attack: {norm: linf, eps: 8}\n" + ARMS, "s.yaml:1: attack.eps: takes at most 1 under linf, *, got 8; 8/255 is *"),
    (
        "attack: {norm: linf, eps: 0.1}\narms:\n  a: {method: adversarial, attack: {eps: 2}}\n",
        "s.yaml:3: arms.a.attack.eps: takes at most 1 under linf, *, got 2; *",
    ),
    (
        "attack: {norm: linf, eps: 0.1}\narms: {a: {method: adversarial, search:"
        " {space: {attack.eps: {uniform: [0.1, 8]}}, maximize: val/accuracy}}}\n",
        "s.yaml:2: arms.a.search.space.'attack.eps': takes at most 1 under linf, *, got 8; *",
    ),
    (
        "evaluation: {attacks: [{norm: l2, eps: 2}, {norm: linf, eps: 2}]}\n" + ARMS,
        "s.yaml:1: evaluation.attacks.1.eps: takes at most 1 under linf, *, got 2; *",
    ),
    ("method: standard\n" + ARMS, "s.yaml:1: method: unknown key; did you mean arms.ARM.method?"),
    ("trials: 3\n" + ARMS, "s.yaml:1: trials: unknown key; did you mean arms.ARM.search.trials?"),
    ("lambda_j: 3\n" + ARMS, "s.yaml:1: lambda_j: unknown key; *; parameters of a method belong to an arm"),
    ("arms:\n  a: {my_method: standard}\n", "s.yaml:2: arms.a.method: is required; rename my_method"),
    ("arms:\n  a: {params: 3}\n", "s.yaml:2: arms.a.method: is required. A training method, *"),
    ("arm:\n  a: {method: standard}\n", "s.yaml: arms: is required; rename arm\n*did you mean arms?"),
    ("evaluation: {attacks: {eps: 1}}\n" + ARMS, '*evaluation.attacks: takes a list, got {"eps": 1}; put it in [ ]'),
    ("evaluation: {checks: false}\n" + ARMS, "*evaluation.checks: *, got false; write null for none"),
    ("evaluation: {interpretability: true}\n" + ARMS, "*interpretability: *, got true; write {} for its defaults"),
    ("attack: false\n" + ARMS, "s.yaml:1: attack: takes a mapping such as {norm: …}, got false"),
    (ARMS + ARM + "lambda: 1\n    search: {}\n", "*space: * got none*match_loss_of: * got none"),
    (
        ARMS + ARM + SEARCH % "[val/adv_accuracy, val/accuracy], pick: {best: val/adv_accuracy}",
        "s.yaml:6: arms.i.search.maximize: takes one metric, got *; write maximize: val/adv_accuracy, and bound the"
        " others by where: {val/accuracy: {within: 0.005, of: ARM}}",
    ),
    (
        ARMS + ARM + SEARCH % "val/accuracy, pick: {best: val/accuracy}",
        "s.yaml:6: arms.i.search.pick: is no key any more; *; drop pick",
    ),
    (
        ARMS + ARM + SEARCH % "val/adv_accuracy, where: {val/accuracy: {within: 0.1}}",
        "s.yaml:6: arms.i.search.where.'val/accuracy': takes at_least, or within and of, got within",
    ),
    (
        ARMS + ARM + SEARCH % "val/adv_accuracy, where: {val/accuracy: {at_least: 97}}",
        "s.yaml:6: arms.i.search.where.'val/accuracy'.at_least: takes a number of at most 1, got 97",
    ),
    (
        ARMS + ARM + SEARCH % "val/adv_accuracy, where: {val/loss: {at_least: 0.9}}",
        "s.yaml:6: arms.i.search.where.'val/loss': takes one of 'val/accuracy' or 'val/adv_accuracy', got *",
    ),
    (
        ARMS + ARM + "search: {maximize: val/accuracy, space: {lambda: 0.3}}\n",
        "s.yaml:6: arms.i.search.space.lambda: takes a mapping such as {log_uniform: …}, got 0.3",
    ),
]


@pytest.mark.parametrize(("text", "problem"), BAD, ids=range(len(BAD)))
def test_bad_input_is_reported_in_a_users_words(text: str, problem: str) -> None:
    pattern = ".*".join(re.escape(part) for part in problem.split("*"))
    assert re.fullmatch(pattern, problems(text), re.DOTALL), problems(text)
    assert not re.search(r"Input|valid dictionary|[Tt]uple|instance of|Traceback|None", problems(text))


# ---------------------------------------------------------------- reading of YAML
@pytest.mark.parametrize(("written", "value"), [("1e-3", 0.001), ("1E-3", 0.001), ("5.e-2", 0.05), (".5e0", 0.5)])
def test_numbers_with_an_exponent_are_numbers(written: str, value: float) -> None:
    study = parse(f"training: {{lr: {written}}}\n{ARMS}{ARM}lambda: {written}\n")
    assert study.training.lr == study.arms["i"].params["lambda"] == value
    assert parse(ARMS, f"training.lr={written}").training.lr == value


#: Places of numbers: the start of a study with * for the number, and the place that the problem names.
NUMBERS = [
    ("data: {train_limit: *}\n" + ARMS, "s.yaml:1: data.train_limit: "),
    ("training:\n  epochs: *\n" + ARMS, "s.yaml:2: training.epochs: "),
    ("training: {epochs: 2,\n  lr: *}\n" + ARMS, "s.yaml:2: training.lr: "),
    ("seeds: [0,\n  *]\n" + ARMS, "s.yaml:2: seeds.1: "),
    (ARMS + ARM + "lambda: *\n", "s.yaml:6: arms.i.lambda: "),
    (
        ARMS + ARM + "search: {maximize: val/accuracy, trials: *, space: {lambda: {uniform: [0, 1]}}}\n",
        "s.yaml:6: arms.i.search.trials: ",
    ),
    (
        ARMS + ARM + "search:\n      maximize: val/accuracy\n      space:\n        lambda: {uniform: [*, 9999]}\n",
        "s.yaml:9: arms.i.search.space.lambda.uniform: ",
    ),
    (
        ARMS + ARM + "search: {maximize: val/accuracy, space: {lambda: {choice: [1,\n        *]}}}\n",
        "s.yaml:7: arms.i.search.space.lambda.choice.1: ",
    ),
    (
        ARMS + ARM + "search: {maximize: val/accuracy, grid: {lambda: [1,\n        *]}}\n",
        "s.yaml:7: arms.i.search.grid.lambda.1: ",
    ),
]


@pytest.mark.parametrize(("text", "place"), NUMBERS, ids=range(len(NUMBERS)))
@pytest.mark.parametrize(
    ("number", "advice"),
    [("0100", "write 100 (or 64 if octal was meant)"), ("1:30", "90 if base 60"), ("1_000", "write 1000")],
)
def test_a_number_is_decimal_wherever_it_stands(text: str, place: str, number: str, advice: str) -> None:
    (line,) = problems(text.replace("*", number)).splitlines()
    assert line.startswith(place)
    assert line.endswith(advice) or advice in line
    assert number in line


@pytest.mark.parametrize("number", ["0100", "1:30", "0x1f", ".inf", "1e400"])
def test_an_override_takes_decimal_numbers(number: str) -> None:
    for key in ("training.lr", "attack.eps", "seeds", "arms.i.lambda"):
        value = f"[{number}]" if key == "seeds" else number
        (line,) = problems(ARMS + ARM + "lambda: 1\n", f"{key}={value}").splitlines()
        assert line.startswith(f"--set {key}={value}: {key}")


def test_texts_that_resemble_other_values_stay_text() -> None:
    names = ["010", "1_000", "no", "on", "true", "10"]
    arms = "".join(f"  {name}: {{method: standard}}\n" for name in names)
    last = "  last:\n    method: interpretation\n    lambda: 1\n    title: off\n"
    text = f"name: 0o17\ndata: {{root: 1:30}}\narms:\n{arms}{last}"
    for teacher in names[:4]:
        study = parse(f"{text}    targets: {{}}\n    teacher: {teacher}\n")
        assert list(study.arms) == [*names, "last"]
        texts = (study.name, study.data.root, study.arms["last"].title, study.arms["last"].needs)
        assert texts == ("0o17", "1:30", "off", (teacher,))
        assert {type(value) for value in (*texts[:3], *texts[3])} == {str}
    for teacher, shown in (("true", "true"), ("10", "10")):
        message = problems(f"{text}    targets: {{}}\n    teacher: {teacher}\n")
        assert message == f"s.yaml:15: arms.last.teacher: takes text, got {shown}; put it in quotes"


def test_a_file_in_another_encoding_is_refused_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes(("name: a\n" + ARMS + "# é\n").encode("latin-1"))
    with pytest.raises(StudyError) as error:
        read_study_file(str(tmp_path / "latin.yaml"))
    assert str(error.value).startswith(f"{tmp_path / 'latin.yaml'}:4: is not UTF-8")


def test_aliases_and_merges_work_and_their_mistakes_have_the_line_of_the_anchor() -> None:
    text = "arms:\n  a: &a\n    method: jacobian\n    lambda_j: {}\n  b: {{<<: *a, norm: sample}}\n"
    assert parse(text.format(1)).arms["b"].params == {"lambda_j": 1, "norm": "sample"}
    assert [line[:9] for line in problems(text.format(-1)).splitlines()] == ["s.yaml:4:"] * 2


def test_a_study_is_named_after_its_file_or_by_its_key(tmp_path: Path) -> None:
    for text, name in ((ARMS, "mine"), ("\ufeffname: other\n" + ARMS, "other")):
        (tmp_path / "mine.yaml").write_text(text, encoding="utf-8")
        assert read_study_file(str(tmp_path / "mine.yaml")).study.name == name


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    for source, message in (
        (str(tmp_path), "Is a directory"),
        ("x" * 5000, "there are: baselines, "),
    ):
        with pytest.raises(StudyError, match=re.escape(message)) as error:
            read_study_file(source)
        assert str(error.value).startswith(f"{source}: cannot be read (")


@pytest.mark.parametrize(
    ("source", "remedy"),
    [
        ("mnits", "did you mean mnist?"),
        ("fist.yaml", "did you mean first.yaml?"),
        ("first", "did you mean first.yaml?"),
        ("sub/fist.yml", "did you mean sub/first.yml?"),
        ("nothing/like-it", "there are: baselines, "),
    ],
)
def test_a_missing_file_is_named_with_a_similar_study(
    source: str, remedy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub").mkdir()
    for name in ("first.yaml", "other.yaml", "sub/first.yml"):
        (tmp_path / name).touch()
    with pytest.raises(StudyError) as error:
        read_study_file(source)
    assert str(error.value).startswith(f"{source}: there is no such file or shipped study; {remedy}")


# ---------------------------------------------------------------------- overrides
def test_an_override_replaces_one_value_of_the_file() -> None:
    text = "data: mnist\ntraining: &t {epochs: 9, lr: 0.5}\n" + ARMS
    study = parse(text, "training.epochs=2", "data.train_limit=100", "seeds=[7]", "arms.standard.title=Plain")
    assert (study.training.epochs, study.training.lr, study.seeds) == (2, 0.5, (7,))
    assert (study.data.name, study.data.train_limit) == ("mnist", 100)
    assert study.arms["standard"].title == "Plain"


def test_an_override_of_an_aliased_section_does_not_change_the_other() -> None:
    study = parse("arms:\n  a: &a {method: jacobian, lambda_j: 1}\n  b: *a\n", "arms.a.lambda_j=2")
    assert (study.arms["a"].params["lambda_j"], study.arms["b"].params["lambda_j"]) == (2, 1)


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("training.epochs", "takes KEY=VALUE*"),
        ("trainng.epochs=2", "trainng: unknown key; did you mean training?"),
        ("training={epochs: 0}", "training.epochs: takes a number of at least 1, got 0"),
        ("training=", "training: takes a mapping such as {epochs: …}, got null*"),
        ("seeds.0=3", "seeds: takes no key seeds.0: it is [0, 1]; *seeds=VALUE"),
        ("arms.standard.title=Run #3", 'arms.standard.title: the value ends before "#3"; put all of it in quotes'),
        ("training={lr: 1, lr: 2}", "training.lr: appears twice; drop one"),
        ("training.lr=\t1", "not valid YAML: *"),
        ("model.name=a", 'model.name: unknown model "a"; *'),
        ("data=mnits", 'data: unknown dataset "mnits"; did you mean mnist?'),
        ("arms.standrd.phi=1", "arms.standrd.method: is required*"),
    ],
)
def test_an_override_is_checked_like_the_file_and_named_in_the_problem(override: str, problem: str) -> None:
    text = "data: digits\nmodel: digits_cnn\nseeds: [0, 1]\ntraining:\n  epochs: 3\n" + ARMS
    pattern = ".*".join(re.escape(part) for part in f"--set {override}: {problem}".split("*"))
    assert re.fullmatch(pattern, problems(text, override)), problems(text, override)


def test_mistakes_of_overrides_and_file_are_reported_together() -> None:
    lines = problems("seeds: 3\n" + ARMS, "foo", "training.epochs=0", "attack.norm=[").splitlines()
    assert [line.split(": ")[0] for line in lines] == [
        "--set foo",
        "--set attack.norm=[",
        "--set training.epochs=0",
        "s.yaml:1",
    ]


# ---------------------------------------------------------------- shipped studies
#: Studies of the field's methods, not of the paper's tables.
FIELD = ("baselines", "digits-baselines", "digits-smooth")


@pytest.mark.parametrize("name", [name for name in list_shipped_studies() if name not in FIELD])
def test_every_shipped_study_is_valid_and_compares_the_papers_arms(name: str) -> None:
    study = read_study_file(name).study
    assert study.name == name
    permuted = ["interp_permuted"] if study.data.name != "cifar10" else []
    nonrobust = ["interp_nonrobust"] if permuted and name != "digits-equal-gradient" else []
    assert list(study.arms) == ["standard", "adversarial", "interp_robust", *permuted, *nonrobust, "jacobian"]
    for arm, teacher in {"interp_robust": "adversarial", "interp_nonrobust": "standard"}.items():
        assert arm not in study.arms or study.arms[arm].teacher == teacher
    assert study.arms["jacobian"].needs == ("interp_robust",)


def test_the_baselines_compare_every_method_at_equal_clean_accuracy() -> None:
    """On digits and on MNIST, with AutoAttack under both norms."""
    studies = [read_study_file(name).study for name in ("baselines", "digits-baselines")]
    for study in studies:
        methods = {part for arm in study.arms.values() for part in arm.method.split(" + ")}
        assert methods == {*registry.names("methods")}
        searches = [arm.search for arm in study.arms.values() if arm.search]
        assert all(search.maximize == "val/adv_accuracy" for search in searches)
        assert {(c.within, c.of) for search in searches for c in search.where.values()} == {(0.01, "standard")}
        norms = {study.ball_of(entry).norm: entry.autoattack for entry in study.evaluation.attacks}
        assert norms == {"l2": 200, "linf": 200}
    assert studies[0].arms.keys() == studies[1].arms.keys()


def test_smooth_activations_are_compared_at_equal_clean_accuracy() -> None:
    arms = read_study_file("digits-smooth").study.arms
    networks = {name: (arm.model or Model()).options.get("activation", "relu") for name, arm in arms.items()}
    for method in ("standard", "input_gradient", "jacobian"):
        names = [name for name, arm in arms.items() if arm.method == method]
        assert [networks[name] for name in names] == ["relu", "gelu"]
        for name in names:
            search, plain = arms[name].search, name.replace(method, "standard")
            assert search is None or {c.of for c in search.where.values()} == {plain}


def test_the_cifar_study_holds_the_papers_settings() -> None:
    """Section 4.2: batches of 100, rate .01 falling by 90% every 10 epochs, 40 steps within l2 80/255 ≈ .314."""
    study = read_study_file("cifar10").study
    assert (study.data.name, study.data.train_limit, study.model.name) == ("cifar10", None, "cifar_cnn")
    training, attack = study.training, study.attack
    assert (training.batch_size, training.lr, training.lr_decay, training.decay_every) == (100, 0.01, 0.1, 10)
    assert (attack.norm, attack.eps, attack.steps, attack.step_length) == ("l2", 0.314, 40, 0.04)


def test_the_mnist_study_holds_the_papers_settings() -> None:
    study = read_study_file("mnist").study
    assert (study.data, study.model) == (Data(name="mnist"), Model(name="mnist_cnn"))
    assert study.training == Training(epochs=30, batch_size=64, lr=0.01, momentum=0.9, lr_decay=0.1, decay_every=10)
    assert study.attack == study.evaluation_attack == Attack(norm="l2", eps=1.5, steps=40, step_size=0.5)
    assert study.seeds == (0, 1, 2, 3, 4)
    taught = [(arm.teacher, arm.targets) for arm in study.arms.values() if arm.targets]
    assert [(teacher, t.sigma, t.samples, t.permute) for teacher, t in taught] == [
        ("adversarial", 0.15, 50, None),
        ("adversarial", 0.15, 50, "fixed"),
        ("standard", 0.15, 50, None),
    ]
