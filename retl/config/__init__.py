"""The files of a project: the sync with its block of calls, settings, and the project folder."""
