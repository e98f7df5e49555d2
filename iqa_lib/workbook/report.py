"""The pages that a study leaves: ``report.html`` of all notebooks, ``index.html`` of all tables and figures."""

import base64
import io
import json
from datetime import datetime
from pathlib import Path
from typing import Any

from markupsafe import Markup
from nbconvert import HTMLExporter
from PIL import Image

from iqa_lib import paths
from iqa_lib.metrics import in_words
from iqa_lib.paths import read_csv
from iqa_lib.profile import Profile
from iqa_lib.progress import templates
from iqa_lib.study.page import Page
from iqa_lib.training.runs import commit

TABLE_ROWS = 30
SHOWN_WIDTH = 1400  # px, of a figure on the page; its file has 300 dpi


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty where it is absent or half-written by a killed process."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def is_current(page: Path, *sources: Path) -> bool:
    """Whether the page is there, and no file that it was made from is newer."""
    return page.is_file() and page.stat().st_mtime >= max(source.stat().st_mtime for source in sources)


def write_report(notebooks: list, settings: Profile, versions: dict[str, str]) -> Path:
    """``runs/<profile>/report.html``: a section for each of the runner's notebooks, all in one file."""
    seen: set[str] = set()
    sections = [_section(notebook, seen) for notebook in notebooks]
    facts = [read_json(file) for file in (settings.folder / "store").glob("*/environment.json")]
    machines = sorted({f"{f['machine']}, {f['precision']}" for f in facts if "precision" in f})
    return _write(settings.folder / "report.html", settings, versions=versions, notebooks=sections, machines=machines)


def write_index(page: Page) -> Path:
    """``figures/<profile>/index.html``: every table and figure that this notebook or another of the profile saved."""
    stored = [read_json(result) for result in sorted((page.settings.folder / "results").glob("*.json"))]
    entries: dict[str, dict[str, dict]] = {"figures": {}, "tables": {}}  # by name: the first that is there
    for kind, named in entries.items():
        for entry in (entry for result in [page.saved, *stored] for entry in result.get(kind, [])):
            if (file := paths.HOME / entry["file"]).is_file():
                kinds = [file.with_suffix(suffix) for suffix in (".pdf", ".png", ".csv", ".tex")]
                named.setdefault(entry["name"], {**entry, "files": [f.name for f in kinds if f.is_file()]})
    tables = [{**entry, **_table(paths.HOME / entry["file"])} for entry in entries["tables"].values()]
    figures = list(entries["figures"].values())
    return _write(page.settings.figures / "index.html", page.settings, figures=figures, tables=tables)


def _write(path: Path, settings: Profile, **content: Any) -> Path:
    date = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z")
    template = templates(Path(__file__).parent).get_template(f"{path.name}.jinja")
    paths.write_atomically(path, template.render(settings=settings, date=date, commit=commit(), **content))
    return path


def _section(notebook: Any, seen: set[str]) -> dict[str, Any]:
    """What the template needs of a notebook; exhibits that an earlier one showed are not shown again."""
    result = read_json(notebook.result) if notebook.status in ("done", "skipped") else {}
    new = {kind: [e for e in result.get(kind, []) if e["file"] not in seen] for kind in ("figures", "tables")}
    seen.update(entry["file"] for entries in new.values() for entry in entries)
    return {
        "notebook": notebook,
        "html": _export_html(notebook.executed),
        "ipynb": f"notebooks/{notebook.executed.name}" if notebook.executed.is_file() else None,
        "numbers": {k: in_words(v, ".4g") if isinstance(v, float) else v for k, v in result.get("numbers", {}).items()},
        "tables": [{**t, **_table(paths.HOME / t["file"])} for t in new["tables"]],
        "figures": [{**f, "png": _embedded(paths.HOME / f["file"])} for f in new["figures"]],
        "shown_above": sum(len(result.get(kind, [])) - len(entries) for kind, entries in new.items()),
    }


def _export_html(executed: Path) -> str | None:
    """The executed notebook as a page beside it; None where it is absent or half-written."""
    page = executed.with_suffix(".html")
    try:
        if not is_current(page, executed):
            paths.write_atomically(page, HTMLExporter().from_filename(str(executed))[0])
    except (FileNotFoundError, ValueError):
        return None
    return f"notebooks/{page.name}"


def _table(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {"html": None, "left_out": 0}
    table = read_csv(file)
    html = table.head(TABLE_ROWS).to_html(index=False, border=0, na_rep="–", float_format="{:.4g}".format)
    return {"html": Markup(html), "left_out": max(len(table) - TABLE_ROWS, 0)}  # pandas escapes the cells


def _embedded(file: Path) -> str | None:
    """A figure as base64, reduced to the page's width; None where the file is gone or no image."""
    try:
        return base64.b64encode(reduced(file)).decode()
    except OSError:
        return None


def reduced(file: Path, colours: int | None = None) -> bytes:
    """A figure as PNG of the page's width; in so many ``colours``, a third as large. OSError where it is no image."""
    content = io.BytesIO()
    with Image.open(file) as image:
        image.thumbnail((SHOWN_WIDTH, 20 * SHOWN_WIDTH), Image.Resampling.LANCZOS)
        (image.convert("RGB").quantize(colours) if colours else image).save(content, "PNG", optimize=bool(colours))
    return content.getvalue()
