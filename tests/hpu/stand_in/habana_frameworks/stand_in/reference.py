"""What Habana's kernels compute, as plain arithmetic on the host, and which calls they refuse."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .settings import FP8_MAX, SETTINGS

BLOCKWISE, PAIRWISE = 0, 1
"""Which numbers a rotation pairs: a half's with the other's, or neighbours."""


def wide(dtype: torch.dtype) -> torch.dtype:
    """What is computed in."""
    return torch.promote_types(dtype, torch.float32)


def check(holds: bool, sentence: str) -> None:
    """RuntimeError if it does not hold."""
    if not holds:
        raise RuntimeError(sentence)


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    dropout: float,
    scale: float | None,
    is_causal: bool,
    softmax_mode: str,
    lengths: Tensor | None,
    padding: str,
    window: Sequence[int] = (-1, -1),
    sinks: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Of query [B, H, S, D], key and value [B, Hk, S, D]: what it gives, each row's maximum, and 1 / its sum."""
    _check_attention(query, key, value, mask, dropout, is_causal, softmax_mode, lengths, padding)
    group = query.shape[1] // key.shape[1]
    key, value = (each.repeat_interleave(group, 1) for each in (key, value))
    scores = torch.matmul(query, key.transpose(2, 3)).to(wide(query.dtype))
    scores.mul_(query.shape[-1] ** -0.5 if scale is None else scale)
    if mask is not None:
        scores = scores.masked_fill_(~mask, -torch.inf) if mask.dtype is torch.bool else scores.add_(mask)
    if is_causal or lengths is not None or tuple(window) != (-1, -1):
        scores.masked_fill_(_hidden(scores, is_causal, lengths, padding, window), -torch.inf)
    if sinks is not None:
        scores = torch.cat([scores, sinks.view(1, -1, 1, 1).expand(*scores.shape[:3], 1).to(scores)], -1)
    highest = scores.amax(-1, keepdim=True)
    weights = scores.sub_(highest).exp_()
    inverse = 1 / weights.sum(-1, keepdim=True)
    weights = weights.mul_(inverse)[..., : key.shape[2]].to(value.dtype)
    return torch.matmul(weights, value), highest, inverse


def _check_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    dropout: float,
    is_causal: bool,
    softmax_mode: str,
    lengths: Tensor | None,
    padding: str,
) -> None:
    check(query.dim() == key.dim() == value.dim() == 4, "FusedSDPA takes [B, heads, S, D]")
    check(query.dtype == key.dtype == value.dtype, "FusedSDPA takes query, key and value of one dtype")
    batch, heads, length, _ = query.shape
    check(key.shape[:3] == value.shape[:3] and key.shape[0] == batch, "key and value are of other shapes")
    check(heads % key.shape[1] == 0, "query heads are no multiple of key heads")
    check(dropout == 0.0, "dropout is for training")
    check(softmax_mode in ("None", "fast", "fp32"), f"softmax_mode {softmax_mode!r} is not known")
    sides = ("left", "right") if lengths is not None else ("left", "right", "None")
    check(padding in sides, f"seq_padding_type {padding!r} is not known")
    check(not (is_causal and mask is not None), "causal with a mask is not supported")
    check(not is_causal or length == key.shape[2], "causal needs as many queries as keys")
    if lengths is not None:
        check(is_causal and mask is None, "valid_seq_len needs is_causal and no mask")
        check(lengths.shape == (batch,), "valid_seq_len is one length per row")
    if mask is not None:
        fits = mask.dim() == 4 and mask.shape[0] in (1, batch) and mask.shape[1] in (1, heads)
        check(
            fits and mask.shape[2] in (1, length) and mask.shape[3] == key.shape[2],
            "the mask has another shape",
        )


def _hidden(
    scores: Tensor, is_causal: bool, lengths: Tensor | None, padding: str, window: Sequence[int]
) -> Tensor:
    """Where a key is out of a query's sight, [B or 1, 1, Sq, Sk]."""
    rows, columns = (torch.arange(size) for size in scores.shape[2:])
    behind = rows[:, None] - columns
    hidden = (behind < 0) & is_causal
    left, right = window
    hidden = hidden | ((behind > left) & (left >= 0)) | ((-behind > right) & (right >= 0))
    if lengths is None:
        return hidden[None, None]
    valid = lengths[:, None]
    beyond = columns >= valid if padding == "right" else columns < len(columns) - valid
    # A padding query of the left sees nothing: it keeps its own key, for what it gives is nobody's.
    return hidden | (beyond[:, None, None, :] & (behind != 0))


