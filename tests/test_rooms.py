"""The library is a house of rooms: each imports only from rooms before it, and no two files import one another."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import iqa_lib

HOUSE = Path(iqa_lib.__file__).parent
ORDER = [
    *("errors", "paths", "progress", "machine", "profile", "metrics"),
    *("models", "data", "training", "scoring", "study", "explorer", "rating", "workbook", "__main__"),
]


def imported_by(file: Path) -> set[str]:
    """Modules of the library that a file imports, anywhere in it, as dotted names without the library's own."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "iqa_lib":
            inner = node.module.removeprefix("iqa_lib").lstrip(".")
            for alias in node.names:
                dotted = f"{inner}.{alias.name}".lstrip(".")
                names.add(dotted if module_file(dotted) else inner)
    return names


def module_file(dotted: str) -> Path | None:
    place = HOUSE.joinpath(*dotted.split("."))
    return next((f for f in (place.with_suffix(".py"), place / "__init__.py") if f.is_file()), None)


def imports() -> dict[str, set[str]]:
    files = [file for file in HOUSE.rglob("*.py") if file.name != "__init__.py"]
    return {".".join(f.relative_to(HOUSE).with_suffix("").parts): imported_by(f) for f in files}


def test_no_room_imports_from_a_room_after_it():
    upward = [
        f"{module} imports {other}"
        for module, others in imports().items()
        for other in others
        if ORDER.index(other.split(".")[0]) > ORDER.index(module.split(".")[0])
    ]
    assert not upward


def test_no_two_files_import_one_another():
    TopologicalSorter(imports()).prepare()  # raises CycleError, which names them


def test_the_top_level_has_few_files_and_rooms():
    entries = [entry for entry in HOUSE.iterdir() if entry.name != "__pycache__"]
    assert sum(entry.is_dir() for entry in entries) <= 9
    assert sum(entry.is_file() for entry in entries) <= 8


def test_no_file_is_longer_than_a_reader_takes_in():
    long = {str(f.relative_to(HOUSE)): n for f in HOUSE.rglob("*.py") if (n := len(f.read_text().splitlines())) > 450}
    assert not long
