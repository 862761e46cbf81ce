"""The tables of the models' maps: the measures of interpretability by arm, and against standard training."""

from collections.abc import Iterator

from analysis.results.results import Results
from analysis.tables.cells import Cell, Table
from analysis.tables.notes import mean_notes, teacher_notes
from tune_interpreg.study import metric_names as names

#: Measure → column. The name of the compared maps follows a similarity.
MEASURES = {
    names.ALIGNMENT: "Alignment",
    names.ALIGNMENT_COSINE: "|cos(x, g)|",
    names.ALIGNMENT_CENTERED: "Alignment, centered",
    names.ALIGNMENT_COSINE_CENTERED: "|cos|, centered",
    names.SIMILARITY_COSINE: "Cosine to",
    names.SIMILARITY_SPEARMAN: "Spearman to",
    names.SIMILARITY_SSIM: "SSIM to",
    names.SPARSITY: "Gini",
    names.NORM_LOG_PROBABILITY: "‖∇ log p‖",
    names.NORM_CENTERED_LOGIT: "‖∇ centered logit‖",
    names.STABILITY: "Instability",
    names.STABILITY_PER_LOGITS: "Instability per logits",
    names.DELETION: "Deletion",
}

SIMILARITIES = tuple(
    f"test/{name}" for name in (names.SIMILARITY_COSINE, names.SIMILARITY_SPEARMAN, names.SIMILARITY_SSIM)
)

#: Measure → what its column and those like it show.
LEGENDS = {
    names.ALIGNMENT: "g is the gradient of the label's logit by the pixels, |g| the map. Alignment: |⟨x, g⟩|/‖g‖;"
    " centered: without the image's mean.",
    names.SIMILARITY_COSINE: "Cosine, Spearman, SSIM to maps I: similarity of |g| and I, the SmoothGrad maps of the"
    " robust model that teaches (teacher) and of one that teaches no arm (unseen).",
    names.SPARSITY: "Gini: sparsity of |g|, 0 to 1.",
    names.STABILITY: "Instability: mean relative change of g under noise of 0.05, per logits: relative to the change of"
    " the logits.",
    names.DELETION: "Deletion: area under p_y as the top pixels of |g| are deleted, minus the same in random order;"
    " negative is better.",
}


def maps_tables(results: Results) -> tuple[Table, ...]:
    """Return the table of all measures, and that of differences to standard training; without rows if none is taken."""
    return _measure_table(results), _difference_table(results)


def list_measures(results: Results) -> dict[str, str]:
    """Return metric → heading of the measures that some repeat has, in the order of MEASURES."""
    measured = dict.fromkeys(results.frame["metric"])
    return dict(_headings(measured))


def _headings(measured: dict[str, None]) -> Iterator[tuple[str, str]]:
    for measure, heading in MEASURES.items():
        prefix = f"test/{measure}"
        for metric in measured:
            if metric == prefix:
                yield metric, heading
            elif metric.startswith(f"{prefix}/"):
                yield metric, f"{heading} {metric.removeprefix(f'{prefix}/')}"


def _measure_table(results: Results) -> Table:
    measures = list_measures(results)
    rows: list[dict[str, Cell]] = []
    for arm in results.study.arms if measures else ():
        row: dict[str, Cell] = {"Arm": results.title(arm)}
        row |= {heading: results.estimate(arm, metric, decimals=None) for metric, heading in measures.items()}
        rows.append(row)
    complete = [metric for metric in measures if not metric.startswith(SIMILARITIES)]  # a model lacks those to itself
    legend = [text for measure, text in LEGENDS.items() if any(m.startswith(f"test/{measure}") for m in measures)]
    notes = [*mean_notes(results, complete), " ".join(legend), *_zero_notes(results)]
    notes += _similarity_notes(results, measures)
    return Table.from_rows("What the maps are like", rows, [*notes, *teacher_notes(results)], "interpretability")


def _difference_table(results: Results) -> Table:
    measures, standard = list_measures(results), results.standard
    rows: list[dict[str, Cell]] = []
    for arm in results.study.arms if measures and standard else ():
        if arm != standard and standard:
            row: dict[str, Cell] = {"Arm": results.title(arm)}
            for metric, heading in measures.items():
                difference = results.compare(arm, standard, metric).difference
                row[heading] = results.cell(difference, (arm, standard), metric, scale=1)
            rows.append(row)
    note = (
        "Arm − standard training, paired by seed: mean ± half-width of the 95% Student t interval. Not corrected for"
        " the number of comparisons."
    )
    return Table.from_rows("Maps: differences to standard training", rows, [note], "interpretability", long=True)


def _zero_notes(results: Results) -> list[str]:
    """Return a note on the arms with images that have no gradient at all."""
    metric = f"test/{names.ZERO_GRADIENT}"
    shares = {arm: results.estimate(arm, metric, 100).interval for arm in results.study.arms}
    zero = [f"{results.title(arm)} {share.mean:.2g}%" for arm, share in shares.items() if share and share.mean > 0]
    return [f"Images with g = 0, on which the measures have stated values: {', '.join(zero)}."] if zero else []


def _similarity_notes(results: Results, measures: dict[str, str]) -> list[str]:
    """Return notes on similarities that are missing: without a robust model, and of a model to itself."""
    similar = [metric for metric in measures if metric.startswith(f"test/{names.SIMILARITY_COSINE}")]
    if measures and not similar:
        return ["Similarity to a robust model's maps is left out: no arm of adversarial training has finished."]
    unseen = any(metric.endswith("/unseen") for metric in similar)
    notes = ["A model is not compared with its own maps."] if similar else []
    if similar and not unseen:
        notes.append("No robust model is unseen: every seed teaches, or there is one seed.")
    return notes
