"""The audit of others' splits: what crosses the sides, who chose the epoch, what n can show; on real lists too."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from iqa_lib import __main__, paths
from iqa_lib.errors import DataError
from iqa_lib.study.audit import audit


@pytest.fixture
def listed(tmp_path):
    """Writes a list of 120 images, 40 train, 20 val, 60 test, changed by the given columns; returns its path."""

    def write(**columns):
        table = pd.DataFrame({"image": [f"{n}.png" for n in range(120)]})
        table["split"] = np.repeat(["train", "val", "test"], [40, 20, 60])
        table.assign(**columns).to_csv(tmp_path / "split.csv", index=False)
        return str(tmp_path / "split.csv")

    return write


def epochs(chosen_by_validation, best_on_test, count=5):
    """Scores, and predictions of epochs that are noisier wherever they are not the best."""
    rng = np.random.default_rng(0)
    score, is_test = rng.uniform(0, 100, 120), np.arange(120) >= 60
    best = {False: chosen_by_validation, True: best_on_test}
    noise = {n: np.where([n == best[t] for t in is_test], 10, 30) for n in range(1, count + 1)}
    return {"score": score, **{f"epoch_{n:02}": score + noise[n] * rng.normal(size=120) for n in noise}}


def test_a_list_of_names_and_sides_alone_is_judged(listed):
    report = audit(listed())
    assert report.faults == [] and report.images == 120
    notes = " ".join(report.notes)
    assert "40 train, 20 val, 60 test" in notes and "n is 60, the images" in notes and "0 images are here" in notes


def test_images_and_references_on_both_sides_are_named(listed):
    reference = [f"r{n // 4}" for n in range(120)]  # r14 ends val, r15 begins test
    reference[119] = "r0"
    names = [f"{n}.png" for n in range(120)]
    names[118] = "5.png"
    same, shared = audit(listed(reference=reference, image=names)).faults
    assert same.startswith("1 of 60 test images (1.7%) are also images trained or validated on: 5.png and 5.png")
    assert shared.startswith("1 of 60") and "of one reference with" in shared and "119.png and 0.png" in shared


def test_equal_files_and_near_copies_are_found_where_the_images_are(listed, tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "DATA", tmp_path / "data")  # where they are remembered
    rng = np.random.default_rng(0)
    for n in range(120):
        Image.fromarray(rng.integers(0, 256, (32, 32), dtype=np.uint8)).save(tmp_path / f"{n}.png")
    (tmp_path / "60.png").write_bytes((tmp_path / "7.png").read_bytes())
    with Image.open(tmp_path / "45.png") as image:
        image.resize((64, 64), Image.Resampling.NEAREST).save(tmp_path / "90.png")
    equal, alike = audit(listed()).faults
    assert "equal in every byte to" in equal and "60.png and 7.png" in equal
    assert "near-copies of" in alike and "90.png and 45.png" in alike


@pytest.mark.parametrize("published", ["srcc", "prediction"])
def test_the_epoch_that_is_best_on_test_is_recognised_where_it_is_published(listed, published):
    columns = epochs(chosen_by_validation=2, best_on_test=4)
    note = next(note for note in audit(listed(**columns)).notes if "epoch" in note)
    assert note.startswith("epoch_04 is the best of 5 on test") and "epoch_02, which validation chooses" in note
    test = pd.DataFrame(columns)[60:]
    srcc = round(test["score"].corr(test["epoch_04"], method="spearman"), 3)
    if published == "srcc":
        (fault,) = audit(listed(**columns), srcc=srcc).faults
    else:
        given = np.where(np.arange(120) < 60, "", columns["epoch_04"].astype(str))  # of the test images alone
        (fault,) = audit(listed(**columns, prediction=given)).faults
    assert fault.startswith("What is published is the best epoch on test") and f"{srcc:.3f}" in fault


def test_epochs_without_validation_can_be_chosen_on_test_alone(listed):
    columns = epochs(2, 4)
    report = audit(listed(**columns, split=np.repeat(["train", "test"], 60)))
    (fault,) = report.faults
    assert "only the test can choose" in fault and "epoch_05, the last" in fault
    assert any("ask on which images" in note for note in report.notes)


def test_what_n_cannot_show_is_at_fault_and_shared_references_leave_less(listed):
    def smallest(report):
        (note,) = [note for note in report.notes if note.startswith("Between two models")]
        return float(note.split("of ")[1].split(" ")[0])

    fine = audit(listed(), claims=[0.5])
    assert fine.faults == []
    (fault,) = audit(listed(), claims=[0.5, 0.001]).faults
    assert "0.001 is claimed" in fault and "images would find it" in fault
    reference = [f"r{n // 10}" for n in range(120)]
    few = audit(listed(reference=reference))
    assert any("n is 6, the references" in note and "rough" in note for note in few.notes)
    assert smallest(few) > smallest(fine)
    assert smallest(audit(listed(), srcc=0.98)) < smallest(audit(listed(), srcc=0.7))


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"split": "testing, mostly"}, "split 'testing, mostly' of 0.png is none of train, val, test"),
        ({"split": "train"}, "fewer than 3 images have split 'test'"),
        ({"image": "0.png"}, "0.png is in train twice"),
        ({"epoch1": 1.5}, "60.png has no number as score"),
        ({"score": 1.5, "prediction": "high"}, "60.png has no number as prediction"),
    ],
)
def test_what_cannot_be_judged_is_refused_in_words(listed, columns, said):
    with pytest.raises(DataError, match=said):
        audit(listed(**columns))


def test_numbers_out_of_range_and_a_list_without_sides_are_refused(listed, tmp_path):
    with pytest.raises(DataError, match="between 0 and 1"):
        audit(listed(), srcc=91)
    (tmp_path / "bare.csv").write_text("image,score\na.png,1\nb.png,2\n")
    with pytest.raises(DataError, match="no column 'split'"):
        audit(str(tmp_path / "bare.csv"))


def test_koniqs_official_list_passes_and_a_random_split_of_kadid_does_not(shared_data, tmp_path, capsys):
    official = str(shared_data / "labels" / "koniq10k_distributions_sets.csv")
    assert __main__.main(["audit", official]) == 0
    assert "7,058 train, 1,000 val, 2,015 test" in capsys.readouterr().out
    table = pd.read_csv(shared_data / "labels" / "kadid10k.txt")
    side = np.where(np.random.default_rng(0).random(len(table)) < 0.2, "test", "train")
    table.assign(split=side).to_csv(tmp_path / "kadid.csv", index=False)
    assert __main__.main(["audit", str(tmp_path / "kadid.csv"), "--srcc", "0.93", "--claims", "0.004"]) == 1
    said = capsys.readouterr().out
    assert "(100.0%) are of one reference" in said and "n is 81, the references" in said and "0.004 is claimed" in said
