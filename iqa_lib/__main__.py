"""The command line: ``python -m iqa_lib COMMAND``."""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from iqa_lib import paths
from iqa_lib.errors import ProfileError, WorkbookError

# Everything slow (papermill, torch, pandas) is imported by the command that needs it: --help answers at once.


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m iqa_lib", description="The SMART-IQA workbook.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_score(commands)
    _add_finetune(commands)
    _add_run(commands)
    _add_train(commands)
    _add_bench(commands)
    _add_data(commands)
    _add_pretrain(commands)
    _add_export(commands)
    options = parser.parse_args(arguments)
    try:
        with _sigterm_as_interrupt():
            return options.act(options)
    except WorkbookError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        if error.errno not in paths.FULL | paths.FORBIDDEN:
            raise
        print(f"error: {paths.storage_error(error, Path(error.filename or paths.HOME))}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as interrupt:
        print("Interrupted. What is finished is kept: the same command goes on from there.", file=sys.stderr)
        return 128 + (signal.SIGTERM if isinstance(interrupt, Terminated) else signal.SIGINT)


class Terminated(KeyboardInterrupt):
    """SIGTERM, as schedulers and clusters send it before they kill: treated as Ctrl-C."""


@contextlib.contextmanager
def _sigterm_as_interrupt() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set signal handlers
        return

    def interrupt(*_: object) -> None:
        raise Terminated

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


MODEL_HELP = (
    "a run (name or folder), a profile with one run, a folder of save_pretrained, or a checkpoint of the reference "
    "code; by default the model that comes with the package"
)


def _add_score(commands: argparse._SubParsersAction) -> None:
    score = commands.add_parser("score", help="score photographs: 0-100, higher is better")
    score.add_argument("images", nargs="+", metavar="PHOTO|FOLDER|PATTERN")
    score.add_argument("--model", help=MODEL_HELP)
    score.add_argument("--csv", metavar="FILE", help="write image, score and fault of each")
    score.add_argument("--json", action="store_true", help="print JSON instead of a table")
    score.add_argument("--map", metavar="FOLDER", help="write each photograph's local quality as PNG")
    score.set_defaults(act=_score)


LONGEST_TABLE = 40  # rows; of more images the best and the worst are shown


def _score(options: argparse.Namespace) -> int:
    import json

    from iqa_lib.scoring import score as scoring

    files = scoring.find_images(options.images)
    scorer = scoring.load_scorer(options.model)
    if options.csv:
        table = scoring.score_into(scorer, files, Path(options.csv))
    else:
        table = scoring.score_all(scorer, files, len(files)).round(4)
    if options.map:
        from iqa_lib.study import figures_inside

        figures_inside.save_maps(scorer, table, Path(options.map))
    faults = table[table["fault"] != ""]
    if options.json:
        rows = table.astype(object).where(table.notna(), None).to_dict("records")
        print(json.dumps(rows, indent=1, ensure_ascii=False))
    else:
        _print_scores(scorer.name, table.drop(faults.index).sort_values("score", ascending=False, kind="stable"))
    for row in faults.itertuples():
        print(f"no score: {row.image} {row.fault}", file=sys.stderr)
    return int(bool(len(faults)))


def _print_scores(model: str, best_first: Any) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    shown = Table("score", "image", caption=f"{len(best_first):,} images, scored by {model}")
    shown.columns[0].justify, shown.columns[1].overflow = "right", "fold"
    left_out = len(best_first) - LONGEST_TABLE
    for place, row in enumerate(best_first.itertuples()):
        if left_out <= 0 or not LONGEST_TABLE // 2 <= place < len(best_first) - LONGEST_TABLE // 2:
            shown.add_row(f"{row.score:.1f}", escape(row.image))
        elif place == LONGEST_TABLE // 2:
            shown.add_row("…", f"{left_out:,} more; --csv FILE lists all")
    Console().print(shown)


def _add_finetune(commands: argparse._SubParsersAction) -> None:
    tune = commands.add_parser("finetune", help="train on your own images and scores; results, figures, a page")
    tune.add_argument("labels", metavar="LABELS.csv", help="with the columns image and score")
    tune.add_argument(
        "--range", nargs=2, type=float, default=(0, 100), metavar=("WORST", "BEST"), help="of your scale; 0 100"
    )
    tune.add_argument("--name", default="mine", help="of the study: runs/NAME, figures/NAME; 'mine'")
    _add_settings(tune, "whose settings are taken")
    tune.set_defaults(act=_finetune)


TUNING = ["00_data", "01_train", "08_errors"]  # the notebooks that need no other run


def _finetune(options: argparse.Namespace) -> int:
    import yaml

    from iqa_lib.profile import load_profile
    from iqa_lib.workbook.runner import run_workbook

    own = {
        "profile": options.name,
        "dataset": str(Path(options.labels).expanduser().resolve()),
        "score_range": options.range,
        "test_datasets": (),
    }
    settings = load_profile(options.profile, **{**own, **_read_overrides(options.overrides)})
    file = settings.folder / "profile.yaml"
    paths.write_atomically(file, yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False))
    failed = run_workbook(str(file), {}, TUNING)
    if not failed:
        print(f"python -m iqa_lib score PHOTO --model {options.name}")
    return failed


