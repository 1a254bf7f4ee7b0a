"""The errors for a video, or a part of one, that cannot be used, and for a prompt that is too long."""

from data_prep.errors import VideoError

__all__ = ["PromptTooLong", "VideoError"]

TOO_LONG = "too_long"
"""Status of a row whose prompt does not fit."""


class PromptTooLong(VideoError):
    """A row whose prompt, its video included, has more tokens than fit; nothing of it is cut."""

    def __init__(self, path: str, reason: str, status: str = TOO_LONG) -> None:
        super().__init__(path, reason, status)
