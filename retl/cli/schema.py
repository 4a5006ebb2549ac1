"""`retl schema`: the JSON Schema of the sync file."""

import json

import click

from retl.config.json_schema import json_schema


@click.command("schema")
def schema_command() -> int:
    """Print the JSON Schema of the sync file, for editors."""
    click.echo(json.dumps(json_schema(), indent=2))
    return 0
