"""The page of all results: which scripts are run, what a row says, and that failures are told."""

import json

import measure
import pytest
import run_all

RESULT = json.loads(
    measure.Result.of(("b", "c"), [0.8, 1.0], "ratio", "higher", 0.95, True, {"threads": 1, "cores": 4, "versions": {}}).line()
)


def test_helpers_are_no_benchmarks():
    found = [path.stem for path in run_all.scripts(run_all.FOLDER)]
    assert {"train_overhead", "embed_overhead"} <= set(found)
    assert not {"measure", "run_all"} & set(found)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "missed"),
        ({"value": 0.95}, "reached"),
        ({"better": "lower"}, "reached"),
        ({"better": "lower", "value": 1.2}, "missed"),
        ({"target": None}, ""),
        ({"value": None}, ""),
        ({"checked": False, "value": None}, "answers differ"),
    ],
)
def test_a_verdict_follows_from_target_and_check(changes, said):
    assert run_all.verdict({**RESULT, **changes}) == said


def test_a_row_has_a_cell_for_each_column():
    assert run_all.row(RESULT) == "| b | c | 0.9 | ratio | higher | 0.95 | 0.2 | 2 | True | missed |"
    assert run_all.row({**RESULT, "target": None}).count("|") == 11


def test_the_page_keeps_what_missed_and_what_failed():
    text = run_all.page([RESULT], ["`x` ended with exit code 1"], True, "2025-01-02", ["figures/b.svg"])
    assert text.startswith("# Benchmarks (quick")
    for part in (
        "2025-01-02",
        "torch",
        "| missed |",
        "`x` ended with exit code 1",
        "![b](figures/b.svg)",
        '{"threads": 1, "each"',
    ):
        assert part in text


def test_results_and_exit_code_of_a_script_are_read(tmp_path, capfd):
    script = tmp_path / "made_up.py"
    script.write_text(f"import sys\nprint('noise')\nprint({json.dumps(RESULT)!r})\nsys.exit('--quick' in sys.argv)\n")
    assert run_all.run(script, False, tmp_path) == ([RESULT], "")
    assert run_all.run(script, True, tmp_path) == ([RESULT], "`made_up` ended with exit code 1")
