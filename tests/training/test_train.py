"""Training: repeatable to the bit, resumable from any moment, stored once, honest about failure."""

import functools
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pandas as pd
import psutil
import pytest
import torch
from accelerate.utils import set_seed
from torch.utils._python_dispatch import TorchDispatchMode

from iqa_lib import machine, paths
from iqa_lib.data.augment import jitter_colours
from iqa_lib.data.crops import grid
from iqa_lib.data.images import ImageSet, load_images
from iqa_lib.errors import CheckpointError, RunError
from iqa_lib.models import smart_iqa
from iqa_lib.profile import load_profile
from iqa_lib.training import evaluate, runs
from iqa_lib.training.batches import FrozenBatches, ImageBatches, training_crops
from iqa_lib.training.evaluate import predict
from iqa_lib.training.loop import Loop, _optimizer, _schedule, build_model
from iqa_lib.training.runs import Run
from iqa_lib.training.train import train

FROZEN = {"freeze_backbone": True}


def test_an_installed_package_does_not_take_the_repository_around_it_for_its_own(monkeypatch):
    assert "installed" not in runs.commit()
    monkeypatch.setattr(paths, "INSTALLED", True)
    assert runs.commit() == "none (an installed package)"


@pytest.mark.parametrize("options", [{}, FROZEN, {"method": "hyper_iqa"}, {"use_attention": False}], ids=str)
def test_a_run_is_complete_and_can_be_read_back(home, options):
    run = train(load_profile("smoke", **options))
    files = {p.name for p in run.folder.iterdir()}
    assert files >= {"result.json", "run.json", "epochs.jsonl", "predictions.parquet", "environment.json"}
    assert "state.pt" not in files
    assert len(run.epochs) == 2
    assert set(run.predictions["split"]) == {"val", "test"}
    attention = [c for c in run.predictions if c.startswith("alpha")]
    with_attention = options in ({}, FROZEN)
    assert attention == (["alpha1", "alpha2", "alpha3", "alpha4"] if with_attention else [])
    if with_attention:
        np.testing.assert_allclose(run.predictions[attention].sum(axis=1), 1, rtol=1e-5)
    srcc = run.measure(100)["SRCC"]
    assert -1 <= srcc.low <= srcc.value <= srcc.high <= 1 and srcc.value == run.srcc


def test_a_training_killed_right_after_its_result_leaves_no_state_behind(home):
    settings = load_profile("smoke", epochs=1)
    state = train(settings).folder / "state.pt"
    state.touch()
    train(settings)
    assert not state.exists()


def test_images_kept_on_the_device_train_the_same_run(home, monkeypatch):
    settings = load_profile("smoke", colour_jitter=0.2, resolution=96)
    # A GPU rounds the jittered colours another way, and adds in another order.
    same = {"check_exact": True} if machine.device().type == "cpu" else {"rtol": 1e-2}
    monkeypatch.setattr(ImageSet, "fits", lambda images, device: False)
    from_the_processor = train(settings).predictions
    shutil.rmtree(home / "runs")
    monkeypatch.setattr(ImageSet, "fits", lambda images, device: True)
    monkeypatch.setattr(ImageSet, "image", lambda images, row: SimpleNamespace(shape=images._sizes[row]))
    pd.testing.assert_frame_equal(train(settings).predictions, from_the_processor, **same)


def labels_of(batches, loop):
    """All of them, where the model is."""
    return torch.from_numpy(batches.labels).to(loop.accelerator.device)


class Waits(TorchDispatchMode):
    """Counts what would make the processor wait for a GPU: reading a number, or a shape that depends on numbers."""

    count = 0

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        waits = (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default)
        self.count += function in waits
        return function(*arguments, **options or {})


@pytest.mark.parametrize("options", [{}, FROZEN], ids=["whole", "frozen"])
def test_a_training_step_never_waits_for_the_device(home, options):
    settings = load_profile("smoke", precision="bf16", **options)
    images = load_images(settings)
    loop, rows = Loop.start(settings, images), images.rows("train")[:8]
    batches = FrozenBatches(settings, loop.model, images, rows)
    if not options:
        batches = ImageBatches(settings, loop.model, images, batches.crops, 1)
    data, label = batches.read(np.arange(16)), labels_of(batches, loop)
    with Waits() as waits:
        loss = loop.step(batches.stages(data), label, 1.0)
        assert waits.count == 0
        assert np.isfinite(loss.item()) and waits.count == 1


