"""The recorded step: the same run as the step that Python launches, and nothing harmed where it cannot be recorded.

Without a GPU a stand-in takes the graph's place: it runs the recorded work again on the same buffers, as a graph does.
"""

import re
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from accelerate.utils import set_seed
from test_train import Waits

from iqa_lib import machine
from iqa_lib.data.images import load_images
from iqa_lib.models.backbones import Backbone
from iqa_lib.profile import load_profile
from iqa_lib.training import graphs, predictor, train
from iqa_lib.training.batches import ImageBatches, training_crops
from iqa_lib.training.evaluate import predict
from iqa_lib.training.graphs import Graphs, graphs_of
from iqa_lib.training.loop import Loop, train_epoch
from iqa_lib.training.losses import LOSSES, combined

FROZEN = {"freeze_backbone": True}
ON_A_GPU = machine.device().type == "cuda"
on_a_gpu = pytest.mark.skipif(not ON_A_GPU, reason="CUDA graphs are recorded by a GPU alone")
on_a_cpu = pytest.mark.skipif(ON_A_GPU, reason="the stand-in for a graph works on the processor")


class StandIn:
    """Runs the work once more on the buffers, and by the optimizer's options, that it was recorded with."""

    loop = None  # the one that is recording

    def __init__(self, work):
        self.work, self.outputs, self.replays = work, [], 0
        self.groups = StandIn.loop.optimizer.param_groups if StandIn.loop else []
        self.options = [dict(group) for group in self.groups]

    def replay(self):
        self.replays += 1
        kept = [dict(group) for group in self.groups]
        for group, options in zip(self.groups, self.options, strict=True):
            group.update(options)
        self.outputs[:] = self.work()
        for group, options in zip(self.groups, kept, strict=True):
            group.update(options)

    def pool(self):
        return self


@pytest.fixture
def recorded(monkeypatch):
    """The stand-ins that are recorded from now on, as (stand-in, pool)."""
    found = []

    def capture(work, pool):
        assert not torch.is_inference_mode_enabled()  # what torch itself allocates for a graph, training writes too
        found.append((StandIn(work), pool))
        return found[-1][0], found[-1][0].outputs

    def as_on_a_gpu(own, device, plain=Graphs.__init__):
        plain(own, device)
        own.work = True

    def of_this_loop(loop, *arguments, plain=Loop.record):
        monkeypatch.setattr(StandIn, "loop", loop)
        plain(loop, *arguments)

    monkeypatch.setattr(Loop, "record", of_this_loop)
    monkeypatch.setattr(Graphs, "__init__", as_on_a_gpu)
    monkeypatch.setattr(graphs, "_warm_up", lambda work: [work() for _ in range(4)])
    monkeypatch.setattr(graphs, "_capture", capture)
    monkeypatch.setattr("iqa_lib.training.loop.WORTH_IT", 0)
    monkeypatch.setattr(predictor, "RECORDED_FROM", 10**9)
    return found


def a_loop(**changes):
    """A training before its first step, and its batches: 28 crops in three steps, or a frozen backbone's 80."""
    settings = load_profile("smoke", precision="float32", **changes)
    images = load_images(settings)
    set_seed(settings.seed)
    loop = Loop.start(settings, images)
    rows = images.rows("train")
    if settings.freeze_backbone:
        return loop, train.FrozenBatches(settings, loop.model, images, rows)
    crops = training_crops(settings, images, rows, np.random.default_rng(0))
    return loop, ImageBatches(settings, loop.model, images, crops[:28], 1)


def an_epoch(loop, batches):
    """Loss and all that it changed, copied."""
    set_seed(1)
    row = train_epoch(loop, batches, np.arange(len(batches.labels)), 1)
    return row["train_loss"], [t.clone() for t in loop._changing()]


