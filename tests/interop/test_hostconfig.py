"""What skopeo reads of a host's configuration, and makes of it, beside what we do: the same files, in the same order.

Nothing listens where images are looked for, but for one server that notes who asks.
"""

import base64
import json
import logging
import os
import re
import subprocess
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from composefs.errors import FormatError, PolicyError
from composefs.hostconfig import AccessOptions, HostConfig
from composefs.reference import parse_name, parse_reference
from tests.commands import start
from tests.hosts import SECRET, auth
from tests.layouts import files_layer, image_layout, noise
from tests.registries.docker_registry import docker_registry, skopeo_copy
from tests.tools import require_tool

TIMEOUT = 60  # seconds
CLOSED = "127.0.0.1:1"  # a port at which nobody listens
NAME = f"{CLOSED}/space/image:tag"
_MESSAGE = re.compile(r'level=\w+ msg="((?:[^"\\]|\\.)*)"')


class User:
    """A user of this host whose home is a directory of the test."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.environ = {"HOME": str(home), "PATH": f"{home}/bin:{os.environ['PATH']}"}

    def write(self, path: str, content: object) -> Path:
        target = self.home / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(content if isinstance(content, str) else json.dumps(content))
        return target

    def skopeo(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [require_tool("skopeo"), "--debug", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False, env=self.environ)

    def inspect(self, name: str, *options: str) -> list[str]:
        """Return what skopeo says while it looks for the image *name*."""
        said = self.skopeo("inspect", "--tls-verify=false", *options, f"docker://{name}").stderr
        return [message.replace('\\"', '"') for message in _MESSAGE.findall(said)]

    def config(self, **options: object) -> HostConfig:
        return HostConfig(self.environ, uid=os.getuid(), home=str(self.home), options=AccessOptions(**options))


@pytest.fixture
def user(tmp_path):
    return User(tmp_path / "home")


@pytest.fixture
def ours(caplog):
    """Call something, and return what we log meanwhile."""
    caplog.set_level(logging.DEBUG, logger="composefs.hostconfig")

    def call(function, *arguments):
        caplog.clear()
        result = function(*arguments)
        return result, [record.getMessage() for record in caplog.records]

    return call


def found_in(messages, pattern):
    return [match[1] for message in messages if (match := re.search(pattern, message))]


# Files


PLACES = {
    "usual": {},
    "xdg": {"XDG_RUNTIME_DIR": "run", "XDG_CONFIG_HOME": "config"},
    "docker": {"DOCKER_CONFIG": "docker"},
    "all": {"XDG_RUNTIME_DIR": "run", "XDG_CONFIG_HOME": "config", "DOCKER_CONFIG": "docker"},
    "empty": {"XDG_RUNTIME_DIR": "", "XDG_CONFIG_HOME": "", "DOCKER_CONFIG": ""},
    "one": {"REGISTRY_AUTH_FILE": "one.json", "DOCKER_CONFIG": "docker"},
}


@pytest.mark.parametrize("variables", PLACES.values(), ids=PLACES.keys())
def test_files_of_credentials(user, ours, variables):
    """The same files are looked into, in the same order, and none behind the first that has an entry."""
    (user.home / "run").mkdir(parents=True)
    user.environ |= {name: f"{user.home}/{value}" if value else "" for name, value in variables.items()}

    theirs = found_in(user.inspect(NAME), "No credentials matching .* found in (.*)")
    _, messages = ours(user.config().find_credentials, parse_name(NAME))

    assert len(theirs) == 4
    if "REGISTRY_AUTH_FILE" in variables:  # alone, in later versions of skopeo
        theirs = theirs[:1]
    assert found_in(messages, "no credentials for .* in (.*)") == theirs
    own = [path for path in theirs if path.startswith(str(user.home))]
    for path in own:
        entry = {CLOSED: auth()}
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(json.dumps(entry if path.endswith(".dockercfg") else {"auths": entry}))
    (theirs,) = found_in(user.inspect(NAME), "Found credentials for .* in file (.*)")
    found, _ = ours(user.config().find_credentials, parse_name(NAME))
    assert found[1] == theirs == own[0]


@pytest.mark.parametrize("has_user_file", [False, True])
def test_files_of_registries(user, ours, has_user_file):
    """The same files of registries.conf are read, in the same order."""
    for name in ("b", "a", "sub.conf/c"):
        user.write(f".config/containers/registries.conf.d/{name}.conf", "")
    user.write(".config/containers/registries.conf.d/a.txt", "")
    if has_user_file:
        user.write(".config/containers/registries.conf", "")

    theirs = found_in(user.inspect(NAME), 'Loading registries configuration "(.*)"')
    config = user.config()
    registries, messages = ours(lambda: config.network.registries)

    assert found_in(messages, "^reading (.*)") == theirs == list(registries.files)
    assert [Path(path).name for path in theirs[-2:]] == ["a.conf", "b.conf"]


def test_directories_of_certificates(user, ours):
    """The same directory of certificates is looked into."""
    name = f".config/containers/certs.d/{CLOSED}"
    user.write(f"{name}/ca.crt", "")

    theirs = found_in(user.inspect(NAME), "Looking for TLS certificates and private keys in (.*)")
    (endpoint,), messages = ours(lambda: list(user.config().endpoints(parse_name(NAME))))

    assert found_in(messages, "certificates are in (.*): ca.crt") == theirs == [f"{user.home}/{name}"]
    assert endpoint.tls.authorities == (f"{user.home}/{name}/ca.crt",)


# Names


REGISTRIES = {
    "none": "",
    "location": f'[[registry]]\nlocation = "{CLOSED}"\n',
    "rewritten": f'[[registry]]\nprefix = "a.example"\nlocation = "{CLOSED}/deep/er/"\n',
    "longest": f'[[registry]]\nprefix = "a.example"\nlocation = "{CLOSED}/a"\n'
    f'[[registry]]\nprefix = "a.example/space"\nlocation = "{CLOSED}/b"\n'
    f'[[registry]]\nprefix = "a.example/spac"\nlocation = "{CLOSED}/c"\n',
    "whole": f'[[registry]]\nprefix = "a.example/space/image"\nlocation = "{CLOSED}/other"\n',
    "port": '[[registry]]\nprefix = "127.0.0.1"\nlocation = "127.0.0.2"\n',
    "wildcard": f'[[registry]]\nprefix = "*.example"\nlocation = "{CLOSED}/w"\n',
    "hub": f'[[registry]]\nprefix = "docker.io/library"\nlocation = "{CLOSED}/hub"\n',
    "same": f'[[registry]]\nprefix = "a.example"\nlocation = "{CLOSED}/1"\n'
    f'[[registry]]\nprefix = "a.example"\nlocation = "{CLOSED}/2"\n',
    "mirrors": f'[[registry]]\nprefix = "a.example"\nlocation = "{CLOSED}/itself"\n'
    f'[[registry.mirror]]\nlocation = "{CLOSED}/m1"\n[[registry.mirror]]\nlocation = "127.0.0.2:1"\n',
    "by-digest": f'[[registry]]\nprefix = "a.example"\nlocation = "{CLOSED}"\nmirror-by-digest-only = true\n'
    f'[[registry.mirror]]\nlocation = "{CLOSED}/m1"\n',
}
DIGEST = "sha256:" + "0123456789abcdef" * 4
# Names whose hosts are never asked for in the end, if a table is for them; else there is a port of nobody's.
NAMES = {
    "none": [NAME],
    "location": [NAME, f"{CLOSED}/x@{DIGEST}"],
    "port": [NAME],
    "hub": ["fedora:42", "docker.io/library/fedora"],
    "wildcard": ["a.example/space/image:tag", "a.b.example/x"],
}


@pytest.mark.parametrize("case", REGISTRIES)
def test_where_images_are_looked_for(user, case):
    """The same places are tried, in the same order."""
    user.write(".config/containers/registries.conf", REGISTRIES[case])
    for name in NAMES.get(case, ["a.example/space/image:tag", f"a.example/space/image@{DIGEST}"]):
        theirs = found_in(user.inspect(name), 'Trying to access "(.*)"')

        found = user.config().network.registries.sources(parse_name(name).versioned())

        assert [str(source.name) for source in found] == theirs, name
        assert theirs


@pytest.mark.parametrize(
    "content",
    [
        '[[registry]]\nprefix = "127.0.0.1:1"\n',
        '[[registry]]\nlocation = "https://127.0.0.1:1"\n',
        "[[registry]]\n",
        '[[registry]]\nprefix = "*.example/x"\nlocation = "127.0.0.1:1"\n',
        '[[registry]]\nlocation = "127.0.0.1:1"\n[[registry.mirror]]\n',
        '[[registry]]\nlocation = "a"\n[[registry]]\nprefix = "b"\nlocation = "a"\ninsecure = true\n',
        f'[[registry]]\nprefix = "{CLOSED}"\nlocation = "mirror"\n',
        f'[[registry]]\nlocation = "{CLOSED}"\nblocked = true\n',
        "registry = 1\n",
        "no toml",
    ],
)
def test_what_is_refused(user, content):
    """Neither looks for the image then."""
    user.write(".config/containers/registries.conf", content)

    messages = user.inspect(NAME)
    with pytest.raises((FormatError, PolicyError)):
        list(user.config().endpoints(parse_name(NAME)))

    assert not found_in(messages, "(GET) ")


# Entries


class _Asked(BaseHTTPRequestHandler):
    """A registry that wants a password, and notes which it was shown."""

    def do_GET(self) -> None:
        shown = self.headers.get("Authorization")
        if shown is not None:
            self.server.shown.append(shown)
        self.send_response(401)
        self.send_header("WWW-Authenticate", 'Basic realm="test"')
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_HEAD = do_GET  # noqa: N815

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def asked():
    """A server; the value has its host and port, and what it was shown."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Asked)
    server.shown = []
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"127.0.0.1:{server.server_port}", server.shown
    server.shutdown()
    thread.join()
    server.server_close()


