"""This project's own weights: the hybrid, the pictures it learns from, and a pretraining that anyone can repeat."""

import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from elsewhere import said, start
from PIL import Image
from safetensors.torch import load_file
from skimage import data

from iqa_lib.data import pictures
from iqa_lib.data.offline import PHOTOGRAPHS
from iqa_lib.errors import DataError
from iqa_lib.models.backbones import DEFAULT, WEIGHTS_HERE, Backbone, weights_fingerprint
from iqa_lib.models.smart_iqa import SmartIQA
from iqa_lib.profile import load_profile
from iqa_lib.training.runs import Run


def pretrain_in_two_epochs(labels):
    from iqa_lib.training.pretrain import pretrain

    pretrain("swin_test", Path(labels), epochs=2)


# --- the hybrid ---


def test_before_training_the_hybrid_is_its_convolutions():
    convolutions = Backbone("tf_efficientnet_lite0", pretrained=True).eval()
    hybrid = Backbone("swin_nano", pretrained=False).eval()
    hybrid.net.convolutions.load_state_dict(convolutions.net.state_dict())
    image = torch.randn(1, 3, 96, 160)  # any size will do, whole windows or not
    with torch.inference_mode():
        for ours, theirs in zip(hybrid(image), convolutions(image), strict=True):
            torch.testing.assert_close(ours, theirs)


def test_after_one_step_what_is_far_away_counts():
    """A change in one corner reaches the score's features of the other: through merging and shifted windows."""
    torch.manual_seed(0)
    hybrid = Backbone("swin_nano", pretrained=False).eval()
    with torch.no_grad():
        for parameter in hybrid.net.stages.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    convolutions = torch.randn(1, 320, 12, 12)
    maps = [torch.randn(1, c, s, s) for c, s in zip(hybrid.channels[:3], (96, 48, 24), strict=True)] + [convolutions]
    changed = [*maps[:3], convolutions.clone()]
    changed[3][..., 0, 0] += 1
    with torch.inference_mode():
        apart = (hybrid.net.attend(maps)[3] - hybrid.net.attend(changed)[3]).abs().amax(dim=(0, 1))
    assert apart[0, 0] > 0 and apart[8, 8] > 0


# --- the pictures ---


@pytest.fixture(scope="module")
def few_pictures(tmp_path_factory):
    """A folder with eight of scikit-image's photographs in place of the wallpapers, and the set made of them."""
    tmp_path = tmp_path_factory.mktemp("pictures")
    names = ("astronaut", "chelsea", "coffee", "rocket", "brick", "gravel", "grass", "camera")
    table = pictures.listed().head(len(names))
    for file, name in zip(table["file"], names, strict=True):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(getattr(data, name)()).convert("RGB").save(tmp_path / file)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pictures, "listed", lambda: table)
        patch.setattr(pictures, "VIEWS", {"wallpaper": 1, "photograph": 1, "scene": 1})
        patch.setattr(pictures, "SCENES", 1)
        patch.setattr(pictures, "PER_VIEW", dict.fromkeys(pictures.PER_VIEW, 1))
        pictures.build(tmp_path / "set", tmp_path)
        yield tmp_path


def test_every_listed_picture_has_author_and_free_licence():
    table = pictures.listed()
    assert table["file"].is_unique and table.notna().all(axis=None)
    assert set(table["licence"]) <= {
        "CC-BY-SA-3.0", "CC-BY-SA-4.0", "CC-BY-4.0", "CC0-1.0", "GPL-2+", "LGPLv3"
    }  # fmt: skip


def test_missing_pictures_are_told_with_the_way_to_get_them(tmp_path):
    with pytest.raises(DataError, match=r"57 of 57 pictures.*apt-get install.*gnome-backgrounds.*--pictures"):
        pictures.build(tmp_path / "set", tmp_path)