@on_a_cpu
@pytest.mark.parametrize(
    "options",
    [{}, FROZEN, {"method": "hyper_iqa", "loss": "pairwise_rank", "protocol": "paper"}],
    ids=["whole", "frozen", "pairwise"],
)
def test_recorded_steps_learn_what_launched_ones_do(home, recorded, monkeypatch, options):
    """Weights, moments, counts and random numbers agree to the bit, once rates are float32; recorded once."""
    loop, batches = a_loop(batch_size=12, **options)
    found = [an_epoch(loop, batches) for _ in range(2)]
    sizes = len({len(batches.labels[i : i + 12]) for i in range(0, len(batches.labels), 12)})
    assert len(recorded) == sizes > 1 and all(graph.replays for graph, _ in recorded)
    assert [pool for _, pool in recorded] == [None, *[recorded[0][0]] * (sizes - 1)]  # all in the first one's memory
    rates = loop.schedule.get_last_lr()
    assert all(isinstance(group["lr"], float) and not group["capturable"] for group in loop.optimizer.param_groups)

    def in_float32(loop, *arguments, plain=Loop.step):
        for group in loop.optimizer.param_groups:
            group["lr"] = float(np.float32(group["lr"]))
        return plain(loop, *arguments)

    monkeypatch.setattr("iqa_lib.training.loop.WORTH_IT", 10**9)
    monkeypatch.setattr(Loop, "step", in_float32)
    loop, batches = a_loop(batch_size=12, **options)
    expected = [an_epoch(loop, batches) for _ in range(2)]
    assert loop.schedule.get_last_lr() == rates
    for (loss, state), (wanted, its_state) in zip(found, expected, strict=True):
        assert loss == wanted and all(map(torch.equal, state, its_state))


@on_a_cpu
def test_recording_learns_nothing_and_draws_nothing(home, recorded):
    loop, batches = a_loop(batch_size=12)
    an_epoch(loop, batches)  # moments that are no zeros
    graphs_of(loop.model, loop.accelerator.device)._recorded.clear()
    before, drawn = [t.clone() for t in loop._changing()], torch.get_rng_state()
    loop.record(batches, [np.arange(12), np.arange(8)])
    assert len(recorded) > 2
    assert all(map(torch.equal, loop._changing(), before)) and torch.equal(torch.get_rng_state(), drawn)


@on_a_cpu
@pytest.mark.parametrize("place", ["_warm_up", "_capture"])
def test_what_cannot_be_recorded_is_trained_as_before_with_one_line_why(home, recorded, monkeypatch, place, capsys):
    with monkeypatch.context() as launched:
        launched.setattr("iqa_lib.training.loop.WORTH_IT", 10**9)
        expected = an_epoch(*a_loop(batch_size=12))

    def fails(work, *_):
        work()
        raise RuntimeError("operation not permitted\nwhen stream is capturing")

    monkeypatch.setattr(graphs, place, fails if place == "_warm_up" else lambda *_: fails(lambda: None))
    loop, batches = a_loop(batch_size=12)
    loss, state = an_epoch(loop, batches)
    an_epoch(loop, batches)
    said = re.findall("No CUDA graph.*", capsys.readouterr().err)
    assert said == ["No CUDA graph (operation not permitted when stream is capturing): the same results, more slowly."]
    assert not recorded and loss == expected[0] and all(map(torch.equal, state, expected[1]))


class Stream:
    """Notes what a GPU's stream would be told; also the context in which it is the current one."""

    current = None

    def __init__(self, name, told):
        self.name, self.told, self.outer = name, told, []

    def wait_stream(self, other):
        self.told.append(f"{self.name} waits for {other.name}")

    def __enter__(self):
        self.outer.append(Stream.current)
        Stream.current = self

    def __exit__(self, *_):
        Stream.current = self.outer.pop()


@pytest.fixture
def told(monkeypatch):
    """What is said to a GPU that is not there, in order, with two streams."""
    found = []
    default, side = Stream("default", found), Stream("side", found)
    monkeypatch.setattr(Stream, "current", default)
    monkeypatch.setattr(graphs, "_stream", lambda: side)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: Stream.current)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: stream)
    monkeypatch.setattr(torch.cuda, "get_sync_debug_mode", lambda: 0)
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", lambda mode: found.append(f"waiting is {mode}"))
    return found


