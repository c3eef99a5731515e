"""Every error that nsstream raises on purpose.

    NsstreamError
    ├── InputError        what came from outside cannot be used: the message says what and where
    │   └── WireError     octets that are not what their header promises (raised by `wire` only)
    ├── OutputError       what was asked to be written cannot be: exists, no space, no permission
    ├── StateError        the state directory does not hold what it should (missing, other format, locked)
    ├── TrainError        a model could not be trained: too little data, divergence, a worker that died
    └── ReplayError       the replay server refused a command, or does not answer

A message is one sentence for the operator: what is wrong, with the value, and what to do next. The command line prints
it without a traceback and exits with 1; anything else that escapes is a bug and keeps its traceback.
"""

from __future__ import annotations


class NsstreamError(Exception):
    """Base of all; never raised itself."""


class InputError(NsstreamError):
    """What came from outside cannot be used."""


class WireError(InputError):
    """Octets that cannot be parsed: malformed, cut, or of a kind that is not supported."""


class OutputError(NsstreamError):
    """An output cannot be written."""


class StateError(NsstreamError):
    """The state directory, a chunk or a checkpoint is not what it should be."""


class TrainError(NsstreamError):
    """A model could not be trained."""


class ReplayError(NsstreamError):
    """The replay server refused a command, or cannot be reached."""
