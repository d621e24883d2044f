"""WWW-Authenticate is read as it is sent: several challenges, in several headers, in any order."""

import pytest

from composefs.registry.challenge import Challenge, parse_challenges

HUB = 'Bearer realm="https://auth.example/token",service="registry",scope="repository:a/b:pull,push"'
HUB_READ = Challenge(
    "bearer",
    {"realm": "https://auth.example/token", "service": "registry", "scope": "repository:a/b:pull,push"},
)


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ([], []),
        ([""], []),
        ([HUB], [HUB_READ]),
        (["Basic"], [Challenge("basic")]),
        (['BASIC REALM="x"'], [Challenge("basic", {"realm": "x"})]),
        ([f'{HUB}, Basic realm="x"'], [HUB_READ, Challenge("basic", {"realm": "x"})]),
        ([f'Basic realm="x", {HUB}'], [Challenge("basic", {"realm": "x"}), HUB_READ]),
        (['Basic realm="x"', HUB], [Challenge("basic", {"realm": "x"}), HUB_READ]),
        (["Negotiate abc==, Basic realm=x"], [Challenge("negotiate"), Challenge("basic", {"realm": "x"})]),
        (
            ["Negotiate , Bearer realm = tok , service\t=\ts"],
            [
                Challenge("negotiate"),
                Challenge("bearer", {"realm": "tok", "service": "s"}),
            ],
        ),
        ([r'Basic realm="a \"b\", c\\d"'], [Challenge("basic", {"realm": r'a "b", c\d'})]),
        ([",, Basic realm=x,, charset=UTF-8,"], [Challenge("basic", {"realm": "x", "charset": "UTF-8"})]),
        (["Bearer realm=first, realm=second"], [Challenge("bearer", {"realm": "first"})]),
        (["realm=x"], []),
        (['Bearer realm="cut'], [Challenge("bearer", {"realm": "cut"})]),
        (['Bearer realm="cut\\'], [Challenge("bearer", {"realm": "cut"})]),
        (['Bearer realm=, service="s"'], [Challenge("bearer", {"service": "s"})]),
        (["(rubbish), Basic realm=x"], [Challenge("basic", {"realm": "x"})]),
    ],
)
def test_headers(headers, expected):
    """Each form that RFC 9110 allows, and some that it does not."""
    assert list(parse_challenges(headers)) == expected
