"""The page is whole in itself, escaped, the same each time, and holds what a reader needs."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from cmcl_ray.evaluate.scores import write_table
from cmcl_ray.report.page import comparison_notes, write_report
from cmcl_ray.report.runs import load_runs
from cmcl_ray.storage import read_bytes, read_json, write_json
from tests.unit.report.fabricate import make_run, picture, score_rows

VOID = {"meta", "img", "br", "link", "input", "hr"}


class Outline(HTMLParser):
    """Collects tags and attributes and checks that tags close."""

    def __init__(self, text):
        super().__init__()
        self.open, self.links, self.ids, self.tags = [], [], [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name in {"src", "href", "xlink:href", "srcset", "action", "data"}:
                self.links.append(value)
            if name == "id":
                self.ids.append(value)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def page(run_folder, tmp_path_factory):
    html, markdown = write_report(str(tmp_path_factory.mktemp("report")), [run_folder])
    return Path(html).read_text(), Path(markdown).read_text()


def test_the_page_is_well_formed_and_loads_nothing(page):
    outline = Outline(page[0])
    assert all(link.startswith(("data:image/", "#")) for link in outline.links)
    assert len(outline.ids) == len(set(outline.ids))
    assert not {"script", "link", "iframe", "object"} & set(outline.tags)
    assert not re.findall(r"url\((?!#)|@import", page[0])
    assert {value for value in re.findall(r"https?://[^\"' )]+", page[0])} == {"http://www.w3.org/1999/xlink"}


def test_names_and_texts_of_the_data_are_escaped(page):
    assert "<drink>" not in page[0]
    assert "food &lt;drink&gt;" in page[0]
    assert "<b>square</b>" not in page[0]
    assert "a red &lt;b&gt;square&lt;/b&gt;" in page[0]
    assert "<drink>" not in page[1].replace("\\<drink\\>", "")


def test_the_page_has_its_parts(page):
    for part in (
        "What to do with the old gallery",
        "What was forgotten",
        "How far the vectors moved",
        "What it cost",
        "Some queries and their answers",
        "3 rows set aside: the image does not decode",
        "floor(median of the 0-based ranks) + 1",
        "prefers-color-scheme: dark",
        "@media print",
        "&#10003; right",
        "model v0a91c07",
        "cmcl_ray 0.1.0",
    ):
        assert part in page[0], part
    # Definitions stand where the column is.
    assert re.search(r'<th scope="col" title="Median rank', page[0])


def test_the_markdown_has_the_tables(page):
    assert page[1].startswith("# finetune\n")
    assert "| route | **61.5** | **61.0** |" in page[1]
    assert "### Costs" in page[1]
    assert "- **Forgetting**: " in page[1]


def test_the_same_run_gives_the_same_bytes(page, run_folder, tmp_path):
    html, markdown = write_report(str(tmp_path), [run_folder])
    assert (Path(html).read_text(), Path(markdown).read_text()) == page


def test_several_runs_are_compared_first(compared_folders, tmp_path):
    html, markdown = write_report(str(tmp_path), [compared_folders[place] for place in (0, 3, 4)])
    text = Path(html).read_text()
    outline = Outline(text)
    assert len(outline.ids) == len(set(outline.ids))
    assert text.index("3 runs over 3 tasks") < text.index("Policy, label") < text.index("What to do with the old gallery")
    assert text.count('<details class="run">') == 3
    assert "\u00b1" in text
    assert "## Comparison" in Path(markdown).read_text()


def test_a_run_with_only_its_scores_still_has_a_report_at_a_uri(tmp_path):
    html, _ = write_report("memory://reports/bare", [write_bare(str(tmp_path), "<script>")])
    text = read_bytes(html).decode()
    Outline(text)
    assert "How far the vectors moved" not in text
    assert "<script" not in text


def write_bare(folder, label="l"):
    """A run with one cell of scores and nothing else, which draws quickly."""
    write_json(f"{folder}/run.json", {"run_id": "r", "label": label, "seed": 3})
    rows = [row for row in score_rows(label, 3, 0) if row.after_task == 0 and row.policy == "keep" and row.scope == "all"]
    write_table(f"{folder}/scores.parquet", rows)
    return folder


def test_a_picture_that_is_not_in_the_page_is_never_asked_for(run_folder, tmp_path):
    folder = write_bare(str(tmp_path / "run"))
    samples = read_json(f"{run_folder}/samples.json")[:1]
    for hit, image in zip(
        samples[0]["hits"], ("https://x.example/a.png", "data:text/html;base64,AAAA", picture(1)), strict=False
    ):
        hit["image"] = image
    write_json(f"{folder}/samples.json", samples)
    text = Path(write_report(str(tmp_path), [folder])[0]).read_text()
    assert "x.example" not in text
    assert "data:text/html" not in text
    assert text.count("no picture kept") == 2
    assert picture(1) in text


def test_unfair_comparisons_are_marked(run_folder, tmp_path):
    other = make_run(tmp_path, "replay")
    assert comparison_notes(load_runs([run_folder, other])) == []
    stream = read_json(f"{other}/stream.json")
    write_json(f"{other}/stream.json", {**stream, "fingerprint": "other"})
    write_table(f"{other}/scores.parquet", [row for row in score_rows("replay", 0, 0) if row.after_task < 2])
    more = make_run(tmp_path / "more", "replay", seed=1)
    notes = comparison_notes(load_runs([run_folder, other, more]))
    assert [note.split(";")[0].split(" (")[0] for note in notes] == [
        "These runs did not see the same data",
        "These runs have different tasks or are not all finished",
        "Seeds a label differ: finetune 1, replay 2.",
    ]
