"""The engine: a child process that owns one device and runs sequences on it, one static-shape step after another.

`python -m worker.engine` is started by worker/launcher.py alone, and lives no longer than its parent. What it does
between its first frame and its last is worker/loop.py.
"""

from __future__ import annotations

import signal
import socket
import sys
import time
import traceback

from models.step import Progress, Runner
from worker import link as frames
from worker.beat import Beat
from worker.death import EXIT_ORPHANED, die_with_parent
from worker.link import Link, LinkClosed, ToEngine
from worker.loop import IDLE_TURN, Engine, RunnerBroken, reporter, sentence
from worker.options import Options, parse

EXIT_STOPPED, EXIT_LOAD_FAILED, EXIT_BROKEN = 0, 1, 70
"""Exit codes: it was told to stop; the model cannot be served; the runner is broken, start another engine."""


def build_runner(options: Options, progress: Progress) -> Runner:
    """The loaded model. Torch is imported in here, after the launcher has set the device's environment."""
    if options.spec.model_id.partition("?")[0] == "scripted":
        from worker import scripted

        return scripted.load(options.spec, progress)
    from models import load

    return load.load(options.spec, progress)


def ready(runner: Runner, warm_up_seconds: float) -> frames.Ready:
    """What the parent needs to know of the model."""
    info, limits = runner.info, runner.plan.limits
    return frames.Ready(
        model_id=info.model_id,
        revision=info.revision,
        folder=str(info.folder),
        device=info.device,
        dtype=info.dtype,
        vocab_size=info.vocab_size,
        eos_ids=list(info.eos_ids),
        watermark=info.watermark,
        slots=limits.slots,
        block_size=limits.block_size,
        num_blocks=limits.num_blocks,
        max_input_tokens=limits.max_input_tokens,
        max_total_tokens=limits.max_total_tokens,
        plan_hash=runner.whole.digest,
        buckets=len(runner.whole),
        warm_up_seconds=warm_up_seconds,
    )


def serve(options: Options, link: Link[ToEngine]) -> int:
    """Load, warm up, run; the exit code."""
    beat, progress = Beat(options.beat_fd), reporter(link)
    try:
        runner = build_runner(options, progress)
        began = time.monotonic()
        runner.warm_up(progress)
    except LinkClosed:
        raise
    except Exception as error:  # whatever keeps a model from loading is the parent's to report
        traceback.print_exception(error)
        return farewell(link, frames.LoadFailed(error=sentence(error)), EXIT_LOAD_FAILED)
    beat.mark(options.patience)
    link.send(ready(runner, time.monotonic() - began))
    engine = Engine(link, beat, runner, options)
    engine.run()
    engine.tally.save()
    beat.rest()
    runner.close()
    return farewell(link, frames.Stopped(), EXIT_STOPPED)


def farewell(link: Link[ToEngine], frame: frames.LoadFailed | frames.Stopped, code: int) -> int:
    """Send the last frame, all of it; the exit code."""
    link.send(frame)
    while link.backlog:
        link.wait(IDLE_TURN)
        link.flush()
    return code


def main() -> int:
    """Run one engine; the exit code."""
    options = parse()
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(
            name, signal.SIG_IGN
        )  # a group's signal must not end the engine while its parent drains
    die_with_parent(options.parent, options.link_fd)
    link = Link.of_engine(socket.socket(fileno=options.link_fd))
    try:
        return serve(options, link)
    except LinkClosed:
        return EXIT_ORPHANED
    except RunnerBroken as error:
        print(f"engine: {error}", file=sys.stderr, flush=True)
        return EXIT_BROKEN


if __name__ == "__main__":
    sys.exit(main())
