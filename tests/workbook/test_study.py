"""A study is published for those who lack its data, and repeated by those who have it."""

import json
import re
import shutil

import pandas as pd
import pytest
from tiny_study import Study

from iqa_lib import paths
from iqa_lib.__main__ import main
from iqa_lib.study.claims import NOT_JUDGED, beside_published, read_study
from iqa_lib.study.statistics import UNTOLD, VERDICTS
from iqa_lib.workbook.publish import MOST_BYTES, in_markdown, with_study

CLEAR, CLOSE = "a far better method beats a worse one", "a method beats one that is hardly worse"
JUDGE = f"""
import sys; sys.path.insert(0, {str(paths.CHECKOUT / "tests")!r})
import matplotlib.pyplot as plt, numpy as np, pandas as pd
from simulated import study
from iqa_lib import metrics
from iqa_lib.profile import Profile
from iqa_lib.study.differences import compare
from iqa_lib.study.page import Page
from iqa_lib.study.statistics import conclude, verdict_table
settings = Profile.from_notebook(globals())
page = Page(settings, "01_judges")
rng = np.random.default_rng(settings.seed)
score, (good, less, bad) = study(rng, [0.9, 0.88, 0.5], [3, 3, 3], images=1000)
differences = [compare(good, other, score, groups=None, resamples=200) for other in (bad, less)]
verdicts = verdict_table([({CLEAR!r}, None, differences[0]), ({CLOSE!r}, 0.02, differences[1])])
page.show(verdicts, "simulated_verdicts", "Verdicts | of <b>a</b> simulation")
"""
SHOW = """
page.show(pd.DataFrame({"image": ["somebody.jpg"], "score": [3.14]}), "worst")
page.show(plt.subplots()[1].imshow(np.zeros((4, 4, 3))).axes, "gallery", "A photograph")
page.show(plt.subplots()[1].plot([1, 2])[0].axes, "curve", "A curve")
page.finish(conclude(verdicts))
"""


PROFILE = "profile: tiny\ndataset: offline-wild-tiny\nbackbone: swin_test\nresolution: 64\ncrop_size: 64\n"


