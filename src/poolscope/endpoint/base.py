"""What `serve` returns, whichever process answers there."""

from __future__ import annotations

import ipaddress
from abc import ABC, abstractmethod
from types import TracebackType
from typing import Self


def url_of(scheme: str, host: str, port: int) -> str:
    """Return the URL by which this machine reaches a host: by loopback if that stands for all addresses."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return f"{scheme}://{host}:{port}"
    if address.is_unspecified:
        address = ipaddress.ip_address("127.0.0.1" if address.version == 4 else "::1")
    return f"{scheme}://[{address}]:{port}" if address.version == 6 else f"{scheme}://{address}:{port}"


class Endpoint(ABC):
    """An address at which metrics are served. A context manager that ends that; any thread may call any method."""

    @property
    @abstractmethod
    def port(self) -> int:
        """The port that is served, also where port 0 was asked for."""

    @property
    @abstractmethod
    def url(self) -> str:
        """What it is reached by from this machine, such as "http://127.0.0.1:9464"."""

    @abstractmethod
    def close(self) -> None:
        """End it; do nothing the second time."""

    def drain(self, patience: float) -> None:  # noqa: B027 # most have no thread of ours
        """Once it is closed: waits `patience` seconds at most until no thread of it is left."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Elsewhere(Endpoint):
    """One that another process has for this one too: there is nothing to end."""

    def __init__(self, port: int, url: str) -> None:
        self._port = port
        self._url = url

    @property
    def port(self) -> int:
        """See `Endpoint.port`."""
        return self._port

    @property
    def url(self) -> str:
        """See `Endpoint.url`."""
        return self._url

    def close(self) -> None:
        """Do nothing: it is not ours."""
