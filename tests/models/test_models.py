"""The networks are the reference's, to the parameter and to the score."""

import ast
import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from packaging.version import Version
from safetensors.torch import save_file

from iqa_lib import HyperIQA, SmartIQA, load_reference_checkpoint
from iqa_lib.errors import CheckpointError, WeightsError
from iqa_lib.models.backbones import PACKAGED_WEIGHTS, Backbone, DrawnDropPath, LeanAttention, LeanBlock
from iqa_lib.models.hypernet import HyperNetwork, PooledStages, packed_size

GOLDEN = Path(__file__).parent / "golden"
VARIANTS = json.loads((GOLDEN / "golden.json").read_text())["results"]


def reference_shapes(variant: str) -> dict[str, tuple[int, ...]]:
    """The reference's state dict: published for the full tiny and base, from which the others follow."""
    if variant == "hyperiqa":
        return read_shapes("state_dict_hyperiqa.txt")
    _, size, parts = variant.split("_")
    shapes = read_shapes(f"state_dict_smart_{'base' if size == 'base' else 'tiny'}_full.txt")
    if size == "small":  # tiny with 18 blocks in stage 3 instead of 6
        block = "swin.backbone.layers_2.blocks."
        first = {k.removeprefix(f"{block}0."): v for k, v in shapes.items() if k.startswith(f"{block}0.")}
        shapes |= {f"{block}{i}.{k}": v for i in range(6, 18) for k, v in first.items()}
    if parts != "full":
        shapes = {k: v for k, v in shapes.items() if not k.startswith("multiscale_attention.")}
    if parts == "backbone":
        shapes["conv1.0.weight"] = (512, shapes["swin.lda4_fc.weight"][1], 1, 1)
    return shapes


def read_shapes(name: str) -> dict[str, tuple[int, ...]]:
    rows = (line.split("\t") for line in (GOLDEN / name).read_text().splitlines() if line)
    return {key: ast.literal_eval(shape) for key, shape in rows}


def golden_tensor(key: str, shape: tuple[int, ...]) -> torch.Tensor:
    n = np.random.default_rng(zlib.crc32(key.encode())).standard_normal(shape)
    if key.endswith("running_var"):
        n = 1 + 0.1 * np.abs(n)
    elif len(shape) >= 2:
        n = n / np.sqrt(np.prod(shape[1:]))
    else:
        n = (1 if key.endswith(".weight") else 0) + 0.1 * n
    return torch.from_numpy(n.astype(np.float32))


def golden_state(variant: str) -> dict[str, torch.Tensor]:
    return {k: golden_tensor(k, s) for k, s in reference_shapes(variant).items()}


@pytest.fixture(scope="module")
def golden_input():
    n = np.random.default_rng(zlib.crc32(b"input")).standard_normal((3, 3, 224, 224))
    return torch.from_numpy(n.astype(np.float32))


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_is_the_reference_network(variant, golden_input):
    expected = VARIANTS[variant]
    model = load_reference_checkpoint(golden_state(variant))
    assert sum(p.numel() for p in model.parameters()) == expected["parameters"]
    with torch.inference_mode():
        stages = model.stages(golden_input)
        score = model.score_stages(stages)
        vector = model.head.local(stages.cells)
    torch.testing.assert_close(score, torch.tensor(expected["score"]), rtol=1e-4, atol=1e-5)
    wanted = torch.tensor(expected["target_in_vec_first8"])
    torch.testing.assert_close(vector[:, :8], wanted, rtol=1e-4, atol=1e-5)
    if "attention" in expected:
        wanted = torch.tensor(expected["attention"])
        torch.testing.assert_close(model.last_attention_weights, wanted, rtol=1e-4, atol=1e-6)
    else:
        assert model.last_attention_weights is None


@pytest.mark.parametrize("wrapper", [None, "model", "model_hyper", "model_state_dict"])
@pytest.mark.parametrize("suffix", [".pkl", ".pth"])
def test_reference_files_load_bare_or_wrapped(tmp_path, golden_input, wrapper, suffix):
    state = golden_state("smart_tiny_full")
    path = tmp_path / f"best_model{suffix}"
    torch.save(state if wrapper is None else {wrapper: state, "epoch": 3}, path)
    model = load_reference_checkpoint(path)
    with torch.inference_mode():
        score = model(golden_input[:1])
    torch.testing.assert_close(score[0].item(), VARIANTS["smart_tiny_full"]["score"][0], rtol=1e-4, atol=0)