def rms_norm(x: Tensor, gamma: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Normalised and scaled, and the inverse root of the mean square."""
    check(
        x.dtype == gamma.dtype, f"rms_norm takes data and gamma of one dtype, not {x.dtype} and {gamma.dtype}"
    )
    check(gamma.shape == x.shape[-1:], "gamma has another length than the last dimension")
    numbers = x.float()  # whatever its dtype
    inverse = torch.rsqrt(numbers.pow(2).mean(-1, keepdim=True) + eps)
    return gamma * (numbers * inverse).to(x.dtype), inverse


def rotate(
    x: Tensor, sine: Tensor, cosine: Tensor, positions: Tensor | None, offset: int, mode: int
) -> Tensor:
    """x [..., D] turned. With positions [B, T], x [B, H, T, D] by rows of a table [S, D]; else the tables broadcast."""
    check(mode in (BLOCKWISE, PAIRWISE), f"rotation mode {mode} is not known")
    check(sine.shape == cosine.shape, "sine and cosine have other shapes")
    check(cosine.shape[-1] == x.shape[-1], "the last dimension of the tables must be the rotary one")
    if positions is not None:
        check(
            cosine.numel() == cosine.shape[-1] * cosine.shape[-2], "with position_ids the tables are [S, D]"
        )
        sine, cosine = (each.reshape(-1, each.shape[-1])[positions][:, None] for each in (sine, cosine))
    elif cosine.dim() == 2:
        sine, cosine = (each[offset : offset + x.shape[-2]] for each in (sine, cosine))
    if mode == BLOCKWISE:
        first, second = x.chunk(2, -1)
        turned = torch.cat((-second, first), -1)
    else:
        turned = torch.stack((-x[..., 1::2], x[..., ::2]), -1).flatten(-2)
    return x * cosine + turned * sine


def experts(
    hidden: Tensor,
    routing: Tensor,
    weights: Tensor,
    gate: Sequence[Tensor],
    up: Sequence[Tensor],
    down: Sequence[Tensor],
    permuted: bool,
    activation: str,
    first: int,
    last: int,
) -> Tensor:
    """The sum of the routed experts' outputs for hidden [T, H], of those from `first` to `last`, both included."""
    check(
        len(gate) == len(up) == len(down) == last - first + 1,
        "experts_max is the last expert, not their number",
    )
    check(hidden.dim() == 2 and routing.shape == weights.shape, "hidden is [T, H], both tables [T, k]")
    check(len(routing) == len(hidden), "the tables have another number of rows than hidden")
    check(hidden.dtype == weights.dtype, "router_weights must have the dtype of hidden_states")
    check(activation in ("silu", "gelu"), f"activation {activation!r} is not known")
    act = F.silu if activation == "silu" else F.gelu
    table = weights.new_zeros(len(hidden), last + 1).scatter_add_(1, routing.long(), weights)
    out = torch.zeros_like(hidden, dtype=wide(hidden.dtype))
    for expert, (w_gate, w_up, w_down) in enumerate(zip(gate, up, down, strict=True), first):
        ways = [each.t() if permuted else each for each in (w_gate, w_up, w_down)]
        inner = act(hidden @ ways[0]) * (hidden @ ways[1])
        out += (inner @ ways[2]) * table[:, expert, None]
    return out.to(hidden.dtype)


def _fp8_max(dtype: torch.dtype) -> float:
    if dtype is torch.float8_e4m3fn:
        check(SETTINGS.device_type in FP8_MAX, "this device has no FP8")
        return FP8_MAX[SETTINGS.device_type]
    check(dtype is torch.float8_e5m2, f"FP8 is float8_e4m3fn or float8_e5m2, not {dtype}")
    return float(torch.finfo(dtype).max)


def to_fp8(
    x: Tensor, scale: Tensor | None, dtype: torch.dtype | None, is_amax: bool
) -> tuple[Tensor, Tensor]:
    """x times scale, at most what the device's FP8 can hold; and the largest number of x if it is wanted."""
    check(dtype is not None, "say the dtype: the default is not the same in every release")
    assert dtype is not None
    most = _fp8_max(dtype)
    scaled = x.float() if scale is None else x.float() * scale
    amax = x.abs().amax().float() if is_amax else torch.zeros(())
    return scaled.clamp(-most, most).to(dtype), amax


def from_fp8(x: Tensor, scale: Tensor | None, dtype: torch.dtype) -> Tensor:
    """x times scale in that dtype."""
    numbers = _readable(x)
    return (numbers if scale is None else numbers * scale).to(dtype)


def _readable(x: Tensor) -> Tensor:
    """FP8 as float32; RuntimeError for numbers that this device reads as something else."""
    numbers = x.float()
    most = _fp8_max(x.dtype)
    check(
        bool((numbers.abs() <= most).all()),
        f"an FP8 number beyond {most}: on this device it is not that number",
    )
    return numbers


def fp8_gemm(
    a: Tensor,
    transpose_a: bool,
    b: Tensor,
    transpose_b: bool,
    onto: Tensor | None,
    dtype: torch.dtype,
    a_scale: Tensor | None,
    b_scale: Tensor | None,
    bias: Tensor | None,
    accumulate: bool,
) -> Tensor:
    """The product of two FP8 matrices, each times its inverse scale."""
    left, right = _readable(a), _readable(b)
    out = (left.mT if transpose_a else left) @ (right.mT if transpose_b else right)
    for scale in (a_scale, b_scale):
        out = out if scale is None else out * scale
    if bias is not None:
        out = out + bias
    if accumulate:
        check(onto is not None, "accumulate needs D")
        assert onto is not None
        out = out + onto
    return out.to(dtype)
