"""What `serve` returns, whoever answers there."""

from __future__ import annotations

from abc import ABC, abstractmethod
from types import TracebackType
from typing import Self


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
        """Ends it; does nothing the second time."""

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
        """Does nothing: it is not ours."""
