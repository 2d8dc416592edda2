"""Contracts whose other side is optimum-habana: tests/hpu/test_optimum_habana.py runs them where it is installed."""
