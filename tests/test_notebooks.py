"""Every notebook runs: in batch through the runner, and by hand from its own folder."""

import ast
import copy
import json
import os
import re
import shutil
import subprocess
import sys

import nbformat
import numpy as np
import pandas as pd
import pytest
from nbclient import NotebookClient
from PIL import Image

from iqa_lib import paths
from iqa_lib.__main__ import main
from iqa_lib.profile import Profile
from iqa_lib.study import precisions as bench
from iqa_lib.study import statistics

NOTEBOOKS = sorted(paths.NOTEBOOKS.glob("[0-9]*.ipynb"))
VERDICTS = statistics.VERDICTS
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
    lines = [[line for line in c.source.splitlines() if line.strip()] for c in cells]
    assert (15 if path.stem == "10_paper_figures" else 24) <= sum(map(len, lines)) <= 80
    assert max(map(len, lines)) <= 10
    assert f'Page(settings, "{path.stem}"' in cells[2].source and "page.finish(" in cells[-1].source
    for cell in cells:
        assert not cell.outputs and cell.execution_count is None
        tree = ast.parse(cell.source)
        assert not any(isinstance(node, ast.ClassDef | ast.While) for node in ast.walk(tree))
        if "parameters" not in cell.metadata.get("tags", []):
            assigned = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
            assert not assigned & set(Profile.model_fields), "would shadow a profile key"


def run_workbook(home, *options):
    command = [sys.executable, "-m", "iqa_lib", "run", *options]
    return subprocess.run(command, env={**os.environ, "IQA_HOME": str(home)}, capture_output=True, text=True)


@pytest.fixture(scope="module")
def by_hand(tmp_path_factory, built_data):
    """A home where nothing ran: the last notebook finds no run, the others those of the ones after them."""
    home = tmp_path_factory.mktemp("by-hand")
    shutil.copytree(built_data, home / "data")
    return home


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS[::-1], ids=lambda p: p.stem)
def test_it_runs_by_hand_from_its_own_folder_in_any_order_and_again_in_the_same_kernel(path, by_hand, monkeypatch):
    monkeypatch.setenv("IQA_HOME", str(by_hand))
    notebook = nbformat.read(path, 4)
    cell = next(c for c in notebook.cells if "parameters" in c.metadata.get("tags", []))
    cell.source = cell.source.replace('profile: str = "demo"', 'profile: str = "smoke"')
    notebook.cells += [c for c in copy.deepcopy(notebook.cells) if c.cell_type == "code"]
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(paths.NOTEBOOKS)}}).execute()
    assert (by_hand / f"runs/smoke/results/{path.stem}.json").is_file()


@pytest.fixture(scope="module")
def finished(tmp_path_factory, by_hand):
    """A home in which the whole workbook has run on the profile ``smoke``; what by hand has trained is read."""
    home = tmp_path_factory.mktemp("finished")
    shutil.copytree(by_hand / "data", home / "data")
    if (by_hand / "runs").is_dir():
        shutil.copytree(by_hand / "runs/smoke/store", home / "runs/smoke/store")
    done = run_workbook(home, "--profile", "smoke")
    assert done.returncode == 0, done.stdout + done.stderr
    return home


@pytest.mark.slow
def test_the_whole_workbook_runs_in_batch(finished):
    for path in NOTEBOOKS:
        result = json.loads((finished / f"runs/smoke/results/{path.stem}.json").read_text())
        assert result["headline"] and result["figures"]
        for entry in result["figures"]:
            assert os.path.getsize(entry["file"]) > 5_000
    report = (finished / "runs/smoke/report.html").read_text()
    assert all(p.stem in report for p in NOTEBOOKS)


@pytest.mark.slow
def test_an_executed_notebook_holds_its_figures(finished):
    recorded = json.loads((finished / "runs/smoke/results/08_errors.json").read_text())["figures"]
    executed = nbformat.read(finished / "runs/smoke/notebooks/08_errors.ipynb", 4)
    outputs = [o for cell in executed.cells for o in cell.get("outputs", []) if "image/png" in o.get("data", {})]
    assert len(outputs) == len(recorded) > 0


@pytest.mark.slow
def test_every_experiment_leaves_its_exhibits_and_every_comparison_a_verdict(finished):
    folder = finished / "figures/smoke"
    assert set(pd.read_csv(folder / "experiments.csv")["state"]) == {"rebuilt"}
    for name in ("ablation", "fixed_regressor", "learning_rate", "loss", "augmentation", "cross_dataset"):
        table = pd.read_csv(folder / f"{name}_verdicts.csv")
        p = table["p (adjusted)"].dropna()  # undefined where these tiny models predict one score for all
        assert table["verdict"].isin(VERDICTS).all() and p.between(0, 1).all(), name
    for name in ("ablation", "learning_rate", "loss"):
        assert pd.read_csv(folder / f"{name}.csv")["paper: SRCC"].notna().any(), name
    assert pd.read_csv(folder / "protocols.csv")["change"].iloc[1] >= 0  # the best epoch on test is no worse


@pytest.mark.slow
def test_lower_precision_is_compared_on_the_whole_test_split(finished):
    table = pd.read_csv(finished / "figures/smoke/precisions.csv").set_index("precision")
    labels = pd.read_csv(finished / "data/offline-wild-tiny/labels.csv")
    whole = (labels["split"] == "test").sum()
    assert (table["n"].drop("bf16") == whole).all() and 0 < table["n"]["bf16"] <= whole  # emulated: as time allows
    assert table["largest change of a score"][bench.FLOAT_ONNX] < 1e-3
    assert table["largest change of a score"][bench.INT8_ONNX] > 0
    assert "INT8: SRCC" in bench.headline(table.reset_index())


