"""Credentials: the files, the order in which they count, and the forms of their entries."""

import base64
import json
import logging
import os
import traceback
from pathlib import Path

import pytest

from composefs.errors import FormatError, LimitError
from composefs.hostconfig.auth import find_in_files
from composefs.hostconfig.places import AuthFile
from composefs.reference import parse_name
from composefs.registry.endpoint import Credentials
from tests.hosts import SECRET, auth

NAME = "quay.io/example/image"


def no_helper(name, registry, wanted_by):
    raise AssertionError(f"{name} was asked for {registry}")


def find(path, name=NAME, ask=no_helper, *, legacy=False):
    """Return what the file *path* alone has for *name*."""
    found = find_in_files(name, [AuthFile(str(path), legacy=legacy)], ask)
    assert found is None or found[1] == str(path)
    return found[0] if found is not None else None


@pytest.fixture
def file(tmp_path):
    """Write an auth.json, and return its path."""

    def write(value):
        path = tmp_path / "auth.json"
        path.write_text(value if isinstance(value, str) else json.dumps(value))
        return path

    return write


# Where


def test_order_of_files(host):
    """The first that has an entry counts: ostree's for root, then podman's, then Docker's."""
    host.uid = 0
    host.environ |= {"XDG_RUNTIME_DIR": str(host.root / "xdg-run"), "XDG_CONFIG_HOME": str(host.root / "xdg-config")}
    host.environ["DOCKER_CONFIG"] = str(host.root / "docker")
    places = [
        "/run/ostree/auth.json",
        "/xdg-run/containers/auth.json",
        "/xdg-config/containers/auth.json",
        "/docker/config.json",
    ]
    for place in places:
        host.write(place, {"auths": {"quay.io": auth(place)}})
    host.write("~/.dockercfg", {"https://quay.io/v1/": auth("legacy")})

    seen = []
    for place in places:
        credentials, source = host.config().find_credentials(parse_name(NAME))
        seen.append(credentials.username)
        assert source == f"{host.root}{place}"
        (host.root / place[1:]).write_text('{"auths": {"other.example": {}}}')

    assert seen == places
    assert host.config().find_credentials(parse_name(NAME))[0] == Credentials("legacy", SECRET)


def test_usual_places(host):
    """Without variables they are below /run and the home."""
    places = ["/run/containers/1000/auth.json", "~/.config/containers/auth.json", "~/.docker/config.json"]
    for place in places:
        host.write(place, {"auths": {"quay.io": auth(place)}})

    for place in places:
        credentials, source = host.config().find_credentials(parse_name(NAME))
        assert credentials.username == place
        Path(source).unlink()

    assert host.config().find_credentials(parse_name(NAME)) is None


@pytest.mark.parametrize("directory", ["run", "etc", "usr/lib"])
def test_ostree(host, directory):
    """The first of ostree's files that is there counts, for root only, and podman's stay behind it."""
    everywhere = ["run", "etc", "usr/lib"]
    for each in everywhere[everywhere.index(directory) :]:
        host.write(f"{each}/ostree/auth.json", {"auths": {"quay.io": auth(each)}})
    host.write("~/.docker/config.json", {"auths": {"quay.io": auth("home"), "other.example": auth("other")}})

    assert host.config().find_credentials(parse_name(NAME))[0].username == "home"
    host.uid = 0
    assert host.config().find_credentials(parse_name(NAME))[0].username == directory
    assert host.config().find_credentials(parse_name("other.example/a"))[0].username == "other"


def test_chosen_file(host, tmp_path):
    """An --authfile, or $REGISTRY_AUTH_FILE, is the only one; only the former has to be there."""
    host.uid = 0
    host.write("etc/ostree/auth.json", {"auths": {"quay.io": auth("ostree")}})
    host.write("~/.docker/config.json", {"auths": {"quay.io": auth("docker")}})
    by_variable = host.write("variable.json", {"auths": {"quay.io": auth("variable")}})
    by_option = host.write("option.json", {"auths": {"quay.io": auth("option")}})
    host.environ["REGISTRY_AUTH_FILE"] = str(by_variable)

    assert host.config(auth_file=str(by_option)).find_credentials(parse_name(NAME))[0].username == "option"
    assert host.config().find_credentials(parse_name(NAME))[0].username == "variable"
    by_variable.unlink()
    assert host.config().find_credentials(parse_name(NAME)) is None
    by_option.unlink()
    with pytest.raises(FileNotFoundError) as caught:
        host.config(auth_file=str(by_option)).find_credentials(parse_name(NAME))
    assert caught.value.filename == str(by_option)


