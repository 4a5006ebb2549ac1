"""`retl schema`: the JSON Schema of the sync file, or of retl.yml."""

import json

import click

from retl.config.json_schema import project_schema, sync_schema


@click.command("schema")
@click.option("--project", is_flag=True, help="Print that of retl.yml.")
def schema_command(project: bool) -> int:
    """Print the JSON Schema of the sync file, for editors."""
    click.echo(json.dumps(project_schema() if project else sync_schema(), indent=1))
    return 0
