"""What the server of the suites holds."""

from __future__ import annotations

from adapters.specs import Lora
from serving.bank import Envelope, Group
from serving.server.limits import Limits

SPEC = Lora(rank=2, blocks="1:")
ENVELOPE = Envelope((Group((Lora(rank=4, blocks="1:"),), slots=2),), labels=4)
LIMITS = Limits(body_bytes=4000, inputs=8, characters=200, body_seconds=5, seconds=60)
