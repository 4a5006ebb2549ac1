"""Checks of a sync and its calls by the rules of receivers and tracking plans, before a call is sent."""
