"""What is said of credentials, registries.conf and policy.json."""

import pytest

from composefs.doctor import Job, Status, examine
from composefs.doctor.access import find_readings, judge_reading
from tests.hosts import SECRET, auth

CONF = "etc/containers/registries.conf"


def findings(host, **options):
    return {each.id: each for each in map(judge_reading, find_readings(host.config(**options)))}


def test_nothing(host):
    """A host without podman's files is fine."""
    found = findings(host)

    assert {each.status for each in found.values()} == {Status.OK}
    assert [each.found for each in found.values()] == [
        "none: registries are asked anonymously",
        "none: every registry is asked itself",
        "none: every image is taken",
    ]


def test_files(host):
    """Which files there are is said in the order in which they count, and how much is in them; no secret is."""
    host.uid = 0
    first = host.write("etc/ostree/auth.json", {"auths": {"quay.io": auth()}})
    second = host.write("~/.docker/config.json", {"credHelpers": {"a": "b"}, "auths": {"c": {}}, "credsStore": "d"})
    conf = host.write(
        CONF,
        'credential-helpers = ["containers-auth.json", "vault"]\n[[registry]]\nlocation = "a.example"\nblocked = true\n'
        '[[registry.mirror]]\nlocation = "b.example"\n',
    )
    drop_in = host.write(f"{CONF}.d/a.conf", "")
    scopes = {"a.example": [{"type": "reject"}]}
    policy = host.write(
        "etc/containers/policy.json", {"default": [{"type": "reject"}], "transports": {"docker": scopes}}
    )

    found = findings(host)

    assert {each.status for each in found.values()} == {Status.OK}
    assert [each.found for each in found.values()] == [
        f"{first} (1 entry), then {second} (2 entries, all others by docker-credential-d), "
        "then docker-credential-vault",
        f"{conf}, {drop_in}: 1 registry, 1 mirror, 1 blocked",
        f"{policy}: by default reject, 1 scope",
    ]
    assert SECRET not in str(found)


@pytest.mark.parametrize(
    ("path", "broken", "prevented"),
    [
        ("~/.docker/config.json", {"registry.credentials"}, ()),
        (CONF, {"registry.credentials", "registry.configuration"}, ()),
        ("etc/containers/policy.json", {"registry.policy"}, (Job.IMPORT,)),
    ],
)
def test_broken(host, path, broken, prevented):
    """A broken file is named; a broken policy keeps everything from being imported."""
    written = host.write(path, f"{{{SECRET}")

    found = findings(host)

    assert {each.id for each in found.values() if each.status is Status.MISSING} == broken
    assert all(
        each.found.startswith(f"{written}: broken ") and each.remedy for each in found.values() if each.id in broken
    )
    assert {job for each in found.values() for job in each.prevents} == set(prevented)
    assert SECRET not in str(found)


def test_missing(host):
    """A file that was chosen and is missing is told."""
    found = findings(host, auth_file="/nonexistent/auth.json", policy="/nonexistent/policy.json")

    assert found["registry.credentials"].found == "/nonexistent/auth.json: No such file or directory"
    assert found["registry.policy"].prevents == (Job.IMPORT,)


def test_unreadable(host, monkeypatch):
    """What others may not read is unknown."""
    host.write("etc/containers/policy.json", "")

    def refuse(path):
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr("composefs.hostconfig.config.read_file", refuse)
    finding = findings(host)["registry.policy"]

    assert finding.status is Status.UNKNOWN
    assert finding.found.endswith("policy.json: Permission denied")
    assert finding.prevents == ()


def test_examine(host, tmp_path):
    """It is a part of the examination, if it is said where to look."""
    with_host = {each.id for each in examine(tmp_path, host=host.config())}
    without = {each.id for each in examine(tmp_path)}

    assert with_host - without == {"registry.credentials", "registry.configuration", "registry.policy"}
