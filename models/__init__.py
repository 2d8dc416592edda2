"""Tensors and shapes: loading, paged attention, KV blocks, plan, runner, sampler. Runs without Redis.

Half of it needs no torch (tests/house/rules.py names the modules): the scheduler, its tests and `plan` use it.
"""
