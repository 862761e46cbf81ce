"""The trials of searches in the report: importances as a table and as values, and the figure of the parameters."""

import json
import math
import subprocess
import sys

import pytest
from helpers import drawn
from helpers.ledgers import flat, row_of, store_with

from analysis.figures import canvas, parameters
from analysis.figures.draw import draw
from analysis.results.results import Results
from analysis.tables.importances import importance_table, list_shares

pytestmark = pytest.mark.thorough

SPACE = {"lambda": {"log_uniform": [0.001, 1]}, "phi": {"choice": [0.0, 2.0]}}
STUDY = drawn.searching("interp_robust", {"space": SPACE, "maximize": "val/adv_accuracy", "trials": 12})
#: Trial 11 diverged.
PARAMS = [{"lambda": 10 ** (-3 + number / 4), "phi": 2.0 * (number % 2)} for number in range(12)]


def trials(count=12):
    """Trials with an adversarial accuracy that is linear in log λ, and a clean one that is the same for all."""
    made = []
    for number, params in enumerate(PARAMS[:count]):
        work = drawn.train("interp_robust", number=number, params=params, maps=drawn.maps())
        value = 0.9 + math.log10(params["lambda"]) / 10
        done = {"metrics": {"val/accuracy": 0.9, "val/adv_accuracy": value, "train/loss": params["lambda"]}}
        made.append(drawn.record(work, **(done if number < 11 else {"state": "diverged"})))
    return flat(made)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    others = [each for each in drawn.records() if each["arm"] != "interp_robust" or each.get("number") is None]
    store = store_with(tmp_path_factory.mktemp("trials") / "store", [*others, *trials()], STUDY)
    store.write_checked(store.choice_file("jacobian"), drawn.CHOICE)
    choice = drawn.CHOICE | {"params": {"lambda": 0.1, "phi": 2.0}, "parameter": None, "target": None}
    store.write_checked(store.choice_file("interp_robust"), choice)
    return store


@pytest.fixture(scope="module")
def results(store):
    return Results.from_store(store)


def test_the_table_has_a_row_per_parameter_and_what_they_explain(results):
    table = importance_table(results)
    shares = [row_of(table, f"Interp. Reg. R.: {name}") for name in ("λ", "φ")]
    assert float(shares[0]["Adv. acc."]) > 0.9
    assert sum(float(share["Adv. acc."]) for share in shares) == pytest.approx(1)
    assert {share["Clean acc."] for share in shares} == {"–"}, "it is the same in all trials"
    assert {share["Trials"] for share in shares} == {"11"}
    assert float(row_of(table, "Interp. Reg. R.: explained")["Adv. acc."]) > 0.5
    assert len(table.rows) == 3, "a search of one parameter has no rows"


def test_values_are_unrounded_and_in_the_order_of_the_study(results):
    first, second = (line for line in list_shares(results) if line["metric"] == "val/adv_accuracy")
    assert (first["arm"], first["parameter"], second["parameter"]) == ("interp_robust", "lambda", "phi")
    assert first["share"] + second["share"] == pytest.approx(1, abs=1e-12)
    assert first["trials"] == 11


def test_few_trials_have_no_importances(store):
    lost = [record["key"] for record in trials()[3:]]
    rest = [record for record in Results.from_store(store).records if record["key"] not in lost]
    assert importance_table(Results(STUDY, tuple(rest))).rows == ()


def test_a_report_computes_them_without_torch_and_without_a_word(store, tmp_path):
    code = (
        f"import sys; from analysis.report import build; build({str(store.path)!r}, output={str(tmp_path)!r})\n"
        "print(*{'torch', 'ray'} & set(sys.modules), 'optuna' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True"]
    assert done.stderr == ""
    values = json.loads((tmp_path / "rows.json").read_text(encoding="utf-8"))
    assert {line["parameter"] for line in values["importances"]} == {"lambda", "phi"}


def test_a_report_of_small_searches_does_not_load_optuna(tmp_path):
    store = drawn.store_at(tmp_path / "store")
    code = f"import sys; from analysis.report import build; build({str(store.path)!r}); print('optuna' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"]


