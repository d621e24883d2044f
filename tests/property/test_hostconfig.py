"""Configuration of the host: any bytes are taken, or refused with a typed error; rules hold whatever the names are."""

import base64
import ipaddress
import json
import pickle
import tempfile
import traceback
from contextlib import nullcontext
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from composefs.errors import FormatError, PolicyError
from composefs.hostconfig.auth import find_in_files
from composefs.hostconfig.places import AuthFile, RegistriesFiles
from composefs.hostconfig.policy import parse_policy
from composefs.hostconfig.proxies import parse_no_proxy
from composefs.hostconfig.registries import read_registries
from composefs.reference import RegistryReference, parse_name
from composefs.registry.endpoint import Credentials, Proxies

SECRET = "Geheimnis-7f3a"

# Few letters, so that names meet.
labels = st.text("ab", min_size=1, max_size=2)
hosts = st.builds(
    lambda names, port: f"{'.'.join(names)}.t{port}",
    st.lists(labels, min_size=1, max_size=3),
    st.sampled_from(["", ":1", ":22"]),
)
paths = st.lists(labels, min_size=1, max_size=3).map("/".join)
names = st.builds(lambda host, path: f"{host}/{path}", hosts, paths)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.just(SECRET),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "auths",
                    "credHelpers",
                    "credsStore",
                    "auth",
                    "identitytoken",
                    "a.t",
                    "default",
                    "transports",
                    "docker",
                    "type",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@pytest.fixture(scope="module")
def file():
    """A file to be written again and again."""
    with tempfile.TemporaryDirectory() as directory:
        yield Path(directory) / "file"


def attempt(call, *arguments):
    """Return what *call* returns, or the FormatError that it raises."""
    try:
        return call(*arguments)
    except FormatError as error:
        return error


def helper(name, registry, wanted_by):
    return None


def credentials_in(file, name):
    found = find_in_files(name, [AuthFile(str(file))], helper)
    return found[0] if found is not None else None


@given(
    st.text(st.characters(blacklist_characters=":", blacklist_categories=["Cs"]), max_size=20),
    st.text(st.characters(blacklist_categories=["Cs"])),
    names,
)
def test_credentials_as_they_were_stored(file, username, password, name):
    """Whatever user and password are, they come back, and pickle; zeros at the ends of passwords were never meant."""
    auth = base64.b64encode(f"{username}:{password}".encode()).decode()
    file.write_text(json.dumps({"auths": {name: {"auth": auth}}}))

    found = credentials_in(file, name)

    assert found == Credentials(username, password.strip("\0"))
    assert pickle.loads(pickle.dumps(found)) == found


@given(st.dictionaries(names | hosts, st.just({"auth": "YTpi"}), max_size=6), names)
def test_the_most_particular_entry(file, entries, name):
    """The longest key that is the name, or ends before one of its slashes, counts."""
    keyed = {key: {"auth": base64.b64encode(f"x:{key}".encode()).decode()} for key in entries}
    file.write_text(json.dumps({"auths": keyed}))
    wanted = max((key for key in entries if f"{name}/".startswith(f"{key}/")), key=len, default=None)

    found = credentials_in(file, name)

    assert found == (Credentials("x", wanted) if wanted is not None else None)


@given(st.binary(max_size=60) | json_values.map(lambda value: json.dumps(value).encode()))
def test_any_auth_file(file, data):
    """It is taken, or refused without a word of what is in it."""
    file.write_bytes(data)

    found = attempt(credentials_in, file, "a.t/b")

    if isinstance(found, FormatError):
        assert str(file) in str(found)
        assert SECRET not in "".join(traceback.format_exception(found))
    else:
        assert found is None or isinstance(found, Credentials)


@given(st.binary(max_size=60) | json_values.map(lambda value: json.dumps(value).encode()))
def test_any_policy(data):
    """It is a policy or broken; one without a default accepts nothing."""
    found = attempt(parse_policy, data, "policy.json")

    assert found.source == "policy.json"
    assert isinstance(found, FormatError) or found.default


