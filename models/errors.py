"""What can go wrong before a model serves. The message is for the person who starts the worker."""

from __future__ import annotations


class ModelRefused(Exception):
    """The model cannot be loaded or would not be served right; the message says why and what to do."""
