"""How this machine reaches an endpoint."""

from __future__ import annotations

import pytest

from poolscope.endpoint.base import url_of


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:1"),
        ("localhost", "http://localhost:1"),
        ("::1", "http://[::1]:1"),
        ("fe80::1%eth0", "http://[fe80::1]:1"),
        ("0.0.0.0", "http://127.0.0.1:1"),
        ("::", "http://[::1]:1"),
        ("0:0::0", "http://[::1]:1"),
    ],
)
def test_a_url_has_the_host_or_loopback_for_all_addresses(host: str, url: str) -> None:
    assert url_of("http", host, 1) == url
