"""The options that say how images are reached: what becomes of them and of the environment; secrets stay secret."""

import io
import json
import logging
import os
import pwd
import sys

import pytest

from composefs.cli import access, main, main_import
from composefs.cli.parser import CommandParser
from composefs.errors import UsageError
from composefs.registry.endpoint import Credentials
from tests.hosts import SECRET
from tests.layouts import files_layer, image_layout


@pytest.fixture
def here(host, monkeypatch):
    """The environment of a user of the host, of which no file is read outside of it."""
    monkeypatch.setenv("HOME", str(host.home))
    for variable in ("XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "DOCKER_CONFIG", "REGISTRY_AUTH_FILE", "TMPDIR"):
        monkeypatch.delenv(variable, raising=False)
    return host


def parse(*arguments):
    """Return what *arguments* of a command become, with one that is no option."""
    parser = CommandParser(prog="test")
    access.add_options(parser)
    parser.add_argument("reference")
    return parser.parse_args(arguments)


def chosen(*arguments):
    return access.access(parse(*arguments, "x")).host.options


def test_defaults(here):
    """Without options nothing is chosen; nothing is read."""
    found = access.access(parse("x"))

    assert found.host.options == access.host_config().options
    assert (found.via_skopeo, found.streams, found.spool) == (False, 6, "/var/tmp")
    assert "network" not in vars(found.host)


def test_options(here, monkeypatch):
    """They are spelled as skopeo has them."""
    monkeypatch.setenv("TMPDIR", "/spool")
    found = access.access(
        parse(
            *("--authfile", "/a", "--creds", "user:pass:word", "--cert-dir=/c", "--policy", "/p", "--via", "skopeo"),
            *("--streams", "3", "x", "--tls-verify=false"),
        )
    )

    options = found.host.options
    assert (options.auth_file, options.cert_dir, options.policy) == ("/a", "/c", "/p")
    assert options.credentials == Credentials("user", "pass:word")
    assert options.tls_verify is False
    assert (found.via_skopeo, found.streams, found.spool) == (True, 3, "/spool")


def test_verbose(here):
    """What the package logs is shown, and of others no more than before."""
    access.access(parse("-v", "x"))

    assert logging.getLogger("composefs.hostconfig").isEnabledFor(logging.DEBUG)
    assert not logging.getLogger("urllib3").isEnabledFor(logging.DEBUG)


@pytest.mark.parametrize(
    ("arguments", "verify"),
    [
        (["--tls-verify"], True),
        (["--tls-verify=true"], True),
        (["--tls-verify", "false"], False),
        (["--tls-verify=false"], False),
        ([], None),
    ],
)
def test_tls_verify(here, arguments, verify):
    """Its value may be missing, and the reference behind it is none."""
    found = parse(*arguments, "docker://a.example/x")

    assert found.reference == "docker://a.example/x"
    assert access.access(found).host.options.tls_verify is verify


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["--tls-verify=maybe"], "invalid choice: 'maybe'"),
        (["--via", "podman"], "invalid choice: 'podman'"),
        (["--streams", "0"], "is no number above zero"),
        (["--creds", f":{SECRET}"], "there is no user before the colon"),
    ],
)
def test_wrong_options(here, arguments, what, capsys):
    """They are told, without the secret."""
    with pytest.raises(SystemExit):
        parse(*arguments, "x")

    err = capsys.readouterr().err
    assert what in err
    assert SECRET not in err


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["--authfile="], "--authfile is empty"),
        (["--cert-dir="], "--cert-dir is empty"),
        (["--policy="], "--policy is empty"),
        (["--password-stdin"], "--password-stdin needs --creds USER"),
        (["--password-stdin", "--creds", f"user:{SECRET}"], "--password-stdin is for a --creds without a password"),
    ],
)
def test_options_that_do_not_fit(here, arguments, what):
    """They are told, too."""
    with pytest.raises(UsageError) as caught:
        chosen(*arguments)

    assert str(caught.value) == what


