"""The page as a document: escaped, self-contained, and each number with its origin."""

import json
import re
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from typing import get_args

import pytest
from helpers import drawn

from analysis import page
from analysis.figures import DrawnFigure, draw
from analysis.page.write import inline_svg, to_html
from analysis.report import build
from analysis.results.results import Results
from analysis.statistics.intervals import Interval
from analysis.tables.cells import Estimate, MetricSource, Probability, Section, Table
from tune_interpreg.store.store import Store

#: The figures of the test page, enough to test with.
DRAWN = ("accuracies", "figure-1", "matching")


class Document(HTMLParser):
    """A parsed page: attributes by tag, text outside of scripts, elements that are still open."""

    VOID = frozenset({"meta", "link", "br"})

    def __init__(self, text):
        super().__init__()
        self.attributes, self.texts, self.open = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.attributes.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.attributes.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] not in (["script"], ["style"]):
            self.texts.append(data)

    def of(self, tag, name):
        return [attributes[name] for kind, attributes in self.attributes if kind == tag and name in attributes]

    @property
    def text(self):
        return " ".join(" ".join(self.texts).split())


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return drawn.store_at(tmp_path_factory.mktemp("page") / "store")


@pytest.fixture(scope="module")
def written(store):
    results = Results.from_store(store)
    return page.write(build(store.path), results, store, draw(results, store, DRAWN))


@pytest.mark.parametrize("section", get_args(Section))
def test_every_section_of_tables_is_on_the_page(section, store):
    table = Table("Title of this test", ("Arm", "Value"), (("first", "one value"),), ("a note",), section)
    report = replace(build(store.path), tables=(table,))
    text = Document(to_html(report, Results.from_store(store), ())).text
    assert "Title of this test" in text
    assert "one value" in text


