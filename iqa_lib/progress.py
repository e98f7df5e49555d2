"""One progress bar everywhere: at the terminal, in JupyterLab, and as a line of the runner in batch."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from tqdm.auto import tqdm

BATCH_FILE = "IQA_PROGRESS_FILE"  # set by the runner: where a batch notebook says how far it is


class Progress(tqdm):
    """tqdm that also tells the runner: ``description``, ``fraction`` (0–1) and ``seconds_left``."""

    def __init__(self, iterable: Iterable | None = None, **options):
        self._file = os.environ.get(BATCH_FILE)
        self._told = 0.0
        super().__init__(iterable, disable=bool(self._file), **options)
        self._steps, self._text, self._count = (
            options.get("total") or len(iterable),
            options.get("desc", ""),
            0,
        )
        self._started = time.monotonic()

    def __iter__(self) -> Iterator:
        if not self._file:
            yield from super().__iter__()
            return
        for item in self.iterable:
            yield item
            self.update(1)

    def update(self, n: float = 1):
        self._count += n
        self._tell()
        return super().update(n)

    def show(self, **values: float) -> None:
        """Numbers beside the bar, such as the loss."""
        self._text = " ".join(
            [str(self.desc or self._text).rstrip(": "), *(f"{k} {v:.3g}" for k, v in values.items())]
        )
        self.set_postfix({k: f"{v:.3g}" for k, v in values.items()}, refresh=False)

    def _tell(self) -> None:
        now = time.monotonic()
        if not self._file or (now - self._told < 0.3 and self._count < self._steps):
            return
        self._told = now
        left = (now - self._started) / self._count * (self._steps - self._count)
        state = {"description": self._text, "fraction": self._count / self._steps, "seconds_left": left}
        path = Path(self._file)
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps(state))
        temporary.replace(path)
