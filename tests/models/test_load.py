"""What cannot be served right is refused before it serves, with a sentence that says what to do."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from models import falcon, families
from models.devices import Cpu
from models.ends import eos_ids
from models.errors import ModelRefused
from models.families import FAMILIES, Family
from models.histogram import Histogram
from models.limits import choose_limits
from models.load import load
from models.step import LoadSpec
from tests.models.drive import quiet
from tests.support import tiny

Maker = Callable[[str], Path]


def copy_of(folder: Path, tmp_path: Path, **config: Any) -> Path:
    """The model again, its config.json changed."""
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | config))
    return tmp_path


def refusal(model_id: object, **spec: Any) -> str:
    """Why the model is refused."""
    with pytest.raises(ModelRefused) as caught:
        load(LoadSpec(model_id=str(model_id), **spec), quiet)
    return str(caught.value)


FREE = 1_000_000
"""Bytes."""


class TestRefused:
    def test_a_folder_that_is_not_there(self) -> None:
        assert "there is no folder './nowhere/at/all'" in refusal("./nowhere/at/all")

    def test_a_folder_without_a_config(self, tmp_path: Path) -> None:
        assert "has no config.json" in refusal(tmp_path)

    def test_weights_that_could_run_code(self, tmp_path: Path, model_of: Maker) -> None:
        copy_of(model_of("llama"), tmp_path)
        weights = load_file(tmp_path / "model.safetensors")
        (tmp_path / "model.safetensors").unlink()
        torch.save(weights, tmp_path / "pytorch_model.bin")
        assert "no weights in safetensors" in refusal(tmp_path)

    def test_an_unknown_architecture_with_the_list_of_known_ones(self, tmp_path: Path) -> None:
        message = refusal(tiny.make(tmp_path, "xglm"))
        assert "XGLMForCausalLM is not supported" in message
        assert all(family.architecture in message for family in FAMILIES.values())

    def test_a_model_type_that_transformers_does_not_know(self, tmp_path: Path, model_of: Maker) -> None:
        folder = copy_of(
            model_of("llama"), tmp_path, model_type="hal9000", architectures=["Hal9000ForCausalLM"]
        )
        assert "hal9000" in refusal(folder)

    def test_a_head_that_does_not_write(self, tmp_path: Path, model_of: Maker) -> None:
        folder = copy_of(model_of("llama"), tmp_path, architectures=["LlamaForSequenceClassification"])
        assert "LlamaForSequenceClassification is not supported" in refusal(folder)

    def test_a_falcon_with_alibi(self, tmp_path: Path) -> None:
        assert "its ALiBi positions are not supported" in refusal(tiny.make(tmp_path, "falcon-alibi"))

    @pytest.mark.parametrize("variant", ["qwen2_moe", "stablelm", "gptj"])
    def test_what_an_older_transformers_computes_without_us(
        self, variant: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(families, "TRANSFORMERS", 4)
        with pytest.raises(ModelRefused, match=r"needs transformers 5 or newer, installed is"):
            families.family_of(tiny.config_of(variant))

    def test_a_rope_that_an_older_transformers_does_not_read(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(families, "TRANSFORMERS", 4)
        config = SimpleNamespace(model_type="llama", architectures=None, rope_theta=500000.0)
        for same in (None, {"rope_type": "default", "rope_theta": 500000.0}):
            config.rope_parameters = same
            assert families.family_of(config) is FAMILIES["llama"]
        for other in (
            {"rope_type": "default", "rope_theta": 10000.0},
            {"rope_type": "linear", "factor": 2.0},
        ):
            config.rope_parameters = other
            with pytest.raises(
                ModelRefused, match=r"would ignore its rope_parameters; install transformers 5"
            ):
                families.family_of(config)

    def test_a_scale_that_an_older_transformers_does_not_tell(self, monkeypatch: pytest.MonkeyPatch) -> None:
        config = tiny.config_of("gpt2", scale_attn_by_inverse_layer_idx=True)
        monkeypatch.setattr(families, "TRANSFORMERS", 5)
        assert families.family_of(config) is FAMILIES["gpt2"]
        monkeypatch.setattr(families, "TRANSFORMERS", 4)
        with pytest.raises(ModelRefused, match=r"how to scale the scores; use 5 or newer"):
            families.family_of(config)

    def test_a_missing_weight(self, tmp_path: Path, model_of: Maker) -> None:
        copy_of(model_of("llama"), tmp_path)
        weights = load_file(tmp_path / "model.safetensors")
        del weights["model.layers.1.mlp.up_proj.weight"]
        save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
        assert "model.layers.1.mlp.up_proj.weight" in refusal(tmp_path)

    def test_weights_of_another_shape(self, tmp_path: Path, model_of: Maker) -> None:
        assert "intermediate" not in (
            message := refusal(copy_of(model_of("llama"), tmp_path, intermediate_size=96))
        )
        assert "weights" in message

    def test_broken_weights(self, tmp_path: Path, model_of: Maker) -> None:
        (copy_of(model_of("llama"), tmp_path) / "model.safetensors").write_bytes(b"not weights")
        assert "cannot be read" in refusal(tmp_path)

    def test_an_attention_that_bypasses_ours(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """XGLM computes its attention by itself: put into the table, it is found out by the count of calls."""
        monkeypatch.setitem(FAMILIES, "xglm", Family("xglm", "XGLMForCausalLM", "num_layers"))
        assert "called our attention 0 times from 0 of its 2 layers" in refusal(tiny.make(tmp_path, "xglm"))

    def test_half_of_the_layers_bypass_ours(self, monkeypatch: pytest.MonkeyPatch, model_of: Maker) -> None:
        """Also where a forward of ours took the place of transformers'."""
        attention = falcon.attention

        def one_layer(module: Any, hidden: torch.Tensor, **kwargs: Any) -> Any:
            return attention(module, hidden, **kwargs) if module.layer_idx else (hidden, None)

        row = replace(FAMILIES["falcon"], forwards={"FalconAttention": one_layer})
        monkeypatch.setitem(FAMILIES, "falcon", row)
        assert "called our attention 1 times from 1 of its 2 layers" in refusal(model_of("falcon-40b"))

    @pytest.mark.parametrize(
        ("spec", "said"),
        [
            ({"dtype": "int4"}, "dtype 'int4' is not known; use one of float32"),
            ({"device": "tpu"}, "device 'tpu' is not known; use cpu, cuda or hpu"),
            ({"max_total_tokens": 100_000}, "max_total_tokens (100000) exceeds the 512 positions"),
            (
                {"kv_blocks": 3, "max_total_tokens": 512},
                "3 KV blocks hold 32 tokens, fewer than max_total_tokens",
            ),
            ({"max_input_tokens": 512}, "max_input_tokens (512) must be below max_total_tokens (512)"),
            ({"device": "cuda"}, "this torch sees no NVIDIA card"),
            ({"device": "hpu"}, "needs Habana's torch"),
            ({"kv_blocks": 1 << 40}, "no memory for KV pools"),
        ],
    )
    def test_a_spec_that_cannot_be_met(self, spec: dict[str, Any], said: str, model_of: Maker) -> None:
        assert said in refusal(model_of("llama"), **spec)