FILES = {
    "host": {"auths": {"HOST": auth("a")}},
    "particular": {"auths": {"HOST": auth("a"), "HOST/space": auth("b"), "HOST/space/image": auth("c")}},
    "other": {"auths": {"HOST/other": auth("a"), "HOST/spa": auth("b")}},
    "url": {"auths": {"http://HOST/v1/": auth("a")}},
    "mark": {"auths": {"HOST/space": {}, "HOST": auth("a")}},
    "zeros": {"auths": {"HOST": auth("a", f"{SECRET}\0\0")}},
    "colons": {"auths": {"HOST": auth("a", "b:c:d")}},
    "no colon": {"auths": {"HOST": {"auth": base64.b64encode(b"abc").decode()}}},
    "helper": {"credHelpers": {"HOST": "test"}, "auths": {"HOST": auth("a")}},
    "helper of another": {"credHelpers": {"OTHER": "test"}, "auths": {"HOST": auth("a")}},
    "helper without": {"credHelpers": {"HOST": "nothing"}, "auths": {"HOST": auth("a")}},
}


@pytest.mark.parametrize("file", FILES.values(), ids=FILES.keys())
def test_entries(user, asked, file):
    """The registry is shown what we find."""
    host, shown = asked
    user.write(".docker/config.json", json.dumps(file).replace("HOST", host))
    for name, script in {
        "test": f'echo \'{{"Username": "helped", "Secret": "{SECRET}"}}\'',
        "nothing": "echo credentials not found in native keychain; exit 1",
    }.items():
        user.write(f"bin/docker-credential-{name}", f"#!/bin/sh\n{script}\n").chmod(0o755)

    user.inspect(f"{host}/space/image:tag")
    found = user.config().find_credentials(parse_name(f"{host}/space/image:tag"))

    assert len(set(shown)) <= 1
    if found is None:
        assert shown in ([], ["Basic Og=="])  # neither user nor password
    else:
        text = f"{found[0].username}:{found[0].password}"
        assert set(shown) == {f"Basic {base64.b64encode(text.encode()).decode()}"}


