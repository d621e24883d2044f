"""policy.json: which scope counts, what it says, and what is refused as broken."""

import json
import os

import pytest

from composefs.errors import FormatError, PolicyError
from composefs.hostconfig import NO_POLICY
from composefs.reference import (
    ArchiveReference,
    DaemonReference,
    DirReference,
    DockerArchiveReference,
    OciArchiveReference,
    OciReference,
    OtherReference,
    parse_reference,
)

ACCEPT, REJECT = [{"type": "insecureAcceptAnything"}], [{"type": "reject"}]
SIGNED = [{"type": "signedBy", "keyType": "GPGKeys", "keyPath": "/etc/key"}]
POLICY = "etc/containers/policy.json"
DIGEST = "sha256:" + "0123456789abcdef" * 4


def refusal(host, reference, **options):
    """Return why *reference*, text or a value, is refused; None: it is not."""
    if isinstance(reference, str):
        reference = parse_reference(reference)
    try:
        host.config().check_policy(reference, **options)
    except PolicyError as error:
        return error
    return None


def accepts(host, reference, **options):
    return refusal(host, reference, **options) is None


# Which file


def test_file(host):
    """The user's goes before the host's; where there is none, all is taken."""
    assert accepts(host, "docker://a.example/x")
    assert host.config().policy is None
    host.write(POLICY, {"default": REJECT})
    assert not accepts(host, "docker://a.example/x")
    host.write("~/.config/containers/policy.json", {"default": ACCEPT})
    assert accepts(host, "docker://a.example/x")


def test_chosen_file(host):
    """One that is chosen has to be there; `none` is no file."""
    host.write(POLICY, {"default": REJECT})
    path = host.write("own.json", {"default": ACCEPT})
    reference = parse_reference("docker://a.example/x")

    host.config(policy=str(path)).check_policy(reference)
    host.config(policy=NO_POLICY).check_policy(reference)
    path.unlink()
    with pytest.raises(FileNotFoundError) as caught:
        host.config(policy=str(path)).check_policy(reference)
    assert caught.value.filename == str(path)


@pytest.mark.parametrize("place", ["~/.config/containers", "etc/containers"])
def test_link_to_nothing(host, place):
    """It is no permission, but an error."""
    path = host.write(f"{place}/policy.json", "")
    path.unlink()
    path.symlink_to("nothing")

    with pytest.raises(FileNotFoundError) as caught:
        host.config().check_policy(parse_reference("docker://a.example/x"))
    assert caught.value.filename == str(path)


def test_directory_that_is_closed(host, monkeypatch):
    """Where it cannot be seen whether the host has a policy, nothing is taken."""
    lstat = os.lstat

    def refuse(path, **options):
        if str(path).startswith(f"{host.root}/etc"):
            raise PermissionError(13, "Permission denied", path)
        return lstat(path, **options)

    monkeypatch.setattr(os, "lstat", refuse)
    with pytest.raises(PermissionError):
        host.config().check_policy(parse_reference("docker://a.example/x"))
    host.config(policy=NO_POLICY).check_policy(parse_reference("docker://a.example/x"))


def test_no_home(host):
    """Who has no home has the host's."""
    host.home = ""
    host.write(POLICY, {"default": REJECT})

    assert not accepts(host, "docker://a.example/x")


# Which scope


NAMES = [
    "a.b.example:5000/x/y:1",
    "a.b.example:5000/x/y",
    "a.b.example:5000/x",
    "a.b.example:5000",
    "*.b.example",
    "*.example",
    "",
]


@pytest.mark.parametrize("scope", NAMES)
@pytest.mark.parametrize("transport", ["docker", "docker-daemon"])
def test_scopes_of_names(host, transport, scope):
    """From the whole name over its parents to the domains above, and last the transport."""
    name = "a.b.example:5000/x/y:1"
    reference = f"docker://{name}" if transport == "docker" else f"docker-daemon:{name}"
    behind = NAMES[NAMES.index(scope) + 1 :]

    host.write(POLICY, {"default": REJECT, "transports": {transport: dict.fromkeys(behind, REJECT) | {scope: ACCEPT}}})
    assert accepts(host, reference)
    host.write(POLICY, {"default": ACCEPT, "transports": {transport: dict.fromkeys(behind, ACCEPT) | {scope: REJECT}}})
    error = refusal(host, reference)
    assert error.scope == (f"{transport}:{scope}" if scope else f"all of {transport}:")
    assert (error.reference, error.what, error.source) == (reference, "rejected", str(host.root / POLICY))


@pytest.mark.parametrize("scope", ["a.b.example", "b.example:5000", "a.b.example:5000/x/y:2", "*.a.b.example", "*"])
def test_scopes_that_do_not_match(host, scope):
    """Only whole parts match."""
    host.write(POLICY, {"default": ACCEPT, "transports": {"docker": {scope: REJECT}}})

    assert accepts(host, "docker://a.b.example:5000/x/y:1")


