"""Tables that say what they say of any data set, small panels and few votes among them."""

import numpy as np
import pandas as pd
import pytest

from iqa_lib.data.readers.tables import VOTES
from iqa_lib.study import tables


class Voted:
    """The part of an image set that the agreement of raters is computed from."""

    def __init__(self, raters, images=60):
        rng = np.random.default_rng(0)
        quality = rng.normal(3, 1, size=(images, 1))
        votes = np.clip((quality + rng.normal(size=(images, max(raters)))).round(), 1, 5)
        votes[np.arange(max(raters)) >= np.resize(raters, images)[:, None]] = 0
        self.table = pd.DataFrame({vote: (votes == level).sum(axis=1) for level, vote in enumerate(VOTES, 1)})

    def rows(self, split):
        return np.arange(len(self.table))


@pytest.mark.parametrize("raters", [[2], [5], [20], [30], [12, 40], [0, 1, 9]])
def test_raters_of_any_panel_agree_as_far_as_it_can_tell(raters):
    table = tables.agreement_of_raters({"own": Voted(raters)}).set_index("whose")
    assert table.loc["limit of a perfect model", "SRCC"] > table.loc["panel agreement", "SRCC"] > 0
    smallest = min(count for count in raters if count > 1)
    assert (table.loc[["raters"], "raters"] <= max(smallest / 2, np.median([r for r in raters if r > 1]) / 2)).all()


def test_of_single_votes_nothing_is_told():
    assert tables.agreement_of_raters({"own": Voted([1])}).empty
