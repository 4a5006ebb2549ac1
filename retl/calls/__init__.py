"""Calls: templates, the SQL that renders changes by them, and message ids."""
