"""What receivers and tracking plans say of a sync and its calls, before one is sent."""
