"""Simulated raters and photographs for the tests of `iqa_lib.rating`."""

import numpy as np
import pandas as pd
from PIL import Image
from skimage import data


def panel(rng, photographs=60, raters=8, inconsistency=15.0, bias=8.0, share=1.0, five_points=False):
    """True qualities (0–100), and a table of ratings by raters of different bias and inconsistency."""
    quality = rng.normal(50, 15, photographs)
    of_bias = rng.normal(0, bias, raters)
    of_bias -= of_bias.mean()
    of_noise = inconsistency * rng.uniform(0.6, 1.4, raters)
    rows = []
    for rater in range(raters):
        for photograph in range(photographs):
            if rng.random() < share:
                value = quality[photograph] + of_bias[rater] + of_noise[rater] * rng.normal()
                value = float(np.clip(np.rint(value / 25), 0, 4) * 25) if five_points else value
                rows.append((f"r{rater}", f"{photograph:03}.jpg", value))
    return quality, of_bias, pd.DataFrame(rows, columns=["rater", "image", "value"])


def photographs(folder, number=24, side=96):
    """Crops of real photographs at several sharpnesses, as small JPEGs."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    sources = [data.astronaut(), data.coffee(), data.chelsea(), data.rocket()]
    for i in range(number):
        source = sources[i % 4]
        y, x = (int(rng.integers(0, length - side)) for length in source.shape[:2])
        picture = Image.fromarray(source[y : y + side, x : x + side])
        small = max(8, side // (1 + i % 5))
        picture.resize((small, small)).resize((side, side)).save(folder / f"{i:03}.jpg", quality=90)
    return folder
