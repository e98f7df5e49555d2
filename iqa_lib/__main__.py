"""The command line: ``python -m iqa_lib COMMAND``."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from iqa_lib.errors import ProfileError, WorkbookError

# Everything slow (papermill, torch, pandas) is imported by the command that needs it: --help answers at once.


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m iqa_lib", description="The SMART-IQA workbook.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_run(commands)
    options = parser.parse_args(arguments)
    try:
        return options.act(options)
    except WorkbookError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2


def _add_run(commands: argparse._SubParsersAction) -> None:
    run = commands.add_parser("run", help="run the notebooks of a profile and write its report")
    run.add_argument("--profile", default="demo", help="a name in notebooks/profiles, or a YAML file's path")
    run.add_argument("--only", nargs="+", default=[], metavar="NOTEBOOK", help="run these, e.g. 01_train")
    run.add_argument(
        "--from", dest="start", metavar="NOTEBOOK", help="leave out the notebooks before this one"
    )
    run.add_argument("--force", action="store_true", help="run also what is unchanged")
    run.add_argument(
        "-p",
        nargs="+",
        action="extend",
        default=[],
        dest="overrides",
        metavar="NAME=VALUE",
        help="override a key",
    )
    run.set_defaults(act=_run)


def _run(options: argparse.Namespace) -> int:
    overrides = _read_overrides(options.overrides)
    from iqa_lib.workbook import run_workbook

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


if __name__ == "__main__":
    sys.exit(main())
