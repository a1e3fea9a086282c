"""Median, spread and ratios, the form of a line, the exit code, and the process to compare with."""

import argparse
import json
import sys

import measure
import pytest

FIELDS = ["benchmark", "case", "value", "unit", "better", "target", "spread", "runs", "checked", "settings"]


def result(each, checked=True, target=0.9):
    return measure.Result.of(("bench", "case"), each, "ratio", "higher", target, checked, {"threads": 2})


def test_a_line_is_one_json_object_with_all_fields():
    line = result([0.5, 2.0, 1.0]).line()
    assert "\n" not in line
    found = json.loads(line)
    assert list(found) == FIELDS
    assert (found["value"], found["spread"], found["runs"]) == (1.0, 1.5, 3)
    assert found["settings"] == {"threads": 2, "each": [0.5, 2.0, 1.0]}


def test_an_even_number_of_runs_takes_the_middle():
    assert result([1.0, 4.0, 2.0, 3.0]).value == 2.5


def test_nothing_timed_has_no_value():
    found = json.loads(result([], checked=False).line())
    assert (found["value"], found["spread"], found["runs"], found["checked"]) == (None, None, 0, False)


def test_figures_keep_four_digits():
    assert result([1 / 3]).value == 0.3333
    assert measure.rounded("1 thread") == "1 thread"
    assert measure.rounded(12345) == 12345


def test_ratios_go_pair_by_pair():
    assert measure.ratios([2.0, 9.0], [4.0, 3.0]) == [0.5, 3.0]
    with pytest.raises(ValueError, match="shorter"):
        measure.ratios([1.0, 2.0], [1.0])


def test_sides_run_in_turns():
    heard = []

    def side(name):
        return lambda: heard.append(name) or float(len(heard))

    assert measure.interleave({"ours": side("a"), "plain": side("b")}, 3) == {"ours": [1, 3, 5], "plain": [2, 4, 6]}
    assert heard == ["a", "b"] * 3


def test_settings_tell_machine_and_versions():
    found = measure.environment(threads=3)
    assert found["threads"] == 3
    assert found["processor"]
    assert {"python", "torch", "numpy"} <= set(found["versions"])
    json.dumps(found, allow_nan=False)


@pytest.mark.parametrize(
    ("results", "code"),
    [
        ([result([0.95])], 0),
        ([result([0.1])], 0),
        ([result([0.95]), result([], checked=False)], 1),
    ],
    ids=["target reached", "target missed", "answers differ"],
)
def test_only_answers_that_differ_fail(results, code, capsys):
    assert measure.conclude(results, argparse.Namespace(figure=None, out=None)) == code
    assert len(capsys.readouterr().out.splitlines()) == len(results)


def test_lines_and_figure_are_written(tmp_path, capsys):
    wanted = measure.arguments("x", ["--out", str(tmp_path / "new"), "--figure", str(tmp_path / "one.png")])
    measure.conclude([result([0.9, 1.1]), result([], checked=False, target=None)], wanted)
    assert (tmp_path / "new" / "bench.jsonl").read_text() == capsys.readouterr().out
    assert (tmp_path / "new" / "bench.svg").read_text().startswith("<?xml")
    assert (tmp_path / "one.png").read_bytes()[1:4] == b"PNG"


def test_a_plain_process_answers_line_by_line(tmp_path):
    script = tmp_path / "plain.py"
    script.write_text(
        f"import sys, json\nsys.path[:0] = {sys.path!r}\nimport measure\n"
        "base = json.loads(sys.argv[2])['base']\nsys.exit(measure.answer_requests(lambda asked: {'sum': base + asked['more']}))\n"
    )
    process = measure.PlainProcess(str(script), {"base": 40})
    assert process.ask({"more": 2}) == {"sum": 42}
    process.send({"more": 3})
    assert process.receive() == {"sum": 43}
    process.close()


def test_a_plain_process_that_died_is_told(tmp_path):
    script = tmp_path / "plain.py"
    script.write_text("import sys\nsys.stdin.readline()\nsys.exit(3)\n")
    process = measure.PlainProcess(str(script), {})
    with pytest.raises(RuntimeError, match="ended with code 3; expected an answer"):
        process.ask({})
    process.close()
