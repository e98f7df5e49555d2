"""Make the model that comes with the package, and test it once on photographs that people rated.

    python benchmarks/default_model.py labels --data-folder FOLDER    # BIQ2021's official training list, in three parts
    python benchmarks/default_model.py train [NAME…] --labels FILE    # what was tried, or some of it; more --seeds
    python benchmarks/default_model.py tried --labels FILE            # what came of it on validation photographs
    python benchmarks/default_model.py ship RUN                       # a finished run into the package, and calibrate
    python benchmarks/default_model.py test --data-folder FOLDER      # BIQ2021's official test list, LIVE In the Wild

The official test list chooses nothing: training images with a near-copy in it are left out.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
import skimage.data
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from iqa_lib import metrics, paths
from iqa_lib.data import catalog
from iqa_lib.data.decode import WorkingSize, read_image
from iqa_lib.data.distortions import DISTORTIONS, distort
from iqa_lib.data.images import load_images
from iqa_lib.models.backbones import DEFAULT
from iqa_lib.profile import DataSettings, Preparation, Profile, load_profile
from iqa_lib.scoring import certainty
from iqa_lib.scoring.score import Scorer, load_scorer, score_all
from iqa_lib.training.runs import Run
from iqa_lib.training.train import train

VALIDATION, CALIBRATION = 700, 800  # photographs, near-copies counted once
COMMON = {
    "backbone": "tf_efficientnet_lite0",
    "freeze_backbone": False,
    "tuned": "whole",
    "epochs": 6,
    "batch_size": 32,
    "learning_rate_backbone": 3e-4,
    "learning_rate_head": 7e-4,
    "final_learning_rate": 0.0,
    "patience": 8,
    "test_datasets": [],
}
RANKED = {"spoilt_copies": 0.2, "averaging": 0.995}
TRIED = {  # each a set of changes to the profile biq2021
    "late": COMMON | {"tuned": "late"},
    "whole": COMMON,
    "averaged": COMMON | {"averaging": 0.995},
    "margin": COMMON | {"averaging": 0.995, "ranking_weight": 0.3},
    "copies": COMMON | RANKED,
    "copies-late": COMMON | RANKED | {"tuned": "late"},
    "copies-512": COMMON | RANKED | {"resolution": 512, "crop_size": 512},
    "copies-lite1": COMMON | RANKED | {"backbone": "tf_efficientnet_lite1"},
    "copies-lite2": COMMON | RANKED | {"backbone": "tf_efficientnet_lite2"},
    "copies-hybrid": COMMON | RANKED | {"backbone": "swin_nano"},
}
PHOTOGRAPHS = 20  # of LIVE In the Wild, that are spoilt by each distortion at each level


def labels(data_folder: str | None) -> None:
    """``split``: train, val chooses the epoch, test is the part that calibrates the intervals."""
    table = catalog.load_table("biq2021", data_folder=data_folder)
    official_test = set(table.loc[table["split"] == "test", "reference"])
    near = table["reference"].isin(official_test)
    print(f"{(near & (table['split'] != 'test')).sum()} training images have a near-copy in the test list: left out.")
    table = table[~near].assign(image=table["path"].map(str))
    references = np.random.default_rng(22).permutation(table["reference"].unique())
    place = table["reference"].map({reference: place for place, reference in enumerate(references)})
    table["split"] = np.select([place < VALIDATION, place < VALIDATION + CALIBRATION], ["val", "test"], "train")
    beside_them = Path(data_folder or paths.DATA) / "default_model.csv"
    paths.write_atomically(beside_them, table[["image", "score", "split", "reference"]].to_csv(index=False))
    print(table["split"].value_counts().to_string(), beside_them, sep="\n")


def settings_of(name: str, labels_file: Path, seed: int) -> Profile:
    return load_profile("biq2021", **TRIED[name], profile="default", dataset=str(labels_file), seed=seed)


def tried(labels_file: Path, seeds: list[int]) -> None:
    """Of all that is trained: agreement on the validation photographs, which chose the epoch."""
    for name in TRIED:
        for seed in seeds:
            settings = settings_of(name, labels_file, seed)
            run = Run(settings, load_images(settings).fingerprint)
            if run.complete:
                chosen = run.predictions[run.predictions["split"] == "val"]
                named = f"{name}, seed {seed}, epoch {run.result['best_epoch']}, {run.folder.name}"
                print(agreement(named, chosen.rename(columns={"score": "truth", "prediction": "score"})))


def ship(run_folder: Path) -> None:
    run = Run.at(run_folder)
    run.load_model().half().save_pretrained(DEFAULT)
    (DEFAULT / "README.md").unlink()  # an empty form: the card is that of all weights
    scorer = load_scorer(DEFAULT)
    images = load_images(run.settings)
    certainty.calibrate(scorer, images, "biq2021").save(DEFAULT, scorer.model)


def test(data_folder: str | None) -> None:
    scorer = load_scorer()
    biq2021 = scored(scorer, "biq2021", data_folder)
    split = catalog.load_table("biq2021", data_folder=data_folder)
    known = split["image"][catalog.crossing(split)]
    print(agreement("BIQ2021, official test list", biq2021))
    print(agreement("without near-copies of training images", biq2021[~biq2021["image"].isin(known)]))
    inside = biq2021["truth"].between(biq2021["low"], biq2021["high"])
    for what in ("truth", "score"):
        deciles = inside.groupby(pd.qcut(biq2021[what], 10, labels=range(1, 11)), observed=True).mean()
        print(f"coverage by decile of the {what}:", *(f"{share:.2f}" for share in deciles))
    width = (biq2021["high"] - biq2021["low"]).mean()
    constant = 2 * certainty.conformal_quantile(
        np.abs(biq2021["score"] - biq2021["truth"]).to_numpy(), certainty.MISSED
    )
    print(f"coverage {inside.mean():.3f}, mean width {width:.1f}; of one width for all, fitted to them: {constant:.1f}")
    livec = scored(scorer, "livec", data_folder)
    print(agreement("LIVE In the Wild, all", livec))
    mapped = metrics.logistic(livec["score"].to_numpy(), *metrics.fit_logistic(livec["score"], livec["truth"]))
    inside = (livec["truth"] - mapped).abs() <= (livec["high"] - livec["low"]) / 2
    print(f"coverage there, after the logistic mapping of scales (nothing guarantees it): {inside.mean():.3f}")
    unlike = {"BIQ2021's test list": biq2021, "LIVE In the Wild": livec}
    for what, pictures in odd_pictures(scorer).items():
        unlike[what] = score_all(scorer, pictures, len(pictures))
    for what, table in unlike.items():
        print(f"marked unlike: {what}, {table['mark'].str.contains('unlike').mean():.1%} of {len(table)}")
    print("harder distortions that score lower, of neighbouring levels:")
    print(harder_is_worse(scorer, livec["path"].sample(PHOTOGRAPHS, random_state=0)).to_string())


def prepared(scorer: Scorer, dataset: str, data_folder: str | None = None) -> DataSettings:
    """The dataset as this model sees its images."""
    preparation = scorer.settings.model_dump(include={*Preparation.model_fields})
    return DataSettings(dataset=dataset, data_folder=data_folder, **preparation)


def scored(scorer: Scorer, dataset: str, data_folder: str | None) -> pd.DataFrame:
    """Of the test images: what `score` says, and ``truth``."""
    images = load_images(prepared(scorer, dataset, data_folder), test_only=True)
    rows = images.rows("test")
    table = score_all(scorer, (images.image(row) for row in rows), len(rows)).drop(columns="image")
    return images.table.iloc[rows].reset_index(drop=True).rename(columns={"score": "truth"}).join(table)


def odd_pictures(scorer: Scorer) -> dict[str, list[np.ndarray]]:
    """Of each kind some that are no photographs of the world, or hardly (H, W, 3)."""
    rng = np.random.default_rng(0)
    names = {
        "microscope and medical": ("cell", "immunohistochemistry", "microaneurysms", "retina", "shepp_logan_phantom"),
        "text and drawings": ("page", "text", "horse", "checkerboard", "logo"),
    }
    found = {kind: [_sample(name) for name in of_kind] for kind, of_kind in names.items()}
    found["text and drawings"] += [_plot(rng) for _ in range(10)]
    found["noise"] = [rng.integers(0, 256, (400, 500, 3), dtype=np.uint8) for _ in range(5)]
    found["single colours"] = [np.full((400, 500, 3), rng.integers(0, 256, 3), np.uint8) for _ in range(5)]
    small = [Image.fromarray(_sample(name)) for name in ("astronaut", "coffee", "chelsea", "rocket")]
    found["a thumbnail of 16 px blown up"] = [np.asarray(i.resize((16, 16)).resize((480, 480))) for i in small]
    rendered = load_images(prepared(scorer, "offline-render"))
    best = rendered.table["score"].nlargest(10).index
    found["rendered scenes"] = [rendered.image(row) for row in best]
    return found


def _sample(name: str) -> np.ndarray:
    """Of scikit-image's pictures, as RGB."""
    picture = getattr(skimage.data, name)()
    picture = picture[..., :3] if picture.ndim == 3 else np.stack([picture] * 3, axis=-1)
    return picture if picture.dtype == np.uint8 else np.uint8(255 * picture.astype(float).clip(0, 1))


