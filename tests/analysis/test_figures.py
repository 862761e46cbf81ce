"""Figures: their numbers against closed forms, what is drawn, what is left out, and the files."""

import subprocess
import sys
import xml.etree.ElementTree as ET

import numpy as np
import pytest
import torch
from helpers import drawn
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.numpy import save_file

from analysis.figures import accuracies, curves, draw, gradients, maps, matching, radii
from analysis.figures.canvas import NothingToDraw, looks, spread
from analysis.figures.draw import FIGURES
from analysis.results.results import Results
from tune_interpreg.gradients import saliency
from tune_interpreg.store.store import Store
from tune_interpreg.study.config import Study

NAMES = ["accuracies", "radii", "gradients", "figure-1", "figure-2", "matching", "curves"]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return drawn.store_at(tmp_path_factory.mktemp("drawn") / "store")


@pytest.fixture(scope="module")
def results(store):
    return Results.from_store(store)


@pytest.fixture(scope="module")
def figures(results, store):
    return draw(results, store)


# ---------------------------------------------------------------------------- numbers
places = st.lists(st.floats(0, 1), min_size=1, max_size=12)


@given(places, st.floats(0.001, 0.08))
def test_spread_places_are_a_gap_apart_in_order_and_within_the_axes(unspread, gap):
    moved = np.asarray(spread(unspread, gap))
    order = np.argsort(unspread, kind="stable")
    assert (np.diff(moved[order]) >= gap - 1e-9).all()
    assert moved.min() >= -1e-9
    assert moved.max() <= 1 + 1e-9


def test_distant_places_stay_and_equal_places_move_apart_evenly():
    assert spread([0.9, 0.1], 0.2) == pytest.approx([0.9, 0.1])
    assert spread([0.5, 0.5], 0.2) == pytest.approx([0.4, 0.6])
    assert spread([], 0.2) == []


@pytest.mark.parametrize("phi", [-1.0, 0.0, 1.0, 2.5])
def test_maps_are_thresholded_as_in_training(phi):
    raw_NCHW = torch.rand(5, 3, 6, 7, generator=torch.Generator().manual_seed(0))
    expected = saliency.threshold(raw_NCHW, phi).numpy()
    assert np.array_equal(maps.threshold(raw_NCHW.numpy(), phi), expected)


def test_a_shade_is_a_fraction_of_the_raw_maps_99th_percentile():
    raw_NCHW = np.arange(202, dtype=float).reshape(1, 2, 101, 1)  # sums over channels: 101, 103, …, 301
    assert maps.shades(raw_NCHW, raw_NCHW / 2)[0, :, 0] == pytest.approx(np.arange(101, 302, 2) / 2 / 299)
    assert maps.shades(raw_NCHW, raw_NCHW).max() == 1
    assert (maps.shades(0 * raw_NCHW, raw_NCHW * 0) == 0).all()


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=20))
def test_the_front_has_the_points_that_no_other_point_beats(points):
    front = {tuple(point) for point in accuracies.pareto_front(np.asarray(points, dtype=float))}
    unbeaten = {p for p in points if not any(q != p and q[0] >= p[0] and q[1] >= p[1] for q in points)}
    assert front == unbeaten


def test_an_outlier_does_not_stretch_the_axis():
    low, high = accuracies.axis_limits(np.asarray([10.0, *np.linspace(96, 99, 30)]))
    assert 80 < low < 96
    assert 99 < high < 100
    assert accuracies.axis_limits(np.asarray([5.0, 5.0])) == (4.0, 6.0)


def test_accuracies_are_percent_of_the_search_on_validation_and_of_repeats_on_test(results):
    ((arm, trials),) = accuracies.trial_accuracies(results).items()
    assert arm == "interp_robust"
    assert trials == pytest.approx(100 * np.asarray(drawn.SEARCHED))
    clean = accuracies.repeat_accuracies(results)["standard"].clean
    assert (clean.mean, clean.n) == (pytest.approx(99.2), 2)
    assert clean.half_width == pytest.approx(12.7062 * 0.1, rel=1e-4)  # t(0.975, 1) · s / √2, s = 0.2 / √2


def test_a_matched_search_has_its_trials_target_and_match(results):
    (found,) = matching.matching_searches(results)
    assert found.trials == [(0.01, 0.3), (0.1, 0.8), (0.03, 0.5)]
    assert found.diverged == [1.0]
    assert found.target == 0.501
    assert found.error == pytest.approx(0.001)  # s / √2 of losses 0.500 and 0.502
    assert found.match == (0.03, pytest.approx(0.506))
    assert found.interval == (0.02, 0.04)
    assert found.repeats == [(0.03, pytest.approx(0.51)), (0.03, pytest.approx(0.512))]


