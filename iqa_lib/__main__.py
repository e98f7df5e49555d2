"""The command line: ``python -m iqa_lib VERB``. A verb is a function below its options.

Everything slow (papermill, torch, pandas) is imported by the verb that needs it: --help answers at once.
"""

import argparse
import errno
import os
import signal
import sys
from argparse import Namespace
from collections.abc import Callable
from functools import partial
from operator import methodcaller
from pathlib import Path
from typing import Any

from iqa_lib import paths
from iqa_lib.errors import ProfileError, WorkbookError
from iqa_lib.progress import in_a_line, print_table, shown

PARSER = argparse.ArgumentParser(prog="python -m iqa_lib", description="The SMART-IQA workbook.")
VERBS = PARSER.add_subparsers(dest="command", required=True, metavar="COMMAND")


def main(arguments: list[str] | None = None) -> int:
    def interrupt(number: int, _: object) -> None:
        raise KeyboardInterrupt(number)

    before = signal.signal(signal.SIGTERM, interrupt)  # schedulers and clusters send it before they kill: as Ctrl-C
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115 (closed by a shell's >&-)
    try:
        for stream in (sys.stdout, sys.stderr):  # whatever a terminal cannot show of a name is escaped
            if hasattr(stream, "reconfigure"):  # not in a notebook
                stream.reconfigure(errors="backslashreplace")
        options = PARSER.parse_args(arguments)
        code = options.act(options)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # who reads has enough, as in `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + 13  # SIGPIPE, which Windows lacks
    except WorkbookError as error:
        print(f"error: {shown(str(error))}", file=sys.stderr)
        return 2
    except OSError as error:
        if error.errno in paths.FULL | paths.FORBIDDEN:
            refused = str(paths.storage_error(error, Path(error.filename or paths.HOME)))
        elif error.errno == errno.ENAMETOOLONG:
            refused = f"'{str(error.filename)[:60]}…' is longer than any file's name can be."
        else:
            raise
        print(f"error: {shown(refused)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as interrupted:
        print("Interrupted. What is finished is kept: the same command resumes there.", file=sys.stderr)
        return 128 + (signal.SIGTERM if interrupted.args == (signal.SIGTERM,) else signal.SIGINT)
    finally:
        signal.signal(signal.SIGTERM, before)


option = partial(methodcaller, "add_argument")  # an option: called with a parser, it adds itself


def verb(about: str, *options: Callable | list[Callable]) -> Callable:
    """Makes a function a verb, by its own name; ``data_x`` becomes ``data x``. Of a list of options one is given."""

    def register(act: Callable[[Namespace], int]) -> Callable[[Namespace], int]:
        group, _, name = act.__name__.rpartition("_")
        parser = (DATA_VERBS if group else VERBS).add_parser(name, help=about, description=about)
        parser.set_defaults(act=act)
        for given in options:
            target = parser.add_mutually_exclusive_group() if isinstance(given, list) else parser
            for add in given if isinstance(given, list) else [given]:
                add(target)
        return act

    return register


def _override(pair: str) -> tuple[str, Any]:
    import yaml

    name, equals, value = pair.partition("=")
    if not equals or not name:
        raise ProfileError(f"-p takes NAME=VALUE, not '{pair}'")
    try:
        return name, yaml.safe_load(paths.printable(value))
    except (yaml.YAMLError, ValueError):  # the latter: an impossible date
        raise ProfileError(f"-p {name}: '{value}' is not a YAML value") from None


_PAIRS = {"nargs": "+", "action": "extend", "default": [], "type": _override, "metavar": "NAME=VALUE"}
OVERRIDES = option("-p", dest="overrides", help="override a key", **_PAIRS)


def profile_options(
    meaning: str = "a name in notebooks/profiles, or a YAML file's path", default: str = "demo"
) -> list[Callable]:
    return [option("--profile", default=default, help=meaning), OVERRIDES]


def _settings(options: Namespace, **own: Any) -> Any:
    """The profile that is named, with ``own`` values in it, with those of -p over them."""
    from iqa_lib.profile import load_profile

    return load_profile(options.profile, **{**own, **dict(options.overrides)})


def _here(name: str) -> str:
    """A dataset's name; or the path of labels, which are looked for in the current folder first."""
    from iqa_lib.data.catalog import CATALOG

    path = os.path.expanduser(name)
    return paths.printable(os.path.abspath(path) if name not in CATALOG and os.path.exists(path) else name)


MODEL = option(
    "--model",
    help="a run (name or folder), a profile with one run, a folder of save_pretrained, or a checkpoint of the "
    "reference code; by default the model that comes with the package",
)
SCORES = option("table", metavar="SCORES.csv|.json", help="that `score` wrote")


@verb(
    "score photographs: 0-100, higher is better; a few points beyond where worse or better than all that it learnt",
    option("images", nargs="+", metavar="PHOTO|FOLDER|PATTERN"),
    MODEL,
    option(
        "--csv", metavar="FILE", help="write image, score, interval, fault and what made them; - for standard output"
    ),
    option("--json", action="store_true", help="print JSON instead of a table"),
    option("--map", metavar="FOLDER", help="write each photograph's local quality as PNG"),
)
def score(options: Namespace) -> int:
    import json

    from iqa_lib.scoring import found
    from iqa_lib.scoring import score as scoring
    from iqa_lib.scoring.listing import print_scores

    csv = Path(options.csv) if options.csv is not None else None
    to_stdout = csv is not None and paths.is_standard_output(csv)
    if to_stdout and options.json:
        raise WorkbookError("--csv and --json both want standard output: name a file for --csv.")
    if csv:
        paths.require_target(csv)
        if csv.suffix.lower() in [*found.PHOTOGRAPHS, *found.RAW]:
            raise WorkbookError(f"--csv would write over a photograph, '{csv}': name the table first.")
    if options.map is not None:
        paths.require_target(Path(options.map), folder=True)
    files = scoring.find_images(options.images)
    scorer = scoring.load_scorer(options.model)
    if csv and not to_stdout and not paths.is_stream(csv):
        table = scoring.score_into(scorer, files, csv)
    else:
        table = scoring.score_all(scorer, files, len(files)).round(4).assign(scored_by=scoring.passport(scorer))
        if csv:
            paths.write_atomically(csv, paths.to_csv(table))
    if options.map is not None:
        from iqa_lib.study import figures_inside

        figures_inside.save_maps(scorer, table, Path(options.map))
    faults = table[table["fault"] != ""]
    if options.json:
        rows = table.astype(object).where(table.notna(), None).to_dict("records")
        text = json.dumps(rows, indent=1, ensure_ascii=False)
        plain = shown(text) == text and "utf" in (sys.stdout.encoding or "").lower()
        print(text if plain else json.dumps(rows, indent=1))
    elif not to_stdout:
        print_scores(scorer, table.drop(faults.index).sort_values("score", ascending=False, kind="stable"))
    told = [f"no score: {in_a_line(row.image)} {row.fault}" for row in faults.itertuples()]
    sys.stderr.writelines(f"{line}\n" for line in told + scoring.marked_in(table, scorer))
    return int(bool(len(faults)))


@verb("score a sample of a table of scores again: the same, or what differs (exit code 1)", SCORES, MODEL)
def verify(options: Namespace) -> int:
    from iqa_lib.scoring import verify

    same, report = verify.verify(Path(options.table), options.model)
    print(shown(report))
    return int(not same)


@verb("for a table of scores, the sentence for a paper and BibTeX of model, data and method", SCORES)
def cite(options: Namespace) -> int:
    from iqa_lib.scoring import verify

    print(shown(verify.cite(Path(options.table))))
    return 0


TUNING = ["00_data", "01_train", "08_errors"]  # the notebooks that need no other run


@verb(
    "train on your own images and scores; results, figures, a page",
    option("labels", metavar="LABELS.csv", help="with the columns image and score"),
    option("--range", nargs=2, type=float, default=(0, 100), metavar=("WORST", "BEST"), help="of your scale; 0 100"),
    option("--name", default="mine", help="of the study: runs/NAME, figures/NAME; 'mine'"),
    *profile_options("whose settings are taken; finetune", "finetune"),
)
def finetune(options: Namespace) -> int:
    import yaml

    from iqa_lib.data import catalog
    from iqa_lib.scoring.certainty import calibrate_run
    from iqa_lib.workbook.runner import run_workbook

    labels = _here(options.labels)
    settings = _settings(options, profile=options.name, dataset=labels, score_range=options.range, test_datasets=())
    catalog.require_enough(settings)
    file = settings.folder / "profile.yaml"
    paths.write_atomically(file, yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False))
    failed = run_workbook(str(file), only=TUNING)
    if not failed:
        print(calibrate_run(settings), f"python -m iqa_lib score PHOTO --model {options.name}", sep="\n")
    return failed


@verb(
    "run the notebooks of a profile and write its report",
    option("--only", nargs="+", default=[], metavar="NOTEBOOK", help="run these, e.g. 01_train"),
    option("--from", dest="start", metavar="NOTEBOOK", help="leave out the notebooks before this one"),
    option("--force", action="store_true", help="run also what is unchanged"),
    option("--publish", metavar="FOLDER", help="then write the study there, without its data: a page, and its claims"),
    *profile_options(),
)
def run(options: Namespace) -> int:
    from iqa_lib.workbook.runner import run_workbook

    if options.publish is not None:
        from iqa_lib.workbook import publish

        settings, folder = _settings(options), Path(options.publish)
        if options.only or options.start:
            raise WorkbookError("--publish wants the whole study: leave out --only and --from.")
        publish.require_publishable(settings, folder)
    failed = run_workbook(options.profile, dict(options.overrides), options.only, options.start, options.force)
    if options.publish is not None and not failed:
        print(publish.publish(settings, folder))
    return failed


@verb(
    "compute a published study again on the data that you have, and compare the verdicts (exit code 1 if any differs)",
    option("study", nargs="?", metavar="FOLDER", help="that `run --publish` wrote; the project's own, docs/study"),
    OVERRIDES,
)
def repeat(options: Namespace) -> int:
    from iqa_lib.workbook.repeat import repeat

    return repeat(Path(options.study or paths.STUDY), dict(options.overrides))


@verb(
    "train the runs of an experiment that are missing",
    option("--experiment", help="one of the experiments; all where left out"),
    option("--run", action="append", metavar="LABEL", help="this run of the experiment alone"),
    option("--seeds", metavar="0,1,2", help="instead of the profile's"),
    option("--dry-run", action="store_true", help="list the runs and what they cost, train nothing"),
    option("--engine", choices=["local", "ray"], default="local", help="ray: on the cluster of RAY_ADDRESS"),
    *profile_options(),
)
def train(options: Namespace) -> int:
    if options.seeds:
        options.overrides = [*options.overrides, _override(f"seeds=[{options.seeds}]")]
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
            print(f"{name}: {label}: test SRCC {', '.join(in_words(run.srcc, '.4f') for run in runs)}")
    from accelerate import PartialState

    PartialState().destroy_process_group()  # of several processes one may else abort at its end, and fail the launch
    return 0


@verb(
    "time and memory of the profile's models on this machine, and against the plain way",
    option("--largest-batch", type=int, default=64, metavar="N", help="to measure memory up to"),
    *profile_options(),
)
def bench(options: Namespace) -> int:
    from iqa_lib.study import complexity

    return complexity.bench(_settings(options), options.largest_batch)


@verb(
    "judge a published split: content on both sides, epochs chosen on test, what n can show (exit code 1 if at fault)",
    option("split", metavar="SPLIT.csv", help="image, split; any of score, reference, prediction, epoch1, epoch2, …"),
    option("--srcc", type=float, metavar="R", help="that is published for the test images"),
    option("--claims", nargs="+", type=float, default=[], metavar="D", help="differences of SRCC that are claimed"),
)
def audit(options: Namespace) -> int:
    from iqa_lib.study.audit import audit

    return audit(_here(options.split), options.srcc, options.claims).show()


@verb("copy the notebooks and their profiles here, to read and to change them")
def notebooks(options: Namespace) -> int:
    import shutil

    own = paths.HOME / "notebooks"
    if own.exists():
        raise WorkbookError(f"{own} is there already: remove it, or work with it. Nothing was copied.")
    shutil.copytree(paths.NOTEBOOKS, own, ignore=shutil.ignore_patterns("__*", ".*"))
    print(f"{own}: jupyter lab {own}")
    return 0


@verb("what this computer has and what is wrong with it (exit code 1 if anything is): for bug reports")
def doctor(options: Namespace) -> int:
    from iqa_lib.workbook.doctor import examine

    found = examine()
    print_table(((part, text) for part, text, _ in found), "part", "found")
    advice = [f"{part}: {wrong}" for part, _, wrong in found if wrong]
    print(*advice, sep="\n") if advice else print("nothing is wrong")
    return int(bool(advice))


DATA_VERBS = VERBS.add_parser("data", help="list, check, prepare or download datasets").add_subparsers(
    dest="action", required=True, metavar="ACTION"
)
DATASET = option("name", metavar="NAME", help="a dataset of the list, or the path of your labels")
DATA_PROFILE = profile_options("whose data_folder, score_range and sizes count")


@verb("what is known, what is there, how to get the rest", *DATA_PROFILE)
def data_list(options: Namespace) -> int:
    settings = _settings(options)
    from iqa_lib.data.check import overview

    known = overview(settings.data_folder)
    print_table(known.itertuples(index=False), *known.columns)
    return 0


@verb("read all labels and open every image: report all faults (exit code 1 if there are any)", DATASET, *DATA_PROFILE)
def data_check(options: Namespace) -> int:
    settings = _settings(options)
    from iqa_lib.data.check import check

    return check(_here(options.name), settings).show()


@verb("decode to the profile's resolution, into data/cache; verify what is there already", DATASET, *DATA_PROFILE)
def data_prepare(options: Namespace) -> int:
    settings = _settings(options)
    from iqa_lib.data.images import load_images

    name = _here(options.name)
    images = load_images(settings, name, name in settings.test_datasets, verify=True)
    decoded = f"{len(images):,} images decoded to {settings.resolution} px"
    print(f"{name}: {decoded}, verified (fingerprint {images.fingerprint})")
    return 0


@verb(
    "fetch and unpack, where there is a public address",
    DATASET,
    option("--accept-licence", action="store_true", help="agree without being asked"),
    *DATA_PROFILE,
)
def data_download(options: Namespace) -> int:
    settings = _settings(options)
    from iqa_lib.data.download import download

    def accept(licence: str) -> bool:
        print(licence)
        if options.accept_licence:
            return True
        return sys.stdin.isatty() and input("Do you accept it? [y/N] ").strip().lower() in ("y", "yes")

    print(f"{options.name} is in {download(options.name, accept, settings.data_folder)}")
    return 0


@verb(
    "compute the embedded datasets' scores again, compare them with the package's (exit code 1 if any differ)",
    [
        option("--write", action="store_true", help="make them the package's"),
        option("--add", action="store_true", help="add only the images that this processor makes otherwise"),
    ],
)
def data_scores(options: Namespace) -> int:
    from iqa_lib.data import offline

    return int(not offline.renew_scores(options.write, options.add))


@verb(
    "make the weights of this project's own backbone, swin_nano",
    option("--backbone", default="swin_nano", help="swin_nano, swin_nano_plain, any timm backbone"),
    option("--epochs", type=int, default=4, metavar="N", help="over the pictures"),
    option("--seed", type=int, default=0),
    option("--pictures", metavar="FOLDER", help="where the listed wallpapers are; /usr/share"),
)
def pretrain(options: Namespace) -> int:
    from iqa_lib.training import pretrain

    print(pretrain.make_weights(options.backbone, options.epochs, options.seed, options.pictures))
    return 0


@verb("write a model as ONNX, for engines other than PyTorch", option("file", metavar="OUT.onnx"), MODEL)
def export(options: Namespace) -> int:
    from iqa_lib.data.decode import WorkingSize
    from iqa_lib.models.export import export_model
    from iqa_lib.scoring import score as scoring

    file = Path(options.file)
    paths.require_target(file)
    remarks = sys.stderr if paths.is_standard_output(file) else sys.stdout
    scorer = scoring.load_scorer(options.model)
    written = export_model(scorer.model, file, *WorkingSize.of_settings(scorer.settings))
    print(f"{scorer.name}: {written}", file=remarks)
    if scorer.settings.precision != "float32":
        print(f"It computes in float32, the run in {scorer.settings.precision}: their scores differ.", file=remarks)
    return 0


if __name__ == "__main__":
    sys.exit(main())