@pytest.mark.parametrize("content", ["", "[]", '{"auths": {"HOST": 1}}', '{"auths": {"HOST": {"auth": "%"}}}', "{"])
def test_broken_files(user, asked, content):
    """Nothing is asked for without the credentials that somebody meant to be shown."""
    host, _ = asked
    user.write(".docker/config.json", content.replace("HOST", host))

    done = user.skopeo("inspect", "--tls-verify=false", f"docker://{host}/space/image:tag")
    with pytest.raises(FormatError):
        user.config().find_credentials(parse_name(f"{host}/space/image:tag"))

    assert done.returncode
    assert "GET http" not in done.stderr


# Policies


ACCEPT, REJECT = [{"type": "insecureAcceptAnything"}], [{"type": "reject"}]
SCOPES = {
    "default": lambda path: (REJECT, {}),
    "other transport": lambda path: (ACCEPT, {"other": {"": REJECT}}),
    "transport": lambda path: (REJECT, {"": ACCEPT}),
    "itself": lambda path: (ACCEPT, {str(path): REJECT}),
    "parent": lambda path: (ACCEPT, {str(path.parent): REJECT}),
    "beside": lambda path: (ACCEPT, {f"{path}x": REJECT, f"{path}/x": REJECT, str(path)[:-1]: REJECT}),
    "nearest": lambda path: (REJECT, {str(path.parent): REJECT, str(path): ACCEPT, "": REJECT}),
    "behind a link": lambda path: (ACCEPT, {str(path.parent.parent / "link"): REJECT}),
    "both": lambda path: (ACCEPT, {str(path): ACCEPT + REJECT}),
    "twice": lambda path: (REJECT, {str(path): ACCEPT + ACCEPT}),
}


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """An image in each form that lies in files, below a directory that a link leads to."""
    root = tmp_path_factory.mktemp("images").resolve()
    image_layout(root / "real/oci", [files_layer({"usr/": b"", "usr/a": b"a"})], "tag")
    (root / "link").symlink_to("real")
    for transport in ("dir", "oci-archive", "docker-archive"):
        name = ":docker.io/library/x:1" if transport == "docker-archive" else ""
        target = f"{transport}:{root}/real/{transport}{name}"
        command = [require_tool("skopeo"), "--insecure-policy", "copy", f"oci:{root}/real/oci:tag", target]
        subprocess.run(command, check=True, capture_output=True, timeout=TIMEOUT)
    return root