@pytest.mark.slow
def test_the_index_page_links_every_table_and_figure_of_all_notebooks(finished):
    folder = finished / "figures/smoke"
    page = (folder / "index.html").read_text()
    linked = set(re.findall(r'(?:href|src)="([^"#]+)"', page))
    # 11_explorer and 12_rate run after the page was written
    later = {p.name for name in ("explorer", "raters", "rating_curve") for p in folder.glob(f"{name}.*")}
    assert {p.name for p in folder.iterdir()} - {"index.html"} - later == linked
    assert {"ablation_bars.pdf", "attention_against_score.png", "sota_table.tex"} <= linked


@pytest.mark.slow
def test_figures_have_300_dpi_and_embedded_fonts(finished):
    for png in (finished / "figures/smoke").glob("*.png"):
        with Image.open(png) as image:
            assert image.info["dpi"] == pytest.approx((300, 300), abs=0.1), png.name
        pdf = png.with_suffix(".pdf").read_bytes()
        assert b"/FontFile2" in pdf and b"/Subtype /Type3" not in pdf, png.name


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("pdflatex"), reason="needs LaTeX: apt install texlive-latex-recommended")
def test_every_latex_table_compiles(finished, tmp_path):
    tables = sorted((finished / "figures/smoke").glob("*.tex"))
    body = "\n\\clearpage\n".join(table.read_text() for table in tables)
    head = "\\documentclass{article}\n\\usepackage[utf8]{inputenc}\n\\usepackage{booktabs,graphicx}\n"
    (tmp_path / "all.tex").write_text(f"{head}\\begin{{document}}\n{body}\n\\end{{document}}\n")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "all.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]
    assert len(tables) > 20 and "Missing character" not in done.stdout
    assert "Overfull" not in done.stdout


@pytest.mark.slow
def test_the_second_time_all_is_skipped_and_a_deleted_run_alone_is_redone(finished):
    second = run_workbook(finished, "--profile", "smoke")
    assert second.returncode == 0
    assert second.stdout.count("skipped (inputs unchanged)") >= len(NOTEBOOKS)

    store = finished / "runs/smoke/store"
    (deleted,) = (p.parent for p in store.glob("*/run.json") if json.loads(p.read_text())["loss"] == "l2")
    before = {p: p.stat().st_mtime for p in store.glob("*/result.json")}
    shutil.rmtree(deleted)
    third = run_workbook(finished, "--profile", "smoke")
    assert third.returncode == 0, third.stdout + third.stderr
    redone = {line.split(":")[0] for line in third.stdout.splitlines() if ": done in" in line}
    assert redone == {"04_sensitivity", "10_paper_figures"}
    changed = {p for p, time in before.items() if p.stat().st_mtime != time}
    assert changed == {deleted / "result.json"}


@pytest.mark.slow
def test_the_papers_study_runs_through_every_notebook_on_a_shrunken_copy(tmp_path):
    """KonIQ-10k's exact layout, three images per split; small networks without weights on small crops, one epoch."""
    folder = tmp_path / "data" / "koniq10k"
    (folder / "1024x768").mkdir(parents=True)
    rng, lines = np.random.default_rng(0), ["image_name,c1,c2,c3,c4,c5,c_total,MOS,SD,set"]
    for number, split in enumerate(["training", "validation", "test"] * 3):
        pixels = rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((1024, 768)).save(folder / "1024x768" / f"{number}.jpg")
        lines.append(f"{number}.jpg,5,20,{40 - number},30,{5 + number},100,{20 + 7 * number},12.5,{split}")
    (folder / "koniq10k_distributions_sets.csv").write_text("\n".join(lines) + "\n")
    changes = {
        **{"test_datasets": "[]", "pretrained": "false", "epochs": 1, "seeds": "[0]", "train_crops": 1},
        **{"hyper_iqa_recipe": "same", "backbone": "swin_test", "backbone_base": "swin_test"},
        **{"backbone_tiny": "tf_efficientnet_lite0", "backbone_hyper_iqa": "swin_test"},
        **{"backbone_small": "null", "backbone_controls": "[]", "bootstrap_samples": 100},
        **{"resolution": 64, "crop_size": 64},
    }
    options = [f"{key}={value}" for key, value in changes.items()]
    # 09_complexity trains nothing and would only time these models; it runs on `smoke` above
    notebooks = [path.stem for path in NOTEBOOKS if path.stem != "09_complexity"]
    done = run_workbook(tmp_path, "--profile", "paper", "--only", *notebooks, "-p", *options)
    assert done.returncode == 0, done.stdout + done.stderr
    states = pd.read_csv(tmp_path / "figures/paper/experiments.csv")["state"]
    assert set(states) == {"rebuilt"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-p", "learning_rat_head=1"], "learning_rate_head"),
        (["-p", "learning_rate_head=-1"], "learning_rate_head: -1 is not allowed"),
        (["-p", "dataset=absent.csv"], "absent.csv' does not exist"),
    ],
)
def test_a_users_mistake_is_one_clear_line_and_exit_code_2(home, capsys, arguments, message):
    code = main(["run", "--profile", "smoke", "--only", "00_data", *arguments])
    output = "".join(capsys.readouterr())
    assert code == 2, output
    assert message in " ".join(output.split())
    assert "Traceback" not in output
