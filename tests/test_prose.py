"""Prose: a measured number is the paper's, or has beside it the command that makes it; a named command exists.

Prose is README, the pages of docs/, model cards, the notebooks' text and the profiles' comments.
"""

import re
import shlex
import subprocess
import sys

import nbformat
import pytest

from iqa_lib import __main__, paths

PAGES = ["README.md", "docs/rating.md", "docs/statistics.md", "data/README.md", "iqa_lib/models/weights/README.md"]
MEASURED = re.compile(
    r"(?<![\w.])[+−-]?0?\.\d{2,}(?!\.)|× \d|\b\d+ (?:min|minutes|GB|s|seconds|crops)\b"
    r"|(?<![/.\d])(?!95|80 % power)\d+(?:\.\d+)?\s?%"
    r"|(?<![\w.,/-])(?<!= )(?<!more than )0\.\d(?![\w.]| M\b)"
)
NOT_OURS = re.compile(
    r"\bpaper(?:'s)?\b|\bpublished\b|\breference code\b|\bunless a profile says\b"
    r"|% of (?:the start|(?:the|its) training images)|at most 20 GB",
    re.I,
)
BY = re.compile(
    r"<!-- (?:written )?by: (.+?) -->|`((?:python3? (?:-m iqa_lib|\S+\.py)|make \w+)[^`]*)`|`(tests/\S+\.py)`"
)
VERBS = list(__main__.VERBS.choices)


def _read(name: str) -> str:
    return (paths.CHECKOUT / name).read_text(encoding="utf-8")


def _sections() -> dict[str, str]:
    """Each section of a page, cell of a notebook and comment of a profile, by a name to find it."""
    found = {}
    for page in PAGES:
        for number, text in enumerate(re.split(r"^(?=##? )", _read(page), flags=re.M)):
            found[f"{page} {number}"] = text
    for notebook in sorted(paths.NOTEBOOKS.glob("*.ipynb")):
        for number, cell in enumerate(nbformat.read(notebook, 4).cells):
            if cell.cell_type == "markdown":
                found[f"{notebook.name} {number}"] = cell.source
    for profile in sorted(paths.PROFILES.glob("*.yaml")):
        found[profile.name] = "\n".join(re.findall(r"# .*", _read(f"notebooks/profiles/{profile.name}")))
    return found


SECTIONS = _sections()


def _measured(text: str) -> list[str]:
    """The sentences and rows with measured numbers that are not said to be somebody else's."""
    sentences = re.split(r"(?<=[.:;])\s|\n(?=\|)|\n\n", text)
    return [s for s in sentences if MEASURED.search(s) and not NOT_OURS.search(s)]


def _without_command(text: str) -> list[str]:
    """Those with no command in their paragraph; a table and a comment alone belong to the paragraph before."""
    paragraphs = re.split(r"\n{2,}(?!\||<!--)", text)
    return [s for paragraph in paragraphs if not _commands(paragraph) for s in _measured(paragraph)]


def _commands(text: str) -> list[str]:
    return [" ".join(next(filter(None, groups)).split()) for groups in BY.findall(text)]


@pytest.mark.parametrize("section", [name for name, text in SECTIONS.items() if _measured(text)])
def test_measured_numbers_have_the_command_that_makes_them(section):
    lacking = _without_command(SECTIONS[section])
    assert not lacking, f"{section}: add <!-- by: command --> to the paragraph\n" + "\n".join(lacking)


@pytest.mark.parametrize("command", sorted({c for text in SECTIONS.values() for c in _commands(text)}))
def test_a_named_command_exists(command):
    words = [w for w in shlex.split(command.split(" (")[0]) if not re.fullmatch(r"[A-Z_]+=.*", w)]
    if words[0] == "make":
        assert re.search(rf"^{words[1]}:", _read("Makefile"), re.M)
    elif words[1:3] == ["-m", "iqa_lib"]:
        assert words[3] in [*VERBS, "--help"]
    else:
        assert (paths.CHECKOUT / words[-1 if len(words) == 1 else 1]).is_file()


@pytest.mark.parametrize(
    "text",
    [
        "SRCC 0.93 on KADID-10k.",
        "SRCC 0.9 on KADID-10k.",
        "It took 12 min.",
        "A step is × 4 faster.",
        "Right in 93%.",
        "SRCC .93 on KADID-10k.",
        "At 97 % of the speed.",
        "It took 12 minutes.",
    ],
)
def test_a_number_without_its_command_is_found(text):
    assert _without_command(f"{text}\n\nThis is another's: 0.77 (`make test`).")
    assert not _without_command(f"Said by `make test`:\n\n| {text} |") and not _without_command(f"{text} `make test`")
    assert not _measured(f"{text.rstrip('.')} in the paper.")


@pytest.mark.parametrize("script", ["benchmarks/plain.py", "benchmarks/scoring.py"])
def test_a_benchmark_says_what_it_takes(script):
    done = subprocess.run([sys.executable, str(paths.CHECKOUT / script), "--help"], capture_output=True, text=True)
    assert done.returncode == 0 and "usage" in done.stdout
