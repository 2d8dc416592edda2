"""The engine's loop: take jobs in, choose a step, launch it, settle the one before it, hand out its tokens."""

from __future__ import annotations

import sys
import time
import traceback
from collections import deque
from collections.abc import Sequence as Seq
from dataclasses import fields
from functools import partial

from models.step import Progress, Runner, Sampling
from wire.job import SamplingParams
from wire.request import NO_WATERMARK
from worker import link as frames
from worker.beat import Beat
from worker.constraints import Constraints
from worker.flight import Flight, Raised
from worker.link import Link, ToEngine
from worker.options import Options
from worker.scheduler import Batch, Refused, Scheduler, Settled
from worker.sequence import Sequence
from worker.tally import Tally

IDLE_TURN = 0.5
"""Seconds between two beats while there is nothing to run."""
COMPILE_TURN = 0.002
"""The same while a grammar is compiled, which ends without a frame."""

SLOW = 20
"""A step is hung after this many times what its bucket took in warm-up, though never before the patience ends."""

MOST_BACKLOG = 1 << 18
"""Bytes that the parent has not read, beyond which no step is run."""

MOST_RAISES = 3
"""Steps in a row that raise before the runner, not a sequence, is held to be broken."""

PROGRESS_EVERY = 0.1
"""Seconds between two progress frames of the same stage."""


class RunnerBroken(RuntimeError):
    """No step runs any more: the process is of no use."""


class StepLost(RuntimeError):
    """An earlier step has raised while this one was being launched, and took what it stands on away."""