@on_a_cpu
def test_what_the_device_still_works_on_when_recording_fails_is_undone_after_it(told, monkeypatch, capsys):
    def fails():
        told.append(f"work on {Stream.current.name}")
        if told.count("work on side") == 4:
            raise RuntimeError("called a synchronizing CUDA operation")

    Graphs(torch.device("cpu")).record({"step": (fails, ())}, lambda: told.append("undone"))
    assert "synchronizing" in capsys.readouterr().err
    assert told == [
        *("side waits for default", "work on side", "work on side", "work on side"),
        *("waiting is error", "work on side", "waiting is 0", "default waits for side", "undone"),
    ]


@on_a_cpu
@pytest.mark.parametrize("name", ["_cuda_endAllocateToPool", "_cuda_endAllocateCurrentStreamToPool"])
def test_a_recording_that_fails_leaves_no_trace_in_memory_or_random_numbers(told, monkeypatch, name):
    """torch 2.6 to 2.11 leave the recording's memory open, and the generator, which then refuses to draw."""

    class Recording:
        pool_of_its_own = "pool"

        def capture_begin(self, pool=None, capture_error_mode="global"):
            assert capture_error_mode == "thread_local"
            told.append(f"begins on {Stream.current.name} in {pool or self.pool_of_its_own}")

        def capture_end(self):
            if told.count("begins on side in pool 1") > told.count("failed"):
                told.append("failed")
                raise RuntimeError("operation failed due to a previous error during capture")
            told.append("ends")

    class Context:  # as torch's own
        def __init__(self, graph, pool=None, stream=None, capture_error_mode="global"):
            self.graph, self.stream, self.options = graph, stream, (pool, capture_error_mode)

        def __enter__(self):
            assert "failed" not in told  # for torch 2.6 cannot free its memory then
            self.stream.__enter__()
            self.graph.capture_begin(*self.options)

        def __exit__(self, *_):
            self.graph.capture_end()
            self.stream.__exit__()

    monkeypatch.setattr(torch.cuda, "CUDAGraph", Recording)
    monkeypatch.setattr(torch.cuda, "graph", Context)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: "pool 1")
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.delattr(torch._C, "_cuda_endAllocateToPool", raising=False)
    freed = [(0, "pool 1")]
    monkeypatch.setattr(torch._C, name, lambda *of: freed.remove(of) or told.append("memory is free"), raising=False)
    with pytest.raises(RuntimeError, match="previous error"):
        graphs._capture(lambda: 1 / 0, None)
    assert told == ["begins on side in pool 1", "failed", "memory is free", "begins on side in pool", "ends"]
    assert Stream.current.name == "default"


@on_a_cpu
def test_a_run_is_resumed_to_the_bit_by_graphs_that_are_recorded_anew(home, recorded, monkeypatch):
    settings = load_profile("smoke", epochs=2, batch_size=12, train_crops=1)
    at_the_end = []

    def predicted(settings, model, *arguments, plain=train._predict):
        if model is not (trained := StandIn.loop.model):
            at_the_end.append((trained in graphs._GRAPHS, any(p.grad is not None for p in trained.parameters())))
        return plain(settings, model, *arguments)

    monkeypatch.setattr(train, "_predict", predicted)
    run = train.train(settings)
    assert set(at_the_end) == {(False, False)}  # the model that was trained takes no memory from the one that is read
    expected, steps = run.predictions, sum(graph.replays for graph, _ in recorded)
    shutil.rmtree(run.folder)
    recorded.clear()

    def dies(loop, *arguments, learn=Loop.learn):
        if loop.schedule.last_epoch == steps - 1:
            raise KeyboardInterrupt
        return learn(loop, *arguments)

    with monkeypatch.context() as killed, pytest.raises(KeyboardInterrupt):
        killed.setattr(Loop, "learn", dies)
        train.train(settings)
    resumed = train.train(settings)
    assert len(recorded) == 4 and sum(graph.replays for graph, _ in recorded[2:]) == steps / 2
    pd.testing.assert_frame_equal(resumed.predictions, expected, check_exact=True)


