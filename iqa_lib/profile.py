"""Profiles: one flat YAML file says what a study runs on; unknown keys and impossible values are refused."""

from __future__ import annotations

import ast
import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from iqa_lib import paths
from iqa_lib.errors import ProfileError


class Preparation(BaseModel):
    """How an image is decoded and cut."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    resolution: int = Field(384, ge=32, description="longest allowed short side in px; larger images are reduced")
    crop_size: int = Field(224, ge=32, description="side of the square crops in px")
    protocol: Literal["honest", "paper"] = Field(
        "honest", description="paper: its code's faults included, to reproduce its numbers"
    )


class DataSettings(Preparation):
    """Which images, and how they are decoded and split."""

    dataset: str = Field(description="name in the catalog, or the path of your own CSV or JSON labels")
    data_folder: str | None = Field(None, description="where datasets lie; null: data/ of this workbook")
    score_range: tuple[float, float] = Field(
        (0.0, 100.0), description="worst and best score in the labels of your own CSV"
    )
    split_seed: int = Field(0, ge=0, le=9, description="which of the ten splits, where none is official")

    @field_validator("score_range")
    @classmethod
    def _spans_a_scale(cls, score_range: tuple[float, float]) -> tuple[float, float]:
        if score_range[0] == score_range[1]:
            raise ValueError("the worst and the best score must differ")
        return score_range

    @property
    def data(self) -> DataSettings:
        """The part that images depend on."""
        return DataSettings(**self.model_dump(include={*DataSettings.model_fields}))


class ScoringSettings(Preparation):
    """What turns images into scores, beside the model."""

    freeze_backbone: bool = Field(False, description="train the head alone, on cached features")
    precision: Literal["auto", "float32", "bf16"] = Field(
        "auto", description="auto: bf16 where the hardware multiplies it, else float32"
    )
    compile: bool = Field(False, description="torch.compile the backbone: minutes at the start, then faster")


class RunSettings(DataSettings, ScoringSettings):
    """One training: its images, model and optimisation."""

    profile: str = Field(pattern=r"^\w[\w.+-]*$", description="name; results lie in runs/NAME and figures/NAME")
    method: Literal["smart_iqa", "hyper_iqa"] = "smart_iqa"
    backbone: str = Field(description="a timm model, with its weights' tag")
    pretrained: bool | str = Field(
        True, description="true, false, the path of a backbone's weights file, or: default, to go on from that model"
    )
    use_attention: bool = True
    use_multiscale: bool = True
    use_hyper: bool = Field(True, description="false: one fixed regressor in place of the hyper-network's")
    epochs: int = Field(10, ge=1)
    batch_size: int = Field(32, ge=1)
    train_crops: int = Field(20, ge=1, description="random crops per training image and epoch")
    learning_rate_backbone: float = Field(5e-7, gt=0)
    learning_rate_head: float = Field(5e-6, gt=0)
    final_learning_rate: float = Field(0.01, ge=0, le=1, description="cosine's floor as a share of the start")
    warmup: float = Field(0.05, ge=0, lt=1, description="share of all steps")
    weight_decay: float = Field(2e-4, ge=0)
    clip_norm: float = Field(1.0, gt=0)
    patience: int = Field(5, ge=1, description="epochs without a better validation SRCC before stopping")
    tuned: Literal["whole", "late"] = Field(
        "whole", description="late: of the backbone what lies behind stride 8, kernels of depthwise convolutions apart"
    )
    loss: Literal["l1", "l2", "plcc", "srcc", "pairwise_rank", "pairwise_fidelity"] = "l1"
    ranking_weight: float = Field(0.0, ge=0, description="α of the margin ranking term beside the loss")
    spoilt_copies: float = Field(
        0.0,
        ge=0,
        le=1,
        description="share of a batch's crops that come spoilt twice, too: the harsher shall score less",
    )
    averaging: float = Field(
        0.0, ge=0, lt=1, description="decay per step of the moving average of the weights, which is judged; 0: none"
    )
    flip: bool = Field(True, description="flip half of the training crops")
    random_crop: bool = Field(True, description="false: the centre of every training image")
    colour_jitter: float = Field(0.0, ge=0, lt=1, description="brightness, contrast, saturation by ± this share")
    watch_test: bool = Field(False, description="note the test split's agreement after every epoch; it chooses nothing")
    seed: int = Field(0, ge=0, lt=2**32)

    @field_validator("spoilt_copies")
    @classmethod
    def _through_the_backbone(cls, share: float, info: ValidationInfo) -> float:
        if share and info.data.get("freeze_backbone"):
            raise ValueError("copies are new in every epoch, a frozen backbone's features are not: use 0")
        return share

    @property
    def folder(self) -> Path:
        return paths.RUNS / self.profile


class Profile(RunSettings):
    """A study's settings; every field is a key of the YAML file and a papermill parameter."""

    test_datasets: tuple[str, ...] = Field((), description="other datasets that 05_cross_dataset tests on")
    seeds: tuple[int, ...] = Field((0,), min_length=1, description="seeds of every run of an experiment")
    baseline_seeds: tuple[int, ...] = Field(
        (), description="more seeds of the baselines alone: their scatter stands for that of variants with one run"
    )
    ablation_seeds: tuple[int, ...] = Field(
        (), description="more seeds of HyperIQA, SMART-IQA, the steps between them and the fixed regressor"
    )
    of_interest: float = Field(
        0.005, ge=0, description="smallest difference of SRCC that matters, decided before looking"
    )
    backbone_tiny: str | None = Field(None, description="the sizes of 03_model_sizes; null leaves one out")
    backbone_small: str | None = None
    backbone_base: str | None = Field(None, description="also the ablation's; null: the profile's backbone")
    backbone_controls: tuple[str, ...] = Field((), description="more backbones for 03_model_sizes, as controls")
    backbone_hyper_iqa: str = "resnet50.tv_in1k"
    hyper_iqa_recipe: Literal["same", "published"] = Field(
        "same", description="train HyperIQA by these settings, or by those its authors published"
    )
    compare_methods: tuple[str, ...] = Field((), description="metrics of pyiqa, scored on the same test images")
    bootstrap_samples: int = Field(1000, ge=100)
    random_crop_images: int | None = Field(
        None, ge=20, description="test images whose random crops 04_sensitivity scores; null: all"
    )
    measuring_seconds: float = Field(
        60.0, gt=0, description="of 09_complexity: where they are few, fewer repetitions, fewer images, sizes left out"
    )
    cell_timeout: int | None = Field(
        None, gt=0, description="seconds that one cell of a notebook may take; null: as long as it likes"
    )

    @property
    def figures(self) -> Path:
        return paths.FIGURES / self.profile

    @classmethod
    def from_notebook(cls, variables: Mapping[str, Any]) -> Profile:
        """The profile named by the notebook's ``profile``, with every other key that the notebook sets.

        Pass ``globals()``: whatever the parameters cell defined and is not None counts, and whatever papermill did.

        Raises:
            ProfileError: as `load_profile`, also for a parameter that this notebook does not have.
        """
        cells = [(cell.startswith("# Parameters\n"), _assigned(cell)) for cell in reversed(variables.get("In", ()))]
        injected = next((names for by_papermill, names in cells if by_papermill), set())
        written = next((names for by_papermill, names in cells if "profile" in names and not by_papermill), set())
        for name in injected | written:
            near = difflib.get_close_matches(name, cls.model_fields, n=1, cutoff=0.8)
            if name not in cls.model_fields and (near or name not in written):
                advice = f"did you mean '{near[0]}'?" if near else f"this notebook has {', '.join(sorted(written))}."
                raise ProfileError(f"unknown parameter '{name}': {advice} Or any key of a profile.")
        given = {k: v for k, v in variables.items() if k in cls.model_fields and (v is not None or k in injected)}
        return load_profile(given.pop("profile"), **given)


