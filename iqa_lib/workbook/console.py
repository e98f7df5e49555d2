"""What the runner shows while it works: a line per notebook, the time left, a table at the end."""

import time
from pathlib import Path

from rich.console import Console, Group
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text
from tqdm import tqdm

from iqa_lib.workbook.report import read_json


def seconds_left(selected: list) -> float | None:
    """Of the whole call; None while that is unknown.

    A notebook that never ran here is expected to take its share of the work at the pace of those that this call ran.
    """
    ran = [n for n in selected if n.status == "done" and n.share]
    pace = sum(n.seconds for n in ran) / sum(n.share for n in ran) if ran else None
    left = 0.0
    for notebook in selected:
        if notebook.status in ("waiting", "running"):
            expected = notebook.expected
            if expected is None:
                if not pace or not notebook.share:
                    return None
                expected = pace * notebook.share
            elapsed = time.monotonic() - notebook.started if notebook.status == "running" else 0.0
            left += max(expected - elapsed, 0.0)
    return left


def in_words(seconds: float | None) -> str:
    """Empty where there is nothing to say."""
    if not seconds:
        return ""
    minutes = round(seconds / 60)
    if minutes >= 100:
        return f"about {minutes / 60:.0f} h left"
    return f"about {minutes} min left" if minutes else "less than a minute left"


class Board:
    """One line per notebook and one of the time left, redrawn by rich several times a second."""

    def __init__(self, notebooks: list, progress_file: Path):
        self.notebooks, self.progress_file = notebooks, progress_file

    def __rich__(self) -> Group:
        grid = Table.grid(padding=(0, 2))
        for n in self.notebooks:
            if n.status == "running":
                progress = read_json(self.progress_file)
                done = max(n.cell - 1, 0) + progress.get("fraction", 0.0)
                cell = f"cell {n.cell}/{n.cells}" if n.cell else "starting"
                left = progress.get("seconds_left")
                clock = tqdm.format_interval(left or time.monotonic() - n.started) + (" left" if left else " elapsed")
                bar = ProgressBar(total=n.cells, completed=done, width=24)
                grid.add_row(n.name, bar, cell, Text(progress.get("description", "")), clock)
            else:
                took = tqdm.format_interval(n.seconds) if n.status in ("done", "failed") else ""
                grid.add_row(n.name, "", Text(n.outcome, "red" if n.error else ""), Text(n.headline), took)
        left = in_words(seconds_left(self.notebooks))
        return Group(grid, Text(left)) if left else Group(grid)


def summarise(notebooks: list, report: Path, console: Console) -> None:
    table = Table("notebook", "status", "seconds", "headline")
    for n in notebooks:
        took = "" if n.seconds is None else f"{n.seconds:.1f}"
        table.add_row(n.name, Text(n.outcome, "red" if n.error else ""), took, Text(n.headline))
    console.print(table)
    for n in notebooks:
        if n.error:
            console.out("{} failed at {where}: {name}: {message}".format(n.name, **n.error), highlight=False)
    console.out(f"Report: {report}", highlight=False)
