"""The scrape endpoint: `server` opens it, `connections` accepts, `answers` answers, `access` and `tls` guard it.

The standard library's `http.server` reads the requests. `ssl` is imported only where the settings ask for TLS, and
`hashlib` only where they ask for passwords.
"""

from poolscope.endpoint.answers import Page
from poolscope.endpoint.base import Endpoint
from poolscope.endpoint.server import Server

__all__ = ["Endpoint", "Page", "Server"]