class Engine:
    """The loop over one runner."""

    def __init__(self, link: Link[ToEngine], beat: Beat, runner: Runner, options: Options) -> None:
        self.link, self.beat, self.runner, self.patience = link, beat, runner, options.patience
        self.tally = Tally(options.spec.histogram)
        self._progress = reporter(link)
        self.scheduler = Scheduler(
            runner.plan,
            runner.info.eos_ids,
            runner.info.identity,
            options.spec.prefix_cache,
            self.tally.histogram,
        )
        self._sequences: dict[int, Sequence] = {}
        self._launched: deque[Flight] = deque()
        self._launching: Batch | None = None
        self._constraints = Constraints(runner.info.folder, runner.info.vocab_size, runner.info.eos_ids)
        self._steps = self._raises = 0
        self._read_at = 0.0
        self._works: list[frames.Work] = []
        self._held = False
        """Whether all that is left to run waits until the parent allows it more tokens."""

    def run(self) -> None:
        """Take new jobs, schedule, launch, settle, hand out tokens: until the parent says stop. RunnerBroken."""
        while self.take():
            self.turn()

    def turn(self) -> None:
        """Launch one step, and settle one if no more may be launched."""
        began = time.monotonic()
        batch = self.scheduler.schedule()
        if batch is not None:
            self.launch(batch, time.monotonic() - began)
        self._held = batch is None and not self._launched
        if self._launched and (batch is None or len(self._launched) >= self.runner.depth):
            self.settle()

    def take(self) -> bool:
        """Take what has arrived until there is something to run, and a parent that listens; False: stop."""
        while True:
            self.beat.mark(self.patience)
            self.link.flush()
            for frame in self.link.receive():
                self._held = False
                match frame:
                    case frames.Admit():
                        self.admit(frame)
                    case frames.Allow():
                        self.allow(frame)
                    case frames.Abort():
                        self.abort(frame.seq)
                    case frames.Stop():
                        return False
            if self._constraints.waiting:
                self.constrain()
            if self.scheduler.busy and not self._held and self.link.backlog <= MOST_BACKLOG:
                return True
            if not self.scheduler.busy and not self._constraints.waiting:
                self.tally.save_sometimes()
                if self.grow():
                    continue
            self.link.wait(COMPILE_TURN if self._constraints.waiting else IDLE_TURN)

    def grow(self) -> bool:
        """Warm one bucket more, which may take long; False if the plan is whole."""
        if len(self.runner.plan) == len(self.runner.whole):
            return False
        self.beat.rest()
        self.runner.grow(self._progress)
        self.scheduler.plan = self.runner.plan
        return True

    def launch(self, batch: Batch, choosing: float = 0.0) -> None:
        """Start the step. If that raises, its result is the error: those before it are not to blame."""
        launched = time.monotonic()
        self.beat.mark(max(self.patience, SLOW * self.runner.seconds(batch.step.bucket)))
        try:
            for sequence in batch.opened:
                assert sequence.slot is not None
                self.runner.open(sequence.slot, sequence.prompt, sequence.output, sequence.sampling)
            self._launching = batch
            constrained = any(s.matcher for s in batch.sampling if s)
            pending = self.runner.launch(batch.step, partial(self.allowed, batch) if constrained else None)
            self._launched.append(Flight(batch, pending, launched, choosing))
        except StepLost:
            pass
        except RunnerBroken:
            raise
        except Exception as error:  # `settle` deals with it in its turn
            self._launched.append(Flight(batch, Raised(error), launched, choosing))
        finally:
            self._launching = None

    def allowed(self, batch: Batch) -> memoryview:
        """What its rows may choose, which takes the tokens of all steps before it; StepLost."""
        while self._launched:
            self.settle()
        if self._launching is None:
            raise StepLost
        masked = self._constraints.masks([None if s is None or s.ended else s for s in batch.sampling])
        for sequence, error in masked.failed:
            self.fail(sequence, f"the grammar could not be followed: {error}")
        return masked.masks

    def settle(self) -> None:
        """Wait for the oldest launched step and hand out what it gave, or find out who is to blame."""
        flight = self._launched.popleft()
        try:
            outcome = flight.pending.read()
        except Exception as error:  # whatever a model raises costs one sequence, not the engine
            self._works.append(flight.work(flight.launched, flight.launched, flight.launched, raised=True))
            self.raised(flight.batch, error)
            return
        began, self._read_at = self._read_at, time.monotonic()
        self._steps, self._raises = self._steps + 1, 0
        settled = self.scheduler.settle(flight.batch, outcome)
        self._works.append(flight.work(began, self._read_at, time.monotonic()))
        self.hand_out(settled)

    def raised(self, batch: Batch, error: Exception) -> None:
        """Find out who is to blame, and say so; RunnerBroken if it looks like nobody.

        The steps launched after it have computed on what it left behind: their results are dropped. A device that
        cannot even be put right is broken.
        """
        traceback.print_exception(error)
        self._raises += 1
        if self._raises >= MOST_RAISES:
            raise RunnerBroken(f"{self._raises} steps in a row have raised, at last {sentence(error)}")
        later = [after.batch for after in self._launched]
        later += [self._launching] if self._launching else []
        self._launched.clear()
        self._launching = None
        self.runner.scrub()
        if guilty := self.scheduler.blame(batch, later):
            del self._sequences[guilty.seq]
            self.link.send(frames.SequenceFailed(seq=guilty.seq, error=f"the step failed: {sentence(error)}"))

    def hand_out(self, settled: Settled) -> None:
        """One frame for the whole step, and one for each prompt that is scored."""
        for sequence in settled.scored:
            self.link.send(frames.PromptScored(seq=sequence.seq, logprobs=sequence.scores))
        for sequence in settled.diverged:
            print(
                f"engine: a resumed sequence of {len(sequence.output)} tokens came out otherwise than at first: "
                "it goes on from those tokens (was it begun by another version, plan or device?)",
                file=sys.stderr,
                flush=True,
            )
        for sequence in settled.ended:
            del self._sequences[sequence.seq]
        if settled.tokens:
            self.link.send(
                frames.Stepped(
                    outputs=[frames.Output(s.seq, t.id, t.logprob, t.top) for s, t in settled.tokens],
                    left=[sequence.seq for sequence in settled.ended],
                    free_slots=self.scheduler.free_slots,
                    free_blocks=self.scheduler.pool.free_blocks,
                    steps=self._steps,
                    compilations=self.runner.compilations,
                    prompt_tokens=self.scheduler.prompt_tokens,
                    prefix_hit_tokens=self.scheduler.hit_tokens,
                    preemptions=self.scheduler.preemptions,
                    works=self._works,
                )
            )
            self._works = []

    def admit(self, frame: frames.Admit) -> None:
        """Take in a sequence and its siblings, or refuse them with a sentence."""
        sequences = sequences_of(frame)
        try:
            biased = (token for token, _ in frame.params.logit_bias)
            self.check_ids([*frame.prompt, *frame.output, *biased, *frame.params.stop_token_ids])
            if frame.params.watermark and not self.runner.info.watermark:
                raise Refused(NO_WATERMARK)
        except Refused as error:
            self.refuse(sequences, error)
            return
        if frame.params.grammar:
            self._constraints.admit(sequences, frame.params.grammar, frame.salt)
        else:
            self.schedule(sequences, frame.salt)

    def constrain(self) -> None:
        """Take in the sequences whose grammars are compiled."""
        for waiting, error in self._constraints.ready():
            if error:
                self.refuse(waiting.sequences, error)
            else:
                self.schedule(waiting.sequences, waiting.salt)

    def schedule(self, sequences: Seq[Sequence], salt: str) -> None:
        """Take them in, or refuse them."""
        for sequence in sequences:
            try:
                self.scheduler.admit(sequence, salt)
            except Refused as error:
                self.refuse([sequence], error)
            else:
                self._sequences[sequence.seq] = sequence

    def refuse(self, sequences: Seq[Sequence], error: Refused) -> None:
        """Say why they will not run."""
        for sequence in sequences:
            failed = frames.SequenceFailed(seq=sequence.seq, error=str(error), error_type="validation")
            self.link.send(failed)

    def fail(self, sequence: Sequence, error: str) -> None:
        """Let it go with an error: the others run on."""
        self.abort(sequence.seq)
        self.link.send(frames.SequenceFailed(seq=sequence.seq, error=error))

    def allow(self, frame: frames.Allow) -> None:
        """Let the sequence go on, unless it has left."""
        if sequence := self._sequences.get(frame.seq):
            sequence.allowed = frame.allowed

    def abort(self, seq: int) -> None:
        """Drop the sequence, unless it has left by itself."""
        if not self._constraints.drop(seq) and (sequence := self._sequences.pop(seq, None)):
            self.scheduler.abort(sequence)

    def check_ids(self, ids: Seq[int]) -> None:
        """Refused for a token that the model does not have: on a device it could take every sequence down."""
        vocab = self.runner.info.vocab_size
        if ids and (min(ids) < 0 or max(ids) >= vocab):
            raise Refused(f"token ids must lie in [0, {vocab}): use this model's tokenizer")


