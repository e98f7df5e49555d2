"""README: every measured number has beside it the command that makes it, and every command is one that exists."""

import re
import shlex
import subprocess
import sys

import pytest

from iqa_lib import paths

README = (paths.CHECKOUT / "README.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", README, re.S | re.M))
MEASURED = re.compile(r"(?<![\w.])[+−-]?0\.\d{2,}|× \d|\d (?:min|GB|crops)\b")
BY = re.compile(r"<!-- by: (.+?) -->")
VERBS = ["run", "train", "score", "finetune", "export", "bench", "data", "pretrain"]


@pytest.mark.parametrize("section", [name for name, text in SECTIONS.items() if MEASURED.search(text)])
def test_a_section_with_measured_numbers_names_what_makes_them(section):
    assert BY.search(SECTIONS[section]), f"## {section}: add <!-- by: command --> below its numbers"


@pytest.mark.parametrize("command", sorted(set(BY.findall(README))))
def test_a_named_command_exists(command):
    words = shlex.split(command.split(" (")[0])
    words = [w for w in words if not re.fullmatch(r"[A-Z_]+=.*", w)]
    if words[0] == "make":
        makefile = (paths.CHECKOUT / "Makefile").read_text(encoding="utf-8")
        assert re.search(rf"^{words[1]}:", makefile, re.M)
    elif words[1] == "-m":
        assert words[2] == "iqa_lib" and words[3] in VERBS
    else:
        assert (paths.CHECKOUT / words[1]).is_file()


@pytest.mark.parametrize("script", ["benchmarks/plain.py", "benchmarks/scoring.py"])
def test_a_benchmark_says_what_it_takes(script):
    done = subprocess.run([sys.executable, str(paths.CHECKOUT / script), "--help"], capture_output=True, text=True)
    assert done.returncode == 0 and "usage" in done.stdout
