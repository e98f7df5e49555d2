"""A finished study, published for people who lack its data.

``docs/study/`` holds a page (``README.md``), its figures, and `iqa_lib.study.claims`' ``claims.json``. Nothing of the
data goes there: no figure that shows an image, no table with a row per image.
"""

import re
from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd

from iqa_lib import paths
from iqa_lib.data import catalog
from iqa_lib.data.images import load_all
from iqa_lib.errors import StudyError
from iqa_lib.paths import read_csv
from iqa_lib.profile import Profile
from iqa_lib.study import claims
from iqa_lib.study.claims import JudgedClaim, PublishedStudy
from iqa_lib.study.page import about_numbers
from iqa_lib.study.statistics import VERDICTS
from iqa_lib.workbook.report import read_json, reduced

PAGE = "README.md"  # which GitHub shows with the folder
MOST_BYTES = 6_000_000
COLOURS = 256  # of a figure
README_PART = ("<!-- published study -->", "<!-- end of the published study -->")


def require_publishable(settings: Profile, folder: Path) -> None:
    """Before anything runs.

    Raises StudyError where publishing would write among other files, or what nobody could repeat; StorageError where it
    cannot write.
    """
    paths.require_target(folder, folder=True)
    if folder.is_dir() and any(folder.iterdir()) and not (folder / claims.FILE).is_file():
        raise StudyError(f"{folder} has files and no published study: name an empty folder, or one to be made.")
    for name in (settings.dataset, *settings.test_datasets):
        if name not in catalog.CATALOG:
            raise StudyError(f"'{name}' is no dataset of the catalog: nobody else could repeat this study.")


def publish(settings: Profile, folder: Path) -> str:
    """Write the finished study of this profile into ``folder``; what was written and left out, in a sentence."""
    require_publishable(settings, folder)
    names = [source.stem for source in sorted(paths.NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))]
    results = {name: read_json(settings.folder / "results" / f"{name}.json") for name in names}
    if lacking := [name for name, result in results.items() if not result]:
        raise StudyError(f"{', '.join(lacking)} did not come to an end: a study is published as a whole.")
    study = _gather(settings, results)
    shown, left_out = _exhibits(results)
    files = {entry["name"]: reduced(paths.HOME / entry["file"], COLOURS) for entry in shown if "table" not in entry}
    page = _page(study, results, shown, left_out)
    content = {claims.FILE: (study.model_dump_json(indent=1) + "\n").encode(), PAGE: page.encode()}
    content |= {f"{name}.png": png for name, png in files.items()}
    if (size := sum(map(len, content.values()))) > MOST_BYTES:
        raise StudyError(f"the study takes {size / 1e6:.1f} MB, more than {MOST_BYTES / 1e6:.0f}: nothing was written")
    for name, part in content.items():
        paths.write_atomically(folder / name, part)
    for stale in {*folder.glob("*.png")} - {folder / name for name in content}:
        stale.unlink()
    if folder.resolve() == paths.STUDY and (readme := paths.CHECKOUT / PAGE).is_file():
        paths.write_atomically(readme, with_study(readme.read_text(encoding="utf-8"), study))
    without = f"; left out, for they show the data: {', '.join(left_out)}" if left_out else ""
    return f"{folder}: {len(study.claims)} claims, {len(files)} figures, {size / 1e6:.1f} MB{without}"


# ---- what is published -----------------------------------------------------------------------------------


def _gather(settings: Profile, results: dict[str, dict]) -> PublishedStudy:
    sets = load_all(settings)
    runs = {Path(entry["file"]).parent for result in results.values() for entry in result.get("runs", [])}
    made_in = {run.name: read_json(paths.HOME / run / "environment.json") for run in sorted(runs)}
    versions: dict[str, set] = {}
    for made in made_in.values():
        for package, version in {"python": made.get("python"), **made.get("versions", {})}.items():
            versions.setdefault(package, set()).add(str(version))
    all_claims = [*judged(settings, results), *claims.not_judged(settings, sets[settings.dataset])]
    order = [claim.experiment for claim in all_claims]
    return PublishedStudy(
        about=about_numbers(settings),
        settings=settings.model_copy(update={"data_folder": None, "cell_timeout": None}),  # of this machine
        images={name: images.fingerprint for name, images in sets.items()},
        test_images={name: len(images.rows("test")) for name, images in sets.items()},
        runs={name: made.get("seconds", 0.0) for name, made in made_in.items()},
        commits=sorted({made["commit"] for made in made_in.values() if "commit" in made}),
        versions={package: ", ".join(sorted(found)) for package, found in versions.items()},
        machines=sorted({f"{m['machine']}, {m['precision']}" for m in made_in.values() if "precision" in m}),
        date=f"{datetime.now():%Y-%m-%d}",
        claims=sorted(all_claims, key=lambda claim: order.index(claim.experiment)),
    )


