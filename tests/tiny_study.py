"""A workbook of tiny notebooks, in a home of its own."""

from pathlib import Path

import nbformat
from rich.console import Console

from iqa_lib.workbook.runner import run_workbook

# A stand-in for `Page.finish`, which takes seconds to import: the runner reads the file alone.
RECORD = """
import json, os, pathlib
def record(name, headline="fine", **more):
    result = {"headline": headline, "numbers": {}, "figures": [], "tables": [], "runs": [], **more}
    folder = pathlib.Path(os.environ["IQA_HOME"], "runs", "tiny", "results")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(result))
"""


class Study:
    def __init__(self, home: Path):
        self.home, self.folder, self.profile = home, home / "runs" / "tiny", str(home / "tiny.yaml")

    def write(self, name: str, *cells: str, needs: tuple[str, ...] = (), share: float | None = None) -> None:
        parameters = nbformat.v4.new_code_cell('profile = "tiny"\nmood = "calm"', metadata={"tags": ["parameters"]})
        code = [nbformat.v4.new_code_cell(c) for c in (RECORD, *cells)]
        kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
        notebook = nbformat.v4.new_notebook(
            cells=[parameters, *code], metadata={"kernelspec": kernel, "iqa": {"needs": list(needs), "share": share}}
        )
        for number, cell in enumerate(notebook.cells):
            cell.id = f"cell-{number}"
        nbformat.write(notebook, self.home / "notebooks" / f"{name}.ipynb")

    def run(self, overrides=None, **options) -> tuple[int, str]:
        console = Console(record=True, file=open("/dev/null", "w"), width=200)  # noqa: SIM115
        code = run_workbook(self.profile, overrides or {}, console=console, **options)
        return code, console.export_text()

    def report(self) -> str:
        return (self.folder / "report.html").read_text()
