"""The page as a document: escaped, self-contained, and each number with what it came from."""

import json
import re
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from helpers import drawn

from analysis import page
from analysis.figures import Drawn, draw
from analysis.page import svg, tables
from analysis.page.provenance import provenance
from analysis.page.write import to_html
from analysis.report import build
from analysis.results.results import Results
from analysis.statistics.intervals import Interval
from analysis.tables.cells import Estimate, Probability, Source, Table
from tune_interpreg.store.store import Store


class Document(HTMLParser):
    """What of a page the tests look at: attributes by tag, text outside of scripts, elements left open."""

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
    return page.write(build(store.path), results, store, draw(results, store))


@pytest.fixture(scope="module")
def document(written):
    return Document(written.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def data(written):
    embedded = re.search(r'<script type="application/json" id="data">(.*?)</script>', written.read_text(), re.DOTALL)
    return json.loads(embedded[1])


def test_the_page_is_whole_and_every_element_is_closed(document, written, store):
    assert written == store.report_dir / "index.html"
    assert document.open == []
    assert [tag for tag, _ in document.attributes].count("h1") == 1


def test_it_refers_to_nothing_outside_of_itself(document):
    links = [link for _, attributes in document.attributes for name, link in attributes.items() if name in
             ("href", "xlink:href", "src", "srcset", "action", "data")]  # fmt: skip
    assert {link[:5] for link in links if not link.startswith("#")} <= {"data:"}
    (policy,) = [attributes["content"] for _, attributes in document.attributes if "http-equiv" in attributes]
    assert policy.startswith("default-src 'none'")


def test_a_title_with_markup_comes_out_as_text(document, written):
    assert drawn.HOSTILE in document.text
    assert len(document.of("script", "id")) == 1
    assert [tag for tag, _ in document.attributes].count("script") == 2
    assert drawn.HOSTILE not in written.read_text(encoding="utf-8")


def test_ids_are_unique_and_what_names_them_finds_them(document):
    ids = Counter(attributes["id"] for _, attributes in document.attributes if "id" in attributes)
    assert [one for one, count in ids.items() if count > 1] == []
    named = [attributes[name] for _, attributes in document.attributes for name in
             ("aria-labelledby", "aria-describedby") if name in attributes]  # fmt: skip
    named.remove("panel-title")  # made with the panel's content
    assert set(named) <= ids.keys()
    inner = [link[1:] for tag in ("a", "use") for name in ("href", "xlink:href") for link in document.of(tag, name)]
    assert set(inner) <= ids.keys()


def test_figures_have_a_name_a_description_and_a_caption(document):
    pictures = [attributes for tag, attributes in document.attributes if tag == "svg"]
    assert len(pictures) == 7
    assert all(picture["role"] == "img" and picture["aria-describedby"] for picture in pictures)
    assert document.text.count("Matched training losses.") == 1


def test_every_table_has_a_caption_and_headings_in_both_directions(document):
    tags = Counter(tag for tag, _ in document.attributes)
    assert tags["table"] == tags["caption"] > 5
    assert set(document.of("th", "scope")) == {"row", "col"}


def test_the_answer_stands_before_the_tables_and_settings_last(document, store):
    sections = [attributes["id"] for tag, attributes in document.attributes if tag == "section"]
    assert sections == ["answer", "results", "figures", "comparisons", "honesty", "settings"]
    answer = build(store.path).answer
    assert len(answer) >= 4
    assert document.text.index(answer[0]) < document.text.index(answer[-1]) < document.text.index("Table 1.")


def test_each_seeds_value_is_that_of_the_ledger_with_its_trial(data, store):
    arm = data["arms"]["adversarial"]
    assert arm["values"]["test/accuracy"] == {"0": 0.9898, "1": pytest.approx(0.9918)}
    trial = arm["trials"]["1"]
    assert store.record_file("adversarial", trial["key"]).exists()
    assert (trial["device"], trial["seconds"]) == ("cpu", 1.5)
    assert data["versions"][trial["versions"]] == {"python": "3.11", "torch": "2.11"}


def test_an_arm_tells_what_it_was_made_with(data):
    arm = data["arms"]["jacobian"]
    assert arm["params"] == {"lambda_j": 0.03}
    assert arm["search"] == {"trials": {"done": 3, "diverged": 1}, "chosen": {"lambda_j": 0.03}}
    assert data["arms"]["standard"]["search"] is None


def test_trials_of_a_former_search_are_not_told(store):
    narrowed = {"space": {"lambda_j": {"log_uniform": [0.001, 1]}}, "match_loss_of": "interp_robust", "trials": 2}
    results = replace(Results.from_store(store), study=drawn.searching("jacobian", narrowed))
    assert provenance(results)["arms"]["jacobian"]["search"]["trials"] == {"done": 2}


def test_every_measured_cell_names_sources_that_the_page_holds(document, data):
    sources = [source for one in document.of("button", "data-from") for source in json.loads(one)]
    assert len(sources) > 40
    for arm, metric, scale in sources:
        assert data["arms"][arm]["values"][metric]
        assert scale in (1, 100)


def test_cells_are_sorted_by_the_unrounded_number(store):
    cells = (Estimate(Interval(2 / 3, 0.1, 2), 2), Estimate(None, 2), Probability(0.5), "text")
    table = Table("Title", ("Arm", "a", "b", "c", "d"), (("<b>", *cells),), ("a < b",))
    text = tables.to_html(table, Results.from_store(store))
    assert re.findall(r'data-value="([^"]*)"', text) == ["0.6666666666666666", "0.5"]
    assert "<b>" not in text
    assert "a &lt; b" in text


def test_a_number_of_an_unknown_arm_leads_nowhere_but_stands(store):
    cell = Estimate(Interval(1.0, 0.1, 2), 2, sources=(Source("standard", "test/accuracy", 100),))
    text = tables.to_html(Table("T", ("Arm", "a"), (("row", cell),)), Results.from_store(store))
    assert text.count("<button") == 3
    assert "1.00 ± 0.10" in text


def test_what_a_figure_lacks_is_said(store):
    results = Results.from_store(store)
    text = to_html(build(store.path), results, [Drawn("a", "A <figure>", "Left out: no < data.")])
    assert "A &lt;figure&gt;.</b> Left out: no &lt; data." in text


def test_an_empty_store_has_a_page_too(tmp_path):
    store = Store(tmp_path / "store")
    store.save_study(drawn.STUDY)
    results = Results.from_store(store)
    document = Document(page.write(build(store.path), results, store, draw(results, store)).read_text(encoding="utf-8"))
    assert "0 of 8 repeats done" in document.text
    assert document.text.count("Left out:") == 7


def test_the_page_tells_no_place_of_the_data(store):
    results = Results.from_store(store)
    study = results.study.model_copy(update={"data": results.study.data.model_copy(update={"root": "/home/me/data"})})
    text = to_html(build(store.path), replace(results, study=study), [])
    assert "/home/me" not in text


def test_a_drawing_takes_the_pages_colours_and_its_own_names():
    drawing = (
        '<?xml version="1.0"?><svg width="5pt" viewBox="0 0 5 5"><metadata>who</metadata><style>*{}</style>'
        '<g id="a" style="fill: #1F2328; stroke: #d1d9e0"/><use xlink:href="#a"/><g clip-path="url(#p)"/></svg>'
    )
    made = svg.inline(drawing, "one", "A < B", 'says "so"')
    assert '<g id="one-a" style="fill: currentColor; stroke: var(--line)"/>' in made
    assert 'xlink:href="#one-a"' in made
    assert "url(#one-p)" in made
    assert "A &lt; B" in made
    assert "who" not in made
    assert "width=" not in made


def test_the_same_ledger_makes_the_same_page(written, store):
    before = written.read_bytes()
    results = Results.from_store(store)
    figures = [Drawn(name, *rest) for name, *rest in ()]
    one, two = (to_html(build(store.path), results, figures) for _ in range(2))
    assert one == two
    assert written.read_bytes() == before