_SAMPLING = [f.name for f in fields(Sampling) if f.name not in ("seed", "constrained")]


def sequences_of(frame: frames.Admit) -> list[Sequence]:
    """The sequence of the frame, and its siblings."""
    return [
        Sequence(
            seq=seq,
            prompt=tuple(frame.prompt),
            output=list(frame.output),
            sampling=sampling_of(frame.params, seed),
            max_new_tokens=frame.params.max_new_tokens,
            ignore_eos=frame.params.ignore_eos,
            prompt_logprobs=frame.prompt_logprobs and seq == frame.seq,
            group=frame.seq if frame.siblings else 0,
            allowed=frame.allowed,
        )
        for seq, seed in ((frame.seq, frame.params.seed), *frame.siblings)
    ]


def sampling_of(params: SamplingParams, seed: int) -> Sampling:
    """The part of a job's parameters that chooses tokens."""
    given = {name: getattr(params, name) for name in _SAMPLING}
    return Sampling(seed=seed, constrained=params.grammar is not None, **given)


def sentence(error: BaseException) -> str:
    """What went wrong. Our own errors are sentences already; of others the type says half of it."""
    text = str(error).strip()[:1000]
    ours = type(error).__module__.partition(".")[0] in ("models", "worker")
    return text if ours and text else f"{type(error).__name__}: {text}".rstrip(": ")


def reporter(link: Link[ToEngine]) -> Progress:
    """A progress callback that sends frames, though not a flood of them."""
    last: tuple[str, float] = ("", 0.0)

    def progress(stage: str, done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if stage != last[0] or done >= total or now - last[1] >= PROGRESS_EVERY:
            last = (stage, now)
            link.send(frames.Progress(stage=stage, done=done, total=total))

    return progress
