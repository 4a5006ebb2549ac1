"""A torture of retl: seeded lives of a sync under faults, after each of which the promises must hold."""
