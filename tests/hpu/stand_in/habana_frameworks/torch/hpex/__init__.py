"""Kernels of Habana's own."""
