"""`composefs doctor [PATH]`: whether images can be imported and mounted here, and what to do if not."""

from __future__ import annotations

import argparse
import json
import textwrap
from itertools import groupby
from typing import TYPE_CHECKING

from composefs.cli import options
from composefs.cli.failure import DONE, FAILED
from composefs.cli.output import printable
from composefs.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from composefs.doctor import Finding, Job

DESCRIPTION = """\
Look at the kernel, the file system, the repository and this machine, and say
of each thing whether it is ok, degraded (it works, but could do better),
missing, or unknown (it takes other privileges to find out), and what to do
about it. Nothing is changed, and nothing left behind. The exit status is 1 if
images cannot be imported into PATH, or not be mounted from there."""

EXAMPLES = """\
examples:
  composefs doctor
  composefs doctor /sysroot/composefs
  composefs --require-verity doctor /srv/repo
  composefs doctor --json | jq '.findings[] | select(.status == "missing")'"""

_WIDTH = 80  # columns
_HEADINGS = {"filesystem": "file system"}
_STATUS, _TITLE = 10, 19  # columns of these
_ARROW = "-> "


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.description, parser.epilog = DESCRIPTION, EXAMPLES
    parser.add_argument(
        "path",
        nargs="?",
        metavar="PATH",
        help="a repository, or where one would be (default: the one chosen by --repo etc.)",
    )
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object")


def run(arguments: argparse.Namespace) -> int:
    """Look at everything, and print what was found."""
    from composefs.cli.access import host_config
    from composefs.doctor import Job, examine

    if arguments.path == "":
        raise UsageError("PATH is empty")
    path = arguments.path or options.repository_path(arguments)
    findings = examine(path, require_verity=arguments.require_verity, host=host_config())
    obstacles = {job: [finding for finding in findings if job in finding.prevents] for job in Job}
    if arguments.json:
        _print_json(path, findings, obstacles)
    else:
        _print_report(findings, obstacles)
    return FAILED if any(obstacles.values()) else DONE


def _print_report(findings: Sequence[Finding], obstacles: dict[Job, list[Finding]]) -> None:
    for group, members in groupby(findings, _group):
        print(group)
        for finding in members:
            begin = f"  {finding.status.value:<{_STATUS}}{finding.title:<{_TITLE}}"
            _print_text(begin, len(begin), finding.found)
            if finding.remedy is not None:
                _print_text(" " * (2 + _STATUS) + _ARROW, 2 + _STATUS + len(_ARROW), finding.remedy)
        print()
    for job, wrong in obstacles.items():
        if wrong:
            names = ", ".join(f"{finding.title} ({_group(finding)})" for finding in wrong)
            _print_text("", 2, f"{job.value}: cannot be done: {names}")
        else:
            print(f"{job.value}: can be done")


def _print_json(path: str, findings: Sequence[Finding], obstacles: dict[Job, list[Finding]]) -> None:
    value = {
        "path": path,
        **{f"can_{job.value}": not wrong for job, wrong in obstacles.items()},
        "findings": [
            {
                "id": finding.id,
                "status": finding.status.value,
                "title": finding.title,
                "found": finding.found,
                "remedy": finding.remedy,
                "needed_for": [job.value for job in finding.needed_for],
            }
            for finding in findings
        ],
    }
    print(json.dumps(value, indent=2))


def _group(finding: Finding) -> str:
    name = finding.id.partition(".")[0]
    return _HEADINGS.get(name, name)


def _print_text(begin: str, indent: int, text: str) -> None:
    """Print *text* behind *begin*, in lines that fit; all but the first begin with *indent* blanks."""
    wrapper = textwrap.TextWrapper(_WIDTH, begin, " " * indent, break_long_words=False, break_on_hyphens=False)
    print(wrapper.fill(printable(text)))