def judged(settings: Profile, results: dict[str, dict]) -> list[JudgedClaim]:
    """The claims in the tables of verdicts of these notebooks; one that two show is the first's."""
    found: dict[tuple[str, str], JudgedClaim] = {}
    for notebook, result in results.items():
        for entry in result.get("tables", []):
            table = read_csv(paths.HOME / entry["file"])
            if {"verdict", "claim"} <= set(table):
                for claim in claims.of_table(settings, notebook, entry["name"], table):
                    found.setdefault((claim.experiment, claim.claim), claim)
    return list(found.values())


def _exhibits(results: dict[str, dict]) -> tuple[list[dict[str, Any]], list[str]]:
    """Figures and tables, each once, with their notebook; and the names of those that show the data itself."""
    shown: dict[str, dict] = {}
    left_out: dict[str, None] = {}
    for notebook, result in results.items():
        for entry in result.get("figures", []):
            if entry.get("shows images", True):
                left_out[entry["name"]] = None
            else:
                shown.setdefault(entry["file"], {**entry, "notebook": notebook})
        for entry in result.get("tables", []):
            table = read_csv(paths.HOME / entry["file"])
            if "image" in table:
                left_out[entry["name"]] = None
            else:
                shown.setdefault(entry["file"], {**entry, "notebook": notebook, "table": table})
    return list(shown.values()), list(left_out)


# ---- as Markdown, for GitHub and the site ----------------------------------------------------------------


def _page(study: PublishedStudy, results: dict[str, dict], shown: list[dict], left_out: list[str]) -> str:
    by = _by(study)
    facts = {
        "numbers": study.about,
        "images": "; ".join(
            f"{name}: {count:,} test images, fingerprint {study.images[name]}"
            for name, count in study.test_images.items()
        ),
        "runs": f"{len(study.runs)}, trained in {sum(study.runs.values()):,.0f} s altogether",
        "machines": "; ".join(study.machines),
        "versions": ", ".join(f"{name} {version}" for name, version in study.versions.items()),
        "commits": ", ".join(study.commits),
        "published": study.date,
    }
    parts = [
        f"# The study on {study.ratings}",
        f"Repeat it: `python -m iqa_lib repeat docs/study`. For machines: [{claims.FILE}]({claims.FILE}).",
        "## Conclusions",
        "\n".join(f"- **{name}**: {_text(result['headline'])}" for name, result in results.items()),
        by,
        "## The paper's claims",
        in_markdown(claim_table(study)),
        by,
        "## Where it comes from",
        in_markdown(pd.DataFrame(facts.items(), columns=["", " "])),
        by,
    ]
    if left_out:
        parts.append(f"Left out, for they show the data: {', '.join(left_out)}.")
    for notebook in results:
        parts.append(f"## {notebook}")
        for entry in (e for e in shown if e["notebook"] == notebook):
            picture = f"![{entry['name']}]({entry['name']}.png)"
            shows = f"\n{in_markdown(entry['table'])}" if "table" in entry else picture
            parts += [f"{_text(entry['caption'])}\n{shows}", by]
    return "\n\n".join(parts) + "\n"


def claim_table(study: PublishedStudy) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "about": claim.experiment.replace("_", " "),
            "claim of the paper": claim.claim,
            "paper": "–" if claim.paper is None else f"{claim.paper:+.4g}",
            "here [95 %]": claim.number,
            "verdict": claim.verdict,
            "could be seen": claim.smallest_detectable,
            "why the two may differ, or what would decide it": claim.remark,
        }
        for claim in study.claims
    )


def with_study(readme: str, study: PublishedStudy) -> str:
    """The README with its part on the published study as that says; unchanged where it has no such part."""
    begin, end = README_PART
    counts = Counter(claim.verdict for claim in study.claims)
    told = ", ".join(f"{counts[v]} × {v}" for v in (*VERDICTS, claims.NOT_JUDGED) if counts[v])
    images = ", ".join(f"{count:,} test images of {name}" for name, count in study.test_images.items())
    part = [
        begin,
        "![Ablation: test SRCC with 95 % intervals, a dash for each seed](docs/study/ablation_bars.png)",
        f"*{study.about}; {images}; {len(study.runs)} runs ({study.date}).* Of {len(study.claims)} claims: {told}. "
        f"*Could be seen*: the smallest true difference that such a study finds four times in five.",
        in_markdown(claim_table(study)),
        _by(study),
        end,
    ]
    return re.sub(f"{begin}.*?{end}", lambda _: "\n\n".join(part), readme, flags=re.S)


def _by(study: PublishedStudy) -> str:
    return f"<!-- by: python -m iqa_lib run --profile {study.profile} --publish docs/study -->"


def in_markdown(table: pd.DataFrame) -> str:
    rows = [list(table), ["---"] * len(table.columns), *table.itertuples(index=False)]
    return "\n".join(f"| {' | '.join(map(_cell, row))} |" for row in rows)


def _cell(value: object) -> str:
    if value is None or pd.isna(value):
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else _text(str(value))


def _text(text: str) -> str:
    """Without what Markdown would read as markup."""
    return re.sub(r"[\\`*|<>]", r"\\\g<0>", text).replace("\n", " ")
