# SPDX-License-Identifier: Apache-2.0
"""Sends single requests (health, weights) to the rollout server; `client` requests completions."""

from __future__ import annotations

import http.client
import json
import urllib.parse
from typing import Any

from reasongrm_nemo.processes.secret_values import strike
from reasongrm_nemo.rollout.types import RolloutServerLost


def call(
    url: str, token: str, method: str, path: str, timeout_s: float | None, body: dict[str, Any] | None = None
) -> Any:
    """Send a request and return the parsed answer.

    Args:
        url: the server's `http://host:port`.
        token: the server's API token.
        method: GET or POST.
        path: path and query.
        timeout_s: longest time without data; None: no limit.
        body: sent as JSON.

    Raises:
        RolloutServerLost: no connection, no answer in time, or a status other than 200.
    """
    host = urllib.parse.urlsplit(url)
    connection = http.client.HTTPConnection(host.hostname or "", host.port, timeout=timeout_s)
    headers = {"Authorization": f"Bearer {token}"}
    data = None
    if body is not None:
        data = json.dumps(body)
        headers["Content-Type"] = "application/json"
    try:
        connection.request(method, path, body=data, headers=headers)
        answer = connection.getresponse()
        text = answer.read().decode("utf-8", "replace")
    except TimeoutError:
        raise RolloutServerLost(f"The rollout server did not answer {path} within {timeout_s:g} s.") from None
    except (OSError, http.client.HTTPException) as error:
        raise RolloutServerLost(f"The rollout server did not answer {path}: {reason(error)}.") from error
    finally:
        connection.close()
    if answer.status != 200:
        raise RolloutServerLost(
            f"The rollout server answered {path} with status {answer.status}: {message(text)}."
        )
    try:
        return json.loads(text) if text else None
    except json.JSONDecodeError:
        return text


def reason(error: BaseException) -> str:
    """The message of an exception, or its type's name if the message is empty."""
    return str(error).rstrip(".") or type(error).__name__


def message(text: str) -> str:
    """Extract the error message from a server's answer."""
    try:
        body = json.loads(text)
        if isinstance(body, dict):
            body = body.get("error", body)
        if isinstance(body, dict):
            body = body.get("message", body)
        text = str(body)
    except json.JSONDecodeError:
        pass
    return " ".join(strike(text).split())[:300].rstrip(".") or "no message"