def test_a_directory_of_others(host, monkeypatch):
    """What a user may not look into, since root made it, has nothing for that user; but a file must be readable."""
    path = host.write("run/containers/1000/auth.json", {"auths": {}})
    host.write("~/.config/containers/auth.json", {"auths": {"quay.io": auth()}})
    real = os.open

    def refuse(name, *arguments, **options):
        if str(name) == str(path):  # root may read all
            raise PermissionError(13, "Permission denied", str(path))
        return real(name, *arguments, **options)

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(PermissionError):
        host.config().find_credentials(parse_name(NAME))
    monkeypatch.setattr(os, "access", lambda name, _: str(name) != str(path.parent))

    assert host.config().find_credentials(parse_name(NAME)) is not None


def test_no_home(host):
    """Who has no home has what is elsewhere."""
    host.home = ""
    path = host.write("run/containers/1000/auth.json", {"auths": {"quay.io": auth()}})

    assert host.config().network.places.auth_files() == (AuthFile(str(path), shared=True),)
    assert host.config().find_credentials(parse_name(NAME)) is not None
    assert host.config().full_names("x") == ()
    assert list(host.config().endpoints(parse_name(NAME)))


def test_home_that_is_no_directory(host):
    """What cannot be there is missing, as the home /dev/null of a service has nothing below it."""
    host.root.mkdir()
    host.home.write_text("")

    assert host.config().find_credentials(parse_name(NAME)) is None


def test_unreadable_file(host):
    """A file that is there and cannot be read is an error, with its path."""
    (host.home / ".docker/config.json").mkdir(parents=True)

    with pytest.raises(IsADirectoryError) as caught:
        host.config().find_credentials(parse_name(NAME))
    assert caught.value.filename == str(host.home / ".docker/config.json")


# Which entry


@pytest.mark.parametrize(
    ("keys", "found"),
    [
        (["quay.io/example/image", "quay.io/example", "quay.io"], "quay.io/example/image"),
        (["quay.io", "quay.io/example"], "quay.io/example"),
        (["quay.io/exam", "quay.io/example/image/x", "quay.io"], "quay.io"),
        (["https://quay.io/v2/", "quay.io"], "quay.io"),
        (["https://quay.io/v2/"], "https://quay.io/v2/"),
        (["http://quay.io"], "http://quay.io"),
        (["quay.io/v1/", "io", "quay.io:443", "QUAY.IO"], None),
    ],
)
def test_keys(file, keys, found):
    """The most particular key counts; URLs stand for their host, and only if nothing else does."""
    path = file({"auths": {key: auth(password=key) for key in keys}})

    assert find(path) == (Credentials("user", found) if found is not None else None)


@pytest.mark.parametrize("key", ["docker.io", "index.docker.io", "registry-1.docker.io", "https://index.docker.io/v1/"])
def test_docker_hub(file, key):
    """Docker Hub has many names."""
    path = file({"auths": {key: auth(password=key)}})

    assert find(path, "docker.io/library/fedora") == Credentials("user", key)
    assert find(path) is None


def test_legacy_file(file):
    """.dockercfg is the map itself, of hosts; keys are URLs, or have paths that do not count."""
    path = file({"quay.io/v1/": auth("a"), "https://b.example/v1/": auth("b"), "quay.io/example": auth("c")})

    assert find(path, legacy=True).username == "a"
    assert find(path, "b.example/x", legacy=True).username == "b"


# What an entry says


@pytest.mark.parametrize(
    ("entry", "found"),
    [
        (auth("a", "b:c"), Credentials("a", "b:c")),
        (auth("a", f"{SECRET}\0\0"), Credentials("a", SECRET)),
        (auth("a", "ß €"), Credentials("a", "ß €")),
        (auth("a", ""), Credentials("a", "")),
        (auth("a", "b", "c"), Credentials("a", "b", "c")),
        ({"identitytoken": "c"}, Credentials(identity_token="c")),
        ({"auth": "YTpi\r\n"}, Credentials("a", "b")),
        ({"auth": None, "identitytoken": None}, None),
        ({"auth": base64.b64encode(b"nothing").decode()}, None),
        ({}, None),
    ],
)
def test_entries(file, entry, found):
    """User and password stand in base64, with zeros behind that old programs wrote; or there is a token, or a mark."""
    assert find(file({"auths": {"quay.io": entry}})) == found


