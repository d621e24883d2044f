"""Credential helpers: what they are asked and answer, and how they go wrong."""

import logging
import subprocess
import threading
import time
import traceback

import pytest

from composefs.errors import ComposefsError, FormatError, LimitError, NotFoundError, UsageError
from composefs.hostconfig.helpers import ask_helper
from composefs.reference import parse_name
from composefs.registry.endpoint import Credentials
from tests.hosts import SECRET, auth

ANSWER = f'{{"ServerURL": "quay.io", "Username": "user", "Secret": "{SECRET}"}}'


def ask(host, name="vault", registry="quay.io", timeout=30.0):
    return ask_helper(name, registry, wanted_by="auth.json", environ=host.environ, timeout=timeout)


def test_answer(host):
    """It gets the registry, nothing else, on standard input, and the variables of the environment."""
    host.environ["SEEN"] = str(host.root / "seen")
    host.helper("vault", f"echo \"$@ $(cat)\" > $SEEN; echo '{ANSWER}'")

    assert ask(host) == Credentials("user", SECRET)
    assert (host.root / "seen").read_text() == "get quay.io\n"


def test_token(host):
    """The user <token> is none: the secret is an identity token."""
    host.helper("vault", f"""echo '{{"Username": "<token>", "Secret": "{SECRET}"}}'""")

    assert ask(host) == Credentials(identity_token=SECRET)


def test_nothing(host):
    """One failure says that there is nothing, and is none."""
    host.helper("vault", "cat >&2; echo credentials not found in native keychain; exit 1")

    assert ask(host) is None


def test_that_does_not_listen(host):
    """A helper that knows without reading is fine."""
    host.helper("vault", f"exec <&-; echo '{ANSWER}'")

    assert ask(host, registry="x" * 60000) == Credentials("user", SECRET)


def test_missing(host):
    """The program is looked for in the $PATH of the variables, and who wants it is told."""
    with pytest.raises(NotFoundError) as caught:
        ask(host)

    assert str(caught.value) == "docker-credential-vault, which auth.json names for quay.io, is not in $PATH"


def test_no_path(host, monkeypatch):
    """Without $PATH among them it is not that of this process which counts."""
    host.helper("vault", f"echo '{ANSWER}'")
    monkeypatch.setenv("PATH", host.environ.pop("PATH"))

    with pytest.raises(NotFoundError):
        ask(host)


@pytest.mark.parametrize("name", ["", "../vault", "a/b", "a\0b"])
def test_names(host, name):
    """A name is no path."""
    with pytest.raises(UsageError, match="is no name of a credential helper"):
        ask(host, name)


@pytest.mark.parametrize(
    ("script", "kind", "what"),
    [
        (f"echo {SECRET}; exit 3", ComposefsError, "docker-credential-vault get, for quay.io: exit status 3; try it: "),
        (f"echo {SECRET} >&2; exit 1", ComposefsError, "exit status 1"),
        ("kill -9 $$", ComposefsError, "exit status -9"),
        (f"echo {SECRET}", FormatError, "answer of docker-credential-vault for quay.io, offset 0: broken JSON"),
        ("true", FormatError, "broken JSON"),
        (f"echo '[\"{SECRET}\"]'", FormatError, "is no JSON object"),
        (f"""echo '{{"Secret": "{SECRET}"}}'""", FormatError, "has no texts Username and Secret"),
        (f"""echo '{{"Username": "user", "Secret": ["{SECRET}"]}}'""", FormatError, "has no texts Username and Secret"),
        (f"while echo {SECRET}; do :; done", LimitError, "more than 262144 bytes"),
    ],
)
def test_failures(host, caplog, script, kind, what):
    """They are told, and nothing that the helper said is."""
    caplog.set_level(logging.DEBUG)
    host.helper("vault", script)

    with pytest.raises(kind) as caught:
        ask(host)

    assert type(caught.value) is kind
    assert what in str(caught.value)
    assert SECRET not in "".join(traceback.format_exception(caught.value)) + caplog.text


@pytest.mark.parametrize("script", ["exec sleep 60", f"echo '{ANSWER}'; exec sleep 60", "exec >&-; exec sleep 60"])
def test_that_hangs(host, script):
    """It is stopped when its time is over, also if it has answered, or hung up."""
    pid = host.root / "pid"
    host.helper("vault", f"echo $$ > {pid}; {script}")
    start = time.monotonic()

    with pytest.raises(ComposefsError, match="no answer within 0.5 seconds"):
        ask(host, timeout=0.5)

    assert time.monotonic() - start < 20
    assert subprocess.run(["/bin/kill", "-0", pid.read_text().strip()], capture_output=True, check=False).returncode


def test_process_list(host):
    """Arguments and variables of the helper hold no secret of ours; others see arguments."""
    host.write("~/.docker/config.json", {"credHelpers": {"quay.io": "vault"}, "auths": {"x.example": auth()}})
    host.helper(
        "vault", f"tr '\\0' ' ' < /proc/$$/cmdline > {host.root}/cmdline; env > {host.root}/env; echo '{ANSWER}'"
    )
    config = host.config(credentials=Credentials("given", SECRET))

    assert config.find_credentials(parse_name("quay.io/a"))[0] == Credentials("user", SECRET)
    cmdline = (host.root / "cmdline").read_text()
    assert cmdline.endswith("docker-credential-vault get ")
    assert SECRET not in cmdline + (host.root / "env").read_text()


def test_helpers_of_the_host(host):
    """credential-helpers are asked in their order; the files of credentials are one of them."""
    host.write("~/.docker/config.json", {"auths": {"quay.io": auth("file")}})
    conf = host.write("etc/containers/registries.conf", 'credential-helpers = ["a", "containers-auth.json", "b"]')
    host.helper("a", "echo credentials not found in native keychain; exit 1")
    host.helper("b", f"echo '{ANSWER}'")

    assert host.config().find_credentials(parse_name("quay.io/x"))[1] == str(host.home / ".docker/config.json")
    assert host.config().find_credentials(parse_name("b.example/x")) == (
        Credentials("user", SECRET),
        "docker-credential-b",
    )
    host.helper("a", "exit 1")  # which does not keep the others from being asked
    assert host.config().find_credentials(parse_name("b.example/x"))[0].username == "user"
    host.helper("b", "echo credentials not found in native keychain; exit 1")
    with pytest.raises(ComposefsError, match="docker-credential-a get, for b.example: exit status 1"):
        host.config().find_credentials(parse_name("b.example/x"))
    (host.root / "bin/docker-credential-b").unlink()
    (host.root / "bin/docker-credential-a").unlink()
    with pytest.raises(NotFoundError, match=f"which {conf} names for b.example"):
        host.config().find_credentials(parse_name("b.example/x"))


def test_from_threads(host):
    """Helpers may be asked by several threads at once."""
    host.helper("vault", f"sleep 0.1; echo '{ANSWER}'")
    found = []
    threads = [threading.Thread(target=lambda: found.append(ask(host))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert found == [Credentials("user", SECRET)] * 4
