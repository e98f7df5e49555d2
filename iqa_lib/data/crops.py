"""Which squares of an image are looked at: a grid that covers it, or random ones."""

import math

import numpy as np

from iqa_lib.data.images import ImageSet


def grid(height: int, width: int, size: int, stride: int | None = None) -> list[tuple[int, int]]:
    """Evenly spaced (top, left) corners of the fewest crops that cover the image, ``stride`` px apart at most."""

    def along(length: int) -> list[int]:
        count = 1 + math.ceil((length - size) / (stride or size))
        return np.linspace(0, length - size, count).round().astype(int).tolist()

    return [(y, x) for y in along(height) for x in along(width)]


def grid_crops(images: ImageSet, rows: np.ndarray, size: int) -> list[tuple[int, int, int, bool]]:
    """All evaluation crops of these images, image by image."""
    return [(r, y, x, False) for r in rows for y, x in grid(*images.image(r).shape[:2], size)]


def random_crops(
    images: ImageSet,
    rows: np.ndarray,
    per_image: int,
    size: int,
    rng: np.random.Generator,
    flip: bool = True,
    random_place: bool = True,
) -> list[tuple[int, int, int, bool]]:
    """``per_image`` squares of each image, image by image: anywhere or its centre, half of them flipped or none."""
    crops = []
    for row in np.repeat(rows, per_image):
        height, width = images.image(row).shape[:2]
        y, x = rng.integers(0, height - size + 1), rng.integers(0, width - size + 1)
        mirrored = bool(rng.integers(2))
        if not random_place:
            y, x = (height - size) // 2, (width - size) // 2
        crops.append((row, int(y), int(x), flip and mirrored))
    return crops
