"""Figures: their numbers against closed forms, what is drawn, what is left out, and the files."""

import xml.etree.ElementTree as ET

import numpy as np
import pytest
import torch
from helpers import drawn
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from analysis.figures import accuracies, association, curves, draw, gradients, maps, matching
from analysis.figures.canvas import looks, spread
from analysis.figures.draw import FIGURES
from analysis.results.results import Results
from tune_interpreg.gradients import saliency
from tune_interpreg.store.store import Store
from tune_interpreg.study.config import Study

pytestmark = pytest.mark.thorough


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
    assert spread([0.9, 0.1], gap) == pytest.approx([0.9, 0.1]), "distant places stay"
    assert spread([0.5, 0.5], gap) == pytest.approx([0.5 - gap / 2, 0.5 + gap / 2])


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


def test_an_outlier_does_not_stretch_the_axis():
    low, high = accuracies.axis_limits(np.asarray([10.0, *np.linspace(96, 99, 30)]))
    assert 80 < low < 96
    assert 99 < high < 100
    assert accuracies.axis_limits(np.asarray([5.0, 5.0])) == (4.0, 6.0)


def test_accuracies_are_percent_of_the_search_on_validation_and_of_repeats_on_test(results):
    ((arm, trials),) = accuracies.trial_accuracies(results).items()
    assert arm == "interp_robust"
    assert trials == pytest.approx(100 * np.asarray(drawn.SEARCHED))
    clean, _ = accuracies.repeat_accuracies(results)["standard"]
    assert (clean.mean, clean.n) == (pytest.approx(99.2), 2)
    assert clean.half_width == pytest.approx(12.7062 * 0.1, rel=1e-4)  # t(0.975, 1) · s / √2, s = 0.2 / √2


def test_a_matched_search_has_its_trials_target_and_match(results):
    (search,) = matching.matching_searches(results)
    assert search.trials == [(0.01, 0.3), (0.1, 0.8), (0.031, 0.5)]
    assert search.diverged == [1.0]
    assert search.target == 0.501
    assert search.error == pytest.approx(0.001)  # s / √2 of losses 0.500 and 0.502
    assert search.match == (0.03, pytest.approx(0.506))
    assert search.interval == (0.02, 0.04)
    assert search.repeats == [(0.03, pytest.approx(0.51)), (0.03, pytest.approx(0.512))]


def test_trials_with_other_parameters_are_apart(results):
    choice = {**drawn.CHOICE, "params": {"lambda_j": 0.03, "norm": "sample"}}
    space = {"lambda_j": {"log_uniform": [0.001, 1]}, "norm": {"choice": ["batch", "sample"]}}
    study = drawn.searching("jacobian", {"space": space, "match_loss_of": "interp_robust", "trials": 8})
    tried = []
    for number, (strength, norm) in enumerate([(0.1, "batch"), (0.2, "sample"), (0.3, "batch")]):
        job = drawn.train("jacobian", number=number, params={"lambda_j": strength, "norm": norm})
        tried += drawn.record(job, {"train/loss": 0.7, "val/accuracy": 0.9, "val/adv_accuracy": 0.5})
    others = [r for r in results.records if r["arm"] != "jacobian" or r.get("number") is None]
    (search,) = matching.matching_searches(Results(study, (*others, *tried), {"jacobian": choice}))
    assert search.trials == [(0.2, 0.7)]
    assert search.other_trials == [(0.1, 0.7), (0.3, 0.7)]


def test_a_curve_is_the_mean_of_its_seeds_in_their_band_from_epoch_1(results):
    curve = curves.learning_curves(results, "train/loss")["standard"]
    assert curve.x_P.tolist() == [1, 2, 3]
    assert curve.mean_P == pytest.approx([0.404, 0.202, 0.101])
    assert curve.low_P == pytest.approx([0.4, 0.2, 0.1])
    assert curve.high_P == pytest.approx([0.408, 0.204, 0.102])
    assert curve.n == 2


def test_accuracy_by_radius_leaves_out_the_unbounded_attack(results):
    (curve,) = curves.radius_curves(results).values()
    assert curve.x_P.tolist() == [0, 0.25, 0.5]
    assert curve.mean_P == pytest.approx([99.1, 69.55, 40])
    assert curve.low_P == pytest.approx(curve.high_P)
    assert curve.n == 2


def test_the_papers_gradient_norms_are_drawn_only_on_its_data(results):
    ours, printed = gradients.gradient_norms(results)
    assert ours["standard"]["grad_norm/label"].mean == pytest.approx(4.01)
    assert printed == {}
    mnist = Study.model_validate({**results.study.model_dump(), "data": "mnist"})
    _, printed = gradients.gradient_norms(Results(mnist, results.records))
    assert [norm.mean for norm in printed["standard"].values()] == [7.43, 3.93]


