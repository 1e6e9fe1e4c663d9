"""Hypothesis profiles: ``HYPOTHESIS_PROFILE=nightly pytest tests/property``."""

import os
import signal

from hypothesis import HealthCheck, settings

_QUIET = (HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much)

settings.register_profile("dev", max_examples=100, deadline=None, suppress_health_check=_QUIET)
settings.register_profile(
    "ci", max_examples=100, deadline=None, derandomize=True, suppress_health_check=_QUIET
)
settings.register_profile(
    "nightly", max_examples=20_000, deadline=None, suppress_health_check=_QUIET
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if "CI" in os.environ else "dev"))


# A shell starts its background jobs with SIGINT ignored, and so would everything that tests start:
# ^C could not be tested then (scripts/test runs pytest in the background, to clean up after it).
signal.signal(signal.SIGINT, signal.default_int_handler)
