"""Tables read from Parquet, CSV and JSON lines, on a disk or at a URI."""

import fnmatch
from collections.abc import Callable, Sequence

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.json as pajson
import pyarrow.parquet as pq

from cmcl_ray import storage
from cmcl_ray.errors import DataError

# A row of JSON lines longer than a block is refused by Arrow; its default of 1 MiB is small for rows with long texts.
_JSON_BLOCK = 16 << 20


def find_files(patterns: Sequence[str], root: str, setting: str) -> list[str]:
    """Return the files some paths or patterns name, in the order of the patterns and sorted within each.

    Args:
        patterns: paths; ``*``, ``?`` and ``[`` may stand in the file name, not in its folder; relative ones start at root.
        root: absolute folder or URI.
        setting: the setting they come from, for error texts.

    Raises:
        DataError: no file fits.
    """
    found: list[str] = []
    for pattern in patterns:
        path = _under(root, pattern)
        folder, _, name = path.rpartition("/")
        if storage.exists(path):
            files = [path]
        else:
            files = [storage.join(folder, entry) for entry in storage.list_names(folder) if fnmatch.fnmatchcase(entry, name)]
        if not files:
            raise DataError(
                f"{setting} names {path}, which is missing; expected a file, or a pattern with wildcards in the file name that "
                "some file fits; check the path and stream.source.root"
            )
        found += [file for file in files if file not in found]
    return found


def _under(root: str, path: str) -> str:
    if storage.is_remote(path):
        return path
    path = path.removeprefix("file://")
    return storage.absolute(path) if path.startswith(("/", "~")) else storage.join(root, path)


def read_table(path: str) -> pa.Table:
    """Read one file by its suffix: .parquet, .csv (commas, RFC 4180 quotes), .jsonl or .ndjson.

    Raises:
        DataError: the suffix is unknown, or the file is not what its suffix says.
    """
    readers: dict[str, Callable[[str], pa.Table]] = {
        "parquet": pq.read_table,
        "csv": _read_csv,
        "jsonl": _read_json_lines,
        "ndjson": _read_json_lines,
    }
    suffix = path.rsplit("/", 1)[-1].rpartition(".")[2].lower()
    if suffix not in readers:
        raise DataError(
            f"file {path} has the suffix '{suffix}'; expected .parquet, .csv, .jsonl or .ndjson; rename it, or write it "
            "in one of them"
        )
    if not storage.exists(path):
        raise DataError(f"file {path} is missing; expected a file that is there; check the path and stream.source.root")
    with storage.local_file(path) as local:
        try:
            return readers[suffix](local)
        except (pa.ArrowException, UnicodeDecodeError) as error:
            reason = " ".join(str(error).split())[:300]
            raise DataError(f"file {path} cannot be read as {suffix} ({reason}); correct or replace the file") from None


def _read_csv(path: str) -> pa.Table:
    parse = pacsv.ParseOptions(newlines_in_values=True)
    with pacsv.open_csv(path, parse_options=parse) as reader:
        names = reader.schema.names
    # Everything is text: a group "1" or a caption "2020-01-01" must not become a number or a date.
    options = pacsv.ConvertOptions(column_types={name: pa.string() for name in names})
    return pacsv.read_csv(path, parse_options=parse, convert_options=options)


def _read_json_lines(path: str) -> pa.Table:
    read = pajson.ReadOptions(block_size=_JSON_BLOCK)
    table = pajson.read_json(path, read_options=read)
    dates = [field.name for field in table.schema if pa.types.is_timestamp(field.type)]
    if not dates:
        return table
    # Arrow takes texts that look like dates for dates; JSON has none, so they go back to what they were.
    schema = pa.schema([(name, pa.string()) for name in dates])
    return pajson.read_json(path, read_options=read, parse_options=pajson.ParseOptions(explicit_schema=schema))
