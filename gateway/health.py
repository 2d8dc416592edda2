"""`python -m gateway.health [--serving]`: a container's healthcheck, with the settings of the gateway's environment.

Healthy is a gateway that answers and reaches Redis. Whether a model is served is its workers' affair, and their
healthchecks say it: while the only worker loads, the gateway still tells clients how far it is, hands out results and
follows streams, and nobody should take it out of service for that. With --serving it is asked for a model, too.
"""

from __future__ import annotations

import http.client
import json
import sys
from collections.abc import Sequence

from gateway.config import Config, ConfigError

PATIENCE = 4.0
"""Seconds that the gateway gets to answer."""
ANY = {"0.0.0.0": "127.0.0.1", "::": "::1"}
"""Addresses that one may listen on, and cannot connect to."""


def ask(config: Config) -> tuple[int, str, str]:
    """What GET /readyz says: status, `error_type` if it is an error, the whole body. OSError: it does not answer."""
    link = http.client.HTTPConnection(ANY.get(config.host, config.host), config.port, timeout=PATIENCE)
    try:
        link.request("GET", "/readyz")
        answer = link.getresponse()
        body = answer.read().decode(errors="replace")
    except http.client.HTTPException as error:
        raise OSError(f"no HTTP: {error!r}") from error
    finally:
        link.close()
    return answer.status, _error_type(body), body


def _error_type(body: str) -> str:
    try:
        return str(json.loads(body).get("error_type", ""))
    except (ValueError, AttributeError):
        return ""


def main(argv: Sequence[str]) -> int:
    """0: healthy; 1: not, and the standard output has the reason."""
    try:
        status, error_type, said = ask(Config.from_env())
    except (ConfigError, OSError) as error:
        print(f"gateway: {error}")
        return 1
    print(said.strip())
    return 0 if status == 200 or (error_type == "model_unavailable" and "--serving" not in argv) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