@pytest.mark.parametrize("case", SCOPES)
@pytest.mark.parametrize("transport", ["oci", "dir", "oci-archive", "docker-archive"])
def test_policies_of_paths(user, images, tmp_path, transport, case):
    """The same images are taken."""
    default, scopes = SCOPES[case](images / "real" / transport)
    other = scopes.pop("other", None)
    if transport == "docker-archive":
        scopes = {scope: each for scope, each in scopes.items() if not scope}  # it has no others
    transports = {transport: scopes} | ({"docker": other} if other is not None else {})
    policy = user.write("policy.json", {"default": default, "transports": transports})
    reference = f"{transport}:{images}/link/{transport}"

    done = user.skopeo("--policy", policy, "copy", reference, f"dir:{tmp_path}/out")
    try:
        user.config(policy=str(policy)).check_policy(parse_reference(reference))
        taken = True
    except PolicyError:
        taken = False

    assert (done.returncode == 0) == taken, done.stderr
    assert taken or "is rejected by policy" in done.stderr


@pytest.fixture(scope="module")
def registry(images, tmp_path_factory):
    """The host and port of a registry that has the image space/image:tag."""
    with docker_registry(tmp_path_factory.mktemp("registry")) as running:
        skopeo_copy(f"oci:{images}/real/oci:tag", f"docker://{running.address}/space/image:tag")
        yield running.address


# What is rejected, of the image a.example/space/image:tag, which is fetched from HOST.
REJECTED = {
    "nothing": [],
    "whole name": ["a.example/space/image:tag"],
    "repository": ["a.example/space/image"],
    "namespace": ["a.example/space"],
    "host": ["a.example"],
    "domain": ["*.example"],
    "others": ["a.example/space/image:other", "a.example/spac", "example", "*.a.example", "b.example", "image"],
    "mirror": ["HOST", "HOST/space"],
    "transport": [""],
}


@pytest.mark.parametrize("scopes", REJECTED.values(), ids=REJECTED.keys())
def test_policies_of_names(user, registry, tmp_path, scopes):
    """The name that was given counts, not that of the place which has the image."""
    scopes = {scope.replace("HOST", registry): REJECT for scope in scopes}
    policy = user.write("policy.json", {"default": ACCEPT, "transports": {"docker": scopes}})
    table = f'[[registry]]\nprefix = "a.example"\nlocation = "{registry}"\ninsecure = true\n'
    user.write(".config/containers/registries.conf", table)
    reference = "docker://a.example/space/image:tag"

    done = user.skopeo("--policy", policy, "copy", reference, f"dir:{tmp_path}/out")
    try:
        user.config(policy=str(policy)).check_policy(parse_reference(reference))
        taken = True
    except PolicyError:
        taken = False

    assert (done.returncode == 0) == taken, done.stderr
    assert taken or "is rejected by policy" in done.stderr


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        '{"default": []}',
        '{"default": [{"type": "reject"}], "default": [{"type": "reject"}]}',
        '{"default": [{"type": "reject"}], "other": 1}',
        '{"default": [{"type": "reject", "other": 1}]}',
        '{"default": [{"type": "reject"}], "transports": {"oci": {"": []}}}',
        '{"default": [{"type": "reject"}], "transports": {"oci": {"relative": [{"type": "reject"}]}}}',
        '{"default": [{"type": "reject"}], "transports": {"oci": {"/": [{"type": "reject"}]}}}',
        '{"default": [{"type": "reject"}], "transports": {"dir": {"/a/": [{"type": "reject"}]}}}',
        '{"default": [{"type": "reject"}], "transports": {"dir": {"/a/../b": [{"type": "reject"}]}}}',
        '{"default": [{"type": "reject"}], "transports": {"docker-archive": {"/a": [{"type": "reject"}]}}}',
        '{"default": [{"type": "reject"}], "transports": {"containers-storage": {"a": [{"type": "reject"}]}}}',
    ],
)
def test_broken_policies(user, images, tmp_path, content):
    """Neither takes an image."""
    policy = user.write("policy.json", content)

    done = user.skopeo("--policy", policy, "copy", f"oci:{images}/real/oci", f"dir:{tmp_path}/out")
    with pytest.raises(FormatError):
        user.config(policy=str(policy)).check_policy(parse_reference(f"oci:{images}/real/oci"))

    assert "Error loading trust policy: invalid policy in" in done.stderr


