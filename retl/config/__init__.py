"""What a project's files say: the sync, its block of calls, settings, and where everything is."""
