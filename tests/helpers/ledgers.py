"""Hand-made ledgers of an MNIST study, for the tests of its tables."""

from analysis.results.results import Results
from tune_interpreg.schedule.current import Current
from tune_interpreg.store import ledger
from tune_interpreg.store.store import Store
from tune_interpreg.study import measures, metric_names
from tune_interpreg.study.config import Study
from tune_interpreg.study.items import Job, Judge, Maps, Train
from tune_interpreg.study.recipe import Recipe

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


#: Images per split, as records count them.
IMAGES = {"train": 55_000, "validation": 5_000, "test": 10_000}


def train(arm, seed=0, params=None, *, number=None, maps=None, of=STUDY):
    """Return the job of a repeat, or of the trial with a number. maps: those that it trains towards."""
    recipe = Recipe.from_study(of, method=of.arms[arm].method, params=params or {}, maps=maps)
    stage = "repeats" if number is None else "search"
    model, observation = Train(recipe=recipe, seed=seed), measures.observe(of, of.arms[arm].search if number else None)
    return Job(
        arm=arm, stage=stage, number=number, models=(model,), trains=True, observation=observation, batch_size=500
    )


def make_maps(teacher, settings):
    """Return the job that makes the maps of a trained repeat's model."""
    (model,) = teacher.models
    work = (Maps(teacher=model.key, settings=settings),)
    return teacher.model_copy(update={"stage": "maps", "trains": False, "work": work})


def record(work, metrics=None, state="done", error=None, day=1, of=STUDY, **fields):
    """Return the records of a job: of its training or maps, and of the judgments that give its other metrics."""
    (item,) = work.items
    metrics = {name: value for name, value in (metrics or {}).items() if value is not None}
    trained = {name: metrics.pop(name) for name in list(metrics) if name.startswith("train/")}
    made = {"images": IMAGES, "seconds": 12.5, "device": "cpu"}
    when = {"finished": f"2026-01-{day:02d}T00:00:00+00:00"}
    first = ledger.make_record(work, item, state, metrics=trained, error=error, **made) | when | fields
    return [first, *(judged | when for judged in judge(work, metrics, of=of))]


def judge(work, metrics, of=STUDY):
    """Return the records of the judgments that give these metrics of a job's model."""
    records, rest = [], dict(metrics)
    for measure, split, _ in measures.list_repeat_questions(of):
        names = NAMES.get(measure.kind) or [metric_names.adversarial_accuracy(measure.kind, split)]
        names = [metric_names.accuracy(split)] if measure.kind == "accuracy" else names
        answer = {name: rest.pop(name) for name in names if name in rest}
        if answer:
            item = Judge(model=work.models[0].key, measure=measure, split=split)
            images = {split: getattr(measure, "images", None) or IMAGES[split]}
            records.append(ledger.make_record(work, item, "done", metrics=answer, images=images, seconds=1.0))
    assert not rest, f"the study asks for no {rest}"
    return records


NAMES = {"gradient_norms": [metric_names.GRAD_NORM_LABEL, metric_names.GRAD_NORM_OTHER]}


def checks_item(work, of=STUDY):
    """Return the checks of a job's model, without other models."""
    (question,) = (q for q in measures.list_dependent_questions(of, {}, {}) if q.measure.kind == "checks")
    return Judge(model=work.models[0].key, measure=question.measure, split=question.split)


def flat(records):
    """Return the records of all jobs, given as ``record`` returns them or one by one."""
    return [each for group in records for each in (group if isinstance(group, list) else [group])]


def accuracies(clean, compat=0.6, strict=0.5):
    return {"test/accuracy": clean, "test/adv_accuracy_compat": compat, "test/adv_accuracy_strict": strict}


CLEAN = [0.99, 0.991, 0.992, 0.993, 0.994]
#: For each seed the records of a repeat.
STANDARD = [record(train("standard", seed), accuracies(clean)) for seed, clean in enumerate(CLEAN)]


def row_of(table, title):
    return dict(zip(table.columns, next(row for row in table.rows if row[0] == title), strict=True))


def current(records, study=STUDY, choices=None):
    return Current(study, flat(records), choices, keep_last_results=True)


def results(records, study=STUDY):
    return Results(study, tuple(flat(records)))


def store_with(path, records, study=STUDY):
    """A store with these records."""
    store = Store(path)
    store.save_study(study)
    for content in flat(records):
        store.write_record(content)
    return store
