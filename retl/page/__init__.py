"""The page: what the report and the sandbox's page have in common: frame, colours, icons."""