@given(
    st.dictionaries(st.sampled_from(["a.t", "a.t/a", "a.t/a/b", "a.t/a/b:1", "*.t", ""]), st.booleans()), st.booleans()
)
def test_only_the_most_particular_scope(scopes, default):
    """What other scopes say does not count."""

    def requirements(accept):
        return [{"type": "insecureAcceptAnything" if accept else "reject"}]

    value = {
        "default": requirements(default),
        "transports": {"docker": {scope: requirements(each) for scope, each in scopes.items()}},
    }
    order = ["a.t/a/b:1", "a.t/a/b", "a.t/a", "a.t", "*.t", ""]
    wanted = next((scopes[scope] for scope in order if scope in scopes), default)
    policy = parse_policy(json.dumps(value).encode(), "policy.json")

    with nullcontext() if wanted else pytest.raises(PolicyError):
        policy.check(RegistryReference(parse_name("a.t/a/b:1"), "x"))


@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_any_registries_conf(file, data):
    """It is taken or refused, and the error says which file it is."""
    file.write_bytes(data)

    found = attempt(read_registries, RegistriesFiles(str(file), ()))

    assert (found.source if isinstance(found, FormatError) else found.files[0]) == str(file)


@given(st.lists(st.tuples(names | hosts, names), max_size=4, unique_by=lambda pair: pair[0]), names)
def test_rewriting(file, tables, name):
    """The longest prefix counts; what is behind it stays, and nothing else does."""
    tables = [(prefix, f"{location}/{number}") for number, (prefix, location) in enumerate(tables)]
    file.write_text(
        "".join(f"[[registry]]\nprefix = '{prefix}'\nlocation = '{location}'\n" for prefix, location in tables)
    )
    matching = [
        (prefix, location) for prefix, location in tables if f"{name}/".startswith((f"{prefix}/", f"{prefix}:"))
    ]
    registries = read_registries(RegistriesFiles(str(file), ()))

    if not matching:
        wanted = name
    else:
        prefix, location = max(matching, key=lambda pair: len(pair[0]))
        wanted = location + name[len(prefix) :]
    found = attempt(registries.sources, parse_name(f"{name}:1"))

    if isinstance(found, FormatError):
        assert ":" in wanted.partition("/")[2]  # a port in the middle of a name
    else:
        assert [str(source.name) for source in found] == [f"{wanted}:1"]


addresses = st.ip_addresses(v=4, network="10.0.0.0/29").map(str) | st.ip_addresses(v=6, network="fd00::/125").map(str)
networks = st.tuples(st.ip_addresses(v=4, network="10.0.0.0/29"), st.integers(27, 32)).map(
    lambda pair: f"{pair[0]}/{pair[1]}"
)
domains = st.lists(labels, min_size=1, max_size=3).map(".".join)
entries = st.lists(
    addresses
    | networks
    | domains
    | domains.map(".{}".format)
    | domains.map("*.{}".format)
    | st.sampled_from(["", "/", ":1"]),
    max_size=4,
)


def is_direct(entries, host):
    """The rules of NO_PROXY, slowly."""
    return any(is_named_by(entry, host) for entry in entries)


def is_named_by(entry, host):
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        name = entry.removeprefix("*").removeprefix(".")
        return bool(name) and (host.endswith(f".{name}") or host == entry)
    try:
        return address in ipaddress.ip_network(entry, strict=False)
    except ValueError:
        return False


@given(entries, addresses | domains)
def test_no_proxy(entries, host):
    """A host is reached directly if one entry says so, in whatever order they stand."""
    wanted = is_direct(entries, host)

    for order in (entries, entries[::-1]):
        proxies = Proxies("http://p:1", "http://p:1", parse_no_proxy(",".join(order)))
        shown = f"[{host}]" if ":" in host else host
        assert (proxies.for_host(shown, 443, "https") is None) == wanted


@given(st.text())
def test_any_no_proxy(text):
    """Whatever stands there, hosts have an answer."""
    proxies = Proxies("http://p:1", None, parse_no_proxy(text))

    assert proxies.for_host("a.example", 443, "https") in {None, "http://p:1"}
    assert proxies.for_host("localhost", 443, "https") is None
    assert pickle.loads(pickle.dumps(proxies)) == proxies