def test_trials_with_other_parameters_are_apart(results):
    choice = {**drawn.CHOICE, "params": {"lambda_j": 0.03, "norm": "sample"}}
    space = {"lambda_j": {"log_uniform": [0.001, 1]}, "norm": {"choice": ["batch", "sample"]}}
    study = drawn.searching("jacobian", {"space": space, "match_loss_of": "interp_robust", "trials": 8})
    tried = [
        drawn.record(
            drawn.item("jacobian", role="search", number=number, params={"lambda_j": strength, "norm": norm}),
            metrics={"0": {"train/loss": 0.7}},
        )
        for number, (strength, norm) in enumerate([(0.1, "batch"), (0.2, "sample"), (0.3, "batch")])
    ]
    others = [record for record in results.records if (record["arm"], record["role"]) != ("jacobian", "search")]
    (found,) = matching.matching_searches(Results(study, (*others, *tried), {"jacobian": choice}))
    assert found.trials == [(0.2, 0.7)]
    assert found.other_trials == [(0.1, 0.7), (0.3, 0.7)]


def test_a_curve_is_the_mean_of_its_seeds_in_their_band_from_epoch_1(results):
    curve = curves.curves(results, "train/loss")["standard"]
    assert curve.epochs_E.tolist() == [1, 2, 3]
    assert curve.mean_E == pytest.approx([0.404, 0.202, 0.101])
    assert curve.low_E == pytest.approx([0.4, 0.2, 0.1])
    assert curve.high_E == pytest.approx([0.408, 0.204, 0.102])
    assert curve.n == 2
    assert curves.curves(results, "val/none") == {}


def test_accuracy_by_radius_leaves_out_the_unbounded_attack(results):
    (fall,) = radii.radius_curves(results).values()
    assert fall.radii_R.tolist() == [0, 0.25, 0.5]
    assert fall.mean_R == pytest.approx([99.1, 69.55, 40])
    assert fall.half_width_R == pytest.approx([0, 0, 0])
    assert fall.n == 2


def test_the_papers_gradient_norms_are_drawn_only_on_its_data(results):
    found = gradients.gradient_norms(results)["standard"]
    assert found.ours["grad_norm/label"].mean == pytest.approx(4.01)
    assert found.theirs == {}
    mnist = Study.model_validate({**results.study.model_dump(), "data": "mnist"})
    printed = gradients.gradient_norms(Results(mnist, results.records))["standard"].theirs
    assert [one.mean for one in printed.values()] == [7.43, 3.93]


def test_a_teacher_is_drawn_at_the_papers_threshold_and_its_students(results, store):
    (teacher,) = maps.teacher_maps(results, store)
    assert (teacher.arm, teacher.phis) == ("adversarial", (1.0, 2.0))
    assert teacher.smoothgrad_NCHW.shape == (2, 1, 4, 4)


# ------------------------------------------------------------------------ what is missing
def without(results, *lost):
    """The results without the repeats of these (arm, seed)."""
    rest = [r for r in results.records if r["role"] != "repeat" or (r["arm"], r["seeds"][0]) not in lost]
    return Results(results.study, tuple(rest), results.choices)


CAPTIONED = {"accuracies": accuracies, "gradients": gradients, "curves": curves}


@pytest.mark.parametrize("name", CAPTIONED)
def test_captions_name_the_arms_with_fewer_seeds(results, store, name):
    _, caption = CAPTIONED[name].figure(without(results, ("standard", 1)), store)
    assert "over n = 2 seeds (but Std. Training 1)" in caption
    of_one = without(results, *((arm, 1) for arm in results.study.arms))
    assert "over n = 1 of 2 seeds" in CAPTIONED[name].figure(of_one, store)[1]


def test_the_caption_names_the_interval_of_a_single_seed(results, store):
    some, one = without(results, ("standard", 1)), without(results, *((arm, 1) for arm in results.study.arms))
    assert "Student t intervals, of a single seed Wilson's over its images" in accuracies.figure(some, store)[1]
    assert "with 95% intervals of Wilson" in accuracies.figure(one, store)[1]
    assert "Student" not in accuracies.figure(one, store)[1]
    assert "Student t intervals, of a single seed none" in gradients.figure(some, store)[1]


def test_the_caption_of_the_radii_counts_checked_seeds(results, store):
    rest = [r for r in results.records if (r["role"], r["seeds"]) != ("checks", [1])]
    assert "over n = 1 of 2 seeds" in radii.figure(Results(results.study, tuple(rest)), store)[1]


def test_the_caption_of_the_matches_counts_the_references_seeds(results, store):
    caption = matching.figure(without(results, ("interp_robust", 1)), store)[1]
    assert "the mean over n = 1 of 2 seeds of the reference" in caption


def test_teachers_with_different_maps_have_a_caption_each(results, tmp_path):
    study = Study.model_validate(results.study.model_dump())
    arms = {**study.model_dump()["arms"]}
    arms["interp_plain"] = {"method": "interpretation", "targets": {"teacher": "standard", "sigma": 0.3}, "lambda": 1.0}
    plain = drawn.maps().model_copy(update={"teacher": drawn.item("standard").key, "sigma": 0.3})
    made = drawn.record(drawn.item("standard", role="targets", maps=plain))
    store = drawn.store_at(tmp_path / "store")
    save_file(drawn.preview(), store.preview_file(plain.key))
    both = Results(Study.model_validate(study.model_dump() | {"arms": arms}), (*results.records, made))
    caption = maps.figure_1(both, store)[1]
    assert "Adv. Training: σ = 0.15, N = 50, seed 0; Std. Training: σ = 0.3, N = 50, seed 0" in caption