def test_the_same_settings_are_trained_once(home, monkeypatch):
    first = train(load_profile("smoke"))
    monkeypatch.setattr("iqa_lib.training.train._train", pytest.fail)
    assert train(load_profile("smoke")).folder == first.folder


@pytest.mark.parametrize("precision", ["bf16", "float32"])
def test_a_run_that_the_version_before_stored_is_read(home, monkeypatch, precision):
    """It hashed every key, and its profiles named a precision where `auto` stands now."""
    run = train(load_profile("smoke", epochs=1))
    old = run.folder.rename(run.folder.with_name(f"{run.folder.name.rpartition('-')[0]}-0123456789ab"))
    config = json.loads((old / "run.json").read_text()) | {"precision": precision}
    (old / "run.json").write_text(json.dumps(config))
    monkeypatch.setattr("iqa_lib.training.train._train", pytest.fail)
    assert train(load_profile("smoke", epochs=1)).folder == old
    assert train(load_profile("smoke", epochs=1, precision=precision)).folder == old
    assert Run(load_profile("smoke", epochs=2), run.config["data_fingerprint"]).folder != old


def test_a_new_key_at_its_default_leaves_every_run_its_name(home, monkeypatch):
    settings = load_profile("smoke")
    before = Run(settings, "data").folder
    monkeypatch.setitem(runs.DEFAULTS, "new_key", False)
    dump = type(settings).model_dump
    for value, same in ((False, True), (True, False)):
        monkeypatch.setattr(
            type(settings), "model_dump", lambda *a, value=value, **k: dump(*a, **k) | {"new_key": value}
        )
        assert (Run(settings, "data").folder == before) == same


def test_other_settings_or_other_data_are_another_run(home):
    folder = train(load_profile("smoke", epochs=1)).folder
    assert train(load_profile("smoke", epochs=1, seed=1)).folder != folder
    labels = home / "data/offline-wild-tiny/labels.csv"
    table = pd.read_csv(labels)
    table.loc[0, "score"] -= 1
    table.to_csv(labels, index=False)
    assert train(load_profile("smoke", epochs=1)).folder != folder


@pytest.mark.parametrize("options", [{}, FROZEN], ids=["whole", "frozen"])
def test_training_learns_what_is_there_to_learn(home, options):
    """A network that works fits its training images better and better."""
    rates = {"learning_rate_backbone": 6e-3, "learning_rate_head": 6e-3}
    epochs = train(load_profile("smoke", epochs=20, train_crops=4, patience=20, **rates, **options)).epochs
    assert epochs["train_loss"].min() < 0.9 * epochs["train_loss"].iloc[0]


def test_a_frozen_backbone_does_not_move(home):
    settings = load_profile("smoke", **FROZEN)
    set_seed(settings.seed)
    fresh = build_model(settings).backbone.state_dict()
    trained = train(settings).load_model().backbone.state_dict()
    assert all(torch.equal(fresh[k], trained[k].cpu()) for k in fresh)


def test_of_a_backbone_tuned_late_only_what_lies_behind_stride_8_moves(home):
    """Neither depthwise kernels, whose gradients are slow, nor the norms' statistics do."""
    settings = load_profile("smoke", backbone="mobilenetv3_small_050", pretrained=False, tuned="late", epochs=1)
    set_seed(settings.seed)
    fresh = build_model(settings).backbone.net
    trained = train(settings).load_model().backbone.net.state_dict()
    moved = {k for k, tensor in fresh.state_dict().items() if not torch.equal(tensor, trained[k].cpu())}
    expected = {k for k, _ in fresh.named_parameters() if k[:8] in ("blocks.2", "blocks.3", "blocks.4", "blocks.5")}
    assert {k for k in expected if "conv_dw" not in k} >= moved > set()
    assert {k.split(".")[1] for k in moved} == {"2", "3", "4", "5"}


