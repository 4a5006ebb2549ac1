"""A local Segment: its HTTP server, Segment's rules for calls that arrive, and failures on demand."""
