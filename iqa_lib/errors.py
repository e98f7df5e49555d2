"""Errors a person can act on: each says what was wrong, where, and what to do about it."""


class WorkbookError(Exception):
    """A user's mistake or a missing piece; its message is all there is to read."""

    def _render_traceback_(self) -> list[str]:
        # IPython asks for this: in a notebook the message stands alone, without a traceback.
        return [f"{type(self).__name__}: {self}"]


class ProfileError(WorkbookError):
    """A profile or parameter that is unknown or out of range."""


class DataError(WorkbookError):
    """A dataset that is missing, incomplete or not in its published form."""


class ImageError(DataError):
    """An image that cannot be used; ``reason`` is the message without the image's name."""

    def __init__(self, image: object, reason: str):
        super().__init__(f"{image} {reason}; replace the file or remove its row.")
        self.reason = reason


class WeightsError(WorkbookError):
    """Weights that could not be had."""


class CheckpointError(WeightsError):
    """A checkpoint that does not fit the model or is not safe to read."""


class RunError(WorkbookError):
    """A training run that could not continue."""


class StudyError(WorkbookError):
    """A study that is not finished, or whose published claims cannot be read."""


class StorageError(WorkbookError):
    """A disk that is full or gone, or a folder that may not be written."""


class ExplainError(WorkbookError):
    """A look inside that this model or image does not allow."""