def test_a_checkpoint_that_is_damaged_or_absent_is_refused_in_words(tmp_path):
    (tmp_path / "text.pth").write_text("not a checkpoint")
    with pytest.raises(CheckpointError, match=r"text\.pth.*not a checkpoint that can be read safely"):
        load_reference_checkpoint(tmp_path / "text.pth")
    with pytest.raises(CheckpointError, match="does not exist"):
        load_reference_checkpoint(tmp_path / "absent.pkl")


@pytest.mark.filterwarnings("ignore")  # of torch: most of these kinds are on their way in or out
@pytest.mark.parametrize(
    ("odd", "kind"),
    [
        (lambda t: t.to("meta"), "on the device 'meta', without values"),
        (lambda t: t.to_sparse(), "that is torch.sparse_coo"),
        (lambda t: t.to_sparse_csr(), "that is torch.sparse_csr"),
        (lambda t: torch.nested.nested_tensor([t, t]), "nested"),  # torch refuses them itself since 2.15
        (lambda t: torch.quantize_per_tensor(t, 0.1, 0, torch.qint8), "that is torch.qint8"),
        (lambda t: t.to(torch.complex64), "that is torch.complex64"),
        (lambda t: t.to(torch.float8_e4m3fn), "that is torch.float8_e4m3fn"),
    ],
)
def test_tensors_that_are_no_plain_numbers_are_refused_in_words(tmp_path, odd, kind):
    name = "swin.backbone.patch_embed.proj.weight"
    torch.save({name: odd(torch.ones(4, 4))}, tmp_path / "x.pth")
    for offer in (load_reference_checkpoint, lambda path: Backbone("swin_test", pretrained=path, image_size=64)):
        with pytest.raises(WeightsError, match=r"x\.pth' (holds 'swin\.backbone|is not a checkpoint)") as refused:
            offer(tmp_path / "x.pth")
        assert kind in str(refused.value)


@pytest.mark.parametrize("content", [{3: torch.ones(2)}, {"swin.backbone.patch_embed.proj.weight": torch.tensor(1.0)}])
def test_tensors_without_names_or_dimensions_are_refused_in_words(content):
    with pytest.raises(CheckpointError, match=r"holds no state dict|a tensor has too few dimensions"):
        load_reference_checkpoint(content)


def test_missing_extra_and_misshapen_tensors_are_named():
    state = golden_state("smart_tiny_afa")
    del state["fc3b_fc.bias"]
    state["stray"] = torch.zeros(1)
    state["fc5b_fc.bias"] = torch.zeros(2)
    with pytest.raises(CheckpointError) as error:
        load_reference_checkpoint(state)
    for part in ("missing head.hyper.biases.2.bias", "unknown stray", "last_bias.bias is (2,), expected (1,)"):
        assert part in str(error.value)
    with pytest.raises(CheckpointError, match="no SMART-IQA or HyperIQA checkpoint"):
        load_reference_checkpoint({"weight": torch.zeros(1)})


@pytest.mark.parametrize("batch", [1, 2])
def test_the_face_users_know(batch):
    model = SmartIQA(model_size="tiny", use_attention=True, use_multiscale=True, pretrained=False).eval()
    with torch.inference_mode():
        score = model(torch.randn(batch, 3, 224, 224))
    assert score.shape == (batch,)
    assert model.last_attention_weights.shape == (batch, 4)
    torch.testing.assert_close(model.last_attention_weights.sum(1), torch.ones(batch))


def test_attention_starts_uniform():
    model = SmartIQA(backbone="swin_test", image_size=64, pretrained=False).eval()
    with torch.inference_mode():
        model(torch.randn(2, 3, 64, 64))
    assert (model.last_attention_weights - 0.25).abs().max() < 0.02


@pytest.mark.parametrize("model_class", [SmartIQA, HyperIQA])
def test_saving_and_loading_gives_the_same_scores(tmp_path, model_class):
    model = model_class(backbone="swin_test", image_size=64, pretrained=False).eval()
    model.save_pretrained(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} >= {"model.safetensors", "config.json"}
    image = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(model_class.from_pretrained(tmp_path)(image), model(image))


