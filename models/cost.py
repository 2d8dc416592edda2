"""What a launch costs, in seconds: a roofline from the model's shape and a machine's row.

Good enough to compare buckets, not to predict a card: an accelerator waits for the slower of arithmetic and memory, a
CPU for both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What one device sustains."""

    name: str
    flops: float
    """Multiply and add operations per second of large matrix products, in the dtype that serves."""
    bandwidth: float
    """Bytes per second read from memory."""
    launch: float
    """Seconds of a launch that does nothing."""
    row: float
    """Seconds per decode row besides its matrices and its cache."""
    graph: float
    """Seconds that one bucket takes in warm-up, until the server has measured its own."""
    memory: float
    """Bytes."""
    query_step: int
    """Prefill buckets hold a multiple of so many tokens: finer ones cost the same."""
    overlaps: bool = True
    """Whether reading the weights hides behind arithmetic, or the other way round; else their times add up."""
    passes: int = 1
    """How often a launch moves what it reads of the cache: more than once where blocks are first copied together."""


# Gaudi: 0.6 of the peak FLOPS of the data sheets (60, 432 and 1835 TFLOPS in bfloat16), which agrees with the published
# 60.5 ms for 2048 tokens of an 8B model in FP8 on Gaudi 2, and 0.8 of the peak bandwidth (0.9, 2.46 and 3.7 TB/s).
# The matrix engine works in tiles of 128 rows. Warm-up takes 1 to 10 s a graph. No card has confirmed these rows.
# H100 SXM: the same shares of 989 TFLOPS and 3.35 TB/s; one CUDA graph replay is some 0.1 ms of host time.
# CPU: two cores of an AMD EPYC in float32. A Llama of 105 M parameters took 30 ms for a row, 0.9 ms for each row more,
# 0.08 ms for each row's block of 590 kB, and 1.1 ms for each prompt token.
MACHINES: dict[str, Machine] = {
    machine.name: machine
    for machine in (
        Machine(
            name="cpu",
            flops=200e9,
            bandwidth=15e9,
            launch=2e-3,
            row=1e-5,
            graph=0.05,
            memory=16e9,
            query_step=16,
            overlaps=False,
            passes=2,
        ),
        Machine(
            name="cuda",
            flops=593e12,
            bandwidth=2.68e12,
            launch=1e-4,
            row=5e-7,
            graph=1.0,
            memory=80e9,
            query_step=16,
        ),
        Machine(
            name="gaudi",
            flops=36e12,
            bandwidth=0.72e12,
            launch=1e-3,
            row=1.5e-6,
            graph=3.0,
            memory=32e9,
            query_step=128,
        ),
        Machine(
            name="gaudi2",
            flops=259e12,
            bandwidth=1.97e12,
            launch=1e-3,
            row=1.5e-6,
            graph=3.0,
            memory=96e9,
            query_step=128,
        ),
        Machine(
            name="gaudi3",
            flops=1.10e15,
            bandwidth=2.96e12,
            launch=1e-3,
            row=1.5e-6,
            graph=3.0,
            memory=128e9,
            query_step=128,
        ),
    )
}


class UnknownShape(ValueError):
    """The config lacks what the cost of a launch depends on; the message names it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """What of a model its launches' cost depends on."""

    parameters: int
    layers: int
    hidden: int
    query_width: int
    """Numbers of a token's queries in one layer: heads times their size."""
    kv_width: int
    """Numbers that one layer keeps of a token in the cache."""
    vocab_size: int
    dtype_bytes: int
    """Bytes of one weight, and of one number in the KV cache."""

    @property
    def weight_bytes(self) -> int:
        """Read once by every launch."""
        return self.parameters * self.dtype_bytes

    @property
    def kv_bytes(self) -> int:
        """Of one token in the cache, all layers."""
        return self.layers * self.kv_width * self.dtype_bytes

    @property
    def matrix_parameters(self) -> int:
        """Those that multiply every token: all but the table of embeddings."""
        return max(0, self.parameters - self.vocab_size * self.hidden)


