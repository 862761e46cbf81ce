"""The Pareto front of several metrics to maximize, and the point of it that a study's rule picks."""

from __future__ import annotations

from collections.abc import Sequence

from tune_interpreg.store import ledger
from tune_interpreg.store.store import Record
from tune_interpreg.study.space import Search


def front(records: Sequence[Record], metrics: Sequence[str]) -> list[Record]:
    """The records that no other one beats: as good in every metric, and better in one."""
    judged = [(record, values) for record in records if (values := _values(record, metrics)) is not None]
    return [record for record, own in judged if not any(_beats(other, own) for _, other in judged)]


def pick(search: Search, records: Sequence[Record]) -> Record | None:
    """The best point by ``search.pick``, the earlier trial on a tie; None where no record has all metrics."""
    rule = search.pick
    assert rule is not None
    points = front(records, search.goals)
    best = {metric: max(_value(point, metric) for point in points) for metric in rule.within} if points else {}
    allowed = [
        point
        for point in points
        if all(_value(point, metric) >= best[metric] - within for metric, within in rule.within.items())
    ]
    # Several conditions may leave no point; then the metric that decides does so alone.
    return max(allowed or points, key=lambda point: (_value(point, rule.best), -point["number"]), default=None)


def _values(record: Record, metrics: Sequence[str]) -> tuple[float, ...] | None:
    values = [ledger.mean(record, metric) for metric in metrics]
    known = tuple(value for value in values if value is not None)
    return known if len(known) == len(values) else None


def _value(record: Record, metric: str) -> float:
    value = ledger.mean(record, metric)
    assert value is not None
    return value


def _beats(one: Sequence[float], other: Sequence[float]) -> bool:
    return all(a >= b for a, b in zip(one, other, strict=True)) and tuple(one) != tuple(other)