class Stdin(io.TextIOWrapper):
    """Standard input of bytes, at a terminal or not."""

    def __init__(self, data=b"", *, terminal=False):
        super().__init__(io.BytesIO(data))
        self._terminal = terminal

    def isatty(self):
        return self._terminal


@pytest.mark.parametrize("line", [SECRET, f"{SECRET}\n", f"{SECRET}\r\nnext\n"])
def test_password_from_standard_input(here, monkeypatch, line):
    """It is the first line."""
    monkeypatch.setattr(sys, "stdin", Stdin(line.encode()))

    assert chosen("--creds", "user", "--password-stdin").credentials == Credentials("user", SECRET)


def test_no_password_on_standard_input(here, monkeypatch):
    """Its end is no empty password."""
    monkeypatch.setattr(sys, "stdin", Stdin())

    with pytest.raises(UsageError, match="there is no password on standard input"):
        chosen("--creds", "user", "--password-stdin")


def test_standard_input_is_closed(here, monkeypatch):
    """Whoever started us may have closed it: there is nothing to read, and nobody to ask."""
    monkeypatch.setattr(sys, "stdin", None)

    with pytest.raises(UsageError, match="standard input is closed"):
        chosen("--creds", "user", "--password-stdin")
    with pytest.raises(UsageError, match="there is no terminal to ask at"):
        chosen("--creds", "user")


def test_password_that_is_too_long(here, monkeypatch):
    """It is refused, rather than cut."""
    monkeypatch.setattr(sys, "stdin", Stdin(b"x" * (1 << 20)))

    with pytest.raises(UsageError, match="has 65536 bytes or more"):
        chosen("--creds", "user", "--password-stdin")


def test_no_password_at_the_terminal(here, monkeypatch):
    """Ctrl-D at the prompt is no empty password."""

    def end(_):
        raise EOFError

    monkeypatch.setattr("getpass.getpass", end)
    monkeypatch.setattr(sys, "stdin", Stdin(terminal=True))

    with pytest.raises(UsageError, match="no password was given"):
        chosen("--creds", "user")


def test_password_that_is_no_text(here, monkeypatch):
    """It is told, without what was read."""
    monkeypatch.setattr(sys, "stdin", Stdin(SECRET.encode() + b"\xff\n"))

    with pytest.raises(UsageError) as caught:
        chosen("--creds", "user", "--password-stdin")
    assert str(caught.value) == "the password on standard input is not UTF-8"


def test_password_at_the_terminal(here, monkeypatch):
    """A user without a password is asked for it, where there is somebody to ask."""
    asked = []
    monkeypatch.setattr("getpass.getpass", lambda prompt: asked.append(prompt) or SECRET)
    monkeypatch.setattr(sys, "stdin", Stdin(terminal=True))
    assert chosen("--creds", "user").credentials == Credentials("user", SECRET)
    assert asked == ["password of user: "]

    monkeypatch.setattr(sys, "stdin", Stdin())
    with pytest.raises(UsageError, match="there is no terminal to ask at"):
        chosen("--creds", "user")


def test_empty_password(here):
    """A colon with nothing behind it is an empty password."""
    assert chosen("--creds", "user:").credentials == Credentials("user", "")


def test_secrets_are_not_shown(here):
    """Neither arguments nor what becomes of them show a password."""
    arguments = parse("--creds", f"user:{SECRET}", "x")

    assert SECRET not in repr(arguments) + repr(access.access(arguments)) + repr(access.access(arguments).host)


def test_home(monkeypatch):
    """Without $HOME it is that of the user, if there is one."""
    monkeypatch.delenv("HOME", raising=False)
    assert access._home() == pwd.getpwuid(os.getuid()).pw_dir
    monkeypatch.setattr(os, "getuid", lambda: 4_000_000)
    assert access._home() is None
    access.host_config()


# Short names