def test_policy_of_the_user(user, images, tmp_path):
    """The user's file goes before the host's."""
    user.write(".config/containers/policy.json", {"default": REJECT})

    done = user.skopeo("copy", f"oci:{images}/real/oci", f"dir:{tmp_path}/out")
    with pytest.raises(PolicyError):
        user.config().check_policy(parse_reference(f"oci:{images}/real/oci"))

    assert "is rejected by policy" in done.stderr


# Secrets


@pytest.fixture(scope="module")
def closed_registry(tmp_path_factory):
    """The host and port of a registry that has the image space/image:tag, of some layers, for the user `user`."""
    directory = tmp_path_factory.mktemp("closed")
    layers = [files_layer({"usr/": b"", f"usr/{seed}": noise(1 << 20, seed)}) for seed in range(3)]
    image_layout(directory / "layout", layers, "tag")
    with docker_registry(directory / "registry", {"user": SECRET}) as running:
        target = f"docker://{running.address}/space/image:tag"
        skopeo_copy(f"oci:{directory}/layout:tag", target, "--dest-creds", f"user:{SECRET}")
        yield running.address


def shown_arguments(pid):
    """Return the arguments of the descendants of the process *pid*."""
    shown = b""
    for each in children(pid):
        with suppress(OSError):  # it has ended
            shown += Path(f"/proc/{each}/cmdline").read_bytes()
    return shown


def children(pid):
    found = []
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in map(int, (task / "children").read_text().split()):
                found += [child, *children(child)]
    return found


def run_watched(user, directory, *arguments, stdin):
    """Run composefs-import; return its status, what it says, and the arguments of all processes that it started."""
    streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    process = start(directory, "composefs-import", *arguments, env=user.environ, **streams)
    shown = [b""]
    watcher = threading.Thread(target=watch, args=(process, shown))
    watcher.start()
    said, _ = process.communicate(stdin, timeout=TIMEOUT)
    watcher.join()
    return process.returncode, said.decode(), shown[0]


def watch(process, shown):
    while process.poll() is None:
        shown[0] += shown_arguments(process.pid)
        time.sleep(0.01)


@pytest.mark.parametrize("way", ["file", "helper", "argument", "standard input", "skopeo", "wrong"])
def test_secrets_of_an_import(user, closed_registry, tmp_path, way):
    """A password comes to the registry, and nowhere else: in no message, result, argument, or file."""
    options, stdin = [], b""
    if way == "helper":
        user.write(".docker/config.json", {"credHelpers": {closed_registry: "test"}})
        answer = json.dumps({"Username": "user", "Secret": SECRET})
        user.write("bin/docker-credential-test", f"#!/bin/sh\nsleep 0.1; echo '{answer}'\n").chmod(0o755)
    elif way == "argument":  # which others see, but only there
        options = ["--creds", f"user:{SECRET}"]
    elif way in {"standard input", "skopeo"}:
        options, stdin = ["--creds", "user", "--password-stdin"], f"{SECRET}\n".encode()
        options += ["--via", "skopeo"] if way == "skopeo" else []
    else:
        entry = auth("user", f"{SECRET}-other" if way == "wrong" else SECRET)
        user.write(".config/containers/auth.json", {"auths": {closed_registry: entry}})
    repository = tmp_path / "repository"

    status, said, shown = run_watched(
        user,
        tmp_path,
        *("--repo", repository, f"docker://{closed_registry}/space/image:tag", "--tls-verify=false"),
        *("--json", "--progress", "json", "--verbose", "--workers", "2", *options),
        stdin=stdin,
    )

    assert status == (1 if way == "wrong" else 0), said
    assert (b"experimental-image-proxy" in shown) == (way == "skopeo")
    assert way == "wrong" or b"forkserver" in shown  # the watcher sees what is there
    everything = said.encode() + shown + b"".join(path.read_bytes() for path in repository.rglob("*") if path.is_file())
    for secret in (SECRET, base64.b64encode(f"user:{SECRET}".encode()).decode()[:-4]):
        assert secret.encode() not in everything
