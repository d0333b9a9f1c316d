"""Password hashes that the standard library can make and verify: `python -m poolscope.endpoint.passwords USER`.

One line is `user:scrypt$N$R$P$SALT$KEY`: the cost parameters of RFC 7914, and salt and key in base64.
"""

from __future__ import annotations

import base64
import binascii
import getpass
import hmac
import os
import sys
from typing import NamedTuple

#: 16 MiB, and some tens of milliseconds of one core, for each password that is tried.
COST, BLOCK, PARALLEL = 1 << 14, 8, 1
#: What a file may ask for at most, so that a mistake in it does not hold up the program.
MAX_MEMORY = 64 * 1024 * 1024
_MAX_PARALLEL = 4

EXPECTED = "user:scrypt$N$R$P$SALT$KEY, as python -m poolscope.endpoint.passwords USER prints it"


class PasswordHash(NamedTuple):
    """How a password was hashed, and what came out."""

    cost: int
    block: int
    parallel: int
    salt: bytes
    key: bytes

    def matches(self, password: bytes) -> bool:
        """Whether it was made of this password. Takes as long for a wrong one."""
        return hmac.compare_digest(_derived(password, self.salt, self.cost, self.block, self.parallel), self.key)

    def text(self) -> str:
        """As it stands in a file, without the user."""
        coded = [base64.b64encode(part).decode() for part in (self.salt, self.key)]
        return "$".join(["scrypt", str(self.cost), str(self.block), str(self.parallel), *coded])


def make(password: str) -> PasswordHash:
    """Return a new hash of a password, with a salt of its own."""
    salt = os.urandom(16)
    return PasswordHash(COST, BLOCK, PARALLEL, salt, _derived(password.encode(), salt, COST, BLOCK, PARALLEL))


def read_hash(text: str) -> PasswordHash:
    """Return the hash in a text. Raises ValueError, which repeats nothing of the text, if there is none."""
    if text.startswith(("$2", "$apr1$", "{SHA}", "$5$", "$6$", "$1$")):
        raise ValueError(
            f"a hash of htpasswd or crypt cannot be verified with the standard library; expected {EXPECTED}"
        )
    parts = text.split("$")
    numbers = parts[1:4]
    if len(parts) != 6 or parts[0] != "scrypt" or not all(n.isascii() and n.isdigit() and len(n) < 9 for n in numbers):
        raise ValueError(f"expected {EXPECTED}")
    cost, block, parallel = map(int, numbers)
    if cost < 2 or cost & (cost - 1) or not block or not 1 <= parallel <= _MAX_PARALLEL:
        raise ValueError("expected N a power of two, R from 1, and P from 1 to 4 in the hash")
    if 128 * cost * block > MAX_MEMORY:
        raise ValueError(f"expected a hash that takes at most {MAX_MEMORY >> 20} MiB (128 x N x R bytes)")
    try:
        salt, key = (base64.b64decode(part, validate=True) for part in parts[4:])
    except binascii.Error as error:
        raise ValueError(f"expected {EXPECTED}") from error
    if len(salt) < 8 or not 16 <= len(key) <= 64:
        raise ValueError("expected at least 8 bytes of salt and 16 to 64 bytes of key in the hash")
    return PasswordHash(cost, block, parallel, salt, key)


def read_users(text: str) -> dict[str, PasswordHash]:
    """Return the users of a file, a line each; empty lines and those that begin with # are none. Raises ValueError."""
    if not _can_hash():
        raise ValueError("this Python has no hashlib.scrypt: it was built without OpenSSL; take a bearer token")
    users: dict[str, PasswordHash] = {}
    for number, line in enumerate(text.splitlines(), 1):
        words = line.strip()
        if not words or words.startswith("#"):
            continue
        user, separator, coded = words.partition(":")
        if not separator or not user:
            raise ValueError(f"line {number}: expected {EXPECTED}")
        if user in users:
            raise ValueError(f"line {number}: expected each user once")
        try:
            users[user] = read_hash(coded)
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from error
    if not users:
        raise ValueError(f"it names no user; expected lines of {EXPECTED}")
    return users


def _can_hash() -> bool:
    import hashlib

    return hasattr(hashlib, "scrypt")


def _derived(password: bytes, salt: bytes, cost: int, block: int, parallel: int) -> bytes:
    import hashlib

    room = 128 * block * (cost + parallel + 2) + 1024 * 1024
    return hashlib.scrypt(password, salt=salt, n=cost, r=block, p=parallel, maxmem=room, dklen=32)


def main(arguments: list[str]) -> int:
    """Ask for a password and print the user's line; the exit status."""
    if len(arguments) != 1 or not arguments[0] or ":" in arguments[0] or not arguments[0].isprintable():
        print("usage: python -m poolscope.endpoint.passwords USER  (a name without a colon)", file=sys.stderr)
        return 2
    if not _can_hash():
        print("poolscope: this Python has no hashlib.scrypt; run the command with another one", file=sys.stderr)
        return 2
    # From a pipe: its first line.
    password = getpass.getpass() if sys.stdin.isatty() else sys.stdin.readline().rstrip("\r\n")
    if not password:
        print("poolscope: an empty password protects nothing", file=sys.stderr)
        return 2
    print(f"{arguments[0]}:{make(password).text()}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
