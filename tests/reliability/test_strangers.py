"""A checkpoint from a stranger cannot run code, and one that does not fit is refused by the names of its tensors."""

import json
import os
import pickle
import shutil
import zipfile

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from iqa_lib import SmartIQA, load_reference_checkpoint
from iqa_lib.data.images import load_images
from iqa_lib.errors import CheckpointError, RunError, WeightsError
from iqa_lib.models import backbones
from iqa_lib.models.backbones import Backbone
from iqa_lib.profile import load_profile
from iqa_lib.training.runs import Run
from iqa_lib.training.train import train


class Attack:
    """Unpickled, it leaves a canary."""

    def __init__(self, canary):
        self.canary = canary

    def __reduce__(self):
        return os.mkdir, (str(self.canary),)


def bare(attack):
    return pickle.dumps(attack)


def beside_tensors(attack):
    return pickle.dumps({"model": {"weight": attack}})


def torch_zip(attack, path):
    torch.save({"model": {"weight": torch.zeros(2)}, "epochs": attack}, path)


def renamed_in_zip(attack, path):
    """A sound file whose pickle was exchanged."""
    torch.save({"weight": torch.zeros(2)}, path)
    with zipfile.ZipFile(path) as sound:
        members = {name: sound.read(name) for name in sound.namelist()}
    with zipfile.ZipFile(path, "w") as forged:
        for name, content in members.items():
            forged.writestr(name, bare(attack) if name.endswith("data.pkl") else content)


def plain_zip(attack, path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model.pkl", bare(attack))


DISGUISES = (bare, beside_tensors, torch_zip, renamed_in_zip, plain_zip)


def write_attack(disguise, path, canary):
    if disguise in (bare, beside_tensors):
        path.write_bytes(disguise(Attack(canary)))
    else:
        disguise(Attack(canary), path)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_malicious_pickle_runs_nothing_wherever_it_is_offered(home, tmp_path, record):
    settings = load_profile("smoke")
    images = load_images(settings)
    run = Run(settings, images.fingerprint)
    run.folder.mkdir(parents=True)
    (run.folder / "model.safetensors").touch()  # without weights no state is gone on from
    model = SmartIQA(backbone="swin_test", image_size=64, pretrained=False)
    model.save_pretrained(tmp_path / "saved")
    doors = {
        "reference.pkl": (CheckpointError, load_reference_checkpoint),
        "reference.pth": (CheckpointError, load_reference_checkpoint),
        "backbone.pth": (WeightsError, lambda path: Backbone("swin_test", pretrained=path, image_size=64)),
        "backbone.safetensors": (WeightsError, lambda path: Backbone("swin_test", pretrained=path, image_size=64)),
        "saved/model.safetensors": (CheckpointError, lambda path: SmartIQA.from_pretrained(path.parent)),
        str(run.folder / "state.pt"): (RunError, lambda path: train(settings, images)),
    }
    offered = 0
    for disguise in DISGUISES:
        canary = tmp_path / f"canary of {disguise.__name__}"
        if disguise is bare:  # the attack works where nothing forbids it
            pickle.loads(bare(Attack(canary)))
            assert canary.is_dir()
            canary.rmdir()
        for place, (error, offer) in doors.items():
            path = tmp_path / place
            write_attack(disguise, path, canary)
            with pytest.raises(error, match="can be read safely") as refused:
                offer(path)
            assert path.name in str(refused.value) and "weights_only" not in str(refused.value)
            assert not canary.exists()
            offered += 1
    record("strangers", "a malicious pickle as .pkl, .pth, zip, safetensors, state.pt", offered, "no code was run")


# --- tensors that do not fit ------------------------------------------------------------------------------


def without_one(tensors):
    name = max(tensors)
    return {k: v for k, v in tensors.items() if k != name}, f"missing {name}"


def with_one_more(tensors):
    return {**tensors, "stray": torch.zeros(3)}, "unknown stray"


def misshapen(tensors):
    name = max(tensors, key=lambda k: tensors[k].numel())
    wrong = tensors[name][:-1].clone()
    return {**tensors, name: wrong}, f"{name} is {tuple(wrong.shape)}, expected {tuple(tensors[name].shape)}"


def not_finite(tensors):
    name = max(tensors, key=lambda k: tensors[k].numel())
    spoilt = tensors[name].clone()
    spoilt.view(-1)[7] = float("nan")
    return {**tensors, name: spoilt}, f"{name} holds values that are not finite"


def whole_numbers(tensors):
    name = max(tensors, key=lambda k: tensors[k].numel())
    return {**tensors, name: torch.ones_like(tensors[name], dtype=torch.int8)}, f"{name} is torch.int8"


FAULTS = (without_one, with_one_more, misshapen, not_finite, whole_numbers)


def whole_network(name):
    """timm's network of this shape, with its classifier."""
    architecture, shape, _ = backbones.OWN_SHAPES[name]
    return timm.create_model(architecture, **shape, img_size=192 if name == "swin_nano_plain" else 64)


def test_tensors_that_do_not_fit_are_named_at_every_door(home, tmp_path, monkeypatch, record):
    whole = whole_network("swin_test").state_dict()
    backbone = {name: tensor for name, tensor in whole.items() if not name.startswith("head.")}
    run = train(load_profile("smoke", epochs=1))
    nano = Backbone("swin_nano", pretrained=False).net.state_dict()
    monkeypatch.setattr(backbones, "WEIGHTS_HERE", tmp_path)

    def offer_backbone(path):
        return Backbone("swin_test", pretrained=path, image_size=64)

    doors = {
        tmp_path / "backbone.safetensors": (WeightsError, backbone, offer_backbone),
        run.folder / "model.safetensors": (
            CheckpointError,
            load_file(run.folder / "model.safetensors"),
            lambda path: run.load_model(),
        ),
        tmp_path / "swin_nano.safetensors": (WeightsError, nano, lambda path: Backbone("swin_nano")),
    }
    offered = 0
    for path, (error, sound, offer) in doors.items():
        save_file(sound, path)
        offer(path)
        for fault in FAULTS:
            tensors, named = fault(sound)
            save_file(tensors, path)
            with pytest.raises(error) as refused:
                offer(path)
            assert named in str(refused.value), refused.value
            offered += 1
    record(
        "strangers", "missing, extra, misshapen, NaN, integer tensors in three kinds of weights", offered, "all named"
    )


def test_another_size_is_refused_by_its_tensors(tmp_path, record):
    tiny = SmartIQA("tiny", pretrained=False)
    tiny.save_pretrained(tmp_path / "model")
    config = tmp_path / "model" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "model_size": "base"}))
    with pytest.raises(CheckpointError, match=r"model.safetensors' does not fit the model: .*expected"):
        SmartIQA.from_pretrained(tmp_path / "model")
    save_file(whole_network("swin_nano_plain").state_dict(), tmp_path / "other.safetensors")
    with pytest.raises(WeightsError, match=r"does not fit backbone 'swin_test': .*expected"):
        Backbone("swin_test", pretrained=tmp_path / "other.safetensors", image_size=64)
    record("strangers", "weights of another size: tiny offered to base, nano to test", 2, "all named")