@pytest.mark.parametrize(
    ("text", "full"),
    [
        ("fedora:42", "docker://b.example/fedora:42"),
        ("fedora", "docker://b.example/fedora:latest"),
        ("void", "docker://s.example/void:latest"),
        ("docker://fedora", None),
        ("docker:42", None),
        ("oci:fedora", None),
        ("s.example/fedora:42", None),
        ("./fedora:42", None),
        ("Fedora", None),
    ],
)
def test_short_names(here, text, full):
    """What is neither a path nor has a host stands for what registries.conf says; all else stays as it is."""
    here.write(
        "~/.config/containers/registries.conf",
        'unqualified-search-registries = ["s.example"]\n[aliases]\nfedora = "b.example/fedora"\n',
    )

    assert access.full_reference(text, here.config()) == (full or text)


def test_short_name_of_a_path(here, tmp_path, monkeypatch):
    """A path that is there goes before."""
    here.write("~/.config/containers/registries.conf", '[aliases]\nfedora = "b.example/fedora"\n')
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fedora").mkdir()

    assert access.full_reference("fedora:42", here.config()) == "fedora:42"


def test_short_name_of_several(here):
    """Nothing is chosen for the user."""
    here.write("~/.config/containers/registries.conf", 'unqualified-search-registries = ["a.example", "docker.io"]\n')

    with pytest.raises(UsageError) as caught:
        access.full_reference("x:1", here.config())
    assert str(caught.value) == "'x:1' is short for any of docker://a.example/x:1, docker://docker.io/library/x:1"


# Commands


def test_policy_of_an_import(here, tmp_path, capsys):
    """An image that lies in a directory is under the policy, too; nothing is made for one that is refused."""
    policy = here.write("~/.config/containers/policy.json", {"default": [{"type": "reject"}]})
    image_layout(tmp_path / "layout", [files_layer({"usr/": b""})])
    command = ["--repo", str(tmp_path / "repository"), f"oci:{tmp_path}/layout"]

    assert main_import(command) == 1
    assert capsys.readouterr() == (
        "",
        f"composefs-import: oci:{tmp_path}/layout: rejected, by the default in {policy}\n",
    )
    assert not (tmp_path / "repository").exists()
    assert main_import([*command, "--policy", "none", "--quiet"]) == 0


def test_json_of_an_import(here, tmp_path, capsys):
    """Credentials are neither in the result, nor in what is said of its making, nor in the repository."""
    here.write("~/.config/containers/policy.json", {"default": [{"type": "insecureAcceptAnything"}]})
    image_layout(tmp_path / "layout", [files_layer({"usr/": b""})])
    command = ["--repo", str(tmp_path / "repository"), f"oci:{tmp_path}/layout", "--creds", f"user:{SECRET}"]

    assert main_import([*command, "--json", "--progress", "json", "-v"]) == 0
    out, err = capsys.readouterr()
    json.loads(out)

    assert SECRET not in out + err
    for path in (tmp_path / "repository").rglob("*"):
        assert SECRET not in os.fsdecode(path)
        if path.is_file():
            assert SECRET.encode() not in path.read_bytes()


@pytest.mark.parametrize("command", [["import"], ["oci", "pull"]])
def test_usage_of_commands(command, capsys):
    """Commands that fetch images have the options, and describe them."""
    assert main([*command, "--help"]) == 0

    text = " ".join(capsys.readouterr().out.split())
    for option in ("--authfile", "--creds", "--password-stdin", "--tls-verify", "--cert-dir", "--policy", "--via"):
        assert option in text


def test_standard_input_is_read_once(capsys, monkeypatch):
    """A password and an archive cannot both come on it."""
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"secret\n")))
    arguments = ["oci-archive:-", "--creds", "joe", "--password-stdin", "--repo", "/nowhere"]

    assert main_import(arguments) == 2

    assert "does not come on standard input itself" in capsys.readouterr().err
