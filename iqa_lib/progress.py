"""What a terminal shows: one progress bar everywhere (also in JupyterLab and for the runner), tables, lines."""

import contextlib
import json
import os
import re
import time
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

BATCH_FILE = "IQA_PROGRESS_FILE"  # set by the runner: where a batch notebook writes its progress


class Progress(tqdm):
    """tqdm that also reports to the runner: ``description``, ``fraction`` (0–1) and ``seconds_left``."""

    def __init__(self, iterable: Iterable, desc: str, total: int | None = None):
        self._file = os.environ.get(BATCH_FILE)
        self._what = self._text = desc
        self._reported, self._started = 0.0, time.monotonic()
        super().__init__(iterable, desc=desc, total=total, disable=bool(self._file))

    def __iter__(self) -> Iterator:
        if not self._file:
            yield from super().__iter__()
            return
        for done, item in enumerate(self.iterable, 1):
            yield item
            self._report(done)

    def show(self, **values: float) -> None:
        """Numbers beside the bar, such as the loss."""
        if self._file:
            self._text = " ".join([self._what, *(f"{k} {v:.3g}" for k, v in values.items())])
        else:
            self.set_postfix({k: f"{v:.3g}" for k, v in values.items()}, refresh=False)

    def _report(self, done: int) -> None:
        now = time.monotonic()
        if now - self._reported < 0.3 and done < self.total:
            return
        self._reported = now
        left = (now - self._started) / done * (self.total - done)
        state = {"description": self._text, "fraction": done / self.total, "seconds_left": left}
        path = Path(self._file)
        temporary = path.with_suffix(".tmp")
        with contextlib.suppress(OSError):  # the work goes on where the state cannot be written
            temporary.write_text(json.dumps(state))
            temporary.replace(path)


# --- tables and lines of the command line ---


def print_table(rows: Iterable[tuple[str, ...]], *columns: Any) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(*columns)
    for row in rows:
        table.add_row(*map(shown, row))
    console = Console()
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = 10_000  # a file or pipe gets names in one piece
    console.print(table)


UNSEEN = {"Cc", "Cf", "Zl", "Zp"}  # Unicode's categories of control and format characters and of line separators
JOINED = "(?<=[^\0-\xff])[\u200c\u200d]"  # what joins or parts letters of Persian or Hindi, or emoji, belongs to them


def shown(text: str) -> str:
    """Without what would command a terminal, turn the direction of writing or hide, but for new lines: escaped."""
    if text.isprintable():
        return text
    return re.sub(f"({JOINED})|[^\n -~]", lambda found: found[1] or _escaped(found[0]), text)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode() if unicodedata.category(character) in UNSEEN else character


def in_a_line(name: str) -> str:
    return shown(name).replace("\n", r"\n")


def templates(folder: Path) -> Any:
    """jinja2's environment of the pages in this folder; what they insert is `shown` and escaped, safe markup stays."""
    import jinja2

    def on_page(value: Any) -> Any:
        return type(value)(shown(value)) if isinstance(value, str) else value

    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder), autoescape=True, trim_blocks=True, finalize=on_page
    )