class TestServed:
    def test_what_a_loaded_model_says_of_itself(self, model_of: Maker) -> None:
        seen: list[str] = []
        runner = load(
            LoadSpec(model_id=str(model_of("llama")), slots=2), lambda stage, *_: seen.append(stage)
        )
        info = runner.info
        assert (info.device, info.dtype, info.vocab_size) == ("cpu", "float32", tiny.VOCAB)
        assert (info.eos_ids, info.max_position, info.revision) == ((tiny.EOS,), 512, "")
        assert info.parameters == sum(
            w.numel() for w in load_file(info.folder / "model.safetensors").values()
        )
        assert set(seen) == {"load"}

    def test_every_end_of_sequence_id_counts(self, tmp_path: Path, model_of: Maker) -> None:
        folder = copy_of(model_of("llama"), tmp_path)
        (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [5, 7]}))
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"eos_token_id": 7}))
        assert load(LoadSpec(model_id=str(folder), slots=1), quiet).info.eos_ids == (5, 7, tiny.EOS)

    @pytest.mark.parametrize(
        ("generation", "config", "tokenizer", "ids"),
        [
            (7, None, None, (7,)),
            (None, [9, 7], None, (9, 7)),
            ([7, 9], 9, "</s>", (7, 9, tiny.EOS)),
            (None, None, {"content": "</s>"}, (tiny.EOS,)),
            ([7, tiny.VOCAB, -1], None, "no such token", (7,)),
            (None, None, None, ()),
        ],
    )
    def test_what_the_files_name_together(
        self,
        generation: Any,
        config: Any,
        tokenizer: Any,
        ids: tuple[int, ...],
        tmp_path: Path,
        model_of: Maker,
    ) -> None:
        folder = copy_of(model_of("llama"), tmp_path)
        settings = json.loads((folder / "tokenizer_config.json").read_text())
        (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"eos_token": tokenizer}))
        (folder / "special_tokens_map.json").unlink(missing_ok=True)
        model = SimpleNamespace(
            generation_config=SimpleNamespace(eos_token_id=generation),
            config=SimpleNamespace(eos_token_id=config, vocab_size=tiny.VOCAB),
        )
        assert eos_ids(model, folder) == ids

    def test_a_broken_tokenizer_is_refused_before_it_serves(self, tmp_path: Path, model_of: Maker) -> None:
        folder = copy_of(model_of("llama"), tmp_path)
        (folder / "tokenizer.json").write_text("half of {")
        assert "tokenizer files" in refusal(folder)

    def test_the_built_in_model(self) -> None:
        assert load(LoadSpec(model_id="demo", slots=1), quiet).info.vocab_size > 256

    def test_tied_weights_are_not_missing(self, model_of: Maker) -> None:
        assert "lm_head.weight" not in load_file(model_of("gemma") / "model.safetensors")
        assert load(LoadSpec(model_id=str(model_of("gemma")), slots=1), quiet).info.vocab_size == tiny.VOCAB