@pytest.fixture(scope="module")
def study(tmp_path_factory, built_data):
    """A home with a profile and one notebook, whose verdicts depend on the seed."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IQA_HOME", str(home))
        folders = {"HOME": "", "DATA": "data", "RUNS": "runs", "FIGURES": "figures", "NOTEBOOKS": "notebooks"}
        for name, folder in folders.items():
            patch.setattr(paths, name, home / folder)
        shutil.copytree(built_data, home / "data")
        (home / "notebooks").mkdir()
        (home / "tiny.yaml").write_text(PROFILE)
        study = Study(home)
        study.write("01_judges", JUDGE, SHOW)
        yield study


@pytest.fixture(scope="module")
def first(study):
    """The folder of the study, published."""
    folder = study.home / "published"
    assert main(["run", "--profile", study.profile, "--publish", str(folder)]) == 0
    return folder


@pytest.fixture
def published(first, tmp_path):
    """A copy of it, to be changed."""
    return shutil.copytree(first, tmp_path / "study")


def repeat(capsys, *arguments):
    code = main(["repeat", *map(str, arguments)])
    return code, " ".join("".join(capsys.readouterr()).split())


def change(published, **facts):
    file = published / "claims.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | facts))


# ---- published -------------------------------------------------------------------------------------------


def test_a_study_is_published_with_its_conclusions_claims_and_origin_and_without_its_data(study, published):
    assert {f.name for f in published.iterdir()} == {"README.md", "claims.json", "curve.png"}
    page, claims = (published / "README.md").read_text(), read_study(published)
    assert page.index("Holds in direction only") < page.index("The paper's claims") < page.index("![curve](curve.png)")
    assert claims.images["offline-wild-tiny"] in page and claims.settings.backbone == "swin_test"
    assert {c.claim: c.verdict for c in claims.claims if c.notebook}[CLEAR] == "holds in direction only"
    assert sum(c.verdict == NOT_JUDGED for c in claims.claims) == 6  # three datasets, two sizes of model, one of images
    for text in (page, (published / "claims.json").read_text()):
        assert "somebody.jpg" not in text and str(study.home) not in text
    assert "Left out, for they show the data: gallery, worst" in page
    assert r"Verdicts \| of \<b\>a" in page


def test_published_again_it_replaces_what_was_there_and_no_other_file(study, published):
    (published / "of_an_earlier_version.png").write_bytes(b"")
    (published / "notes.txt").write_text("mine")
    assert main(["run", "--profile", study.profile, "--publish", str(published)]) == 0
    assert {f.name for f in published.iterdir()} == {"README.md", "claims.json", "curve.png", "notes.txt"}


def test_a_folder_with_other_files_is_refused_before_anything_runs(study, tmp_path, capsys):
    own = tmp_path / "README.md"
    own.write_text("somebody's own")
    for place in (tmp_path, own):
        assert main(["run", "--profile", study.profile, "--publish", str(place), "-p", "seed=9"]) == 2
        told, refused = capsys.readouterr()
        assert "name an empty folder" in refused or "is no folder" in refused
        assert not told and own.read_text() == "somebody's own"


def test_half_a_study_is_not_published(study, tmp_path, capsys):
    folder = tmp_path / "study"
    assert main(["run", "--profile", study.profile, "--only", "01_judges", "--publish", str(folder)]) == 2
    assert "leave out --only" in capsys.readouterr().err
    study.write("02_fails", "1 / 0")
    assert main(["run", "--profile", study.profile, "--publish", str(folder)]) == 1
    (study.home / "notebooks/02_fails.ipynb").unlink()
    assert not folder.exists()


def test_a_study_of_ones_own_labels_is_not_published_for_nobody_could_repeat_it(study, tmp_path, capsys):
    assert (
        main(["run", "--profile", study.profile, "-p", "dataset=mine.csv", "--publish", str(tmp_path / "study")]) == 2
    )
    assert "'mine.csv' is no dataset of the catalog" in capsys.readouterr().err


# ---- repeated --------------------------------------------------------------------------------------------


def test_repeated_as_it_was_every_verdict_is_the_same_and_nothing_is_computed_again(published, capsys):
    code, told = repeat(capsys, published)
    assert code == 0 and "the same images and scores as published" in told
    assert "2 × same verdict" in told and "other verdict" not in told
    assert "01_judges: skipped" in told


def test_with_another_seed_the_claim_that_comes_out_otherwise_is_named_with_both_numbers(published, capsys):
    before = {claim.claim: claim for claim in read_study(published).claims}
    code, told = repeat(capsys, published, "-p", "seed=5")
    assert code == 1 and "1 × same verdict, 1 × other verdict" in told
    (row,) = re.findall(rf"other verdict │ ({CLOSE}.*?) │ (.*?) │ (.*?) │", told)
    assert row[1] == f"{before[row[0]].number} {before[row[0]].verdict}" and row[2] != row[1]
    assert row[2].split("] ")[1] in VERDICTS


def test_without_the_data_it_says_where_they_come_from(published, capsys):
    settings = read_study(published).settings.model_dump(mode="json")
    change(published, settings=settings | {"test_datasets": ["livec"]}, images={"livec": "0"})
    _, told = repeat(capsys, published)
    assert "LIVE In the Wild ('livec') is not in" in told and "It comes from https://" in told
    assert "2 × same verdict" in told  # of what is there

    change(published, settings=settings | {"dataset": "biq2021"})
    code, told = repeat(capsys, published)
    assert code == 2 and "cannot be repeated without its data" in told and "BIQ2021 ('biq2021') is not in" in told


def test_other_images_than_the_published_are_said_to_be_so(published, capsys):
    change(published, images={"offline-wild-tiny": "another"})
    assert "with other images, scores or decoding than published" in repeat(capsys, published)[1]


def test_what_a_failed_notebook_does_not_judge_is_not_taken_from_an_earlier_time(study, published, capsys):
    study.write("01_judges", JUDGE, "1 / 0")
    code, told = repeat(capsys, published)
    study.write("01_judges", JUDGE, SHOW)
    assert code == 1 and "2 × not repeated" in told and "same verdict" not in told


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "No published study in"),
        ("", "is damaged"),
        ('{"date": "today"}', "is damaged at about (Field required)"),
        ('{"about": "", "settings": {"profile": "../../mine"}}', "is damaged at settings → dataset"),
        ('{"claims": [{"verdict": "perhaps"}]}', "is damaged"),
        ("\udcff", "is damaged"),
    ],
)
def test_a_damaged_study_is_one_clear_line(tmp_path, capsys, content, said):
    if content is not None:
        (tmp_path / "claims.json").write_text(content, errors="surrogateescape")
    code, told = repeat(capsys, tmp_path)
    assert code == 2 and said in told and "Traceback" not in told


# ---- what the project's own says -------------------------------------------------------------------------


def test_the_readme_says_what_the_published_study_says():
    readme = (paths.CHECKOUT / "README.md").read_text()
    assert with_study(readme, read_study(paths.STUDY)) == readme and "claim of the paper" in readme
    assert len(readme.splitlines()) <= 150


def test_the_published_study_judges_the_papers_21_differences_or_says_why_not():
    claims = [c for c in read_study(paths.STUDY).claims if c.paper is not None and c.experiment != "attention"]
    assert len({(c.experiment, c.claim) for c in claims}) == 21
    assert all(c.remark for c in claims if c.verdict in (NOT_JUDGED, "does not hold", "holds in direction only"))


def test_the_published_study_is_small_and_its_page_shows_every_figure_that_is_there():
    files = {f.name: f.stat().st_size for f in paths.STUDY.iterdir()}
    assert sum(files.values()) <= MOST_BYTES
    shown = re.findall(r"^!\[.*?\]\((.*?)\)$", (paths.STUDY / "README.md").read_text(), re.M)
    assert {*shown, "README.md", "claims.json"} == set(files)


def test_verdicts_that_cannot_be_told_here_have_the_published_studys_beside_them(published, monkeypatch):
    here = pd.DataFrame({"claim": [CLEAR, CLOSE, "another"], "verdict": [UNTOLD, "does not hold", UNTOLD]})
    assert beside_published(here, "simulated_verdicts", "demo").equals(here)  # the project's has no such table
    monkeypatch.setattr(paths, "STUDY", published)
    assert beside_published(here, "simulated_verdicts", "demo").equals(here)  # surrogate scores tell nothing of people
    settings = read_study(published).settings.model_dump(mode="json")
    change(published, settings=settings | {"dataset": "biq2021"}, about="BIQ2021, MOS; frozen")
    (column,) = set(beside_published(here, "simulated_verdicts", "demo")) - set(here)
    assert column == "published study (BIQ2021, MOS)"
    clear, close, another = beside_published(here, "simulated_verdicts", "demo")[column]
    assert re.fullmatch(r"\+0\.\d{4} \[\+0\.\d{4}, \+0\.\d{4}\]: holds in direction only", clear)
    assert close == another == ""
    assert beside_published(here, "simulated_verdicts", "tiny").equals(here)  # the same study
    monkeypatch.setattr(paths, "STUDY", published / "absent")
    assert beside_published(here, "simulated_verdicts", "demo").equals(here)


def test_a_table_is_no_markup():
    assert in_markdown(pd.DataFrame({"a|b": ["<img>", None], "n": [0.123456, float("nan")]})).splitlines() == [
        r"| a\|b | n |",
        "| --- | --- |",
        r"| \<img\> | 0.1235 |",
        "| – | – |",
    ]
