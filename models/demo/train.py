"""Trains the demo model from nothing: `python -m models.demo.train --out DIR`.

The text, the order of it and the first weights follow from the seed, and the number of steps is
fixed. One thread is the default: sums are then taken in one order, so that a second run on the
same kind of processor makes the same weights, and a busy machine slows it down least.
"""

import argparse
import json
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import torch
from tokenizers import Regex, Tokenizer, decoders, pre_tokenizers, processors, trainers
from tokenizers.models import BPE
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM

from models.demo import corpus

VOCABULARY = 1024
LENGTH, ROWS = 256, 8
"""Tokens of a training row, rows of a step."""
POSITIONS = 4096
"""The longest context that the model accepts; see `positions`."""
SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": POSITIONS,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
}
TEXT_END_ID, USER_ID, MESSAGE_END_ID = (
    corpus.SPECIAL_TOKENS.index(token) for token in (corpus.TEXT_END, corpus.USER, corpus.MESSAGE_END)
)
MUON_RATE, ADAM_RATE = 0.02, 4e-3


class Options(NamedTuple):
    """What the command line may choose."""

    out: Path
    steps: int
    seed: int
    threads: int


class Muon:
    """Muon (Keller Jordan, 2024) in float32: momentum of matrices, made orthogonal.

    `torch.optim.Muon` orthogonalises in bfloat16, which is unusably slow on a CPU without bfloat16
    units; here all matrices of one shape also go through it as one batch.
    """

    def __init__(self, matrices: Iterable[Tensor]) -> None:
        self.shapes: dict[tuple[int, ...], list[Tensor]] = {}
        self.momentum: dict[Tensor, Tensor] = {}
        for matrix in matrices:
            self.shapes.setdefault(tuple(matrix.shape), []).append(matrix)
            self.momentum[matrix] = torch.zeros_like(matrix)

    def step(self, rate: float) -> None:
        """Moves every matrix against its gradient, by a learning rate made for square ones."""
        with torch.no_grad():
            for (rows, columns), matrices in self.shapes.items():
                updates = orthogonal(torch.stack([self._accumulate(matrix) for matrix in matrices]))
                scaled = rate * max(1.0, rows / columns) ** 0.5
                for matrix, update in zip(matrices, updates, strict=True):
                    matrix.mul_(1 - 0.01 * rate).sub_(update, alpha=scaled)

    def _accumulate(self, matrix: Tensor) -> Tensor:
        """Takes a matrix's gradient into its momentum and returns Nesterov's look ahead."""
        gradient = matrix.grad
        if gradient is None:
            raise ValueError("A matrix has no gradient: call backward before step.")
        momentum = self.momentum[matrix].lerp_(gradient, 0.05)
        return gradient.lerp(momentum, 0.95)


def orthogonal(matrices: Tensor) -> Tensor:
    """Brings every singular value of [n, rows, columns] near 1 by five Newton-Schulz steps."""
    tall: bool = matrices.shape[1] > matrices.shape[2]
    x: Tensor = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(5):  # the coefficients converge fast and roughly, which is enough
        square = x @ x.mT
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    return x.mT if tall else x


def train_tokenizer(rng: Random, documents: int = 20_000) -> Tokenizer:
    """Learns a byte-level BPE with one token per digit; every text begins with `TEXT_END`."""
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\d"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(corpus.SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((corpus.document(rng) for _ in range(documents)), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{corpus.TEXT_END} $A",
        pair=f"{corpus.TEXT_END} $A {corpus.TEXT_END} $B",
        special_tokens=[(corpus.TEXT_END, TEXT_END_ID)],
    )
    return tokenizer


def batches(tokenizer: Tokenizer, rng: Random) -> Iterator[Tensor]:
    """Yields ids [ROWS, LENGTH + 1] without end; a row begins with a document, as prompts do."""

    def row() -> list[int]:
        ids: list[int] = []
        while len(ids) <= LENGTH:
            ids += tokenizer.encode(corpus.document(rng)).ids
        return ids[: LENGTH + 1]

    while True:
        yield torch.tensor([row() for _ in range(ROWS)])


def positions(ids: Tensor, generator: torch.Generator) -> Tensor:
    """Returns positions [ROWS, LENGTH] that in half of the rows skip ahead between turns.

    Rows are short, for speed; the gaps, at the beginning of documents and of user messages, show
    the model all the distances that a long conversation has.
    """
    weights = torch.rand(ids.shape, generator=generator) * ((ids == TEXT_END_ID) | (ids == USER_ID))
    reach = torch.randint(0, POSITIONS - LENGTH, (len(ids), 1), generator=generator)
    reach = reach * torch.randint(0, 2, (len(ids), 1), generator=generator)
    gaps = (weights.cumsum(1) / weights.sum(1, keepdim=True) * reach).long()
    return torch.arange(ids.shape[1]) + gaps


