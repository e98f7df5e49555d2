"""The model that comes with the package beside metrics that need no training, on images that people rated.

    pip install 'brisque[opencv-python-headless]'
    python benchmarks/no_training.py biq2021 livec          # datasets under data/, or: --data-folder FOLDER

None of the three has seen these images: `SmartIQA.default()` learnt from ratings of others of BIQ2021,
BRISQUE (Mittal et al., 2012) comes with the parameters that its package ships, the variance of the Laplacian has none.
"""

from __future__ import annotations

import argparse

import numpy as np
import pandas as pd
from brisque import BRISQUE
from default_model import prepared

from iqa_lib import metrics
from iqa_lib.data.images import load_images
from iqa_lib.progress import Progress
from iqa_lib.scoring.score import load_scorer, score_all
from iqa_lib.training.evaluate import laplacian_variance


class Brisque(BRISQUE):
    def scale_features(self, features: np.ndarray) -> np.ndarray:
        return super().scale_features(np.hstack(features))  # some are arrays of one number: NumPy 2 minds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("datasets", nargs="+", help="names of `python -m iqa_lib data list`")
    parser.add_argument("--data-folder")
    options = parser.parse_args()
    tables = [compare(name, options.data_folder) for name in options.datasets]
    print(pd.concat(tables).round(3).to_string(index=False))


def compare(dataset: str, data_folder: str | None) -> pd.DataFrame:
    """SRCC with its 95 % interval over the test images, per metric."""
    scorer, brisque = load_scorer(), Brisque()
    images = load_images(prepared(scorer, dataset, data_folder), test_only=True)
    rows = images.rows("test")
    pixels = [images.image(row) for row in rows]
    groups = metrics.groups_of(images.table["reference"].iloc[rows])
    predictions = {
        "SmartIQA.default()": score_all(scorer, pixels, len(rows))["score"].to_numpy(),
        "BRISQUE": [-brisque.score(image) for image in Progress(pixels, "BRISQUE")],  # lower is better there
        "variance of the Laplacian": laplacian_variance(images, rows),
    }
    lines = []
    for name, predicted in predictions.items():
        found = metrics.bootstrap(metrics.srcc, np.asarray(predicted), images.scores(rows), groups=groups)
        measured = {"SRCC": found.value, "95 % low": found.low, "95 % high": found.high}
        lines.append({"dataset": dataset, "metric": name, "n": len(rows), **measured})
    return pd.DataFrame(lines)


if __name__ == "__main__":
    main()
