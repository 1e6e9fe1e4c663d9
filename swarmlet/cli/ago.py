"""How long ago something was, in Docker's words."""

import datetime as dt
import re
from typing import Final

_FORM: Final = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(\.\d+)?(Z|[+-]\d\d:\d\d)")


def parse(stamp: str) -> dt.datetime | None:
    """The time of an API timestamp (nanoseconds are dropped); None for none."""
    found = _FORM.fullmatch(stamp)
    if found is None or stamp.startswith("0001-"):
        return None
    zone = "+00:00" if found[3] == "Z" else found[3]
    return dt.datetime.fromisoformat(f"{found[1]}{(found[2] or '')[:7]}{zone}")


def age(stamp: str, now: dt.datetime | None = None) -> str:
    """``3 seconds ago``; "" when the stamp is none."""
    then = parse(stamp)
    if then is None:
        return ""
    seconds = ((now or dt.datetime.now(dt.UTC)) - then).total_seconds()
    return f"{span(max(0, int(seconds)))} ago"


def span(seconds: int) -> str:
    """A length of time in Docker's rough words."""
    if seconds < 1:
        return "less than a second"
    if seconds < 60:
        return f"{seconds} second{'s' if seconds > 1 else ''}"
    minutes = seconds // 60
    if minutes < 60:
        return "about a minute" if minutes == 1 else f"{minutes} minutes"
    hours = (seconds + 1800) // 3600
    if hours < 48:
        return "about an hour" if hours == 1 else f"{hours} hours"
    days = hours // 24
    for unit, length in (("year", 365), ("month", 30), ("week", 7)):
        if days >= 2 * length:
            return f"{days // length} {unit}s"
    return f"{days} days"
