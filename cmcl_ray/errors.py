"""Errors a caller may act on.

Every text says what is wrong, the value, what was expected, and what to change, in that order. The command line prints the
text alone and exits with 2. Each class takes one argument, the complete message, so it survives pickling between processes.
"""

import difflib
from collections.abc import Iterable


class CmclError(Exception):
    """Base of all errors that speak to the user: the message is complete and needs no stack trace."""


class ConfigError(CmclError):
    """A setting is unknown, missing, of the wrong type, or contradicts another one."""


class DataError(CmclError):
    """A dataset cannot be used: a missing file or column, overlapping splits, too many bad rows."""


class IntegrityError(CmclError):
    """A stored file is missing or differs from the checksum in its manifest."""


class StageError(CmclError):
    """A run's folder is in a state the command cannot go on from, such as one made by another config."""


class VersionError(CmclError):
    """A query and a shard come from model versions that must not meet."""


class ShapeError(CmclError):
    """Arrays or tensors that belong together disagree on a dimension."""


class ResourceError(CmclError):
    """The machine or cluster can never give what the config asks for."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the nearest known word, or an empty text where none is near."""
    nearest = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean '{nearest[0]}'?" if nearest else ""
