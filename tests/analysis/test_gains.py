"""The answer to the paper's question from hand-made ledgers: numbers by hand, and the wording of every sentence.

``golden_report.md`` has the sentences of each scenario below, and a whole report. Read its changes before you accept
them: no sentence may claim more than its interval shows.
"""

import math
from pathlib import Path

import pytest
from helpers import drawn
from helpers.ledgers import T4, accuracies, flat, record, row_of, train
from rich.console import Console

from analysis.report import build, print_summary
from analysis.results.results import Results
from analysis.tables.answer import compute_gains, compute_matches, gain_table, match_table
from analysis.tables.sentences import write_sentences
from tune_interpreg.study.config import Study
from tune_interpreg.study.items import Maps
from tune_interpreg.study.recipe import TargetMaps

GOLDEN = Path(__file__).with_name("golden_report.md")

MATCH = {"match_loss_of": "taught"}
#: The arms have other names than the paper's: methods and targets say what they are.
STUDY = Study(
    data="mnist",
    arms={
        "pgd": {"method": "adversarial"},
        "plain": {"method": "standard"},
        "taught": {"method": "interpretation", "targets": {"teacher": "plain"}, "lambda": 0.1},
        "shuffled": {
            "method": "interpretation",
            "targets": {"teacher": "plain", "permute": True},
            "search": {"space": {"lambda": {"log_uniform": [0.01, 1]}}, **MATCH},
        },
        "flat": {"method": "jacobian", "search": {"space": {"lambda_j": {"log_uniform": [0.01, 1]}}, **MATCH}},
    },
)
PARAMS = {"taught": {"lambda": 0.1}, "shuffled": {"lambda": 0.1}, "flat": {"lambda_j": 0.1}}
TEACHER = train("plain", of=STUDY).models[0]

PLAIN = [0.60, 0.61, 0.62, 0.63, 0.64]
LOSS = [1.0, 1.1, 1.2, 1.3, 1.4]


def repeat(arm, seed, metrics=None, **fields):
    targets, maps = STUDY.arms[arm].targets, None
    if targets:
        made = Maps(teacher=TEACHER.key, settings=targets.map_settings)
        maps = TargetMaps(key=made.key, permute=targets.permute)
    return record(train(arm, seed, PARAMS.get(arm), maps=maps, of=STUDY), metrics, of=STUDY, **fields)


def repeats(arm, strict, *, compat=None, clean=(0.99,) * 5, loss=LOSS):
    """One repeat per value of ``strict``, of seeds 0, 1, …; compat: by default the same values."""
    values = zip(clean, compat or strict, strict, loss, strict=False)
    return [
        repeat(arm, seed, accuracies(*three) | {"train/loss": train}) for seed, (*three, train) in enumerate(values)
    ]


def above(values, *differences):
    return [value + difference for value, difference in zip(values, differences, strict=False)]


def results(*groups, choices=None):
    return Results(STUDY, tuple(flat(repeat for group in groups for repeat in group)), choices or {})


STEPS = (0.10, 0.11, 0.12, 0.13, 0.14)
STANDARD = repeats("plain", PLAIN)
TAUGHT = repeats("taught", above(PLAIN, 0.20, 0.21, 0.22, 0.23, 0.24))
NEAR, FAR = above(LOSS, 0.01, -0.01, 0.0, 0.02, -0.02), above(LOSS, 0.42, -0.08, 0.52, -0.18, 0.32)
CHOICE = {"flat": {"params": PARAMS["flat"], "tolerance": 0.05}}


def against_plain(strict, **fields):
    return results(STANDARD, repeats("taught", strict, **fields))


