"""Files of a run, on a disk or at a URI such as ``s3://``: whole or absent, never half.

A path is a ``str`` everywhere, because ``pathlib`` mangles URIs. Local files are written beside their place, flushed, and
renamed; object stores make a finished upload visible at once. A folder counts as whole when its ``manifest.json``, written
last, names every file with size and SHA-256; whatever has no manifest is work to be done again.
"""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import fsspec

from cmcl_ray.errors import IntegrityError

MANIFEST = "manifest.json"


def is_remote(path: str) -> bool:
    """Tell whether a path is a URI of another file system than the local one."""
    return "://" in path and not path.startswith("file://")


def join(root: str, *parts: str) -> str:
    """Join path parts under a folder or URI."""
    if not parts:
        return root
    start = root if root.endswith("://") else root.rstrip("/") + "/"
    return start + "/".join(parts)


def absolute(path: str) -> str:
    """Make a local path absolute, since Ray workers run in other folders; URIs stay as they are."""
    return path if is_remote(path) else os.path.abspath(os.path.expanduser(path.removeprefix("file://")))


def _remote(path: str) -> tuple[fsspec.AbstractFileSystem, str]:
    # A cached listing would hide files another process has just written.
    filesystem, inner = fsspec.core.url_to_fs(path, use_listings_cache=False, skip_instance_cache=True)
    return filesystem, str(inner)


def exists(path: str) -> bool:
    """Tell whether a file or folder is there."""
    if not is_remote(path):
        return os.path.exists(path)
    filesystem, inner = _remote(path)
    return bool(filesystem.exists(inner))


def read_bytes(path: str) -> bytes:
    """Read a whole file.

    Raises:
        IntegrityError: the file is not there.
    """
    try:
        if not is_remote(path):
            return Path(path).read_bytes()
        filesystem, inner = _remote(path)
        return bytes(filesystem.cat_file(inner))
    except FileNotFoundError:
        raise IntegrityError(f"file {path} is missing; it was expected to be there; run the stage that writes it") from None


