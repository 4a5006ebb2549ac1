"""The engine that compares rows in the warehouse, and reads only those that may differ."""
