"""Seeds by name: every random draw belongs to a purpose and a step, so that a resumed run needs no saved generator."""

from __future__ import annotations

import hashlib


def derive_seed(*parts: str | int) -> int:
    """A 63-bit seed that depends on all parts and on nothing else (not on PYTHONHASHSEED, not on the time)."""
    digest = hashlib.sha256("\x1f".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