@pytest.mark.parametrize("loss", LOSSES)
def test_no_loss_makes_the_processor_wait_for_the_device(loss):
    predicted, label = torch.rand(9, requires_grad=True), torch.rand(9)
    with Waits() as waits:
        combined(loss, 0.5)(predicted, label).backward()
    assert waits.count == 0


@on_a_gpu
@pytest.mark.parametrize("options", [{}, FROZEN, {"method": "hyper_iqa"}], ids=str)
def test_fifty_steps_of_the_graph_learn_as_launched_ones_do(home, monkeypatch, options):
    losses = []
    for worth_it in (0, 10**9):
        monkeypatch.setattr("iqa_lib.training.loop.WORTH_IT", worth_it)
        loop, batches = a_loop(batch_size=12, **options)
        losses.append([an_epoch(loop, batches)[0] for _ in range(17)])  # of three steps, the last of eight crops
        assert graphs_of(loop.model, loop.accelerator.device).work
        assert bool(graphs_of(loop.model, loop.accelerator.device)._recorded) == (worth_it == 0)
    np.testing.assert_allclose(losses[0], losses[1], rtol=0.01)


@on_a_gpu
@pytest.mark.parametrize("breaks", ["waits", "only while it is recorded"])
def test_a_backbone_that_cannot_be_recorded_trains_step_by_step(home, monkeypatch, breaks, capsys):
    def forward(self, image_BCHW, plain=Backbone.forward):
        if breaks == "waits" or torch.cuda.is_current_stream_capturing():
            image_BCHW.sum().item()
        return plain(self, image_BCHW)

    monkeypatch.setattr(Backbone, "forward", forward)
    monkeypatch.setattr("iqa_lib.training.loop.WORTH_IT", 0)
    loop, batches = a_loop(batch_size=12)
    losses = [an_epoch(loop, batches)[0] for _ in range(2)]
    assert "No CUDA graph" in capsys.readouterr().err
    monkeypatch.setattr("iqa_lib.training.loop.WORTH_IT", 10**9)
    loop, batches = a_loop(batch_size=12)
    np.testing.assert_allclose(losses, [an_epoch(loop, batches)[0] for _ in range(2)], rtol=0.01)


def test_recorded_evaluation_scores_as_the_launched_one_and_follows_the_weights(home, request, monkeypatch):
    if not ON_A_GPU:
        request.getfixturevalue("recorded")
    monkeypatch.setattr(predictor, "RECORDED_FROM", 3)
    monkeypatch.setattr(predictor, "EVALUATION_BATCH", 4)
    monkeypatch.setattr(predictor, "HEAD_BATCH", 8)
    loop, _ = a_loop()
    images = load_images(loop.settings)
    rows = images.rows("train")
    crops = [(row, 0, 0, False) for row in np.repeat(rows, 3)]
    graphs = graphs_of(loop.model, loop.accelerator.device)

    def scores(recorded):
        monkeypatch.setattr(graphs, "work", recorded)
        return predict(loop.settings, loop.model, images, rows, "", crops)["prediction"].to_numpy()

    before = scores(recorded=False)
    np.testing.assert_allclose(scores(recorded=True), before, atol=1e-4)
    assert len(graphs._recorded) == 1
    with torch.no_grad():
        loop.model.backbone.net.patch_embed.proj.weight[:8] += 0.1
    by_graph = scores(recorded=True)
    graphs._recorded.clear()
    after = scores(recorded=False)
    np.testing.assert_allclose(by_graph, after, atol=1e-4)
    assert abs(after - before).max() > 1e-2
