"""Photographs that show one scene in nearly the same pixels: bursts, repeated uploads, one picture at two sizes.

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

from iqa_lib import paths
from iqa_lib.data.decode import open_image

ALIKE = 0.99  # correlation of thumbnails; in BIQ2021 exact copies reach 0.9998, bursts 0.98 to 0.999
SIDE = 32  # px of a thumbnail
FLAT = 2.0  # grey levels: thumbnails with a smaller standard deviation are like any other flat one


def groups(files: list[str]) -> np.ndarray:
    """The number of the first near-copy of each image, (N,): its own where there is none. Computed once, then read.

    A file that cannot be read is a near-copy of none.
    """
    known = "".join(f"{file} {size} {changed}\n" for file, size, changed in paths.stamps(files))
    digest = hashlib.sha256(known.encode(errors="backslashreplace")).hexdigest()
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
    thumbnails_NP -= thumbnails_NP.mean(axis=1, keepdims=True)
    length_N1 = np.linalg.norm(thumbnails_NP, axis=1, keepdims=True)
    flat_N1 = length_N1 < FLAT * SIDE
    thumbnails_NP = np.where(flat_N1, 0, thumbnails_NP / np.where(flat_N1, 1, length_N1))
    starts = range(0, len(files), 1000)  # a block of rows at a time: all of 12,000 images would be 0.6 GB
    alike = [csr_array(thumbnails_NP[start : start + 1000] @ thumbnails_NP.T >= ALIKE) for start in starts]
    _, group_N = connected_components(vstack(alike), directed=False)
    _, first_of_group = np.unique(group_N, return_index=True)
    return first_of_group[group_N]


def _thumbnail(file: str) -> np.ndarray:
    try:
        with open_image(file) as image:
            image.draft("L", (2 * SIDE, 2 * SIDE))  # JPEGs are decoded at an eighth of their size
            small = image.convert("L").resize((SIDE, SIDE), Image.Resampling.BOX)
            return np.asarray(small, np.float32).ravel()
    except Exception:  # a damaged file makes Pillow raise anything; decoding reports it
        return np.zeros(SIDE * SIDE, np.float32)
