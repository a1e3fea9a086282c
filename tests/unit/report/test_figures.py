"""Drawings take their colours from the page, repeat byte for byte and leave matplotlib as it was."""

import xml.etree.ElementTree as ElementTree

import matplotlib
import pytest

from cmcl_ray.report.figures import drift_lines, forgetting_curves, policy_bars, task_matrices
from cmcl_ray.report.runs import load_run, load_runs
from cmcl_ray.report.svg import INK, SERIES


@pytest.fixture(scope="module")
def panels(run_folder):
    run = load_run(run_folder)
    return {
        "bars": policy_bars([run], "bars"),
        "curves": forgetting_curves(run, "all", "t2i", "curves"),
        "matrices": task_matrices(run, "all", "t2i", "matrix"),
        "drift": drift_lines(run, "drift"),
    }


def test_there_is_a_panel_for_each(panels):
    assert [panel.title for panel in panels["bars"]] == ["Text to image, all tasks", "Image to text, all tasks"]
    assert [panel.title for panel in panels["curves"]] == ["keep", "bridge", "route", "transport", "reindex"]
    assert [panel.title for panel in panels["matrices"]] == ["keep", "bridge", "route", "transport", "reindex"]
    assert [panel.title for panel in panels["drift"]] == ["Image branch", "Text branch"]


def test_a_drawing_is_well_formed_and_has_no_colour_font_or_date_of_its_own(panels):
    ids = []
    for panel in [panel for kind in panels.values() for panel in kind]:
        root = ElementTree.fromstring(panel.svg.replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg"', 1))
        ids.extend(element.get("id") for element in root.iter() if element.get("id"))
        assert "currentColor" in panel.svg
        assert "font:" not in panel.svg
        assert "font-family" not in panel.svg
        assert "font-size: 11px" in panel.svg
        assert "<metadata" not in panel.svg
        assert not any(marker in panel.svg for marker in (INK, *SERIES))
        assert "#000000" not in panel.svg
    assert len(ids) == len(set(ids))


def test_the_figures_in_a_drawing_are_text(panels):
    assert ">61.5<" in panels["bars"][0].svg
    assert "var(--accent" in panels["bars"][0].svg
    assert "var(--series-2" in panels["curves"][0].svg


def test_the_same_run_draws_the_same_bytes_and_leaves_no_trace(run_folder, panels):
    before = dict(matplotlib.rcParams)
    matplotlib.rcParams["font.size"] = 17
    try:
        assert drift_lines(load_run(run_folder), "drift") == panels["drift"]
        assert matplotlib.rcParams["font.size"] == 17
    finally:
        matplotlib.rcParams["font.size"] = before["font.size"]
    assert dict(matplotlib.rcParams) == before


def test_several_labels_have_a_colour_each(compared_folders):
    (first, _) = policy_bars(load_runs(compared_folders), "compared")
    assert "var(--series-1" in first.svg
    assert "var(--series-2" in first.svg