def test_mark_of_a_helper(host):
    """An empty entry hides those that are less particular in its file, not those of later files."""
    host.write("run/containers/1000/auth.json", {"auths": {"quay.io/example": {}, "quay.io": auth("hidden")}})
    host.write("~/.docker/config.json", {"auths": {"quay.io": auth("later")}})

    assert host.config().find_credentials(parse_name(NAME))[0].username == "later"


def test_helper_of_a_host(file):
    """credHelpers goes before auths, is asked for the host, and its answer is that of the file."""
    calls = []

    def ask(*arguments):
        calls.append(arguments)
        return None if arguments[0] == "empty" else Credentials("helped")

    path = file({"credHelpers": {"quay.io": "vault", "docker.io": "empty"}, "auths": {NAME: auth()}})

    assert find(path, ask=ask) == Credentials("helped")
    assert find(path, "docker.io/library/x", ask=ask) is None
    assert calls == [("vault", "quay.io", str(path)), ("empty", "docker.io", str(path))]


def test_store_of_docker(file):
    """credsStore is asked last, and calls Docker Hub as Docker does."""
    calls = []

    def ask(*arguments):
        calls.append(arguments[:2])
        return Credentials("stored")

    path = file({"credsStore": "desktop", "auths": {"a.example": auth("own"), "quay.io": {}}})

    assert find(path, "a.example/x", ask=ask).username == "own"
    assert find(path, ask=ask) == Credentials("stored")
    assert find(path, "docker.io/library/x", ask=ask) == Credentials("stored")
    assert calls == [("desktop", "quay.io"), ("desktop", "https://index.docker.io/v1/")]


# What is none


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ("", "broken JSON"),
        (f'{{"auths": {{"quay.io": {{"auth": "{SECRET}', "broken JSON"),
        ("[]", "is no JSON object"),
        ('{"auths": []}', None),
        (f'{{"auths": ["{SECRET}"]}}', "auths is no object"),
        (f'{{"auths": {{"quay.io": "{SECRET}"}}}}', "is no object"),
        (f'{{"auths": {{"quay.io": {{"auth": ["{SECRET}"]}}}}}}', "auth or identitytoken is no text"),
        (f'{{"auths": {{"quay.io": {{"identitytoken": {{"{SECRET}": 1}}}}}}}}', "auth or identitytoken is no text"),
        (f'{{"auths": {{"quay.io": {{"auth": "{SECRET}"}}}}}}', "auth is not base64 of UTF-8"),
        ('{"auths": {"quay.io": {"auth": "gICA"}}}', "auth is not base64 of UTF-8"),
        ('{"auths": {"quay.io": {"auth": "é"}}}', "auth is not base64 of UTF-8"),
        ('{"credHelpers": {"quay.io": 1}}', "credHelpers is no object of texts"),
        ('{"credHelpers": ["quay.io"]}', "credHelpers is no object of texts"),
        ('{"credsStore": 1}', "credsStore is no text"),
    ],
)
def test_broken_files(file, content, what):
    """They are named, and nothing in them is quoted."""
    path = file(content)
    if what is None:  # an empty list is as good as nothing
        assert find(path) is None
        return

    with pytest.raises(FormatError) as caught:
        find(path)

    assert str(path) in str(caught.value)
    assert what in caught.value.what
    assert SECRET not in "".join(traceback.format_exception(caught.value))


def test_large_file(file, monkeypatch):
    """No more is read than any such file has."""
    monkeypatch.setattr("composefs.limits.HOST_FILE_SIZE", 10)

    with pytest.raises(LimitError, match="more than 10 bytes of configuration"):
        find(file('{"auths": {}}'))


def test_secrets_are_not_shown(host, caplog):
    """What is found is logged, not what it is."""
    caplog.set_level(logging.DEBUG)
    path = host.write("~/.docker/config.json", {"auths": {"quay.io": auth("user", SECRET, f"token-{SECRET}")}})
    config = host.config(credentials=Credentials("given", SECRET))

    found = config.find_credentials(parse_name(NAME))
    endpoint = next(config.endpoints(parse_name(NAME)))

    assert found == (Credentials("user", SECRET, f"token-{SECRET}"), str(path))
    assert endpoint.credentials == Credentials("given", SECRET)
    assert f"credentials for {NAME} are in {path}" in caplog.text
    assert SECRET not in caplog.text + repr(found) + repr(endpoint) + repr(config) + repr(config.options)
    assert SECRET not in repr(config.network) + str(endpoint)