def test_a_teacher_is_drawn_at_the_papers_threshold_and_its_students(results, store):
    (teacher,) = maps.teacher_maps(results, store)
    assert (teacher.arm, teacher.phis) == ("adversarial", (1.0, 2.0))


# ---------------------------------------------------------------------------- captions
def without(results, *lost):
    """The results without the repeats and checks of these (arm, seed)."""
    rest = [r for r in results.records if (r["arm"], r["seed"]) not in lost]
    return Results(results.study, tuple(rest), results.choices)


@pytest.mark.parametrize("figure", [accuracies.figure, gradients.figure, curves.learning_figure])
def test_captions_name_the_arms_with_fewer_seeds(results, store, figure):
    caption = figure(without(results, ("standard", 1)), store)[1]
    assert "over n = 2 seeds (but Std. Training 1)" in caption
    assert (", of a single seed" in caption) == ("Student" in caption)
    single = without(results, *((arm, 1) for arm in results.study.arms))
    for draw_figure in (figure, curves.radius_figure, matching.figure):
        assert "over n = 1 of 2 seeds" in draw_figure(single, store)[1]


def test_the_association_says_how_many_trials_lack_the_measures(results):
    """The study may ask for them after its searches; their trials are not judged again."""
    assert association._describe_trials(3, results) == "trials on validation images, 3"
    assert "1 of 3 (the others were trained before" in association._describe_trials(1, results)


# ------------------------------------------------------------------------------ files
def test_every_figure_is_drawn_as_png_and_svg(figures):
    assert [figure.name for figure in figures] == list(FIGURES)
    figures = [figure for figure in figures if figure.name != "interpretability"]  # which the study does not ask for
    for figure in figures:
        png, svg = figure.paths
        assert (png.name, svg.name) == (f"{figure.name}.png", f"{figure.name}.svg")
        with Image.open(png) as picture:
            assert picture.info["dpi"] == pytest.approx((150, 150), abs=0.1)
            assert picture.convert("L").getextrema()[0] < 60, "the picture is not blank"
        assert ET.parse(svg).getroot().tag.endswith("svg")
    words = {figure.name: figure.paths[1].read_text(encoding="utf-8") for figure in figures}
    assert all("Adv. Training" in words[name] for name in ("accuracies", "gradients", "curves"))
    assert "λ" in words["matching"]
    assert "λ_J" not in words["matching"]


def test_figures_without_data_are_left_out_with_a_reason(tmp_path):
    store = Store(tmp_path / "empty")
    figures = draw(Results(drawn.STUDY, ()), store)
    assert [figure.name for figure in figures] == list(FIGURES)
    assert all(figure.paths == () and figure.caption.startswith("Left out: ") for figure in figures)
    assert not (store.report_dir / "figures").exists()


def test_a_figure_without_data_removes_its_old_picture(tmp_path):
    store = drawn.store_at(tmp_path / "store")
    old = store.report_dir / "figures" / "figure-1.png"
    store.write_bytes(old, b"drawn before")
    store.preview_file(drawn.maps().key).write_bytes(b"no tensors")
    (figure,) = draw(Results.from_store(store), store, ["figure-1"])
    assert "cannot be read" in figure.caption
    assert not old.exists()


def test_an_error_in_one_figure_does_not_stop_the_others(results, store, monkeypatch):
    def broken(*_):
        raise KeyError("lambda_g")

    monkeypatch.setitem(FIGURES, "curves", ("Learning curves", broken))
    curve, gradient = draw(results, store, ["curves", "gradients"])
    assert curve.caption == "Left out: it could not be drawn (KeyError('lambda_g'))."
    assert curve.paths == ()
    assert gradient.paths


# ------------------------------------------------------------------------------- names
def test_arms_beyond_the_palette_have_other_markers():
    study = Study(arms={f"arm{place}": {"method": "standard", "title": "x"} for place in range(15)})
    assert len({(look.colour, look.marker) for look in looks(Results(study, ())).values()}) == 15


def test_an_arms_title_is_no_formula_and_one_short_line(results, tmp_path):
    arms = drawn.STUDY.model_dump()["arms"]
    arms["standard"] = {"method": "standard", "title": r"$\frac$" + "\n" + 99 * "x"}
    study = Study.model_validate({**drawn.STUDY.model_dump(), "arms": arms})
    (gradient,) = draw(Results(study, results.records), Store(tmp_path), ["gradients"])
    svg = gradient.paths[1].read_text(encoding="utf-8")
    assert r"$\frac$ xxx" in svg
    assert 40 * "x" not in svg