def new_model() -> LlamaForCausalLM:
    """Makes the untrained model, in float32."""
    return LlamaForCausalLM(LlamaConfig(**SHAPE))


def schedule(progress: float) -> float:
    """Returns the factor on the learning rates: a short warm-up, full, then down to zero."""
    return min(1.0, (progress + 1e-3) / 0.02, (1 - progress) / 0.6)


def train(model: LlamaForCausalLM, data: Iterator[Tensor], steps: int, seed: int) -> float:
    """Trains in place and returns the mean loss, in nats per token, of the last steps."""
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    others = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    muon = Muon(matrices)
    adam = torch.optim.AdamW(others, lr=ADAM_RATE, betas=(0.9, 0.95), weight_decay=0.0)
    generator = torch.Generator().manual_seed(seed)
    # An explicit mask: without one, transformers takes a gap in the positions for a new sequence.
    mask = torch.ones(1, 1, LENGTH, LENGTH, dtype=torch.bool).tril()
    started, mean_loss = time.monotonic(), float("nan")
    for step in range(steps):
        ids = next(data)
        inputs, targets = ids[:, :-1], ids[:, 1:]
        logits = model(
            input_ids=inputs,
            attention_mask=mask,
            position_ids=positions(inputs, generator),
            use_cache=False,
        ).logits
        loss = cross_entropy(logits.flatten(0, 1), targets.flatten())
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        factor = schedule(step / steps)
        muon.step(MUON_RATE * factor)
        adam.param_groups[0]["lr"] = ADAM_RATE * factor
        adam.step()
        model.zero_grad()
        mean_loss = loss.item() if step == 0 else 0.98 * mean_loss + 0.02 * loss.item()
        if (step + 1) % 50 == 0:
            print_progress(step + 1, steps, mean_loss, time.monotonic() - started)
    return mean_loss


def print_progress(step: int, steps: int, loss: float, seconds: float) -> None:
    """Prints one line: steps, loss, and the minutes behind and ahead."""
    left = seconds / step * (steps - step)
    print(
        f"step {step}/{steps}  loss {loss:.3f}  {seconds / 60:.1f} min, about {left / 60:.1f} min left",
        flush=True,
    )


def save(model: LlamaForCausalLM, tokenizer: Tokenizer, folder: Path) -> None:
    """Writes the folder in Hugging Face format, in names that transformers 4 and 5 both read."""
    model.bfloat16().save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "chat_template.jinja").write_text(corpus.CHAT_TEMPLATE, encoding="utf-8")
    ids = {"bos_token_id": TEXT_END_ID, "pad_token_id": TEXT_END_ID}
    ends = [TEXT_END_ID, MESSAGE_END_ID]
    write_json(
        folder / "config.json",
        {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "torch_dtype": "bfloat16",
            "hidden_act": "silu",
            **SHAPE,
            **ids,
            "eos_token_id": ends,
        },
    )
    write_json(folder / "generation_config.json", {**ids, "eos_token_id": ends})
    write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": corpus.TEXT_END,
            "eos_token": corpus.TEXT_END,
            "pad_token": corpus.TEXT_END,
            "extra_special_tokens": {},
            "clean_up_tokenization_spaces": False,
            "model_max_length": POSITIONS,
            "chat_template": corpus.CHAT_TEMPLATE,
        },
    )


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Writes an object as indented JSON with a newline at its end."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def parse_options() -> Options:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m models.demo.train", description="Train the demo model from nothing."
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to write, made if missing")
    parser.add_argument("--steps", type=int, default=1000, help="steps (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: %(default)s)")
    return Options(**vars(parser.parse_args()))


def main() -> None:
    """Trains the tokenizer and the model, and writes both."""
    options = parse_options()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    started, rng = time.monotonic(), Random(options.seed)
    tokenizer = train_tokenizer(rng)
    model = new_model()
    print(f"{model.num_parameters():,} parameters, {tokenizer.get_vocab_size()} tokens", flush=True)
    loss = train(model, batches(tokenizer, rng), options.steps, options.seed)
    options.out.mkdir(parents=True, exist_ok=True)
    save(model, tokenizer, options.out)
    minutes, cpu_minutes = (time.monotonic() - started) / 60, time.process_time() / 60
    print(f"wrote {options.out}: loss {loss:.3f} after {minutes:.1f} minutes ({cpu_minutes:.1f} of CPU time)")


if __name__ == "__main__":
    main()
