"""Scripts with a fault put in, for tests of whether other tests would notice."""

from __future__ import annotations

from copy import copy
from hashlib import sha1

import pytest

from wire.queue import Script
from worker.boot import Boot


def broken(script: Script, old: str, new: str) -> Script:
    """The script with `new` for `old`, which it must have."""
    assert old in script.text
    mutant = copy(script)
    mutant.text = script.text.replace(old, new)
    mutant.sha = sha1(mutant.text.encode()).hexdigest()
    return mutant


def without_resync(monkeypatch: pytest.MonkeyPatch) -> None:
    """No boot asks for what it owns after a pop whose reply was lost."""
    never = property(lambda self: False, lambda self, value: None)
    monkeypatch.setattr(Boot, "_resync", never, raising=False)