# ----------------------------------------------------------------------------- figure
def test_each_parameter_has_its_trials_and_the_chosen_value(results):
    by_name = {parameter.name: parameter for parameter in parameters.searched_parameters(results)}
    assert list(by_name) == ["lambda", "phi", "lambda_j"]
    strength, phi = by_name["lambda"], by_name["phi"]
    assert (strength.is_logarithmic, strength.choices, phi.choices) == (True, (), (0.0, 2.0))
    assert [value for value, _ in strength.trials["interp_robust"]] == [params["lambda"] for params in PARAMS[:11]]
    assert strength.diverged == {"interp_robust": [PARAMS[11]["lambda"]]}
    assert (strength.chosen, phi.chosen) == ({"interp_robust": 0.1}, {"interp_robust": 2.0})
    assert by_name["lambda_j"].chosen == {"jacobian": 0.03}


def test_a_parameter_of_two_kinds_of_ranges_has_two_axes(results):
    space = {"lambda_j": {"choice": [0.01, 0.1]}}
    arms = results.study.model_dump()["arms"]
    search = {"space": space, "maximize": "val/accuracy"}
    arms["other"] = {"method": "jacobian", "params": arms["jacobian"]["params"], "search": search}
    study = results.study.model_validate(results.study.model_dump() | {"arms": arms})
    job = drawn.train("jacobian", number=0, params={"lambda_j": 0.1})
    tried = drawn.record(job.model_copy(update={"arm": "other"}), {"val/accuracy": 0.9, "val/adv_accuracy": 0.5})
    found = parameters.searched_parameters(Results(study, (*results.records, *tried)))
    assert [(each.name, each.choices) for each in found[2:]] == [("lambda_j", ()), ("lambda_j", (0.01, 0.1))]


def test_choices_of_arms_lie_side_by_side(results):
    phi = next(each for each in parameters.searched_parameters(results) if each.name == "phi")
    both = parameters.SearchedParameter("phi", False, phi.choices, {"a": [], "b": []}, {}, {})
    first, second = (parameters._places(both, [0.0, 2.0, 2.0], place, spread=True) for place in (0, 1))
    assert max(first[:1]) < 0 < min(second[:1])
    assert all(abs(place - 1) < 0.5 for place in (*first[1:], *second[1:]))
    assert len(set(first + second)) == 6


def test_the_figure_names_the_arms_and_counts_their_trials(results, store):
    (figure,) = draw(results, store, ["parameters"])
    assert "Interp. Reg. R. 11" in figure.caption
    words = figure.paths[1].read_text(encoding="utf-8")
    assert all(word in words for word in ("Adv. acc., %", "Training loss", "λ", "φ", "Interp. Reg. R."))


def test_captions_say_over_how_many_seeds_trials_are_means(results):
    assert canvas.describe_trials(results, ["interp_robust", "jacobian"]) == "one seed each"
    search = {"space": SPACE, "maximize": "val/adv_accuracy", "trials": 12, "seeds": 2}
    averaged = Results(drawn.searching("interp_robust", search), results.records)
    assert canvas.describe_trials(averaged, ["interp_robust", "jacobian"]) == "means over 1 or 2 seeds"
    assert canvas.describe_trials(averaged, ["interp_robust"]) == "means over 2 seeds"


@pytest.mark.parametrize("kind", ["log_int", "int"])
def test_whole_numbers_have_the_scale_of_their_range(kind, results):
    study = drawn.searching("jacobian", {"space": {"lambda_j": {kind: [1, 9]}}, "maximize": "val/accuracy"})
    job = drawn.train("jacobian", number=0, params={"lambda_j": 3.0})
    tried = drawn.record(job, {"val/accuracy": 0.9, "val/adv_accuracy": 0.5})
    others = [each for each in results.records if each["arm"] != "jacobian"]
    found = parameters.searched_parameters(Results(study, (*others, *tried)))
    assert [each.is_logarithmic for each in found if each.name == "lambda_j"] == [kind == "log_int"]