@pytest.mark.slow
def test_the_set_has_pictures_held_out_and_none_that_the_embedded_sets_test_on(few_pictures, tmp_path):
    labels = few_pictures / "set/labels.csv"
    table = pd.read_csv(labels)
    assert set(table["split"]) == {"train", "val", "test"}
    assert table.groupby("reference")["split"].nunique().max() == 1
    assert not set(table["reference"]) & {*PHOTOGRAPHS["test"].split(), *PHOTOGRAPHS["val"].split()}
    assert (table.loc[table["distortion"] == "none", "score"] == 100).all()
    assert table["score"].between(0, 100).all() and table["severity"].between(0, 1).all()
    stopped = tmp_path / "stopped"
    shutil.copytree(few_pictures / "set", stopped)
    (stopped / "labels.csv").unlink()
    shutil.rmtree(stopped / "photograph-00")
    untouched = (stopped / "wallpaper-00/labels.csv").stat().st_mtime_ns
    assert pictures.build(stopped, few_pictures).read_bytes() == labels.read_bytes()
    assert (stopped / "wallpaper-00/labels.csv").stat().st_mtime_ns == untouched


# --- pretraining ---


@pytest.mark.slow
def test_a_killed_pretraining_goes_on_to_the_same_weights(few_pictures, tmp_path):
    labels = few_pictures / "set/labels.csv"

    def elsewhere(name, kill_when=None):
        process = start(tmp_path / name, pretrain_in_two_epochs, str(labels))
        while kill_when and process.exitcode is None:
            if kill_when(tmp_path / name):
                process.kill()
            time.sleep(0.01)
        process.join(300)
        assert process.exitcode == (-signal.SIGKILL if kill_when else 0), said(tmp_path / name)

    def after_an_epoch(home):
        return any(home.glob("runs/pretraining/*/state.pt"))

    def weights_of(name):
        (file,) = (tmp_path / name).glob("runs/pretraining/*/model.safetensors")
        return file.read_bytes()

    elsewhere("undisturbed")
    elsewhere("killed", after_an_epoch)
    assert not list((tmp_path / "killed").glob("runs/pretraining/*/model.safetensors"))
    elsewhere("killed")
    assert weights_of("killed") == weights_of("undisturbed")


@pytest.mark.slow
def test_the_command_makes_the_file_that_the_package_ships(few_pictures, home):
    from iqa_lib.training import pretrain

    shutil.copytree(few_pictures / "set", home / "data/pretraining")
    made = pretrain.make_weights("swin_nano", 1, 0, str(few_pictures))
    ours, shipped = load_file(made), load_file(WEIGHTS_HERE / "swin_nano.safetensors")
    assert {k: (v.shape, v.dtype) for k, v in ours.items()} == {k: (v.shape, v.dtype) for k, v in shipped.items()}
    assert np.isfinite(pd.read_json(made.with_name("epochs.jsonl"), lines=True).to_numpy(float)).all()


# --- what is shipped ---


def test_the_shipped_backbone_is_small_and_not_the_bare_convolutions():
    file = WEIGHTS_HERE / "swin_nano.safetensors"
    assert file.stat().st_size <= 16e6
    assert sum(f.stat().st_size for f in DEFAULT.iterdir()) <= 16e6
    assert all(tensor.dtype in (torch.float16, torch.int64) for tensor in load_file(file).values())
    shipped = SmartIQA(backbone="swin_nano", pretrained=True).backbone
    assert shipped.net.stages[3].merge.reduction.weight.abs().max() > 0


def test_the_default_model_prefers_a_photograph_to_its_spoilt_copies():
    from iqa_lib.data.distortions import distort

    model = SmartIQA.default()
    image = data.coffee()[:384, :384]  # never trained on
    spoilt = [distort(image, kind, 5) for kind in ("gaussian-blur", "jpeg", "white-noise", "pixelate")]
    crops = torch.from_numpy(np.stack([image, *spoilt])).permute(0, 3, 1, 2)
    with torch.inference_mode():
        score, *worse = model(model.backbone.normalize(crops)).tolist()
    assert score > max(worse) + 10
    assert min(worse) >= 0 and score <= 110


def test_other_weights_under_the_same_name_are_another_run(tmp_path):
    files = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    for number, file in enumerate(files):
        file.write_bytes(bytes([number]))
    first, second = (Run(load_profile("smoke", pretrained=str(f)), "data") for f in files)
    assert first.folder != second.folder
    files[0].write_bytes(b"changed")
    assert Run(load_profile("smoke", pretrained=str(files[0])), "data").folder != first.folder
    assert weights_fingerprint("resnet50.tv_in1k", True) is None  # told by its name
