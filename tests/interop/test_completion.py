"""bash, zsh and fish take our scripts, and offer what we do."""

import os
import subprocess
import sys

import pytest

from composefs.cli import main
from tests import commands
from tests.tools import require_tool

LINE = "composefs oci ima"
ASK = {
    "bash": f"""
        source ./script
        COMP_LINE="{LINE}" COMP_POINT={len(LINE)} COMP_TYPE=9
        _python_argcomplete composefs
        echo "${{COMPREPLY[@]}}"
    """,
    "zsh": f"""
        autoload -Uz compinit
        compinit -u -D
        source ./script
        [[ ${{_comps[composefs]}} == _python_argcomplete ]] || exit 1
        _describe() {{ print -rl -- ${{${{(P)2}}%%:*}} }}  # which needs a terminal
        BUFFER="{LINE}" CURSOR={len(LINE)} words=({LINE})
        _python_argcomplete
    """,
    "fish": f"""
        source ./script
        complete -C "{LINE}" | string split -f 1 \\t
    """,
}


@pytest.mark.parametrize("shell", ASK)
def test_shell(shell, tmp_path, capsys):
    """A shell that has read the script completes the name of a command."""
    program = require_tool(shell)
    assert main(["completion", shell]) == 0
    (tmp_path / "script").write_text(capsys.readouterr().out)
    commands.run(tmp_path, "composefs", "--version")  # which writes the command
    (tmp_path / "bin").mkdir()
    command = tmp_path / "bin/composefs"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{tmp_path}/composefs" "$@"\n')
    command.chmod(0o755)
    environment = {**os.environ, "PATH": f"{command.parent}:{os.environ['PATH']}", "PYTHONPATH": str(commands.ROOT)}
    environment |= {"HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path)}

    result = subprocess.run(
        [program, "-c", ASK[shell]], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )

    assert (result.returncode, result.stdout.split()) == (0, ["images"]), result.stderr
