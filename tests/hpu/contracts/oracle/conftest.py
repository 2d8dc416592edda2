"""Before anybody imports transformers."""

from __future__ import annotations

from tests.support import torchvision

torchvision.bear()