def write_bytes(path: str, data: bytes) -> None:
    """Write a file so that other processes see all of it or nothing."""
    if is_remote(path):
        filesystem, inner = _remote(path)
        filesystem.pipe_file(inner, data)
        return
    folder = os.path.dirname(path) or "."
    os.makedirs(folder, exist_ok=True)
    handle, aside = tempfile.mkstemp(prefix=".writing-", dir=folder)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        # mkstemp makes files only their owner may read; a run's folder is often shared.
        os.chmod(aside, 0o666 & ~_umask())
        os.replace(aside, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.remove(aside)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def read_json(path: str) -> Any:
    """Read a JSON file.

    Raises:
        IntegrityError: the file is missing or is not JSON.
    """
    data = read_bytes(path)
    try:
        return json.loads(data)
    except ValueError as error:
        raise IntegrityError(f"file {path} is not valid JSON ({error}); remove it and run the stage that writes it") from None


def write_json(path: str, value: Any) -> None:
    """Write a value as JSON with sorted keys, so that equal values give equal bytes."""
    write_bytes(path, (json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n").encode())


def list_names(folder: str) -> list[str]:
    """Return the sorted names of the entries of a folder; empty where the folder is not there."""
    if not is_remote(folder):
        return sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    filesystem, inner = _remote(folder)
    if not filesystem.exists(inner):
        return []
    return sorted(name.rstrip("/").rsplit("/", 1)[-1] for name in filesystem.ls(inner, detail=False))


def remove(path: str) -> None:
    """Remove a file or a folder with all it holds; nothing happens where it is not there."""
    if not is_remote(path):
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path)
        else:
            with contextlib.suppress(FileNotFoundError):
                os.remove(path)
        return
    filesystem, inner = _remote(path)
    if filesystem.exists(inner):
        filesystem.rm(inner, recursive=True)


@contextlib.contextmanager
def local_file(path: str) -> Iterator[str]:
    """Give a local path to a file's bytes for as long as the block runs; a remote file is fetched whole first."""
    if not is_remote(path):
        if not os.path.exists(path):
            raise IntegrityError(f"file {path} is missing; it was expected to be there; run the stage that writes it")
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="cmcl-") as folder:
        name = os.path.join(folder, path.rsplit("/", 1)[-1])
        Path(name).write_bytes(read_bytes(path))
        yield name


def sha256(data: bytes | memoryview) -> str:
    """Return the SHA-256 of bytes as 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def digest_of(value: Any, length: int = 16) -> str:
    """Return a short digest of a JSON-like value, the same for equal values on any machine."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return sha256(text.encode())[:length]


def has_manifest(folder: str) -> bool:
    """Tell whether a folder was finished: its manifest is there."""
    return exists(join(folder, MANIFEST))


def commit(folder: str, files: Mapping[str, bytes], facts: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Write files into a folder and the manifest last, so that the folder becomes whole in one step.

    Args:
        folder: where the files go; what is there under these names is replaced, and the folder is unfinished meanwhile.
        files: bytes by file name.
        facts: values kept in the manifest beside the checksums.

    Returns:
        The manifest as stored: ``facts`` plus ``files``: name -> {bytes, sha256}.
    """
    # An old manifest beside new files would be taken for damage if this stopped half-way.
    remove(join(folder, MANIFEST))
    for name, data in files.items():
        write_bytes(join(folder, name), data)
    listed = {name: {"bytes": len(data), "sha256": sha256(data)} for name, data in files.items()}
    return seal(folder, listed, facts)


def seal(folder: str, listed: Mapping[str, Mapping[str, Any]], facts: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Write the manifest of a folder whose files are there already.

    Args:
        folder: the folder with the files.
        listed: name -> {bytes, sha256} of each file.
        facts: values kept in the manifest beside the checksums.

    Returns:
        The manifest as stored.
    """
    manifest = {**(facts or {}), "files": {name: dict(entry) for name, entry in listed.items()}}
    # Facts in a manifest are read like any file: a flipped bit in them must not go unseen either.
    manifest["digest"] = digest_of(manifest)
    write_json(join(folder, MANIFEST), manifest)
    return manifest


def read_manifest(folder: str) -> dict[str, Any]:
    """Read the manifest of a finished folder.

    Raises:
        IntegrityError: there is no manifest, or it is not one of ours.
    """
    manifest = read_json(join(folder, MANIFEST))
    if not isinstance(manifest, dict) or not isinstance(manifest.get("files"), dict):
        raise IntegrityError(
            f"manifest {join(folder, MANIFEST)} lists no files; expected an object with 'files'; remove the folder and run again"
        )
    found = digest_of({key: value for key, value in manifest.items() if key != "digest"})
    if manifest.get("digest") != found:
        raise IntegrityError(
            f"manifest {join(folder, MANIFEST)} is damaged: its content has digest {found}, it says {manifest.get('digest')}; "
            "remove the folder and run again to make it anew"
        )
    return manifest


def read_checked(folder: str, name: str, manifest: Mapping[str, Any]) -> bytes:
    """Read one file of a finished folder and hold it against the manifest.

    Raises:
        IntegrityError: the file is missing, not listed, or differs from its checksum.
    """
    path = join(folder, name)
    entry = manifest["files"].get(name)
    if entry is None:
        raise IntegrityError(f"file {path} is not listed in {join(folder, MANIFEST)}; remove the folder and run again")
    data = read_bytes(path)
    check_bytes(path, data, entry)
    return data


def check_bytes(path: str, data: bytes | memoryview, entry: Mapping[str, Any]) -> None:
    """Hold the bytes of a file against its manifest entry.

    Raises:
        IntegrityError: size or checksum differ; the text names the file.
    """
    found = sha256(data)
    if len(data) != entry["bytes"] or found != entry["sha256"]:
        raise IntegrityError(
            f"file {path} is damaged: {len(data)} bytes with SHA-256 {found[:12]}..., its manifest says {entry['bytes']} bytes "
            f"with {str(entry['sha256'])[:12]}...; remove the folder {path.rsplit('/', 1)[0]} and run again to make it anew"
        )


def verify(folder: str, names: Iterable[str] | None = None) -> dict[str, Any]:
    """Check every listed file of a finished folder (or those named) and return the manifest.

    Raises:
        IntegrityError: the manifest or a file is missing or damaged; the text names the file.
    """
    manifest = read_manifest(folder)
    for name in manifest["files"] if names is None else names:
        read_checked(folder, name, manifest)
    return manifest


def parent(path: str, levels: int = 1) -> str:
    """Return the folder some levels above a path."""
    return path.rstrip("/").rsplit("/", levels)[0]
