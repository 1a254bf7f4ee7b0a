"""The error for a video, or a part of one, that cannot be used: `data_prep.errors.VideoError`."""

from data_prep.errors import VideoError

__all__ = ["VideoError"]
