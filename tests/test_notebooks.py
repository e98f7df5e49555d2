"""Every notebook runs: in batch through the runner, and by hand from its own folder."""

import ast
import json
import os
import subprocess
import sys

import nbformat
import pytest
from nbclient import NotebookClient

from iqa_lib import paths
from iqa_lib.profile import Profile

NOTEBOOKS = sorted(paths.NOTEBOOKS.glob("[0-9]*.ipynb"))
everyone = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)


def code_cells(path):
    return [c for c in nbformat.read(path, 4).cells if c.cell_type == "code"]


@everyone
def test_its_structure_is_that_of_a_workbook_page(path):
    notebook = nbformat.read(path, 4)
    cells = code_cells(path)
    assert notebook.metadata.kernelspec.name == "python3"
    assert "**Question.**" in notebook.cells[0].source
    assert sum("parameters" in c.metadata.get("tags", []) for c in cells) == 1
    assert len(cells) <= 13
    assert f'"{path.stem}"' in cells[-1].source and "outputs.record(" in cells[-1].source
    for cell in cells:
        assert not cell.outputs and cell.execution_count is None
        assert len(cell.source.splitlines()) <= 20
        tree = ast.parse(cell.source)
        assert not any(isinstance(node, ast.ClassDef | ast.While) for node in ast.walk(tree))
        if "parameters" not in cell.metadata.get("tags", []):
            assigned = {
                n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)
            }
            assert not assigned & (set(Profile.model_fields) - {"dataset"}), "would shadow a profile key"


@pytest.mark.slow
def test_the_whole_workbook_runs_in_batch_and_the_second_time_is_skipped(home):
    command = [sys.executable, "-m", "iqa_lib", "run", "--profile", "smoke"]
    env = {**os.environ, "IQA_HOME": str(home)}
    first = subprocess.run(command, env=env, capture_output=True, text=True)
    assert first.returncode == 0, first.stdout + first.stderr
    for path in NOTEBOOKS:
        result = json.loads((home / f"runs/smoke/results/{path.stem}.json").read_text())
        assert result["headline"] and result["figures"]
        for entry in result["figures"]:
            assert os.path.getsize(entry["file"]) > 5_000
    report = (home / "runs/smoke/report.html").read_text()
    assert all(p.stem in report for p in NOTEBOOKS)
    second = subprocess.run(command, env=env, capture_output=True, text=True)
    assert second.returncode == 0
    assert second.stdout.count("skipped (inputs unchanged)") >= len(NOTEBOOKS)


@pytest.mark.slow
@everyone
def test_it_runs_by_hand_from_its_own_folder_in_any_order(path, home):
    notebook = nbformat.read(path, 4)
    cell = next(c for c in notebook.cells if "parameters" in c.metadata.get("tags", []))
    cell.source = cell.source.replace('profile: str = "demo"', 'profile: str = "smoke"')
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(paths.NOTEBOOKS)}}).execute()
    assert (home / f"runs/smoke/results/{path.stem}.json").is_file()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-p", "learning_rat_head=1"], "learning_rate_head"),
        (["-p", "learning_rate_head=-1"], "learning_rate_head: -1 is not allowed"),
        (["-p", "dataset=absent.csv"], "absent.csv' does not exist"),
    ],
)
def test_a_users_mistake_is_one_clear_line_and_exit_code_2(home, arguments, message):
    command = [sys.executable, "-m", "iqa_lib", "run", "--profile", "smoke", "--only", "00_data", *arguments]
    done = subprocess.run(command, env={**os.environ, "IQA_HOME": str(home)}, capture_output=True, text=True)
    output = done.stdout + done.stderr
    assert done.returncode == 2, output
    assert message in " ".join(output.split())
    assert "Traceback" not in output