def test_loading_a_saved_model_needs_no_pretrained_weights(tmp_path, monkeypatch):
    SmartIQA(backbone="tf_efficientnet_lite0", pretrained=True).save_pretrained(tmp_path)
    monkeypatch.setattr("iqa_lib.models.backbones.packaged_state_dict", pytest.fail)
    SmartIQA.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("name", "size"),
    [("swin_test", 64), ("resnet18", 96), ("convnext_atto", 96), ("swinv2_cr_tiny_224", 224), ("regnetx_002", 64)],
)
def test_any_hierarchical_backbone_fits_under_the_head(name, size):
    model = SmartIQA(backbone=name, image_size=size, pretrained=False).eval()
    with torch.inference_mode():
        assert model(torch.randn(2, 3, size, size)).shape == (2,)


def test_swin_test_is_the_small_one():
    assert sum(p.numel() for p in Backbone("swin_test", False, 64).parameters()) == pytest.approx(0.8e6, rel=0.05)


@pytest.mark.parametrize("name", PACKAGED_WEIGHTS)
def test_packaged_imagenet_weights_are_the_published_network(name):
    """The image is a cat: the full timm model, given the same tensors, must say so."""
    from skimage import data, transform

    from iqa_lib.models.backbones import packaged_state_dict

    classifier = timm.create_model(name)
    classifier.load_state_dict(packaged_state_dict(name))
    backbone = Backbone(name, pretrained=True).eval()
    cat = transform.resize(data.chelsea()[:, 75:375], (224, 224), anti_aliasing=True, preserve_range=True)
    image = backbone.normalize(torch.from_numpy(cat).float().permute(2, 0, 1)[None])
    with torch.inference_mode():
        tabby, tiger_cat, egyptian_cat = 281, 282, 285
        assert classifier.eval()(image).argmax().item() in (tabby, tiger_cat, egyptian_cat)
        features = classifier.forward_intermediates(image, intermediates_only=True)
        torch.testing.assert_close(backbone(image)[-1], features[-1])


def test_packed_stages_unpack_to_the_same_score():
    model = SmartIQA(backbone="swin_test", image_size=64, pretrained=False).eval()
    with torch.inference_mode():
        stages = model.stages(torch.randn(2, 3, 64, 64))
        packed = stages.pack()
        assert packed.shape == (2, packed_size(model.backbone.channels))
        again = PooledStages.unpack(packed, model.backbone.channels)
        torch.testing.assert_close(model.score_stages(again), model.score_stages(stages))


def test_a_processor_trains_the_hyper_network_that_it_evaluates():
    """In training it takes matrix products for convolutions: the same numbers and gradients."""
    torch.manual_seed(0)
    network, grid = HyperNetwork(24, (32, 16), dropout=0.0), torch.randn(3, 24, 7, 7)
    made, gradients = [], []
    for training in (True, False):
        network.train(training).zero_grad()
        made.append([t for layer in network(grid) for t in layer])
        sum(t.square().mean() for t in made[-1]).backward()
        gradients.append([p.grad.clone() for p in network.parameters()])
    for trained, evaluated in [*zip(*made, strict=True), *zip(*gradients, strict=True)]:
        torch.testing.assert_close(trained, evaluated, rtol=1e-4, atol=1e-5)


def test_weights_that_cannot_be_had_end_in_three_ways_out(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsError) as error:
        SmartIQA(backbone="resnet10t.c3_in1k", pretrained=True)
    for part in ("resnet10t.c3_in1k", "(1)", "HF_ENDPOINT", "(2)", "pretrained='path", "(3)", "tf_efficientnet_lite0"):
        assert part in str(error.value)


def test_weights_from_a_file_are_those_of_the_file(tmp_path):
    source = timm.create_model("resnet10t")
    save_file(source.state_dict(), tmp_path / "w.safetensors")
    backbone = Backbone("resnet10t", pretrained=tmp_path / "w.safetensors")
    assert torch.equal(backbone.net.state_dict()["layer4.0.conv1.weight"], source.layer4[0].conv1.weight)
    with pytest.raises(WeightsError, match="does not exist"):
        Backbone("resnet10t", pretrained=tmp_path / "absent.safetensors")
    with pytest.raises(WeightsError, match="does not fit backbone 'resnet18'"):
        Backbone("resnet18", pretrained=tmp_path / "w.safetensors")


@pytest.mark.parametrize("name", ["swin_test", "swin_nano", "resnet18"])
def test_weights_that_a_backbone_gives_are_those_it_takes(name, tmp_path):
    if name == "swin_test" and Version(timm.__version__) < Version("1.0.31"):
        pytest.skip("this timm takes a Swin file without classifier for one of an older naming, and refuses it")
    given = Backbone(name, pretrained=False, image_size=64)
    save_file({k: v.contiguous() for k, v in given.weights().items()}, tmp_path / "weights.safetensors")
    taken = Backbone(name, pretrained=tmp_path / "weights.safetensors", image_size=64)
    for key, value in given.state_dict().items():
        assert torch.equal(taken.state_dict()[key], value), key


