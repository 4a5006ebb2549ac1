"""retl sends what changed in a SQL model to Twilio Segment, and remembers what it sent."""

from retl.api import plan
from retl.planning import Plan
from retl.version import __version__

__all__ = ["Plan", "__version__", "plan"]
