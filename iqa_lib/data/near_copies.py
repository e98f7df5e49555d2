"""Photographs that show one scene in nearly the same pixels: bursts, repeated uploads, two sizes or exposures.

They are no independent images: kept on one side of a split and resampled together, like images of one reference.
"""

import hashlib
import io
import warnings
from concurrent.futures import ThreadPoolExecutor

import joblib
import numpy as np
from PIL import Image
from scipy.sparse import csr_array, vstack
from scipy.sparse.csgraph import connected_components
from scipy.stats import rankdata

from iqa_lib import paths
from iqa_lib.data.decode import open_image

ALIKE = 0.99  # correlation of thumbnails; in BIQ2021 exact copies reach 0.9998, bursts 0.98 to 0.999
# One scene at two exposures: this correlation, and that of ranks. By eye all 211 pairs that they add to BIQ2021 are;
# either alone would add others (a sky above land), up to 0.985 and 0.976; both, up to 0.974 with 0.952.
REEXPOSED = (0.97, 0.96)
SIDE = 32  # px of a thumbnail
FLAT = 2.0  # grey levels: thumbnails with a smaller standard deviation are like any other flat one


def groups(files: list[str]) -> np.ndarray:
    """The number of the first near-copy of each image, (N,): its own where there is none. Computed once, then read.

    A file that cannot be read is a near-copy of none.
    """
    known = repr([ALIKE, REEXPOSED, *paths.stamps(files)])
    digest = hashlib.sha256(known.encode()).hexdigest()
    cache = paths.DATA / "cache" / f"near-copies-{digest[:20]}.npy"
    if cache.is_file():
        return np.load(cache)
    found = _alike(files)
    content = io.BytesIO()
    np.save(content, found)
    paths.write_atomically(cache, content.getvalue())
    return found


def _alike(files: list[str]) -> np.ndarray:
    with warnings.catch_warnings(action="ignore"), ThreadPoolExecutor(joblib.cpu_count()) as pool:
        thumbnails_NP = np.stack(list(pool.map(_thumbnail, files)))
    flat_N = thumbnails_NP.std(axis=1) < FLAT
    ranks_NP = rankdata(thumbnails_NP, axis=1).astype(np.float32)
    pixels_NP, ranks_NP = _standardised(thumbnails_NP, flat_N), _standardised(ranks_NP, flat_N)
    alike = []
    for start in range(0, len(files), 1000):  # a block of rows at a time: all of 12,000 images would be 0.6 GB
        rows = np.arange(start, min(start + 1000, len(files)))
        correlation = pixels_NP[rows] @ pixels_NP.T
        same = correlation >= ALIKE
        doubtful = ((correlation >= REEXPOSED[0]) & ~same).any(axis=1)
        of_ranks = ranks_NP[rows[doubtful]] @ ranks_NP.T
        same[doubtful] |= (correlation[doubtful] >= REEXPOSED[0]) & (of_ranks >= REEXPOSED[1])
        alike.append(csr_array(same))
    _, group_N = connected_components(vstack(alike), directed=False)
    _, first_of_group = np.unique(group_N, return_index=True)
    return first_of_group[group_N]


def _standardised(rows_NP: np.ndarray, flat_N: np.ndarray) -> np.ndarray:
    rows_NP = np.where(flat_N[:, None], 0, rows_NP - rows_NP.mean(axis=1, keepdims=True))
    return rows_NP / np.maximum(np.linalg.norm(rows_NP, axis=1, keepdims=True), 1)


def _thumbnail(file: str) -> np.ndarray:
    try:
        with open_image(file) as image:
            image.draft("L", (2 * SIDE, 2 * SIDE))  # JPEGs are decoded at an eighth of their size
            small = image.convert("L").resize((SIDE, SIDE), Image.Resampling.BOX)
            return np.asarray(small, np.float32).ravel()
    except Exception:  # a damaged file makes Pillow raise anything; decoding reports it
        return np.zeros(SIDE * SIDE, np.float32)