SCENARIOS = {
    "nothing has finished": results(),
    "no standard training": Results(STUDY.model_copy(update={"arms": {"pgd": STUDY.arms["pgd"]}}), ()),
    "a gain at equal clean accuracy, larger under compat": against_plain(
        above(PLAIN, *STEPS), compat=above(PLAIN, *STEPS[:4], 0.15), clean=[0.989, 0.990, 0.991, 0.990, 0.990]
    ),
    "a loss at lower clean accuracy": against_plain(
        above(PLAIN, *(-step for step in STEPS)), clean=[0.95, 0.96, 0.95, 0.94, 0.95]
    ),
    "differences within chance": against_plain(
        above(PLAIN, 0.10, -0.10, 0.02, -0.03, 0.05), clean=[0.99, 0.97, 0.98, 1.0, 0.95]
    ),
    "attacks that disagree": results(
        repeats("plain", PLAIN, compat=above(PLAIN, *[0.05] * 4, 0.06)),
        repeats("taught", above(PLAIN, 0.01, -0.01, 0.02, -0.02, 0.0)),
    ),
    "attacks that differ by the same in every seed": against_plain(
        above(PLAIN, *STEPS), compat=above(PLAIN, *(step + 0.05 for step in STEPS))
    ),
    "a gain that Holm's correction does not confirm": results(
        STANDARD,
        repeats("taught", above(PLAIN, 0.01, 0.03, 0.02, 0.05, 0.04)),
        *(repeats(arm, above(PLAIN, 0.05, -0.05, 0.01, -0.03, 0.02)) for arm in ("pgd", "shuffled", "flat")),
    ),
    "a lost seed": results(STANDARD, TAUGHT[:4], [repeat("taught", 4, state="failed", error="OSError: disk")]),
    "one seed": results(STANDARD[:1], repeats("taught", [0.9])),
    "the same gain in every seed": against_plain(above(PLAIN, *[0.25] * 5)),
    "matched: permuted maps": results(
        STANDARD, TAUGHT, repeats("shuffled", above(PLAIN, 0.15, 0.15, 0.16, 0.17, 0.17), loss=NEAR)
    ),
    "matched: no difference": results(
        STANDARD, TAUGHT, repeats("flat", above(PLAIN, 0.20, 0.22, 0.21, 0.24, 0.23), loss=NEAR)
    ),
    "matched: lost seeds of the reference": results(STANDARD, TAUGHT[1:3], repeats("flat", PLAIN, loss=NEAR)),
    "a missed match": results(STANDARD, TAUGHT, repeats("flat", PLAIN, loss=above(LOSS, 0.2, 0.21, 0.2, 0.19, 0.2))),
    "a match that is not shown": results(STANDARD, TAUGHT, repeats("flat", PLAIN, loss=FAR), choices=CHOICE),
}


def test_the_wording_of_reports_and_sentences(tmp_path):
    """Compare with golden_report.md. To accept a new wording, copy the file that the message names over it."""
    store = drawn.store_at(tmp_path / "store")
    console = Console(width=80)
    with console.capture() as summary:
        print_summary(store.path, console)
    parts = ["# The summary of a run\n", *(f"    {line}".rstrip() for line in summary.get().splitlines())]
    parts += ["\n# The files of a report\n", build(store.path).paths[0].read_text(encoding="utf-8")]
    for name, scenario in SCENARIOS.items():
        sentences = (line for line in write_sentences(scenario) if "no seed has" not in line or not scenario.records)
        parts += [f"# Sentences: {name}\n", *(f"- {line}" for line in sentences), ""]
    written = tmp_path / GOLDEN.name
    written.write_text("\n".join(parts), encoding="utf-8")
    assert written.read_text(encoding="utf-8") == GOLDEN.read_text(encoding="utf-8"), f"compare {written} with {GOLDEN}"


# ----------------------------------------------------------------------------- gains
def test_a_gain_by_hand():
    scenario = SCENARIOS["a gain at equal clean accuracy, larger under compat"]
    row = row_of(gain_table(scenario), "taught")
    assert str(row["Gain (strict)"]) == "12.0 ± 2.0"
    assert row["Gain (strict)"].interval.half_width == pytest.approx(T4 * math.sqrt(2.5) / math.sqrt(5))
    assert row["Gain (compat)"].interval.mean == pytest.approx(12.2)
    assert row["Strict − compat"].interval.mean == pytest.approx(-0.2)
    assert (row["Within ±1"], str(row["Std. Acc."])) == ("yes", "0.000 ± 0.088")
    gain = compute_gains(scenario)[1]
    assert row["p, strict"].p == pytest.approx(2 * gain.strict.p), "two tests, corrected by Holm"


def test_standard_training_is_found_by_its_method_and_is_no_row():
    assert [row[0] for row in gain_table(results()).rows] == ["pgd", "taught", "shuffled", "flat"]
    assert gain_table(SCENARIOS["no standard training"]).rows == ()


@pytest.mark.parametrize(("name", "equal"), [("one seed", "–"), ("the same gain in every seed", "not shown")])
def test_without_a_spread_nothing_is_shown(name, equal):
    row = row_of(gain_table(SCENARIOS[name]), "taught")
    assert (row["Within ±1"], row["p, strict"].p) == (equal, None)


# -------------------------------------------------------------- at matched training loss
def test_permuted_maps_are_found_by_their_targets():
    scenario = SCENARIOS["matched: permuted maps"]
    assert [pair.permuted for pair in compute_matches(scenario)] == [True, False]
    row = row_of(match_table(scenario), "shuffled")
    assert (row["Reference"], row["Match"], str(row["Residual"])) == ("taught", "PASS (±0.071)", "0.000 ± 0.020")
    assert row["Adv. Acc. (strict)"].interval.mean == pytest.approx(-6.0)


def test_seeds_lost_in_the_reference_count_in_no_residual_and_are_named():
    table = match_table(SCENARIOS["matched: lost seeds of the reference"])
    assert str(row_of(table, "flat")["Residual"]).endswith("(n=2)")
    assert any(note.startswith("taught: seeds 0, 3, 4 ") for note in table.notes)
