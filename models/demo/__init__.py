"""The built-in demo model: a small Llama trained from scratch on text that this folder writes."""

from pathlib import Path

WEIGHTS = Path(__file__).parent / "weights"
"""The model's folder in Hugging Face format, committed, so that a first run downloads nothing."""
