"""Reading what people write: YAML with the line of each key, and errors that name the place."""
