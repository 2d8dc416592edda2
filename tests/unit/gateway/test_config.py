"""Settings: strict, by name, from one place."""

from __future__ import annotations

import pytest

from gateway.__main__ import configure, options, settings
from gateway.config import Config, ConfigError


def test_the_environment_is_read_by_name() -> None:
    env = {"REDIS_URL": "redis://r/1", "PORT": "9", "DRAIN_TIMEOUT": "0.5", "MAX_QUEUED": "", "OTHER": "x"}
    config = Config.from_env(environ=env)
    assert (config.redis_url, config.port, config.drain_timeout) == ("redis://r/1", 9, 0.5)
    assert config.max_queued == Config().max_queued, "empty is unset"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("PORT", "http"),
        ("PORT", "70000"),
        ("PORT", "8080.0"),
        ("GATEWAY_WORKERS", "0"),
        ("GATEWAY_THREADS", "many"),
        ("DRAIN_TIMEOUT", "-1"),
        ("DRAIN_TIMEOUT", "nan"),
        ("MAX_BODY_BYTES", "2MB"),
        ("MAX_BEST_OF", "0"),
        ("MAX_TOP_N_TOKENS", "21"),
        ("TGI_STRICT", "maybe"),
        ("AUTH", "on"),
        ("API_KEY", "two words"),
        ("API_KEY", "schlüssel"),
    ],
)
def test_a_bad_setting_names_its_variable(name: str, text: str) -> None:
    with pytest.raises(ConfigError, match=name):
        Config.from_env(environ={name: text})


def test_the_command_line_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", "1")
    monkeypatch.setenv("HOST", "0.0.0.0")
    config = configure(["--port", "2"])
    assert (config.port, config.host) == (2, "0.0.0.0")


@pytest.mark.parametrize(
    ("argv", "strict"), [([], False), (["--tgi-strict"], True), (["--tgi-strict", "false"], False)]
)
def test_a_flag_needs_no_value(argv: list[str], strict: bool) -> None:
    assert configure(argv).tgi_strict is strict
    assert Config.from_env(environ={"TGI_STRICT": "yes"}).tgi_strict


def test_every_setting_is_an_option_with_help() -> None:
    text = options().format_help()
    for name in Config.__dataclass_fields__:
        assert "--" + name.replace("_", "-") in text and name.upper() in text


def test_secrets_are_not_shown() -> None:
    assert "hush" not in repr(Config(sagrada_secret="hush", api_key="hush"))
    with pytest.raises(ConfigError) as refused:
        Config.from_env(environ={"API_KEY": "hush hush"})
    assert "hush" not in str(refused.value)


def test_a_setting_goes_by_its_name_in_tgi_too() -> None:
    assert Config.from_env(environ={"PAYLOAD_LIMIT": "7"}).max_body_bytes == 7
    assert Config.from_env(environ={"PAYLOAD_LIMIT": "7", "MAX_BODY_BYTES": "8"}).max_body_bytes == 8
    assert configure(["--payload-limit", "9"]).max_body_bytes == 9


def test_gunicorn_gets_time_to_drain() -> None:
    chosen = settings(Config(drain_timeout=100, host="::1"))
    assert chosen["graceful_timeout"] > 100 and chosen["timeout"] > 100
    assert chosen["bind"] == "[::1]:8080" and chosen["control_socket_disable"]