def _add_export(commands: argparse._SubParsersAction) -> None:
    export = commands.add_parser("export", help="write a model as ONNX, for engines other than PyTorch")
    export.add_argument("file", metavar="OUT.onnx")
    export.add_argument("--model", help=MODEL_HELP)
    export.set_defaults(act=_export)


def _export(options: argparse.Namespace) -> int:
    from iqa_lib.data.decode import WorkingSize
    from iqa_lib.models.export import export_model
    from iqa_lib.scoring import score as scoring

    scorer = scoring.load_scorer(options.model)
    print(f"{scorer.name}: {export_model(scorer.model, Path(options.file), *WorkingSize.of_settings(scorer.settings))}")
    if scorer.settings.precision != "float32":
        print(f"It computes in float32, the run in {scorer.settings.precision}: their scores differ.")
    return 0


def _add_run(commands: argparse._SubParsersAction) -> None:
    run = commands.add_parser("run", help="run the notebooks of a profile and write its report")
    run.add_argument("--only", nargs="+", default=[], metavar="NOTEBOOK", help="run these, e.g. 01_train")
    run.add_argument("--from", dest="start", metavar="NOTEBOOK", help="leave out the notebooks before this one")
    run.add_argument("--force", action="store_true", help="run also what is unchanged")
    _add_settings(run)
    run.set_defaults(act=_run)


def _add_settings(
    command: argparse.ArgumentParser, profile_help: str = "a name in notebooks/profiles, or a YAML file's path"
) -> None:
    command.add_argument("--profile", default="demo", help=profile_help)
    command.add_argument(
        "-p", nargs="+", action="extend", default=[], dest="overrides", metavar="NAME=VALUE", help="override a key"
    )


def _add_train(commands: argparse._SubParsersAction) -> None:
    train = commands.add_parser("train", help="train the runs of an experiment that are missing")
    train.add_argument("--experiment", help="one of the experiments; all where left out")
    train.add_argument("--run", action="append", metavar="LABEL", help="this run of the experiment alone")
    train.add_argument("--seeds", metavar="0,1,2", help="instead of the profile's")
    train.add_argument("--dry-run", action="store_true", help="list the runs and what they cost, train nothing")
    train.add_argument("--engine", choices=["local", "ray"], default="local", help="ray: on the cluster of RAY_ADDRESS")
    _add_settings(train)
    train.set_defaults(act=_train)


def _train(options: argparse.Namespace) -> int:
    if options.seeds:
        options.overrides.append(f"seeds=[{options.seeds}]")
    settings = _settings(options)
    from iqa_lib.study import experiments

    names = [options.experiment] if options.experiment else list(experiments.EXPERIMENTS)
    if options.dry_run:
        from iqa_lib.study.plan import print_plan

        print_plan(settings, names, options.run)
        return 0
    if options.engine == "ray":
        from iqa_lib.study.cluster import train_on_ray

        train_on_ray(settings, names, options.run)
    from iqa_lib.metrics import in_words

    for name in names:
        for label, runs in experiments.results(settings, name, options.run).items():
            scores = ", ".join(in_words(run.srcc, ".4f") for run in runs)
            print(f"{name}: {label}: test SRCC {scores}")
    from accelerate import PartialState

    PartialState().destroy_process_group()  # of several processes one may else abort at its end, and fail the launch
    return 0


def _add_pretrain(commands: argparse._SubParsersAction) -> None:
    pretrain = commands.add_parser(
        "pretrain", help="make this project's own weights: swin_nano, and the model that scores by default"
    )
    pretrain.add_argument("--backbone", default="swin_nano", help="swin_nano, swin_nano_plain, any timm backbone")
    pretrain.add_argument("--epochs", type=int, default=4, metavar="N", help="over the pictures")
    pretrain.add_argument("--seed", type=int, default=0)
    pretrain.add_argument("--pictures", metavar="FOLDER", help="where the listed wallpapers are; /usr/share")
    pretrain.set_defaults(act=_pretrain)


def _pretrain(options: argparse.Namespace) -> int:
    from iqa_lib.training import pretrain

    made = pretrain.make_weights(options.backbone, options.epochs, options.seed, options.pictures)
    for what, file in made.items():
        print(f"{what}: {file}")
    return 0