def test_names_in_full(host):
    """Short names are those of Docker Hub, without a tag it is latest, and a digest decides beside a tag."""
    scopes = {
        "docker.io/library/fedora:latest": REJECT,
        "docker.io/library/alpine:1": REJECT,
        f"docker.io/library/debian@{DIGEST}": REJECT,
    }
    host.write(POLICY, {"default": ACCEPT, "transports": {"docker": scopes}})

    assert not accepts(host, "docker://fedora")
    assert accepts(host, "docker://fedora:42")
    assert not accepts(host, "docker://alpine:1")
    assert accepts(host, f"docker://alpine:1@{DIGEST}")
    assert not accepts(host, f"docker://debian:1@{DIGEST}")


def test_ids_of_a_daemon(host):
    """They say nothing of where the image is from."""
    host.write(POLICY, {"default": ACCEPT, "transports": {"docker-daemon": {"": REJECT, "docker.io": ACCEPT}}})

    assert not accepts(host, DaemonReference(None, DIGEST.partition(":")[2], "x"))
    assert accepts(host, "docker-daemon:fedora:42")


@pytest.mark.parametrize("transport", ["oci", "oci-archive", "dir"])
def test_scopes_of_paths(host, tmp_path, transport, monkeypatch):
    """The path, without links, and its parents; nothing behind its colon."""
    (tmp_path / "real/sub").mkdir(parents=True)
    (tmp_path / "link").symlink_to("real")
    monkeypatch.chdir(tmp_path)
    make = {"oci": OciReference, "oci-archive": OciArchiveReference}.get(transport)
    paths = [f"{tmp_path}/real/sub/x", "link/sub/x", "./real/../link/sub/x"]
    references = [make(path, "tag", None, path) if make else DirReference(path, path) for path in paths]

    for scope in (f"{tmp_path}/real/sub/x", f"{tmp_path}/real", str(tmp_path.parent), ""):
        host.write(POLICY, {"default": ACCEPT, "transports": {transport: {scope: REJECT, f"{tmp_path}/link": ACCEPT}}})
        assert [accepts(host, reference) for reference in references] == [False] * 3, scope
    host.write(POLICY, {"default": ACCEPT, "transports": {transport: {f"{tmp_path}/rea": REJECT}}})
    assert accepts(host, references[0])


def test_docker_archives(host):
    """They have no scopes."""
    host.write(POLICY, {"default": ACCEPT, "transports": {"docker-archive": {"": REJECT}, "oci": {"": ACCEPT}}})

    assert not accepts(host, DockerArchiveReference("/srv/x.tar", None, None, "x"))


@pytest.mark.parametrize(
    ("oci", "docker", "accepted"), [(ACCEPT, ACCEPT, True), (ACCEPT, REJECT, False), (REJECT, ACCEPT, False)]
)
def test_archives_of_either_kind(host, oci, docker, accepted):
    """Where nothing says what kind it is of, both must hold."""
    host.write(POLICY, {"default": ACCEPT, "transports": {"docker-archive": {"": docker}, "oci-archive": {"": oci}}})

    assert accepts(host, ArchiveReference("/srv/x.tar", None, "/srv/x.tar")) == accepted


STORE = "overlay@/var/lib/containers/storage"
IMAGE_ID = DIGEST.partition(":")[2]


@pytest.mark.parametrize(
    ("reference", "scopes"),
    [
        (
            "fedora:42",
            ["docker.io/library/fedora:42", "docker.io/library/fedora", "docker.io/library", "docker.io", "", None],
        ),
        (f"fedora:42@{IMAGE_ID}", [f"docker.io/library/fedora:42@{IMAGE_ID}", "docker.io/library/fedora:42", ""]),
        (f"fedora:42@{DIGEST}", [f"docker.io/library/fedora:42@{DIGEST}", "docker.io/library/fedora:42"]),
        (f"@{IMAGE_ID}", [f"@{IMAGE_ID}", ""]),
    ],
)
def test_scopes_of_stores(host, reference, scopes):
    """The store stands before the name, with its driver or without."""
    for scope in scopes:
        full = f"[{STORE}]{scope}" if scope is not None else "[/var/lib/containers/storage]"
        host.write(POLICY, {"default": ACCEPT, "transports": {"containers-storage": {full: REJECT}}})
        assert not accepts(host, f"containers-storage:{reference}", store=STORE), full
        assert accepts(host, f"containers-storage:{reference}", store="vfs@/other")