def test_training_goes_on_from_the_default_model_where_a_profile_says_so(home):
    from iqa_lib.models.smart_iqa import SmartIQA

    settings = load_profile("finetune", crop_size=64, resolution=64, dataset="offline-wild-tiny", epochs=1)
    ours, shipped = build_model(settings).state_dict(), SmartIQA.default().state_dict()
    assert all(torch.equal(ours[name], tensor) for name, tensor in shipped.items())
    with pytest.raises(CheckpointError, match="`pretrained: default` does not fit the model of these settings"):
        build_model(settings.model_copy(update={"use_attention": False}))
    run = train(settings)
    assert run.config["weights_fingerprint"]
    tuned = run.load_model().state_dict()
    assert all(torch.equal(tuned[k].cpu(), shipped[k]) for k in shipped if k.startswith("backbone."))
    assert any(not torch.equal(tuned[k].cpu(), shipped[k]) for k in shipped if k.startswith("head."))


def test_cached_features_score_as_the_whole_network_does(home):
    settings = load_profile("smoke", **FROZEN)
    run, images = train(settings), load_images(settings)
    whole = predict(load_profile("smoke"), run.load_model(), images, images.rows("test"))
    stored = run.predictions.query("split == 'test'")["prediction"].to_numpy()
    np.testing.assert_allclose(whole["prediction"], stored, atol=0.05)  # the cache is float16


def test_images_scored_in_batches_score_as_crop_by_crop(home):
    settings = load_profile("smoke", resolution=96)
    images, model = load_images(settings), build_model(settings).eval()
    rows = images.rows("test")[:5]
    for row, score in zip(rows, predict(settings, model, images, rows)["prediction"], strict=True):
        image_1CHW = torch.tensor(images.image(row)).permute(2, 0, 1)[None]
        corners = grid(*image_1CHW.shape[2:], 64)
        crops = [image_1CHW[..., top : top + 64, left : left + 64] for top, left in corners]
        with torch.no_grad():
            one_by_one = [model(model.backbone.normalize(crop)).item() for crop in crops]
        assert len(crops) > 1
        assert score == pytest.approx(np.mean(one_by_one), abs=1e-4)


def test_a_compiled_model_learns_as_the_plain_one_does(home, monkeypatch):
    """Up to the compiler proper, which would take a minute of each test run."""
    quick = functools.partialmethod(torch.nn.Module.compile, backend="aot_eager")
    monkeypatch.setattr(torch.nn.Module, "compile", quick)
    losses = []
    for compiled in (False, True):
        settings = load_profile("smoke", method="hyper_iqa", compile=compiled)
        images = load_images(settings)
        set_seed(0)
        loop = Loop.start(settings, images)
        crops = training_crops(settings, images, images.rows("train")[:8], np.random.default_rng(0))
        batch = ImageBatches(settings, loop.model, images, crops, 1)
        data, label = batch.read(np.arange(16)), labels_of(batch, loop)
        losses.append([loop.step(batch.stages(data), label, 1.0).item() for _ in range(3)])
        assert compiled == any(m._compiled_call_impl is not None for m in loop.model.backbone.net.modules())
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-3)
    assert Run(settings, "").folder == Run(settings.model_copy(update={"compile": False}), "").folder


def test_compiling_without_a_compiler_is_refused(home, monkeypatch):
    from torch._inductor import config

    monkeypatch.setattr(config.cpp, "cxx", ("no-such-compiler",))
    monkeypatch.setattr(config, "force_disable_caches", True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)  # a GPU has a compiler of its own
    smart_iqa._require_compiler.cache_clear()
    torch.compiler.reset()
    with pytest.raises(RunError, match=r"torch\.compile does not work here.*`compile` to false"):
        train(load_profile("smoke", compile=True))


