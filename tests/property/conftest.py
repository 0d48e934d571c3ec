"""Property tests on any machine: no limit of time per example, which a busy machine would break."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

settings.register_profile("house", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("soak", parent=settings.get_profile("house"), max_examples=5000)
settings.load_profile("soak" if os.environ.get("SLIPWAY_SOAK") else "house")
