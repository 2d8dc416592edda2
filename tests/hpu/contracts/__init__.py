"""Contracts of the stand-in, for pytest in a process that has it: tests/hpu/test_contracts.py runs them."""
