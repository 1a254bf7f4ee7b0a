"""The one exception type that means "your data is wrong", as opposed to "this library is wrong"."""

from __future__ import annotations


class DataError(ValueError):
    """Bad input data; the message names the file, line or row id, what is wrong and what to do."""