def _plot(rng: np.random.Generator) -> np.ndarray:
    figure = Figure(figsize=(6, 4.5), dpi=100)
    figure.subplots().plot(rng.normal(size=(30, 3)).cumsum(axis=0))
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3]


def harder_is_worse(scorer: Scorer, files: pd.Series) -> pd.Series:
    """By KADID-10k's kinds: of photographs and neighbouring levels, the share where the harder is lower."""
    size = WorkingSize.of_settings(scorer.settings)
    photographs = [read_image(file, size) for file in files]
    found = {}
    for kind in DISTORTIONS:
        spoilt = [distort(p, kind, level) for p in photographs for level in range(1, 6)]
        score_PL = score_all(scorer, spoilt, len(spoilt))["score"].to_numpy().reshape(-1, 5)
        found[kind] = (np.diff(score_PL, axis=1) < 0).mean()
    return pd.Series(found).round(2).sort_values()


def agreement(name: str, table: pd.DataFrame) -> str:
    groups = metrics.groups_of(table["reference"])
    found = [
        metrics.bootstrap(statistic, table["score"].to_numpy(), table["truth"].to_numpy(), groups=groups)
        for statistic in (metrics.srcc, metrics.plcc)
    ]
    srcc, plcc = (f"{f.value:.3f} [{f.low:.3f}, {f.high:.3f}]" for f in found)
    return f"{name}: SRCC {srcc}, PLCC {plcc}, {len(table)} images"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    steps = parser.add_subparsers(dest="step", required=True)
    for name in ("labels", "test"):
        steps.add_parser(name).add_argument("--data-folder")
    steps.add_parser("ship").add_argument("run", type=Path)
    for name in ("train", "tried"):
        steps.add_parser(name).add_argument("names", nargs="*", default=list(TRIED), help=", ".join(TRIED))
        steps.choices[name].add_argument("--labels", type=Path, required=True)
        steps.choices[name].add_argument("--seeds", type=int, nargs="+", default=[0])
    options = parser.parse_args()
    if options.step == "train":
        for settings in (settings_of(name, options.labels, seed) for name in options.names for seed in options.seeds):
            train(settings)
    elif options.step == "tried":
        tried(options.labels, options.seeds)
    elif options.step == "ship":
        ship(options.run)
    else:
        {"labels": labels, "test": test}[options.step](options.data_folder)


if __name__ == "__main__":
    main()
