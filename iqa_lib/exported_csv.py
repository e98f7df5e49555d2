"""CSV for others to open: one way out and back, in which no text is a formula to a spreadsheet."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n")


def to_csv(table: pd.DataFrame) -> str:
    """Text that would be a formula gets an apostrophe in front, in cells and headings; numbers stay as they are."""
    return table.map(_harmless).rename(columns=_harmless).to_csv(index=False)


def read_csv(file: Path) -> pd.DataFrame:
    """What `to_csv` was given, but for carriage returns."""
    return pd.read_csv(file).map(_as_given).rename(columns=_as_given)


def _harmless(cell: object) -> object:
    if not isinstance(cell, str):
        return cell
    text = f"'{cell}" if _is_formula(cell) else cell
    return text.replace("\r\n", "\n").replace("\r", "\n")  # which alone is put into quotes


def _as_given(cell: object) -> object:
    return cell[1:] if isinstance(cell, str) and cell.startswith("'") and _is_formula(cell) else cell


def _is_formula(cell: object) -> bool:
    """Also behind apostrophes, so that reading back is exact."""
    return isinstance(cell, str) and cell.lstrip("'").startswith(FORMULA_STARTS)