def test_a_folder_that_holds_no_model_says_what_is_missing(tmp_path, record):
    SmartIQA(backbone="swin_test", image_size=64, pretrained=False).save_pretrained(tmp_path / "sound")
    spoil = {
        "no weights": lambda folder: (folder / "model.safetensors").unlink(),
        "no settings": lambda folder: (folder / "config.json").unlink(),
        "settings torn": lambda folder: (folder / "config.json").write_text("{"),
        "settings of nothing": lambda folder: (folder / "config.json").write_text("[1]"),
        "an unknown backbone": lambda folder: (folder / "config.json").write_text('{"backbone": "swim"}'),
        "a strange number": lambda folder: (folder / "config.json").write_text(
            '{"backbone": "swin_test", "image_size": "many"}'
        ),
    }
    for what, act in spoil.items():
        shutil.copytree(tmp_path / "sound", tmp_path / what)
        act(tmp_path / what)
        with pytest.raises((CheckpointError, WeightsError)):
            SmartIQA.from_pretrained(tmp_path / what)
    record("strangers", "a folder without model, settings, or with strange ones", len(spoil), "all refused")


def test_a_state_that_is_not_this_runs_is_refused(home, record):
    settings = load_profile("smoke")
    images = load_images(settings)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("iqa_lib.training.train._finish", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):  # after the last epoch: its state is there
            train(settings, images)
    (file,) = home.glob("runs/smoke/store/*/state.pt")
    sound = torch.load(file, weights_only=True)
    name = max(sound["model"], key=lambda k: sound["model"][k].numel())
    strange = [
        *({k: v for k, v in sound.items() if k != key} for key in sound),
        {**sound, "model": {**sound["model"], name: sound["model"][name] * float("nan")}},
        {**sound, "model": {k: v for k, v in sound["model"].items() if k != name}},
        {**sound, "optimizer": {"state": {}, "param_groups": []}},
        {**sound, "epochs": sound["epochs"][1:]},
        {**sound, "best": {"srcc": 0.5, "epoch": 99}},
        [1, 2],
        sound["model"],
    ]
    for state in strange:
        torch.save(state, file)
        with pytest.raises(
            RunError, match=r"state\.pt' (is not the state of this run|does not fit).*Remove the folder"
        ):
            train(settings, images)
    torch.save(sound, file)
    assert train(settings, images).complete
    record("strangers", "a run's state with parts missing, of another model, miscounted", len(strange), "all refused")