def test_unknown_store(host):
    """Where it cannot be told which scope counts, there must be none."""
    transports = {"containers-storage": {"": ACCEPT}, "ostree": {"/srv": REJECT}, "sif": {"": REJECT}}
    host.write(POLICY, {"default": ACCEPT, "transports": transports})

    assert accepts(host, "containers-storage:fedora:42")
    assert refusal(host, OtherReference("ostree", "x@/srv", "x")).what.startswith("perhaps forbidden")
    assert not accepts(host, OtherReference("sif", "x", "x"))
    assert accepts(host, OtherReference("tarball", "x", "x"))
    transports["containers-storage"][f"[{STORE}]"] = REJECT
    host.write(POLICY, {"default": ACCEPT, "transports": transports})
    error = refusal(host, "containers-storage:fedora:42")
    assert error.what == "perhaps forbidden (which scope it is in cannot be told)"


# What it says


def test_all_requirements_must_hold(host):
    """Of the list that counts, and of no other."""
    scopes = {"a.example": ACCEPT + REJECT, "b.example": ACCEPT + ACCEPT, "b.example/x": REJECT}
    host.write(POLICY, {"default": REJECT, "transports": {"docker": scopes}})

    assert not accepts(host, "docker://a.example/x")
    assert accepts(host, "docker://b.example/y")
    assert not accepts(host, "docker://b.example/x")


@pytest.mark.parametrize("kind", ["signedBy", "signedBaseLayer", "sigstoreSigned"])
def test_signatures(host, kind):
    """They are not checked here: it is told who does, and by whom they were, nothing is missing."""
    host.write(POLICY, {"default": ACCEPT, "transports": {"docker": {"a.example": [{"type": kind, "other": 1}]}}})

    error = refusal(host, "docker://a.example/x:1")

    assert str(error) == (
        f"docker://a.example/x:1: accepted only with a signature ({kind}), which is not checked here, "
        f"by docker:a.example in {host.root / POLICY}; skopeo 1.13 and later check it: --via skopeo"
    )
    assert accepts(host, "docker://a.example/x:1", signatures_checked=True)
    host.write(POLICY, {"default": [{"type": kind}, *REJECT]})
    assert refusal(host, "docker://a.example/x:1", signatures_checked=True).what == "rejected"


def test_unknown_requirements(host):
    """What nobody here knows does not hold."""
    host.write(POLICY, {"default": [{"type": "later"}]})

    error = refusal(host, "docker://a.example/x", signatures_checked=True)
    assert (error.what, error.scope) == ("accepted only if later, which is unknown here", "the default")


# What is none


@pytest.mark.parametrize(
    ("policy", "what"),
    [
        ("", "broken JSON"),
        ('{"default": [], "default": []}', "broken JSON: a key stands twice"),
        ([], "the policy is no JSON object"),
        ({}, "has no default"),
        ({"default": ACCEPT, "Transports": {}}, "the policy has the unknown key 'Transports'"),
        ({"default": []}, "the default has no list of requirements"),
        ({"default": {}}, "the default has no list of requirements"),
        ({"default": ["reject"]}, "a requirement of the default has no type"),
        ({"default": [{"type": 1}]}, "a requirement of the default has no type"),
        (
            {"default": [{"type": "reject", "keyPath": "/x"}]},
            "the requirement reject of the default has the unknown key",
        ),
        ({"default": ACCEPT, "transports": [1]}, "transports is no object"),
        ({"default": ACCEPT, "transports": {"docker": []}}, "the scopes of docker: are no object"),
        ({"default": ACCEPT, "transports": {"docker": {"a": []}}}, "docker:a has no list of requirements"),
        ({"default": ACCEPT, "transports": {"oci": {"srv": ACCEPT}}}, "is no absolute path"),
        ({"default": ACCEPT, "transports": {"oci": {"/": ACCEPT}}}, "the scope '/' of oci: is no absolute path"),
        ({"default": ACCEPT, "transports": {"dir": {"/srv/": ACCEPT}}}, "is no absolute path in its shortest form"),
        ({"default": ACCEPT, "transports": {"dir": {"//srv": ACCEPT}}}, "is no absolute path in its shortest form"),
        ({"default": ACCEPT, "transports": {"docker-archive": {"/srv": ACCEPT}}}, 'can only be ""'),
        ({"default": ACCEPT, "transports": {"docker-daemon": {DIGEST: ACCEPT}}}, "is an ID"),
        ({"default": ACCEPT, "transports": {"containers-storage": {"a": ACCEPT}}}, "has no [STORE] before it"),
    ],
)
def test_broken(host, policy, what):
    """A typo is not taken for permission."""
    path = host.write(POLICY, policy if isinstance(policy, str) else json.dumps(policy))

    with pytest.raises(FormatError) as caught:
        host.config().check_policy(parse_reference("docker://a.example/x"))
    assert caught.value.source == str(path)
    assert what in caught.value.what
