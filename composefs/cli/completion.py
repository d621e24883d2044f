"""`composefs completion SHELL`: the script that lets a shell complete our commands.

The script asks the command itself, with `_ARGCOMPLETE` in the environment; completer.py answers.
"""

from __future__ import annotations

import argparse

SHELLS = ("bash", "zsh", "fish")
PROGRAMS = ("composefs", "composefs-import")

EXAMPLES = """\
examples:
  source <(composefs completion bash)          # in ~/.bashrc
  source <(composefs completion zsh)           # in ~/.zshrc, after compinit
  composefs completion fish | source           # in ~/.config/fish/config.fish"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.description = "Print the script that completes commands, options, tags and names of images in a shell."
    parser.epilog = EXAMPLES
    parser.add_argument("shell", choices=SHELLS, metavar="SHELL", help="bash, zsh or fish")


def run(arguments: argparse.Namespace) -> int:
    """Print it."""
    from argcomplete.shell_integration import shellcode

    print(shellcode(list(PROGRAMS), shell=arguments.shell))
    return 0