def train_in(home, processes, changes, kill_one_when=None) -> tuple[int, str]:
    """Exit code and messages of a training by that many processes; SIGKILL for the last once it holds."""
    # `accelerate launch --cpu` starts one process, however many it is asked for.
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    launch += ["-m", "iqa_lib", "train", "--profile=smoke", "--experiment=training"]
    launched = subprocess.Popen(
        [*launch, "-p", *changes],
        env=os.environ
        | {"IQA_HOME": str(home), "ACCELERATE_USE_CPU": "true"}
        | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    if kill_one_when:
        while not kill_one_when():
            assert launched.poll() is None, launched.communicate()
            time.sleep(0.005)
        workers = psutil.Process(launched.pid).children(recursive=True)
        next(w for w in workers if w.environ().get("RANK") == str(processes - 1)).kill()
    _, messages = launched.communicate(timeout=180)
    return launched.returncode, messages


@pytest.mark.parametrize(
    "kill, change", [(True, "epochs=4"), (False, "freeze_backbone=true")], ids=["whole, one killed", "frozen"]
)
def test_two_processes_train_as_one_does_even_if_one_is_killed(tmp_path, built_data, kill, change):
    """HyperIQA, because dropout draws differ between processes by design."""
    changes = ["method=hyper_iqa", "learning_rate_head=1e-4", "precision=float32", change]
    losses = []
    for processes in (1, 2):
        home = tmp_path / str(processes)
        shutil.copytree(built_data, home / "data")
        if kill and processes == 2:
            code, messages = train_in(home, 2, changes, lambda home=home: any(home.glob("runs/smoke/store/*/state.pt")))
            assert code and not list(home.glob("runs/smoke/store/*/result.json")), messages
            # The other process notices it, or its launcher does and ends the other.
            assert re.search(r"error: Another of the 2 .* was killed.* go on|Interrupted\..* resumes", messages)
        code, messages = train_in(home, processes, changes)
        assert code == 0, messages
        (log,) = home.glob("runs/smoke/store/*/epochs.jsonl")
        losses.append(pd.read_json(log, lines=True)["train_loss"].to_numpy())
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-4)