class TestLimits:
    def test_every_slot_can_fill_up_where_memory_allows(self) -> None:
        limits = choose_limits(
            LoadSpec(model_id="m", slots=3, block_size=16), 512, lambda size: size, Cpu(), FREE
        )
        assert limits.num_blocks == 3 * 32 + 1
        assert (limits.max_total_tokens, limits.max_input_tokens) == (512, 511)

    def test_scarce_memory_shortens_the_longest_sequence(self) -> None:
        limits = choose_limits(LoadSpec(model_id="m"), 2048, lambda size: 10_000 * size // 16, Cpu(), FREE)
        assert limits.num_blocks == 40  # 40 % of 1 MB in blocks of 10 kB
        assert limits.max_total_tokens == 39 * 16

    def test_what_was_asked_for_is_not_shortened(self) -> None:
        with pytest.raises(ValueError, match="max_total_tokens"):
            choose_limits(
                LoadSpec(model_id="m", max_total_tokens=2048), 2048, lambda size: 10_000, Cpu(), FREE
            )


class TestPlan:
    @pytest.mark.parametrize(
        ("spec", "most"),
        [
            ({}, 64),
            ({"graphs": 9}, 9),
            ({"warm_up_seconds": 1}, 20),
            ({"graphs": 9, "warm_up_seconds": 1}, 9),
        ],
    )
    def test_the_number_of_buckets_is_told_or_follows_from_the_time_for_warm_up(
        self, spec: dict[str, Any], most: int, model_of: Maker
    ) -> None:
        runner = load(
            LoadSpec(model_id=str(model_of("llama")), slots=16, max_total_tokens=512, **spec), quiet
        )
        assert len(runner.plan) == most

    def test_what_was_counted_moves_the_buckets_to_where_the_traffic_is(
        self, tmp_path: Path, model_of: Maker
    ) -> None:
        path = tmp_path / "shapes.json"
        spec = LoadSpec(model_id=str(model_of("llama")), max_total_tokens=512, graphs=8, histogram=str(path))
        fresh = load(spec, quiet).plan
        counted = Histogram()
        for _ in range(1000):
            counted.count("decode", 7, 5)
        counted.save(path)
        plan = load(spec, quiet).plan
        assert (plan.decode(7, 5).batch, plan.decode(7, 5).blocks) == (7, 5)
        assert plan.cost(plan.decode(7, 5)) < fresh.cost(fresh.decode(7, 5))

    def test_a_file_that_is_no_histogram_is_refused(self, tmp_path: Path, model_of: Maker) -> None:
        path = tmp_path / "shapes.json"
        path.write_text("{}")
        assert str(path) in refusal(model_of("llama"), histogram=str(path))
