"""Systems behind Segment, each a data file: what it reads, what becomes of a call there, and its rules."""
