"""Settings: strict, named in every error, and the same from options and environment."""

from __future__ import annotations

import pytest

from worker.config import Config, ConfigError, from_arguments, load, parser


def test_nothing_given_is_the_demo_on_a_local_redis() -> None:
    config = load({}, {})
    assert config == Config()
    assert (config.name, config.task_queue) == ("demo", "sagrada.demo")


def test_an_option_wins_over_its_variable_and_an_empty_one_counts_as_absent() -> None:
    environ = {"SLOTS": "4", "DTYPE": "", "HF_HUB_OFFLINE": "1", "MODEL_ID": "org/Some-Model"}
    config, level = from_arguments(["--slots", "8", "--log-level", "DEBUG"], environ)
    assert (config.slots, config.dtype, config.hf_hub_offline, level) == (8, "auto", True, "DEBUG")
    assert config.task_queue == "sagrada.org-some-model"


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("SLOTS", "0"),
        ("SLOTS", "many"),
        ("KV_BLOCKS", "-1"),
        ("LEASE_SECONDS", "0"),
        ("LEASE_SECONDS", "nan"),
        ("DEVICE", "tpu"),
        ("DTYPE", "int4"),
        ("HF_HUB_OFFLINE", "perhaps"),
        ("QUEUE", "celery"),
        ("MAX_INPUT_TOKENS", "4096"),
        ("NUM_SHARD", "0"),
        ("NUM_SHARD", "2"),
        ("WATERMARK_GAMMA", "1"),
        ("WATERMARK_GAMMA", "half"),
        ("WATERMARK_DELTA", "0"),
        ("WATERMARK_DELTA", "nan"),
        ("WATERMARK_DELTA", "3"),  # and no gamma
    ],
)
def test_an_error_names_the_variable(variable: str, text: str) -> None:
    with pytest.raises(ConfigError, match=variable):
        load({}, {"MAX_TOTAL_TOKENS": "4096", variable: text})


def test_help_documents_every_variable() -> None:
    text = parser().format_help()
    assert all(name.upper() in text for name in Config.__dataclass_fields__)


def test_secrets_are_not_shown() -> None:
    config = load({}, {"HF_TOKEN": "hf_secret", "REDIS_URL": "redis://:secret@host/0"})
    assert "secret" not in f"{config} {config!r}"
