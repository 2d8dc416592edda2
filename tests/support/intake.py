"""A worker's intake without its thread."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from wire.errors import ValidationError
from wire.job import Job


class Intake:
    """Does at once what the real one does on its thread."""

    def do(self, work: Callable[[], Job], then: Callable[[Any], None]) -> None:
        """As the real one's."""
        try:
            answer: Any = work()
        except ValidationError as error:
            answer = error
        then(answer)
