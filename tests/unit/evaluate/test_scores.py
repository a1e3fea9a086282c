"""The tables hold their contract."""

from dataclasses import fields

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cmcl_ray.errors import IntegrityError
from cmcl_ray.evaluate.scores import COST_SCHEMA, SCORE_SCHEMA, CostRow, ScoreRow, read_costs, read_scores, write_table

SCORE = ScoreRow("id", "replay", 1, "replay", "keep", "all", "t2i", "sky", 0, 2, "recall@1", 62.5, 40, 90)
COST = CostRow("id", "replay", 1, "embed", "reindex", "sky", 0, 1.5, 40, 40, 0, 1000, 0)


@pytest.mark.parametrize(("kind", "schema"), [(ScoreRow, SCORE_SCHEMA), (CostRow, COST_SCHEMA)])
def test_row_and_schema_name_the_same_columns_in_the_same_order(kind, schema):
    assert [field.name for field in fields(kind)] == schema.names
    types = {str: "string", int: "int64", float: "double"}
    assert [types[field.type] for field in fields(kind)] == [str(field.type) for field in schema]


def test_rows_come_back_and_equal_rows_give_equal_bytes(tmp_path):
    other = ScoreRow("id", "replay", 1, "replay", "keep", "all", "t2i", "sky", 0, 2, "median_rank", float("inf"), 40, 90)
    for name in ("a.parquet", "b.parquet"):
        write_table(str(tmp_path / name), [SCORE, other])
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()
    assert [ScoreRow(**row) for row in read_scores(str(tmp_path / "a.parquet")).to_pylist()] == [SCORE, other]
    write_table(str(tmp_path / "c.parquet"), [COST])
    assert [CostRow(**row) for row in read_costs(str(tmp_path / "c.parquet")).to_pylist()] == [COST]


def test_a_table_goes_to_a_uri():
    write_table("memory://runs/scores.parquet", [SCORE])
    assert read_scores("memory://runs/scores.parquet").num_rows == 1


def test_messages(tmp_path):
    path = str(tmp_path / "t.parquet")
    with pytest.raises(ValueError, match=r"no rows were given; expected at least one; write the table"):
        write_table(path, [])
    with pytest.raises(IntegrityError, match=r"t.parquet is missing"):
        read_scores(path)
    (tmp_path / "t.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(IntegrityError, match=r"score table .*t.parquet is not a Parquet file .*remove it"):
        read_scores(path)
    write_table(path, [COST])
    with pytest.raises(IntegrityError, match=r"score table .* differs from the contract in .*strategy string.*; expected run_id"):
        read_scores(path)
    pq.write_table(pa.table({name: pa.array([1]) for name in reversed(COST_SCHEMA.names)}), path)
    with pytest.raises(IntegrityError, match=r"cost table .*label int64.*expected .*label string"):
        read_costs(path)
