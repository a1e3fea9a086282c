"""Rows that cannot be used: set aside with a reason, and counted."""

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from cmcl_ray.data.sources.base import REJECTED
from cmcl_ray.errors import DataError

Mask = npt.NDArray[np.bool_]


class Aside:
    """Collects the rows that are set aside while a table passes through its checks."""

    def __init__(self) -> None:
        self._parts: list[pa.Table] = []

    def drop(self, table: pa.Table, bad: Mask, reason: str, detail: pa.Array | str) -> pa.Table:
        """Return a table without its bad rows, and remember those.

        Args:
            table: rows with a pair_id.
            bad: (rows,) true for the rows to set aside.
            reason: one fixed text a check, to count by.
            detail: what was found; one text, or one a row of the table.
        """
        if not bad.any():
            return table
        mask = pa.array(bad)
        ids = table.column("pair_id").filter(mask)
        count = len(ids)
        told = pa.array([detail] * count, pa.string()) if isinstance(detail, str) else detail.filter(mask)
        self._parts.append(pa.table([ids, pa.array([reason] * count, pa.string()), told], schema=REJECTED))
        return table.filter(pa.array(~bad))

    def table(self) -> pa.Table:
        """Return all rows set aside so far, in the order of the checks."""
        return pa.concat_tables([REJECTED.empty_table(), *self._parts])

    def check_share(self, total: int, most: float) -> None:
        """Refuse a table of which too much was set aside, or all.

        Raises:
            DataError: more than ``most`` of ``total`` rows are bad, or none is left; the text counts them by reason.
        """
        rejected = self.table()
        if rejected.num_rows <= most * total and rejected.num_rows < total:
            return
        counts = pc.value_counts(rejected.column("reason").combine_chunks()).to_pylist()
        listed = ", ".join(f"{entry['counts']} {entry['values']}" for entry in counts)
        first = f"; the first is '{rejected.column('id')[0].as_py()}': {rejected.column('detail')[0].as_py()}" if listed else ""
        raise DataError(
            f"{rejected.num_rows} of {total} pairs cannot be used ({listed or 'the table is empty'}){first}; expected at most a "
            f"share of {most} and at least one good row; mend the rows, or raise stream.source.max_rejected_share"
        )
