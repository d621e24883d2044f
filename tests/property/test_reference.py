"""References: any text is read or refused, and what was read, written out, is read again as the same."""

from hypothesis import given
from hypothesis import strategies as st

from composefs.errors import UsageError
from composefs.reference import Reference, RegistryName, RegistryReference, Transport, parse_name, parse_reference

HEX = "0123456789abcdef" * 4
WORDS = st.text("abz09", min_size=1, max_size=5)
COMPONENTS = st.builds(
    lambda word, rest: word + "".join(map("".join, rest)),
    WORDS,
    st.lists(st.tuples(st.sampled_from([".", "_", "__", "-", "---"]), WORDS), max_size=3),
)
REPOSITORIES = st.lists(COMPONENTS, min_size=1, max_size=4).map("/".join)
HOSTS = st.builds(
    lambda host, port: host + port,
    st.sampled_from(["localhost", "quay.io", "10.0.0.1", "docker.io", "a-b.example", "[fe80::1]"]),
    st.sampled_from(["", ":1", ":443", ":65535"]),
)
TAGS = st.none() | st.builds(str.__add__, st.sampled_from("aZ0_"), st.text("aZ0_.-", max_size=127))
DIGESTS = st.none() | st.sampled_from([f"sha256:{HEX}", f"sha384:{HEX}{HEX[:32]}", f"sha512:{HEX}{HEX}"])

# Text in which what has a meaning is frequent.
PIECES = st.sampled_from(
    [
        "docker://", "docker:", "registry:", "oci:", "oci-archive:", "docker-archive:", "dir:", "containers-storage:",
        "docker-daemon:", "sif:", "https://", "/", "./", "../", "//", "-", ":", "@", "::", "a", "b", "A", "quay.io",
        "docker.io/", "localhost:5000/", ":latest", "@0", "@x", HEX, f"sha256:{HEX}", f"@sha256:{HEX}", "[", "]",
        "[vfs@/a+/b:c]", "/a", "+", " ", "\n", "\0", "é",
    ]
)  # fmt: skip
TEXTS = st.lists(PIECES | st.text(max_size=3), max_size=6).map("".join)


class Files:
    """Paths that are there: some of those that *text* may mean."""

    def __init__(self, data, text):
        details = text.partition(":")[2]
        paths = [text, details]
        paths += [part[:place] for part in (text, details) for place, letter in enumerate(part) if letter == ":"]
        paths += [f"{path}/{name}" for path in paths for name in ("index.json", "manifest.json")]
        self._kinds = {path: data.draw(st.sampled_from(["", "file", "directory"])) for path in paths if path}

    def exists(self, path):
        return self._kinds.get(path, "") != ""

    def is_directory(self, path):
        return self._kinds.get(path, "") == "directory"

    def parse(self, text):
        return parse_reference(text, exists=self.exists, is_directory=self.is_directory)


def check_message(error):
    """A refusal is one line, whatever was typed."""
    assert str(error).isprintable()


@given(TEXTS, st.data())
def test_text_of_a_value_parses_to_it(text, data):
    """Any text has one meaning or is refused; the canonical text of the meaning has the same one."""
    files = Files(data, text)
    try:
        found = files.parse(text)
    except UsageError as error:
        check_message(error)
        return

    assert isinstance(found, Reference)
    assert found.text == text
    again = files.parse(str(found))
    assert again == found
    assert str(again) == str(found)


@given(TEXTS)
def test_nothing_is_there(text):
    """What is not there is no archive whose kind its bytes would tell, nor a directory of blobs."""
    try:
        found = parse_reference(text, exists=lambda _: False, is_directory=lambda _: False)
    except UsageError:
        return
    if found.transport is Transport.ARCHIVE:
        assert text == "-"
    elif found.transport is Transport.DIR:
        assert text == f"dir:{found.path}"


@given(HOSTS, REPOSITORIES, TAGS, DIGESTS)
def test_names(host, repository, tag, digest):
    """A name in full is read as it is, in each way to write it."""
    repository = f"library/{repository}" if host == "docker.io" and "/" not in repository else repository
    name = RegistryName(host, repository, tag, digest)

    assert parse_name(str(name)) == name
    bare = parse_reference(str(name), exists=lambda _: False)
    assert bare == parse_reference(f"docker://{name}") == parse_reference(f"registry:{name}")
    assert isinstance(bare, RegistryReference)
    assert bare.name.wanted == (digest or tag or "latest")


@given(REPOSITORIES.filter(lambda text: text.partition("/")[0] != "localhost" and "." not in text.partition("/")[0]))
def test_names_without_a_host(repository):
    """Without a host a name is one of Docker Hub."""
    found = parse_name(repository)

    assert found.host == "docker.io"
    assert found.repository == (repository if "/" in repository else f"library/{repository}")