@pytest.fixture(scope="module")
def document(written):
    return Document(written.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def data(written):
    embedded = re.search(r'<script type="application/json" id="data">(.*?)</script>', written.read_text(), re.DOTALL)
    return json.loads(embedded[1])


def test_every_element_is_closed(document, written, store):
    assert written == store.report_dir / "index.html"
    assert document.open == []
    assert [tag for tag, _ in document.attributes].count("h1") == 1


def test_it_refers_to_nothing_outside_of_itself(document):
    links = [link for _, attributes in document.attributes for name, link in attributes.items() if name in
             ("href", "xlink:href", "src", "srcset", "action", "data")]  # fmt: skip
    assert {link[:5] for link in links if not link.startswith("#")} <= {"data:"}
    (policy,) = [attributes["content"] for _, attributes in document.attributes if "http-equiv" in attributes]
    assert policy.startswith("default-src 'none'")


def test_a_title_with_markup_is_shown_as_text(document, written):
    assert drawn.HOSTILE in document.text
    assert len(document.of("script", "id")) == 1
    assert [tag for tag, _ in document.attributes].count("script") == 2
    assert drawn.HOSTILE not in written.read_text(encoding="utf-8")


def test_ids_are_unique_and_references_to_them_exist(document):
    ids = Counter(attributes["id"] for _, attributes in document.attributes if "id" in attributes)
    assert [name for name, count in ids.items() if count > 1] == []
    references = [attributes[name] for _, attributes in document.attributes for name in
             ("aria-labelledby", "aria-describedby") if name in attributes]  # fmt: skip
    references.remove("panel-title")  # made with the panel's content
    assert set(references) <= ids.keys()
    inner = [link[1:] for tag in ("a", "use") for name in ("href", "xlink:href") for link in document.of(tag, name)]
    assert set(inner) <= ids.keys()


def test_figures_and_tables_have_names_and_captions(document):
    pictures = [attributes for tag, attributes in document.attributes if tag == "svg"]
    assert len(pictures) == len(DRAWN)
    assert all(picture["role"] == "img" and picture["aria-describedby"] for picture in pictures)
    assert document.text.count("Matched training losses.") == 1
    tags = Counter(tag for tag, _ in document.attributes)
    assert tags["table"] == tags["caption"] > 5
    assert set(document.of("th", "scope")) == {"row", "col"}


def test_the_page_opens_with_the_accuracies_then_the_answer(document, store):
    sections = [attributes["id"] for tag, attributes in document.attributes if tag == "section"]
    assert sections == [
        *("results", "answer", "interpretability-section", "gradients-section"),
        *("figures", "comparisons", "honesty", "settings"),
    ]
    answer = build(store.path).answer
    order = ["Clean and adversarial accuracy.", "Table 1.", answer[0], answer[-1], "Gains over", "Table 3."]
    places = [document.text.index(text) for text in order]
    assert places == sorted(places)


def test_each_seed_has_the_ledgers_value_and_its_trial(data, store):
    arm = data["arms"]["adversarial"]
    assert arm["values"]["test/accuracy"] == {"0": 0.9898, "1": pytest.approx(0.9918)}
    trial = arm["trials"]["1"]
    assert store.record_file("adversarial", trial["key"]).exists()
    assert (trial["device"], trial["seconds"]) == ("cpu", 1.5)
    assert data["versions"][trial["versions"]] == {"python": "3.11", "torch": "2.11"}
    searched = data["arms"]["jacobian"]
    assert searched["params"]["lambda_j"] == 0.03
    assert searched["search"] == {"trials": {"done": 3, "diverged": 1}, "chosen": {"lambda_j": 0.03}}
    assert data["arms"]["standard"]["search"] is None


def test_every_measured_cell_names_sources_that_the_page_holds(document, data):
    sources = [source for listed in document.of("button", "data-from") for source in json.loads(listed)]
    assert len(sources) > 40
    for arm, metric, scale in sources:
        assert data["arms"][arm]["values"][metric]
        assert scale in (1, 100)


def test_cells_have_their_unrounded_number_and_a_button_if_they_have_sources(store):
    sources = (MetricSource("standard", "test/accuracy", 100),)
    cells = (Estimate(Interval(2 / 3, 0.1, 2), 2, sources=sources), Estimate(None, 2), Probability(0.5), "λ_J 0.03")
    rows = (("<b>", *cells), ("Std. Training", *cells[1:], Estimate(Interval(1.0, 0.1, 2), 2)))
    table = Table("Title", ("Arm", "a", "b", "c", "d"), rows, ("a < b",))
    left_out = DrawnFigure("a", "A <figure>", "Left out: no < data.")
    text = to_html(replace(build(store.path), tables=(table,)), Results.from_store(store), [left_out])
    assert re.findall(r'data-value="([^"]*)"', text) == ["0.6666666666666666", "0.5", "0.5", "1.0"]
    assert (text.count("data-from="), text.count("data-arm=")) == (1, 1)
    assert "<b>&lt;" not in text
    assert "a &lt; b" in text
    assert "λ<sub>J</sub> 0.03" in text
    assert "A &lt;figure&gt;.</b> Left out: no &lt; data." in text


def test_an_empty_store_has_a_page(tmp_path):
    store = Store(tmp_path / "store")
    store.save_study(drawn.STUDY)
    results = Results.from_store(store)
    document = Document(to_html(build(store.path), results, draw(results, store, DRAWN)))
    assert "0 of 8 repeats done" in document.text
    assert document.text.count("Left out:") == len(DRAWN)


def test_an_inline_figure_has_the_pages_colours_and_its_own_ids(tmp_path):
    drawing = (
        '<?xml version="1.0"?><svg width="5pt" viewBox="0 0 5 5"><metadata>who</metadata><style>*{}</style>'
        '<g id="a" style="fill: #1F2328; stroke: #d1d9e0"/><use xlink:href="#a"/><g clip-path="url(#p)"/></svg>'
    )
    (tmp_path / "a.svg").write_text(drawing)
    svg = inline_svg(DrawnFigure("one", "A < B", 'says "so"', (tmp_path / "a.svg",)))
    assert '<g id="one-a" style="fill: currentColor; stroke: var(--line)"/>' in svg
    assert 'xlink:href="#one-a"' in svg
    assert "url(#one-p)" in svg
    assert "A &lt; B" in svg
    assert "who" not in svg
    assert "width=" not in svg
