"""Tensors and shapes: loading, paged attention, KV blocks, plan, runner, sampler. Runs without Redis.

`step`, `plan`, `blocks` and `demo` are plain Python: the scheduler and its tests use them without torch.
"""
