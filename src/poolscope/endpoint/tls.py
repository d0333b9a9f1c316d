"""The certificate of the endpoint, loaded again when its files change."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

from poolscope.config import TlsSettings
from poolscope.endpoint.secret_files import check_mode, refused
from poolscope.errors import ListenError

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

_CERTIFICATE, _KEY = "endpoint.tls.certificate", "endpoint.tls.key"


class Certificate:
    """What TLS connections are opened with. Thread-safe: one lock around the loading.

    A new certificate that is no good (half written, key and certificate of two renewals) leaves the old one in use, and
    is told to `failed` once.
    """

    def __init__(self, settings: TlsSettings) -> None:
        """Raise ListenError, in one line, for files that cannot be used."""
        if settings.certificate is None:
            raise ListenError(f"{_KEY} needs {_CERTIFICATE}: name the certificate that it belongs to")
        self._certificate = os.path.abspath(settings.certificate)
        self._key = os.path.abspath(settings.key) if settings.key is not None else None
        self.failed: Callable[[str, Exception], object] = lambda _part, _error: None
        self._lock = threading.Lock()
        self._seen = self._look()
        self._context = self._load()

    def context(self) -> ssl.SSLContext:
        """Return the context for a new connection."""
        with self._lock:
            try:
                seen = self._look()
                if seen != self._seen:
                    # Remembered even if it is no good: not tried again until it changes once more.
                    self._seen = seen
                    self._context = self._load()
            except ListenError as error:
                self.failed("certificate", error)
            return self._context

    def _look(self) -> tuple[object, ...]:
        found: list[object] = []
        for key, path in ((_CERTIFICATE, self._certificate), (_KEY, self._key)):
            if path is None:
                continue
            try:
                status = os.stat(path)
            except FileNotFoundError as error:
                raise refused(key, path, "there is no such file") from error
            except (OSError, ValueError) as error:
                raise refused(key, path, getattr(error, "strerror", None) or str(error)) from error
            # Without a key of its own, the certificate's file holds it.
            if key == _KEY or self._key is None:
                check_mode(status, lambda why, key=key, path=path: refused(key, path, why))  # type: ignore[misc]
            found += [status.st_dev, status.st_ino, status.st_mode, status.st_size, status.st_mtime_ns]
            found.append(status.st_ctime_ns)
        return tuple(found)

    def _load(self) -> ssl.SSLContext:
        import ssl

        for key, path in ((_CERTIFICATE, self._certificate), (_KEY, self._key)):
            self._readable(key, path)
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.options |= ssl.OP_NO_RENEGOTIATION
        asked = False

        def pass_phrase() -> str:
            # Without this OpenSSL would ask the terminal of the program.
            nonlocal asked
            asked = True
            return ""

        try:
            context.load_cert_chain(self._certificate, self._key, pass_phrase)
        except (OSError, ValueError) as error:  # SSLError is an OSError
            if asked:
                why = "it has a pass phrase, which cannot be asked for here; take the pass phrase off"
            elif getattr(error, "reason", None) == "KEY_VALUES_MISMATCH":
                why = "it belongs to another certificate"
            else:
                why = "expected a certificate and its key in PEM"
            raise refused(_KEY if self._key else _CERTIFICATE, self._key or self._certificate, why) from error
        return context

    @staticmethod
    def _readable(key: str, path: str | None) -> None:
        if path is None:
            return
        try:
            with open(path, "rb") as file:
                empty = not file.read(1)
        except PermissionError as error:
            raise refused(key, path, "this user may not read it") from error
        except OSError as error:
            raise refused(key, path, error.strerror or str(error)) from error
        if empty:
            raise refused(key, path, "it is empty")
