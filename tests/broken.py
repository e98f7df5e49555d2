"""Image files that cannot be used, each with what is said of it."""

import zlib

import numpy as np
from PIL import Image


def broken(kind, path, picture):
    picture.save(path, format="JPEG")
    whole = path.read_bytes()
    if kind == "truncated":
        path.write_bytes(whole[: len(whole) // 2])
    elif kind == "zero bytes":
        path.write_bytes(b"")
    elif kind == "text":
        path.write_text("<html>404</html>")
    elif kind == "pointer":
        path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n")
    elif kind == "header alone":
        path.write_bytes(whole[:20])
    elif kind == "strip":
        Image.new("L", (1, 10_000)).save(path, format="PNG")
    elif kind == "float":
        Image.fromarray(np.full((40, 40), 0.2, np.float32)).save(path, format="TIFF")
    elif kind == "32 bit":
        Image.fromarray(np.full((40, 40), 70_000, np.int32)).save(path, format="TIFF")
    elif kind == "bomb":  # a header that promises 400 million pixels
        picture.save(path, format="PNG")
        content = bytearray(path.read_bytes())
        content[16:24] = (20_000).to_bytes(4, "big") * 2
        content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
        path.write_bytes(content)


BROKEN = {
    "truncated": "cannot be decoded .*truncated",
    "zero bytes": "is empty",
    "text": "is no image that Pillow can read",
    "pointer": "is a pointer of Git LFS: git lfs pull",
    "header alone": "is no image|cannot be decoded",
    "strip": "1 x 10000 pixels is a strip longer than 50 times",
    "float": "grey of 32 bits from 0.2 to 0.2, where white may be 1, 255, 65535",
    "32 bit": "grey of 32 bits from 70000 to 70000",
    "bomb": "is larger than 178,956,970 pixels",
}
