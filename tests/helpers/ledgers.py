"""Hand-made ledgers of an MNIST study, for the tests of its tables."""

from analysis.results.results import Results
from tune_interpreg.schedule.current import Current
from tune_interpreg.store import ledger
from tune_interpreg.store.store import Store
from tune_interpreg.study.config import Study
from tune_interpreg.study.items import Item
from tune_interpreg.study.recipe import Maps, Recipe

T4 = 2.7764451

STUDY = Study(
    data="mnist",
    model="mnist_cnn",
    training={"epochs": 6},
    arms={
        "standard": {"method": "standard"},
        "adversarial": {"method": "adversarial"},
        "interp_robust": {
            "method": "interpretation",
            "phi": 1.0,
            "search": {"space": {"lambda": {"log_uniform": [0.001, 1]}}, "maximize": "val/adv_accuracy"},
        },
        "jacobian": {
            "method": "jacobian",
            "search": {
                "space": {"lambda_j": {"log_uniform": [0.001, 1]}},
                "match_loss_of": "interp_robust",
                "trials": 4,
            },
        },
    },
)


def item(arm, seeds, params=None, role="repeat", teacher=None, teacher_seed=0, number=0):
    maps = Maps(teacher=teacher, teacher_seed=teacher_seed, sigma=0.15, samples=50) if teacher else None
    recipe = Recipe.from_study(STUDY, method=STUDY.arms[arm].method, params=params or {}, maps=maps)
    return Item(arm=arm, role=role, recipe=recipe, seeds=seeds, number=number)


def record(work, metrics=None, state="done", error=None, day=1):
    counts = {"train": 55_000, "val": 5_000, "test": 10_000, "grad_norm": 55_000}
    by_seed = {str(seed): values for seed, values in (metrics or {}).items()}
    made = ledger.make_record(work, state, counts=counts, error=error, seconds=12.5, device="cpu")
    return made | {"metrics": by_seed, "finished": f"2026-01-{day:02d}T00:00:00+00:00"}


def accuracies(clean, compat=0.6, strict=0.5):
    return {"test/accuracy": clean, "test/adv_accuracy_compat": compat, "test/adv_accuracy_strict": strict}


CLEAN = [0.99, 0.991, 0.992, 0.993, 0.994]
STANDARD = [record(item("standard", (seed,)), {seed: accuracies(clean)}) for seed, clean in enumerate(CLEAN)]


def row_of(table, title):
    return dict(zip(table.columns, next(row for row in table.rows if row[0] == title), strict=True))


def current(records, study=STUDY, choices=None):
    return Current.from_records(study, records, choices, keep_last_results=True)


def results(records):
    return Results(STUDY, tuple(records))


def store_with(path, records, study=STUDY):
    """A store with these records."""
    store = Store(path)
    store.save_study(study)
    for content in records:
        store.write_record(content)
    return store