@dataclass(frozen=True, slots=True)
class CostModel:
    """Seconds of one launch of a model on a machine, by phase."""

    machine: Machine
    model: ModelShape

    def prefill(self, tokens: int, context: int) -> float:
        """`tokens` prompt tokens, each compared with all `context` cache positions of the launch."""
        pairs = 4.0 * self.model.layers * self.model.query_width * tokens * context
        return self._matrices(tokens) + pairs / self.machine.flops + self._cache(context)

    def score(self, tokens: int, context: int) -> float:
        """A prefill that also computes the logits of every token: 4 bytes each, written once and read once."""
        flops = 2.0 * tokens * self.model.vocab_size * self.model.hidden
        logits = 8.0 * tokens * self.model.vocab_size
        head = flops / self.machine.flops + logits / self.machine.bandwidth
        return self.prefill(tokens, context) + head

    def decode(self, rows: int, context: int) -> float:
        """One token of each row, `context` cache positions read in all."""
        return self._matrices(rows) + self._cache(context) + rows * self.machine.row

    def _matrices(self, tokens: int) -> float:
        read = self.model.weight_bytes / self.machine.bandwidth
        compute = 2.0 * self.model.matrix_parameters * tokens / self.machine.flops
        return self.machine.launch + (max(read, compute) if self.machine.overlaps else read + compute)

    def _cache(self, context: int) -> float:
        return self.machine.passes * context * self.model.kv_bytes / self.machine.bandwidth


def shape_of(config: Mapping[str, Any], parameters: int = 0, dtype_bytes: int = 0) -> ModelShape:
    """The shape that a config.json describes; UnknownShape. 0: parameters are estimated, bytes are its own dtype's."""
    layers = _first(config, "num_hidden_layers", "n_layer")
    hidden = _first(config, "hidden_size", "n_embd")
    heads = _first(config, "num_attention_heads", "n_head")
    vocab = _first(config, "vocab_size")
    inner = _first(config, "intermediate_size", "n_inner", "ffn_dim", default=4 * hidden)
    head_dim = _first(config, "head_dim", default=hidden // heads)
    kv_heads = _kv_heads(config, heads)
    attention = hidden * head_dim * (2 * heads + 2 * kv_heads)
    estimate = layers * (attention + 3 * hidden * inner) + vocab * hidden * (1 if _tied(config) else 2)
    return ModelShape(
        parameters=parameters or estimate,
        layers=layers,
        hidden=hidden,
        query_width=heads * head_dim,
        kv_width=_latent(config) or 2 * kv_heads * head_dim,
        vocab_size=vocab,
        dtype_bytes=dtype_bytes
        or dtype_size(str(config.get("dtype") or config.get("torch_dtype") or "float32")),
    )


DTYPE_BYTES = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2, "float8_e4m3fn": 1}
"""Bytes of one number, by torch's name of its type."""


def dtype_size(name: str) -> int:
    """Bytes of one number of that type; UnknownShape with the known names for any other."""
    if name not in DTYPE_BYTES:
        raise UnknownShape(f"the dtype {name!r} is not known: use one of {', '.join(DTYPE_BYTES)}")
    return DTYPE_BYTES[name]


def _kv_heads(config: Mapping[str, Any], heads: int) -> int:
    """Heads of keys and values; `multi_query` is one for all, except in Falcon's newer architecture."""
    if config.get("multi_query") and not config.get("new_decoder_architecture"):
        return 1
    return _first(config, "num_key_value_heads", "num_kv_heads", default=heads)


def _latent(config: Mapping[str, Any]) -> int:
    """What DeepSeek's attention keeps instead of heads: a compressed latent and one rotated key; else 0."""
    rank = config.get("kv_lora_rank")
    return rank + _first(config, "qk_rope_head_dim") if isinstance(rank, int) else 0


def _tied(config: Mapping[str, Any]) -> bool:
    return bool(config.get("tie_word_embeddings", True))


def _first(config: Mapping[str, Any], *names: str, default: int = 0) -> int:
    """The first of the names that is a positive integer; the same quantity has several names among families."""
    for name in names:
        if isinstance(value := config.get(name), int) and value > 0:
            return value
    if default > 0:
        return default
    raise UnknownShape(f"config.json has no {' or '.join(names)}: it does not describe a language model")


EIGHT_BILLION = ModelShape(
    parameters=8_030_261_248,
    layers=32,
    hidden=4096,
    query_width=4096,
    kv_width=2048,
    vocab_size=128_256,
    dtype_bytes=2,
)
"""Llama 3.1 8B in bfloat16: what buckets are compared by until somebody names a model."""
