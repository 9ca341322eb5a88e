"""The JSON of every response: values from artefacts and file names may hold what JSON or Unicode has no place for."""

from __future__ import annotations

import json
import math
from typing import Any

from starlette.responses import Response


class JSON(Response):
    """A JSON response. Numbers that JSON lacks become null; half a surrogate pair stays its escape."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """Returns the bytes of the body."""
        try:
            text = _dumps(content)
        except ValueError:
            text = _dumps(_finite(content))
        return text.encode("utf-8", "backslashreplace")


def _dumps(content: Any) -> str:
    return json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, (list, tuple)) else value
