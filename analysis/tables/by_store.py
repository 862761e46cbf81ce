"""Tables of several stores: Table 1 with a column for the store, and differences between stores paired by seed."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from analysis.results import rows
from analysis.results.results import Results
from analysis.results.stores import ComparedArm, list_arms, write_value
from analysis.statistics.pairs import Comparison, holm
from analysis.tables.accuracy import CLEAN, COMPAT, STRICT, list_attacks
from analysis.tables.cells import ABSENT, Cell, Estimate, Probability, Table
from analysis.tables.notes import attack_note, join_counts, missing_notes, override_notes
from tune_interpreg.study.metric_names import TEST_ACCURACY, TEST_COMPAT, TEST_STRICT
from tune_interpreg.study.setting import list_settings

METRICS = {CLEAN: TEST_ACCURACY, COMPAT: TEST_COMPAT, STRICT: TEST_STRICT}


@dataclass(frozen=True)
class StorePair:
    """An arm of a later store, and the arm that is subtracted: of the same name, or else the reference."""

    arm: ComparedArm
    other: ComparedArm

    def compare(self, metric: str) -> Comparison:
        """Return the difference in points, paired by the seeds that both have."""
        ours, theirs = (arm.results.values(arm.name, metric) for arm in (self.arm, self.other))
        return Comparison.from_seeds(ours, theirs, 100)


def list_pairs(stores: Mapping[str, Results]) -> list[StorePair]:
    """Return each arm of the later stores with the first store's arm of its name and method, or with its reference.

    The reference is the first store's arm of standard training, or its first arm.
    """
    arms, first = list_arms(stores), next(iter(stores))
    by_name = {arm.name: arm for arm in arms if arm.store == first}
    results = stores[first]
    reference = by_name[results.standard or next(iter(by_name))]
    pairs = []
    for arm in arms:
        if arm.store != first:
            same = by_name.get(arm.name)
            is_same = same is not None and _method(same) == _method(arm)
            pairs.append(StorePair(arm, same if same is not None and is_same else reference))
    return pairs


def accuracy_table(stores: Mapping[str, Results]) -> Table:
    """Return Table 1 of all arms; an attack that a store was not asked for is left empty."""
    attacks = {entry.heading: entry for results in stores.values() for entry in list_attacks(results.study)}
    metrics = METRICS | {heading: entry.metric for heading, entry in attacks.items()}
    lines: list[dict[str, Cell]] = []
    for arm in list_arms(stores):
        row: dict[str, Cell] = {"Arm": arm.label, "Store": arm.store}
        lines.append(row | {name: arm.results.estimate(arm.name, metric, 100) for name, metric in metrics.items()})
    first = next(iter(stores.values()))
    images = f"{join_counts(rows.collect_facts(first.current)['test_images'])} test images"
    seeds = "; ".join(f"{name}: {', '.join(map(str, results.study.seeds))}" for name, results in stores.items())
    notes = [
        f"Mean ± half-width of the 95% Student t interval over the seeds of a store ({seeds}), unless a cell states n.",
        attack_note(first, images),
        *(f"{heading}: {entry.description}." for heading, entry in attacks.items()),
        *_setting_notes(stores),
        *(f"{name}: {line}" for name, results in stores.items() for line in override_notes(results)),
        *_missing_notes(stores, METRICS.values()),
    ]
    return Table.from_rows(f"Accuracy on {first.study.data.name}, %", lines, notes, "results")


def difference_table(stores: Mapping[str, Results]) -> Table:
    """Return the differences of ``list_pairs`` in points, with tests under strict corrected over the table."""
    pairs = list_pairs(stores)
    corrected = holm([pair.compare(TEST_STRICT).p for pair in pairs])
    lines: list[dict[str, Cell]] = []
    for pair, p in zip(pairs, corrected, strict=True):
        row: dict[str, Cell] = {"Difference": f"{pair.arm.label} − {pair.other.label}"}
        row |= {heading: _difference(pair, metric) for heading, metric in METRICS.items()}
        lines.append(row | {"p, strict": Probability(p), "n": str(pair.compare(TEST_STRICT).n)})
    tests = sum(p is not None for p in corrected)
    note = (
        "Each arm of a later store − the first store's arm of the same name and method, or − its standard training, in"
        " points, paired by seed: mean ± half-width of the 95% Student t interval over the n seeds that both have. A"
        " seed fixes the order of the images, and with the same network the initial weights. p: two-sided paired t"
        f" test, corrected by Holm over the {tests} tests of this table. {ABSENT}: no common seed."
    )
    return Table.from_rows("Differences between stores, points", lines, [note], "comparisons")


def _difference(pair: StorePair, metric: str) -> Estimate:
    shared = set(pair.arm.results.study.seeds) & set(pair.other.results.study.seeds)
    return Estimate(pair.compare(metric).difference, len(shared), decimals=None)


def _method(arm: ComparedArm) -> str:
    return arm.results.study.arms[arm.name].method


def _setting_notes(stores: Mapping[str, Results]) -> list[str]:
    """Return a note on the settings of trainings that differ between the stores."""
    settings = {name: list_settings(results.study.setting()) for name, results in stores.items()}
    places = dict.fromkeys(place for values in settings.values() for place in values)
    lines = []
    for place in places:
        values = {name: of_store.get(place) for name, of_store in settings.items()}
        if len(set(map(repr, values.values()))) > 1:
            lines.append(f"{place}: " + ", ".join(f"{write_value(value)} ({name})" for name, value in values.items()))
    return [f"Settings of the trainings that differ: {'; '.join(lines)}."] if lines else []


def _missing_notes(stores: Mapping[str, Results], metrics: Iterable[str]) -> Sequence[str]:
    metrics = list(metrics)
    return [f"{name}: {line}" for name, results in stores.items() for line in missing_notes(results, metrics)]
