"""From queue to tokens: the Celery app and its engine pool, the engine process, publisher, lease and reaper.

The Celery parent never imports torch: only `worker.engine` (the child) imports the torch half of `models`.
"""