def test_unfit_and_unknown_backbones_are_refused_with_a_hint():
    with pytest.raises(WeightsError, match=r"Did you mean.*resnet50"):
        Backbone("resnet5o", pretrained=False)
    with pytest.raises(WeightsError, match="strides"):
        Backbone("vit_tiny_patch16_224", pretrained=False)
    with pytest.raises(ValueError, match="tiny, small, base"):
        SmartIQA(model_size="huge", pretrained=False)


@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-6), ("bf16", 1e-3)])
@pytest.mark.parametrize("name", ["swin_test", "swin_nano_plain"])  # windows of 4 x 4 and 6 x 6 or, at 7, of 7 x 7
def test_attention_as_a_gpu_computes_it_is_timms(name, precision, tolerance, monkeypatch):
    """Outputs, and gradients of the position bias; here by the processor."""
    torch.manual_seed(0)
    backbone = Backbone(name, pretrained=False, image_size=96).eval()
    image = torch.rand(2, 3, 96, 96)
    table = next(m for m in backbone.modules() if isinstance(m, LeanAttention)).relative_position_bias_table
    found = []
    for lean in (False, True):
        if lean:
            monkeypatch.setattr(LeanAttention, "forward", LeanAttention.in_one)
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            maps = [m.float() for m in backbone(image)]
        (gradient,) = torch.autograd.grad(sum(m.mean() for m in maps), table)
        found.append([*maps, gradient])
    assert any(isinstance(m, LeanBlock) for m in backbone.modules())
    for plain, lean in zip(*found, strict=True):
        torch.testing.assert_close(lean, plain, rtol=tolerance, atol=tolerance * float(plain.detach().abs().max()))


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "swin_test", "resnet18"])
def test_weights_rounded_once_give_the_bits_of_those_that_autocast_rounds(name):
    """Of a copy: the model's own weights stay as they are."""
    backbone = Backbone(name, pretrained=False, image_size=64).eval()
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    rounded = backbone.rounded()
    assert any(parameter.dtype == torch.bfloat16 for parameter in rounded.parameters())
    image = torch.randn(2, 3, 64, 64)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        for ours, theirs in zip(rounded(image), backbone(image), strict=True):
            assert torch.equal(ours, theirs)
    assert all(torch.equal(value, before[key]) for key, value in backbone.state_dict().items())


def test_equal_blocks_share_what_is_compiled_for_them_and_drop_as_many_paths():
    """Eight kinds of block in four stages, of which two shifted by turns, and three mergers: not one for each of 15."""
    torch.manual_seed(0)
    plain = Backbone("swin_test", pretrained=False, image_size=64, drop_path_rate=0.5)
    backbone = Backbone("swin_test", pretrained=False, image_size=64, drop_path_rate=0.5)
    backbone.load_state_dict(plain.state_dict())
    compiled = []

    def backend(module, _):
        compiled.append(module)
        return module.forward

    torch.compiler.reset()
    for block in backbone.equal_blocks():
        block.compile(dynamic=False, backend=backend)
    image = torch.rand(4, 3, 64, 64)
    with torch._dynamo.config.patch(cache_size_limit=64):
        backbone.train()(image)[3].mean().backward()
        assert 3 < len(compiled) < 12
        torch.testing.assert_close(backbone.eval()(image), plain.eval()(image))
    backbone.train()
    with torch.compiler.set_stance("force_eager"):
        before = len(compiled)
        backbone(image[:3])
    assert len(compiled) == before
    paths = [m for m in backbone.modules() if isinstance(m, DrawnDropPath)]
    with torch.no_grad(), torch.compiler.set_stance("force_eager"):
        drawn = []
        for _ in range(50):
            backbone(image)
            drawn.append(torch.stack([path.drawn_B for path in paths]))
    drawn = torch.cat(drawn, dim=1)
    keep = backbone.keep_N1
    assert len(paths) == 22 and ((drawn == 0) | torch.isclose(drawn * keep, torch.ones(()))).all()
    torch.testing.assert_close((drawn > 0).float().mean(1, keepdim=True), keep, rtol=0, atol=0.12)
