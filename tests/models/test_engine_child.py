"""The real engine process with a real model: what comes out of the link is what transformers generates."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path

from safetensors.torch import load_file, save_file

from models.step import LoadSpec
from tests.models.drive import Reference
from tests.models.test_exactness import prompts
from wire.job import SamplingParams
from worker.launcher import EngineProcess
from worker.link import Admit, FromEngine, LoadFailed, Progress, Ready, SequenceFailed, Stepped, Stopped

DEADLINE = 180.0
NEW = 8


def started(spec: LoadSpec) -> EngineProcess:
    """An engine of one thread."""
    return EngineProcess.start(spec, variables={"OMP_NUM_THREADS": "1"})


def until(engine: EngineProcess, enough: Callable[[list[FromEngine]], bool]) -> list[FromEngine]:
    """Every frame up to the one that is enough."""
    frames: list[FromEngine] = []
    end = time.monotonic() + DEADLINE
    while not enough(frames):
        assert time.monotonic() < end, f"not within {DEADLINE} s, only {frames[-3:]}"
        engine.link.wait(1.0)
        frames += engine.link.receive()
    return frames


def test_sequences_through_the_link_get_the_tokens_of_generate(model_of: Callable[[str], Path]) -> None:
    folder = model_of("llama")
    spec = LoadSpec(
        model_id=str(folder), dtype="float64", slots=4, kv_blocks=33, max_total_tokens=128, prefill_chunk=32
    )
    with started(spec) as engine:
        loading = until(engine, lambda frames: bool(frames) and isinstance(frames[-1], Ready))
        assert {frame.stage for frame in loading if isinstance(frame, Progress)} == {"load", "warm-up"}
        for seq, prompt in enumerate(prompts()):
            params = SamplingParams(max_new_tokens=NEW, seed=0, ignore_eos=True)
            engine.link.send(Admit(seq=seq, prompt=prompt, output=[], params=params))
        left: dict[int, list[int]] = {seq: [] for seq in range(len(prompts()))}
        frames = until(
            engine, lambda frames: sum(len(f.left) for f in frames if isinstance(f, Stepped)) == len(left)
        )
        steps = [frame for frame in frames if isinstance(frame, Stepped)]
        for output in (output for step in steps for output in step.outputs):
            left[output.seq].append(output.id)
        assert steps[-1].compilations == 0
        assert engine.stop(DEADLINE) == 0
    reference = Reference(folder)
    assert left == {seq: reference.greedy(prompt, NEW) for seq, prompt in enumerate(prompts())}


def test_a_sequence_that_computes_nan_leaves_nothing_behind(
    model_of: Callable[[str], Path], tmp_path: Path
) -> None:
    """Its blocks are the next one's, whose masked positions would else be NaN times zero."""
    poison, folder = 77, tmp_path / "model"
    shutil.copytree(model_of("llama"), folder)
    weights = load_file(folder / "model.safetensors")
    weights["model.embed_tokens.weight"][poison] = float("nan")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    clean = [[each for each in prompt if each != poison] for prompt in prompts()[:4]]
    spec = LoadSpec(
        model_id=str(folder), dtype="float64", slots=2, kv_blocks=17, max_total_tokens=128, prefill_chunk=32
    )
    with started(spec) as engine:
        params = SamplingParams(max_new_tokens=NEW, seed=0, ignore_eos=True)
        for seq in (8, 9):  # the second must not begin with what the first has left in the prefix cache
            engine.link.send(Admit(seq=seq, prompt=[poison] * 32 + [5] * 60, output=[], params=params))
            frames = until(engine, lambda frames: bool(frames) and isinstance(frames[-1], SequenceFailed))
        for seq, prompt in enumerate(clean):
            engine.link.send(Admit(seq=seq, prompt=prompt, output=[], params=params))
        frames = until(
            engine, lambda frames: sum(len(f.left) for f in frames if isinstance(f, Stepped)) == len(clean)
        )
    given: dict[int, list[int]] = {seq: [] for seq in range(len(clean))}
    for step in (frame for frame in frames if isinstance(frame, Stepped)):
        for output in step.outputs:
            given[output.seq].append(output.id)
    reference = Reference(model_of("llama"))
    assert given == {seq: reference.greedy(prompt, NEW) for seq, prompt in enumerate(clean)}


def test_a_model_that_cannot_be_loaded_is_told_and_the_child_exits_with_1() -> None:
    with EngineProcess.start(LoadSpec(model_id="./nowhere")) as engine:
        last = until(
            engine, lambda frames: bool(frames) and isinstance(frames[-1], (Ready, LoadFailed, Stopped))
        )[-1]
        assert isinstance(last, LoadFailed)
        assert "there is no folder './nowhere'" in last.error
        assert engine.wait(DEADLINE) == 1


def test_jobs_are_taken_before_the_whole_plan_is_warm(model_of: Callable[[str], Path]) -> None:
    folder = model_of("llama")
    spec = LoadSpec(
        model_id=str(folder), dtype="float64", slots=4, max_total_tokens=128, graphs=12, ready_buckets=3
    )
    with started(spec) as engine:
        loading = until(engine, lambda frames: bool(frames) and isinstance(frames[-1], Ready))
        assert isinstance(loading[-1], Ready) and loading[-1].buckets == 12
        assert max(frame.done for frame in loading if isinstance(frame, Progress)) <= 3
        params = SamplingParams(max_new_tokens=NEW, seed=0, ignore_eos=True)
        engine.link.send(Admit(seq=0, prompt=prompts()[0], output=[], params=params))
        frames = until(
            engine,
            lambda frames: (
                any(isinstance(f, Progress) and f.done == f.total == 12 for f in frames)
                and any(isinstance(f, Stepped) and f.left for f in frames)
            ),
        )
    steps = [frame for frame in frames if isinstance(frame, Stepped)]
    given = [output.id for step in steps for output in step.outputs]
    assert given == Reference(folder).greedy(prompts()[0], NEW)
    assert steps[-1].compilations == 0
