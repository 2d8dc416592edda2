"""A strict stand-in for Habana's PyTorch plugin, for tests alone: see tests/hpu/README.md."""
