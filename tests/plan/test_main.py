"""`plan` as a person and a script see it; in-process, for speed, and once as the command line starts it."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import pytest

from models.__main__ import main
from models.histogram import Histogram

GUARD = """
import runpy, sys
sys.modules["torch"] = sys.modules["transformers"] = None  # an import of either fails
sys.argv = ["models", "plan", "--graphs", "4"]
runpy.run_module("models", run_name="__main__")
"""


def plan(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[int, str, str]:
    code = main(["plan", *args])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def as_json(capsys: pytest.CaptureFixture[str], *args: str) -> Any:
    code, out, _ = plan(capsys, *args, "--json")
    assert code == 0
    return json.loads(out)


def test_the_demo_models_plan_reads_as_a_page(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = plan(capsys, "--graphs", "16")
    assert code == 0
    assert out.startswith("16 buckets for demo on cpu, digest ")
    for told in (
        "1.3 M parameters",
        "4097 blocks of 16 tokens",
        "none known",
        "of the work expected",
        "a bucket",
    ):
        assert told in out
    assert all(len(line) <= 120 for line in out.splitlines())
    assert [line.split()[0] for line in out.splitlines() if line[:1] not in (" ", "")] == [
        "16", "phase", "prefill", "decode", "score",
    ]  # fmt: skip


def test_json_tells_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    told = as_json(capsys, "--graphs", "12", "--slots", "8", "--layout", "flat", "--dtype", "bfloat16")
    assert len(told["buckets"]) == 12
    assert told["limits"]["slots"] == 8 and told["limits"]["layout"] == "flat"
    blocks, size = told["limits"]["num_blocks"], told["limits"]["block_size"]
    assert told["kv_bytes"] == blocks * size * 6 * 2 * 2 * 32 * 2, (
        "6 layers, keys and values, 2 heads of 32, 2 bytes"
    )
    assert told["curve"][-1][0] == 12
    assert told["padding"].keys() == {"prefill", "decode"}


def test_a_histogram_moves_the_buckets(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "shapes.json"
    Histogram({("decode", 3, 77): 1000, ("decode", 99, 9): 1}).save(path)
    told = as_json(capsys, "--graphs", "12", "--histogram", str(path))
    assert told["launches"] == 1000, "99 rows are more than the slots"
    assert {"phase": "decode", "batch": 3, "query": 1, "blocks": 77} in told["buckets"]


def test_a_warm_up_in_seconds_sets_the_budget(capsys: pytest.CaptureFixture[str]) -> None:
    told = as_json(capsys, "--device", "gaudi2", "--warm-up", "30")
    assert len(told["buckets"]) == 10
    assert told["warm_up_seconds"] == 30
    assert told["limits"]["layout"] == "flat" and told["limits"]["block_size"] == 128


def test_less_memory_holds_fewer_blocks(capsys: pytest.CaptureFixture[str]) -> None:
    told = as_json(capsys, "--graphs", "3", "--memory", "0.1")
    assert told["weight_bytes"] + told["kv_bytes"] < 0.1 * 2**30


def test_the_curve_is_a_png(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "curve.png"
    assert plan(capsys, "--graphs", "8", "--curve", str(path))[0] == 0
    data = path.read_bytes()
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack(">II", data[16:24])
    start = data.index(b"IDAT")
    (length,) = struct.unpack(">I", data[start - 4 : start])
    pixels = zlib.decompress(data[start + 4 : start + 4 + length])
    assert len(pixels) == height * (1 + 3 * width)
    assert len(set(pixels)) > 2, "something is drawn"


@pytest.mark.parametrize(
    ("args", "why"),
    [
        (["--max-total-tokens", "9000"], "exceeds the 4096 positions"),
        (["--kv-blocks", "5", "--max-total-tokens", "4096"], "give at least 257 blocks"),
        (["--graphs", "2"], "a plan of 2 buckets is too small"),
        (["--memory", "0.001"], "do not hold the"),
        (["--model-id", "./nowhere"], "there is no folder './nowhere'"),
        (["--histogram", "/nowhere.json"], "No such file"),
        (["--curve", "/nowhere/c.png", "--graphs", "3"], "No such file"),
    ],
)
def test_what_cannot_be_planned_is_refused(
    capsys: pytest.CaptureFixture[str], args: list[str], why: str
) -> None:
    code, out, err = plan(capsys, *args)
    assert (code, out) == (2, "")
    assert err.startswith("error: ") and why in err


@pytest.mark.parametrize(
    "args",
    [["--slots", "0"], ["--prior", "2"], ["--memory", "-1"], ["--warm-up", "x"], ["--layout", "round"]],
)
def test_a_wrong_option_is_a_sentence(capsys: pytest.CaptureFixture[str], args: list[str]) -> None:
    with pytest.raises(SystemExit) as exit:
        main(["plan", *args])
    assert exit.value.code == 2
    assert args[0] in capsys.readouterr().err


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ("{", "cannot be read"),
        ("[]", "no num_hidden_layers or n_layer"),
        ('{"num_hidden_layers": 2, "hidden_size": 8}', "no num_attention_heads or n_head"),
    ],
)
def test_a_folder_that_is_no_model_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, config: str, why: str
) -> None:
    (tmp_path / "config.json").write_text(config)
    code, _, err = plan(capsys, "--model-id", str(tmp_path))
    assert code == 2 and why in err


def test_parameters_are_estimated_without_weights(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    config = {
        "num_hidden_layers": 32, "hidden_size": 4096, "intermediate_size": 14336, "num_attention_heads": 32,
        "num_key_value_heads": 8, "vocab_size": 128_256, "tie_word_embeddings": False,
        "max_position_embeddings": 8192,
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    told = as_json(capsys, "--model-id", str(tmp_path), "--device", "gaudi2", "--graphs", "3")
    assert told["parameters"] == pytest.approx(8.03e9, rel=0.01), "Llama 3.1 8B"


def test_broken_weights_are_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"\xff" * 64)
    code, _, err = plan(capsys, "--model-id", str(tmp_path))
    assert code == 2 and "is not a safetensors file" in err


def test_it_runs_without_torch() -> None:
    ran = subprocess.run([sys.executable, "-c", GUARD], capture_output=True, text=True, timeout=60)
    assert ran.stdout.startswith("4 buckets for demo"), ran.stderr