def _assigned(cell: str) -> set[str]:
    """The names that an executed cell assigns."""
    try:
        nodes = list(ast.walk(ast.parse(cell)))
    except (SyntaxError, ValueError):  # it failed when it was executed
        return set()
    return {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}


def _typed(value: Any) -> Any:
    """Papermill's command line makes text of null, true, false and lists."""
    if not isinstance(value, str) or (value.lower() not in ("null", "true", "false") and value[:1] != "["):
        return value
    try:
        return yaml.load(value.lower() if value[:1] != "[" else value, _FlatLoader)
    except (yaml.YAMLError, ValueError, RecursionError):
        return value


class _FlatLoader(yaml.SafeLoader):
    """YAML without references, which can expand a few lines to gigabytes, and with every key once."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError(f"line {self.peek_event().start_mark.line + 1}: references (*) are not allowed")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for number, key in enumerate(keys):
            if key in keys[:number]:
                raise yaml.YAMLError(f"'{key}' is there twice: keep one line of it")
        return super().construct_mapping(node, deep)


def load_profile(name: str, **overrides: Any) -> Profile:
    """Read ``notebooks/profiles/NAME.yaml``, or the YAML file at a path, and lay ``overrides`` over it.

    Raises:
        ProfileError: no such profile, unknown key, impossible value; the message names the key and, if any, the file.
    """
    path = Path(name) if str(name).endswith((".yaml", ".yml")) else paths.PROFILES / f"{name}.yaml"
    if not path.is_file():
        known = sorted(p.stem for p in paths.PROFILES.glob("*.yaml"))
        raise ProfileError(f"No profile '{name}' ({path}). Known: {', '.join(known)}; or give a YAML file's path.")
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _FlatLoader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # no UTF-8, an impossible date, a thousand brackets
        raise ProfileError(f"{path} is not readable YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict) or not all(isinstance(key, str) and key.isprintable() for key in content):
        raise ProfileError(f"{path}: expected lines 'key: value', found {str(content)[:200]}.")
    try:
        return Profile(**{key: _typed(value) for key, value in {**content, **overrides}.items()})
    except ValidationError as error:
        faults = error.errors()
        where = f"{name}, as changed" if all(fault["loc"][0] in overrides for fault in faults) else path
        raise ProfileError(f"{where}: {'; '.join(map(_explain, faults))}.") from error


def _explain(fault: Mapping[str, Any]) -> str:
    key = str(fault["loc"][0])
    if fault["type"] == "extra_forbidden":
        near = difflib.get_close_matches(key, Profile.model_fields, n=1)
        return f"unknown key '{key}'" + (f", did you mean '{near[0]}'?" if near else "; remove it")
    if fault["type"] == "missing":
        return f"key '{key}' is missing"
    if fault["type"] == "string_pattern_mismatch":
        named = "a name has letters, digits and . + - _ and begins with none of . + -"
        return f"{key}: {repr(fault['input'])[:200]} is not allowed, {named}"
    if fault["type"] == "tuple_type":
        return f"{key}: {repr(fault['input'])[:200]} is not allowed, write a list: [{str(fault['input'])[:200]}]"
    return f"{key}: {repr(fault['input'])[:200]} is not allowed, {fault['msg'][0].lower()}{fault['msg'][1:]}"
