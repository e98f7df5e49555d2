"""Scores as the command line lists them, best first."""

import pandas as pd
from rich.markup import escape
from rich.table import Column

from iqa_lib.progress import in_a_line, print_table
from iqa_lib.scoring.score import in_words
from iqa_lib.training.predictor import Predictor

LONGEST = 40  # rows; of more images the best and the worst are shown


def print_scores(scorer: Predictor, best_first: pd.DataFrame) -> None:
    table, notes = in_words(scorer, best_first)
    rows = [(*row[:-1], escape(in_a_line(row[-1]))) for row in table.itertuples(index=False)]
    if (left_out := len(rows) - LONGEST) > 0:
        gap = ["…", *[""] * (len(table.columns) - 2), f"{left_out:,} more; --csv FILE lists all"]
        rows[LONGEST // 2 : -LONGEST // 2] = [gap]
    if rows:
        print_table(
            rows, *(Column(head, justify="right") for head in table.columns[:-1]), Column("image", overflow="fold")
        )
    print(*notes, sep="\n")
