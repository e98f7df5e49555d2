"""Fetch a dataset from its public address: licence shown, resumed, verified, unpacked without trust."""

import functools
import http.client
import os
import shutil
import stat
import tarfile
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import huggingface_hub

from iqa_lib import paths
from iqa_lib.data import catalog
from iqa_lib.data.images import require_space, sha256_of
from iqa_lib.errors import DataError
from iqa_lib.progress import Progress


def download(name: str, accept: Callable[[str], bool], data_folder: str | None = None) -> Path:
    """The folder of the dataset, fetched where it is absent. After an interruption call it again: it resumes.

    Args:
        accept: is shown the licence and says whether the user agrees; asked once for each dataset.

    Raises:
        DataError: unknown, without a public address, refused licence, no space, no connection, wrong checksum, or an
            archive that is damaged or would write outside its folder. Nothing half-unpacked is left.
    """
    dataset = catalog.CATALOG.get(name)
    if not dataset:
        raise DataError(f"Unknown dataset '{name}'. Known: {', '.join(catalog.CATALOG)}.")
    if dataset.build:
        raise DataError(f"'{name}' is built by this workbook when it is first wanted; there is nothing to load.")
    present = catalog.locate(name, data_folder)
    if present:
        return present
    if not dataset.download:
        raise DataError(catalog.how_to_get(name, data_folder))
    root = catalog.root_of(data_folder)
    if (root / name).exists():
        raise DataError(f"{root / name} is there, but not as published. Move it away, or complete it by hand.")
    work = root / ".downloads" / name
    work.mkdir(parents=True, exist_ok=True)
    _require_licence(name, dataset, accept, root)
    archive = _fetch(dataset.download, work)
    unpacked = work / "unpacked"
    shutil.rmtree(unpacked, ignore_errors=True)
    unpack(archive, unpacked)
    unpacked.rename(root / name)
    shutil.rmtree(work)
    folder = catalog.locate(name, data_folder)
    if not folder:
        raise DataError(f"{root / name} is unpacked, but not in a known layout. Expected: {dataset.layout}.")
    return folder


def _require_licence(name: str, dataset: catalog.Dataset, accept: Callable[[str], bool], root: Path) -> None:
    text = f"{dataset.title}, {dataset.source}\nLicence: {dataset.licence}\nPlease cite: {dataset.citation}"
    agreed = root / ".licences" / f"{name}.txt"
    if agreed.is_file() and agreed.read_text(encoding="utf-8") == text:
        return
    if not accept(text):
        raise DataError(
            f"The licence of {dataset.title} was not accepted; nothing was loaded. Answer y, or give --accept-licence."
        )
    paths.write_atomically(agreed, text)


def _fetch(address: catalog.Download, folder: Path) -> Path:
    arrived = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    needed = int(address.gigabytes * 2.2e9) - arrived  # the archive and what is in it; images hardly shrink
    require_space(folder, needed, f"Loading and unpacking {address.file}")
    archive = folder / address.file
    url = huggingface_hub.hf_hub_url(
        address.repository,
        address.file,
        repo_type="dataset",
        revision=address.revision,
        endpoint=os.environ.get("HF_ENDPOINT"),  # a mirror
    )
    try:
        _fetch_rest(url, archive)
    except (OSError, http.client.HTTPException) as error:
        raise DataError(
            f"{url} could not be loaded ({error}). What has arrived is kept: run the same command again to resume."
        ) from error
    found = sha256_of(archive, f"verifying {address.file}")
    if found != address.sha256:
        shutil.rmtree(folder)
        raise DataError(
            f"{address.file} has the SHA-256 {found} instead of {address.sha256}: damaged on its way, or another file. "
            f"It was removed; run the same command again."
        )
    return archive


def _fetch_rest(url: str, file: Path) -> None:
    """Append what is missing. Goes on after a broken connection for as long as every attempt brings something."""
    # huggingface_hub deletes what a killed process had loaded, so this is plain HTTP with a range.
    while True:
        before = file.stat().st_size if file.is_file() else 0
        try:
            return _append(url, file, before)
        except urllib.error.HTTPError as error:
            if error.code == 416 and before:  # nothing is missing; whether it is right, the checksum says
                return
            raise
        except (OSError, http.client.HTTPException):
            if not file.is_file() or file.stat().st_size <= before:
                raise


def _append(url: str, file: Path, start: int, block: int = 1 << 20) -> None:
    request = urllib.request.Request(url, headers={"Range": f"bytes={start}-"} if start else {})
    with urllib.request.urlopen(request, timeout=60) as answer:
        expected, received = int(answer.headers.get("Content-Length") or 0), 0
        blocks = iter(functools.partial(answer.read, block), b"")
        with open(file, "ab" if answer.status == 206 else "wb") as target:
            for content in Progress(blocks, desc=f"loading {file.name}, MiB", total=max(1, expected // block)):
                received += target.write(content)
        if received < expected:
            raise ConnectionError(f"the connection ended after {received:,} of {expected:,} bytes")


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a .zip or .tar of any compression; all members are checked before the first is written.

    Raises DataError: it is damaged or too large, or a member leads outside ``folder`` or is a link or device.
    """
    folder.mkdir(parents=True)
    try:
        zipped = zipfile.is_zipfile(archive)
        with zipfile.ZipFile(archive) if zipped else tarfile.open(archive) as opened:
            if zipped:
                extract = opened.extract
                members = [
                    (m, m.filename, m.file_size, not stat.S_ISLNK(m.external_attr >> 16)) for m in opened.infolist()
                ]
            else:
                extract = functools.partial(opened.extract, filter="data")
                members = [(m, m.name, m.size, m.isfile() or m.isdir()) for m in opened.getmembers()]
            for _, name, _, plain in members:
                path = PurePosixPath(name.replace("\\", "/"))
                if not plain or path.is_absolute() or ".." in path.parts or (path.parts and ":" in path.parts[0]):
                    raise DataError(
                        f"{archive}: its member '{name}' leads outside the folder or is a link. Nothing was unpacked: "
                        f"the archive is not to be trusted."
                    )
            require_space(folder, sum(size for _, _, size, _ in members), f"Unpacking {archive.name}")
            for member, *_ in Progress(members, desc=f"unpacking {archive.name}"):
                extract(member, folder)
    except Exception as error:  # a damaged archive makes its readers raise anything
        shutil.rmtree(folder)
        if isinstance(error, DataError):
            raise
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{archive} cannot be unpacked ({reason}). Remove it and load it again.") from error