def rates_of(settings, steps):
    optimizer = _optimizer(build_model(settings), settings)
    factors = _schedule(settings, optimizer, steps // settings.epochs)
    return [
        np.array([group["lr"] * factor(step) for step in range(steps + 1)])
        for group, factor in zip(optimizer.param_groups, factors, strict=True)
    ]


def test_the_learning_rate_warms_up_and_never_rises_again():
    for rates in rates_of(load_profile("smoke", epochs=10), 1000):
        peak = int(np.argmax(rates))
        assert 0 < peak < 100
        assert (np.diff(rates[peak:]) <= 0).all()
        assert rates[-1] == pytest.approx(0.01 * rates[peak])


def test_the_papers_schedule_raises_the_backbones_rate_to_its_floor():
    """The reference's fault, kept under its own name: the cosine ends at 1e-6, above the backbone's 5e-7."""
    rates = {"learning_rate_backbone": 5e-7, "learning_rate_head": 5e-6}
    backbone, head = rates_of(load_profile("smoke", protocol="paper", epochs=10, **rates), 1000)
    assert backbone[0] == pytest.approx(5e-7) and backbone[-1] == pytest.approx(1e-6)
    assert head[0] == pytest.approx(5e-6) and head[-1] == pytest.approx(1e-6)


def test_the_papers_protocol_chooses_on_the_test_set_and_validates_on_nothing(home):
    images = load_images(load_profile("smoke"))
    settings = load_profile("smoke", protocol="paper", epochs=3)
    run = train(settings)
    assert not any(c.startswith("val") for c in run.epochs)
    assert run.result["best_epoch"] == run.epochs["test_srcc"].idxmax() + 1
    assert set(run.predictions["split"]) == {"test"}
    assert run.srcc == pytest.approx(run.epochs["test_srcc"].max())
    assert len(load_images(settings).rows("train")) == len(images.rows("train")) + len(images.rows("val"))


def test_the_test_set_is_scored_once_at_the_end(home, monkeypatch):
    scored = []

    def predict(settings, model, images, rows, what, crops):
        scored.append(what)
        return evaluate.predict(settings, model, images, rows, what, crops)

    monkeypatch.setattr(sys.modules[train.__module__], "predict", predict)
    run = train(load_profile("smoke", epochs=3))
    assert scored == ["val", "val", "val", "val", "test"]  # the last two with the kept weights
    assert not any(column.startswith("test") for column in run.epochs)


def test_the_test_set_can_be_watched_and_chooses_nothing(home):
    plain = train(load_profile("smoke", epochs=3))
    watched = train(load_profile("smoke", epochs=3, watch_test=True))
    pd.testing.assert_frame_equal(watched.predictions, plain.predictions, rtol=1e-3)  # a GPU repeats no bits
    best = watched.result["best_epoch"]
    assert best == watched.epochs["val_srcc"].idxmax() + 1
    assert watched.srcc == pytest.approx(watched.epochs["test_srcc"][best - 1], abs=1e-6)


def test_predictions_of_the_test_split_that_are_no_numbers_are_refused_at_the_end(home, monkeypatch):
    def predict(settings, model, images, rows, what, crops):
        table = evaluate.predict(settings, model, images, rows, what, crops)
        return table.assign(prediction=np.nan) if what == "test" else table

    monkeypatch.setattr(sys.modules[train.__module__], "predict", predict)
    settings = load_profile("smoke", epochs=2)
    with pytest.raises(RunError, match="split 'test' are not finite"):
        train(settings)
    assert len(Run(settings, load_images(settings).fingerprint).epochs) == 2


@pytest.mark.parametrize("frozen", [False, True], ids=["whole", "frozen"])
@pytest.mark.parametrize("change", [{"flip": False}, {"random_crop": False}, {"colour_jitter": 0.4}], ids=str)
def test_every_augmentation_changes_what_is_learnt(home, change, frozen):
    common = {"epochs": 1, "freeze_backbone": frozen, "resolution": 96}
    plain = train(load_profile("smoke", **common))
    assert train(load_profile("smoke", **common, **change)).epochs["train_loss"][0] != plain.epochs["train_loss"][0]


def test_without_random_crops_every_crop_is_the_centre(home):
    settings = load_profile("smoke", random_crop=False, flip=False, resolution=96)
    images = load_images(settings)
    crops = training_crops(settings, images, images.rows("train")[:2], np.random.default_rng(0))
    height, width = images.image(crops[0][0]).shape[:2]
    assert set(crops[:2]) == {(crops[0][0], (height - 64) // 2, (width - 64) // 2, False)}


def test_random_crops_of_other_test_images_are_scored_anew(home):
    settings = load_profile("smoke", epochs=1)
    images = load_images(settings)
    run, rows = train(settings, images), images.rows("test")
    first = evaluate.score_random_crops(run, images, rows[:3])
    others = evaluate.score_random_crops(run, images, rows[-3:])
    assert not np.allclose(first, others)
    np.testing.assert_array_equal(evaluate.score_random_crops(run, images, rows[:3]), first)


def test_colour_jitter_acts_on_pixels_and_repeats_with_its_seed():
    crops = torch.randint(60, 190, (2, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    changed = jitter_colours(crops.clone(), 0.3, [(0, 1), (0, 2)])
    assert changed.dtype == torch.uint8 and not torch.equal(changed, crops)
    assert torch.equal(changed, jitter_colours(crops.clone(), 0.3, [(0, 1), (0, 2)]))
    assert not torch.equal(changed, jitter_colours(crops.clone(), 0.3, [(0, 1), (0, 3)]))
    assert torch.equal(crops, jitter_colours(crops.clone(), 0.0, [(0, 1), (0, 2)]))


@pytest.mark.parametrize("loss", ["l2", "plcc", "srcc", "pairwise_rank", "pairwise_fidelity"])
def test_every_loss_trains(home, loss):
    run = train(load_profile("smoke", loss=loss, ranking_weight=0.5, epochs=1, freeze_backbone=True))
    assert np.isfinite(run.epochs["train_loss"]).all()


def test_a_split_without_images_is_refused(home):
    labels = home / "data/offline-wild-tiny/labels.csv"
    table = pd.read_csv(labels)
    table[table["split"] != "test"].to_csv(labels, index=False)
    with pytest.raises(RunError, match="0 in split 'test'; at least 3 needed"):
        train(load_profile("smoke"))


HELD = """
import psutil, torch
from iqa_lib.machine import freed_memory_kept

def held():
    return psutil.Process().memory_info().rss / 1e6

def use(megabytes=400):
    torch.ones(megabytes * 250_000)

use()
before = held()
with freed_memory_kept():
    use()
    kept = held() - before
print(round(kept), round(held() - before))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="memory is kept where the C library is glibc")
@pytest.mark.parametrize(
    "environment, kept_mb", [({}, 400), ({"MALLOC_TRIM_THRESHOLD_": "131072"}, 0)], ids=["as it is", "told otherwise"]
)
def test_freed_memory_stays_to_the_end_of_an_epoch_unless_the_environment_says_otherwise(environment, kept_mb):
    ran = subprocess.run(
        [sys.executable, "-c", HELD], env={**os.environ, **environment}, capture_output=True, text=True, check=True
    )
    kept, after = map(int, ran.stdout.split())
    assert kept == pytest.approx(kept_mb, abs=50)
    assert after == pytest.approx(0, abs=50)