def _add_bench(commands: argparse._SubParsersAction) -> None:
    bench = commands.add_parser(
        "bench", help="time and memory of the profile's models on this machine, and against the plain way"
    )
    bench.add_argument("--largest-batch", type=int, default=64, metavar="N", help="to measure memory up to")
    _add_settings(bench)
    bench.set_defaults(act=_bench)


def _bench(options: argparse.Namespace) -> int:
    settings = _settings(options)
    import subprocess

    from iqa_lib import machine, paths
    from iqa_lib.study import complexity as bench

    print(f"{settings.profile} on {machine.description()}")
    for table in (bench.costs(settings, full=True), bench.batch_sizes(settings, options.largest_batch)):
        print(f"\n{table.to_string(index=False)}\n", flush=True)
    plain = paths.CHECKOUT / "benchmarks" / "plain.py"
    if not plain.is_file():
        print("Against the plain way: measured by benchmarks/plain.py of a checkout; this is an installed package.")
        return 0
    return subprocess.run([sys.executable, plain, settings.backbone]).returncode


def _run(options: argparse.Namespace) -> int:
    overrides = _read_overrides(options.overrides)
    from iqa_lib.workbook.runner import run_workbook

    return run_workbook(options.profile, overrides, options.only, options.start, options.force)


def _read_overrides(pairs: list[str]) -> dict[str, Any]:
    import yaml

    overrides = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise ProfileError(f"-p takes NAME=VALUE, not '{pair}'")
        try:
            overrides[name] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise ProfileError(f"-p {name}: '{value}' is not a YAML value") from None
    return overrides


def _add_data(commands: argparse._SubParsersAction) -> None:
    data = commands.add_parser("data", help="list, check, prepare or download datasets")
    actions = data.add_subparsers(dest="action", required=True, metavar="ACTION")
    for act, text in {
        _list: "what is known, what is there, how to get the rest",
        _check: "read all labels and open every image: one report of all faults (exit code 1 if there are any)",
        _prepare: "decode to the profile's resolution, into data/cache; verify what is there already",
        _download: "fetch and unpack, where there is a public address",
        _scores: "compute the embedded datasets' scores again, compare them with the package's (exit code 1 if any differ)",
    }.items():
        action = actions.add_parser(act.__name__[1:], help=text, description=text)
        action.set_defaults(act=act)
        if act == _scores:
            instead = action.add_mutually_exclusive_group()
            instead.add_argument("--write", action="store_true", help="make them the package's")
            instead.add_argument(
                "--add", action="store_true", help="add only the images that this processor makes otherwise"
            )
            continue
        if act != _list:
            action.add_argument("name", metavar="NAME", help="a dataset of the list, or the path of your labels")
        if act == _download:
            action.add_argument("--accept-licence", action="store_true", help="agree without being asked")
        _add_settings(action, "whose data_folder, score_range and sizes count")


def _settings(options: argparse.Namespace) -> Any:
    from iqa_lib.profile import load_profile

    return load_profile(options.profile, **_read_overrides(options.overrides))


def _list(options: argparse.Namespace) -> int:
    settings = _settings(options)
    from rich.console import Console
    from rich.table import Table

    from iqa_lib.data.check import overview

    known = overview(settings.data_folder)
    table = Table(*(str(column) for column in known.columns))
    for row in known.itertuples(index=False):
        table.add_row(*row)
    Console().print(table)
    return 0


def _check(options: argparse.Namespace) -> int:
    settings = _settings(options)
    from iqa_lib.data.check import check

    report = check(options.name, settings)
    print(f"{report.name}: {report.images:,} labelled images in {report.folder or 'no folder'}")
    for number, fault in enumerate(report.faults, 1):
        print(f"fault {number}: {fault}")
    for note in report.notes:
        print(f"note: {note}")
    print(f"{len(report.faults) or 'no'} fault{'' if len(report.faults) == 1 else 's'}")
    return int(bool(report.faults))


def _prepare(options: argparse.Namespace) -> int:
    settings = _settings(options)
    from iqa_lib.data.images import load_images

    images = load_images(settings, options.name, options.name in settings.test_datasets, verify=True)
    print(
        f"{options.name}: {len(images):,} images decoded to {settings.resolution} px, verified "
        f"(fingerprint {images.fingerprint})"
    )
    return 0


def _download(options: argparse.Namespace) -> int:
    settings = _settings(options)
    from iqa_lib.data.download import download

    def accept(licence: str) -> bool:
        print(licence)
        if options.accept_licence:
            return True
        return sys.stdin.isatty() and input("Do you accept it? [y/N] ").strip().lower() in ("y", "yes")

    print(f"{options.name} is in {download(options.name, accept, settings.data_folder)}")
    return 0


def _scores(options: argparse.Namespace) -> int:
    from iqa_lib.data import offline

    return int(not offline.renew_scores(options.write, options.add))


if __name__ == "__main__":
    sys.exit(main())
