"""One progress bar everywhere: at the terminal, in JupyterLab, and as a line of the runner in batch."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from tqdm.auto import tqdm

BATCH_FILE = "IQA_PROGRESS_FILE"  # set by the runner: where a batch notebook says how far it is


class Progress(tqdm):
    """tqdm that also reports to the runner: ``description``, ``fraction`` (0–1) and ``seconds_left``."""

    def __init__(self, iterable: Iterable, desc: str, total: int | None = None):
        self._file = os.environ.get(BATCH_FILE)
        self._what = self._text = desc
        self._steps = len(iterable) if total is None else total
        self._count, self._told, self._started = 0, 0.0, time.monotonic()
        super().__init__(iterable, desc=desc, total=total, disable=bool(self._file))

    def __iter__(self) -> Iterator:
        if not self._file:
            yield from super().__iter__()
            return
        for item in self.iterable:
            yield item
            self._count += 1
            self._tell()

    def show(self, **values: float) -> None:
        """Numbers beside the bar, such as the loss."""
        if self._file:
            self._text = " ".join([self._what, *(f"{k} {v:.3g}" for k, v in values.items())])
        else:
            self.set_postfix({k: f"{v:.3g}" for k, v in values.items()}, refresh=False)

    def _tell(self) -> None:
        now = time.monotonic()
        if now - self._told < 0.3 and self._count < self._steps:
            return
        self._told = now
        left = (now - self._started) / self._count * (self._steps - self._count)
        state = {"description": self._text, "fraction": self._count / self._steps, "seconds_left": left}
        path = Path(self._file)
        temporary = path.with_suffix(".tmp")
        with contextlib.suppress(OSError):  # the work may go on where the news cannot be written
            temporary.write_text(json.dumps(state))
            temporary.replace(path)
