"""Who may ask: keys, and whom they belong to.

A key file has a line for each key: `KEY`, or `NAME KEY`, or `NAME KEY WEIGHT`; `#` begins a comment. It is read again
when it changes; a change that cannot be read is refused as a whole, and the keys before it stay.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from headrace.errors import ConfigError
from headrace.server.dialects.base import Route
from headrace.server.errors import Forbidden, Unauthorized

logger = logging.getLogger("headrace.server")

_RELOAD_SECONDS = 1.0
_PRINTABLE = re.compile(r"[!-~]+")
_RESERVED = re.compile(r"admin|everybody|key-.*")
"""Names of those who are in no file, or have none there; whoever had one would share what they keep"""


@dataclass(frozen=True, slots=True)
class Tenant:
    """Whose request it is, for sharing and for counting; never the key."""

    name: str
    weight: float = 1.0
    """Share of the engine, against others' when they compete"""


EVERYBODY = Tenant("everybody")
"""Of a server without keys"""


class Keys:
    """Keys given one by one, and those of a file. Only digests are kept, and compared in constant time."""

    def __init__(self, given: Iterable[str] = (), path: Path | None = None) -> None:
        self._given = {_digest(_checked(key)): Tenant(f"key-{number}") for number, key in enumerate(given, 1)}
        self._path = path
        self._stamp: tuple[int, int] | None = None
        self._looked_at = 0.0
        self._from_file: dict[bytes, Tenant] = {}
        if path is not None:
            self._stamp = _stamp(path)
            self._from_file = _read(path)

    def __bool__(self) -> bool:
        return bool(self._given) or self._path is not None

    def tenant(self, key: str) -> Tenant | None:
        """Whose key it is; None for nobody's."""
        self._reload()
        digest, found = _digest(key), None
        for known, tenant in [*self._given.items(), *self._from_file.items()]:
            if hmac.compare_digest(known, digest):
                found = tenant
        return found

    def named(self, name: str) -> Tenant | None:
        """The tenant of that name; None when no key is his."""
        self._reload()
        return next((one for one in [*self._from_file.values(), *self._given.values()] if one.name == name), None)

    def _reload(self) -> None:
        now = time.monotonic()
        if self._path is None or now - self._looked_at < _RELOAD_SECONDS:
            return
        self._looked_at = now
        try:
            stamp = _stamp(self._path)
            if stamp == self._stamp:
                return
            self._stamp = stamp
            self._from_file = _read(self._path)
            logger.warning("%s has changed; keys in it: %d", self._path, len(self._from_file))
        except ConfigError as error:
            logger.error("the keys stay as they were: %s", error)


def check_keys(given: Iterable[str], path: Path | None = None) -> None:
    """Find what is wrong with keys before a server needs them.

    Raises:
        ConfigError: there is such a thing.
    """
    for key in given:
        _checked(key)
    if path is not None:
        _read(path)


class Access:
    """What a server asks for before it does anything. `keys` open all routes but admin's, `admin` all."""

    def __init__(self, keys: Keys, admin: Keys) -> None:
        self._keys = keys
        self._admin = admin

    def check(self, routes: Iterable[Route], headers: Mapping[str, str]) -> Tenant:
        """Whose request it is. Of several routes that it may be for the strictest counts.

        A path that is nobody's does not answer strangers either.

        Raises:
            Unauthorized: there is no key, or a wrong one.
            Forbidden: the key does not open this route.
        """
        is_open, is_admin = False, False
        for number, route in enumerate(routes):
            is_open, is_admin = route.is_open and (is_open or not number), is_admin or route.is_admin
        if is_open or not (self._keys or self._admin):
            return EVERYBODY
        key = _key_of(headers)
        admin = self._admin.tenant(key) if key else None
        if admin is not None:
            return Tenant("admin")
        tenant = self._keys.tenant(key) if key else None
        if is_admin:
            if tenant is None and self._keys:
                raise Unauthorized(_WANTED)
            raise Forbidden("This path changes the server and takes its admin key (--admin-key), not another one")
        if tenant is None and self._keys:
            raise Unauthorized(_WANTED if key is None else "The key is not one of this server's; check it")
        return EVERYBODY if tenant is None else tenant

    def named(self, name: str) -> Tenant:
        """A tenant that has been let in before, with the weight that it has now."""
        return self._keys.named(name) or Tenant(name)


_WANTED = "This server asks for a key; send it as Authorization: Bearer KEY, or as x-api-key"


def _key_of(headers: Mapping[str, str]) -> str | None:
    scheme, _, value = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and value.strip():
        return value.strip()
    return headers.get("x-api-key", "").strip() or headers.get("api-key", "").strip() or None


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def _stamp(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror}); check its name and permissions") from error
    return status.st_mtime_ns, status.st_size


def _checked(key: str, where: str = "the key") -> str:
    if not _PRINTABLE.fullmatch(key):
        raise ConfigError(f"{where} has characters that no header can carry; take printable ASCII without blanks")
    return key


def _read(path: Path) -> dict[bytes, Tenant]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{path} cannot be read ({error}); it should be a text file with a key in each line"
        ) from error
    found: dict[bytes, Tenant] = {}
    for number, line in enumerate(lines, 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        key, tenant = _parse(words, f"{path}, line {number}")
        if _digest(key) in found:
            raise ConfigError(f"{path}, line {number}: the key stands there twice; give each tenant one of its own")
        found[_digest(key)] = tenant
    if not found:
        raise ConfigError(f"{path} has no keys; write one in each line")
    return found


def _parse(words: list[str], where: str) -> tuple[str, Tenant]:
    if len(words) > 3:
        raise ConfigError(f"{where}: {len(words)} words, expected KEY, NAME KEY or NAME KEY WEIGHT")
    key = _checked(words[0] if len(words) == 1 else words[1], where)
    if len(words) > 1 and _RESERVED.fullmatch(words[0]):
        raise ConfigError(f"{where}: {words[0]} is a name of the server's own; give the tenant another one")
    name = f"key-{hashlib.sha256(key.encode()).hexdigest()[:8]}" if len(words) == 1 else words[0]
    try:
        weight = float(words[2]) if len(words) == 3 else 1.0
    except ValueError:
        weight = 0.0
    if not 0.001 <= weight <= 1000:
        raise ConfigError(f"{where}: the weight is {words[2]}, expected a number from 0.001 to 1,000")
    return key, Tenant(name, weight)