def test_trials_of_a_former_search_are_in_no_figure(results, store):
    search = {"space": {"lambda_g": {"log_uniform": [0.001, 1]}}, "match_loss_of": "interp_robust", "trials": 4}
    changed = Results(drawn.searching("jacobian", search, method="input_gradient"), results.records, results.choices)
    assert matching.matching_searches(changed) == []
    narrowed = {"space": {"lambda": {"log_uniform": [0.001, 0.25]}}, "maximize": "val/adv_accuracy", "trials": 1}
    assert (
        len(
            accuracies.trial_accuracies(Results(drawn.searching("interp_robust", narrowed), results.records))[
                "interp_robust"
            ]
        )
        == 1
    )
    assert {figure.name: figure.caption for figure in draw(changed, store)}["matching"].startswith(
        "Left out: no search"
    )


def test_an_error_in_one_figure_does_not_stop_the_others(results, store, monkeypatch):
    def broken(*_):
        raise KeyError("lambda_g")

    monkeypatch.setitem(FIGURES, "curves", ("Learning curves", broken))
    found = {figure.name: figure for figure in draw(results, store)}
    assert found["curves"].caption == "Left out: it could not be drawn (KeyError('lambda_g'))."
    assert found["curves"].paths == ()
    assert found["gradients"].paths


# ------------------------------------------------------------------------------ files
def test_every_figure_is_drawn_as_png_and_svg(figures, store):
    assert [figure.name for figure in figures] == NAMES
    for figure in figures:
        png, svg = figure.paths
        assert (png.name, svg.name) == (f"{figure.name}.png", f"{figure.name}.svg")
        with Image.open(png) as picture:
            assert picture.info["dpi"] == pytest.approx((150, 150), abs=0.1)
            assert picture.convert("L").getextrema()[0] < 60, "the picture is not blank"
        assert ET.parse(svg).getroot().tag.endswith("svg")


@pytest.mark.parametrize("name", ["accuracies", "gradients", "curves"])
def test_captions_state_n_and_the_words_of_a_figure_are_text(figures, name):
    figure = next(figure for figure in figures if figure.name == name)
    assert "n = 2" in figure.caption
    assert "Adv. Training" in figure.paths[1].read_text(encoding="utf-8")


def test_the_index_of_a_strength_is_set_low(figures):
    svg = next(figure for figure in figures if figure.name == "matching").paths[1].read_text(encoding="utf-8")
    assert "λ_J" not in svg
    assert "λ" in svg


def test_the_same_ledger_makes_the_same_bytes(figures, results, store):
    before = {path: path.read_bytes() for figure in figures for path in figure.paths}
    after = {path: path.read_bytes() for figure in draw(results, store) for path in figure.paths}
    assert before == after


def test_figures_without_data_are_left_out_with_a_reason(tmp_path):
    store = Store(tmp_path / "empty")
    found = draw(Results(drawn.STUDY, ()), store)
    assert [figure.name for figure in found] == NAMES
    assert all(figure.paths == () and figure.caption.startswith("Left out: ") for figure in found)
    assert not (store.report_dir / "figures").exists()


def test_a_figure_without_data_removes_its_old_picture(tmp_path):
    store = drawn.store_at(tmp_path / "store")
    old = store.report_dir / "figures" / "figure-1.png"
    store.write_bytes(old, b"drawn before")
    store.preview_file(drawn.maps().key).write_bytes(b"no tensors")
    found = {figure.name: figure for figure in draw(Results.from_store(store), store)}
    assert "cannot be read" in found["figure-1"].caption
    assert not old.exists()
    assert found["curves"].paths


def test_arms_beyond_the_palette_have_other_markers():
    study = Study(arms={f"arm{place}": {"method": "standard"} for place in range(15)})
    assert len(set(looks(study).values())) == 15


def test_an_arms_title_is_no_formula_and_one_short_line(results, tmp_path):
    arms = {
        **drawn.STUDY.model_dump()["arms"],
        "standard": {"method": "standard", "title": r"$\frac$" + "\n" + 99 * "x"},
    }
    study = Study.model_validate({**drawn.STUDY.model_dump(), "arms": arms})
    (gradient,) = [
        figure for figure in draw(Results(study, results.records), Store(tmp_path)) if figure.name == "gradients"
    ]
    shown = gradient.paths[1].read_text(encoding="utf-8")
    assert r"$\frac$ xxx" in shown
    assert 40 * "x" not in shown


def test_without_a_teacher_there_is_no_figure(results, tmp_path):
    with pytest.raises(NothingToDraw, match="no teacher's maps"):
        maps.teacher_maps(results, Store(tmp_path))


def test_figures_hold_no_global_state():
    code = "import sys, analysis.figures; print('matplotlib.pyplot' in sys.modules, 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
