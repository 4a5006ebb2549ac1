"""From the outbox to Segment: batches, attempts, answers, and what was refused."""
