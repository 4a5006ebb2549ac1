"""bqemulator with what BigQuery's driver needs beside that; `bigquery_server` starts it.

It adds results that can be read by columns and whose rows are counted, errors of jobs that can be asked for,
scripts whose result is that of a job of their own, and datasets that are not there. The file `refused` has
what is part of statements that the account may not run, and the file `cut` how many rows of each result do
not come.
"""

import re
import sys
from pathlib import Path
from typing import Any

import duckdb_extension_spatial
import pyarrow as pa
from bqemulator.api.routes import jobs
from bqemulator.catalog.models import JobMeta
from bqemulator.cli import main
from bqemulator.domain.errors import DomainError, InvalidQueryError, NotFoundError, PermissionDeniedError
from bqemulator.grpc_api import read_servicer
from bqemulator.jobs.executor import JOB_RESULTS, JOB_SCHEMAS
from bqemulator.storage.engine import DuckDBEngine
from bqemulator.streaming import read_session

failed: dict[str, DomainError] = {}
folder = Path(sys.argv.pop(1))
run_job, session_of, fetch = (
    jobs.execute_query_job,
    read_servicer._build_read_session_response,
    DuckDBEngine.fetch_arrow,
)


async def execute_query_job(
    project: str, job: str, query: str, params: Any, context: Any, **named: Any
) -> Any:
    """Run a job, and keep its error."""
    with (folder / "said").open("a") as said:
        said.write(f"{query}\n")
    refused = (folder / "refused").read_text()
    try:
        if refused and refused in query:
            raise PermissionDeniedError("Access Denied: Dataset shop:retl: Permission denied on dataset")
        for dataset in re.findall(r"`?(\w+)`?\.`?INFORMATION_SCHEMA", query):
            if context.catalog.get_dataset(project, dataset) is None:
                raise NotFoundError(f"Not found: Dataset {project}:{dataset} was not found in location US")
        found = await run_job(project, job, query, params, context, **named)
        return with_child(found, context) if found.statistics["query"]["statementType"] == "SCRIPT" else found
    except DomainError as error:
        failed[job] = error
        raise
    except Exception as error:  # which would be tried again for ever
        failed[job] = InvalidQueryError(str(error))
        raise failed[job] from error


def with_child(script: JobMeta, context: Any) -> JobMeta:
    """A script as BigQuery has one: its last SELECT is a job of its own, and has the result."""
    child = f"{script.job_id}_0"
    place = {"projectId": script.project_id, "datasetId": "_bqemu_anonymous", "tableId": f"anon{child}"}
    select = {"query": {"query": "SELECT", "destinationTable": place}}
    statistics = {"query": {"statementType": "SELECT"}, "parentJobId": script.job_id}
    made = {"job_id": child, "configuration": select, "statistics": statistics}
    context.catalog.upsert_job(script.model_copy(update=made))
    for results in (JOB_RESULTS, JOB_SCHEMAS):
        results[child] = results[script.job_id]
    query = script.configuration["query"]["query"]
    return script.model_copy(update={"configuration": {"query": {"query": query}}})


def list_children(project_id: str, parentJobId: str, context: jobs._Ctx) -> dict[str, Any]:  # noqa: N803
    """The jobs of a script, of which one is told."""
    child = jobs.get_job(project_id, f"{parentJobId}_0", context)
    return {"kind": "bigquery#jobList", "jobs": [child]}


class Results(dict[str, Any]):
    """The results of jobs, or their errors."""

    def get(self, job: str, default: Any = None) -> Any:
        """The result of a job; raises its error."""
        if job in failed:
            raise failed[job]
        return JOB_RESULTS.get(job, default)

    def __missing__(self, job: str) -> Any:
        return JOB_RESULTS[job]


def fetch_arrow(engine: DuckDBEngine, query: str, *rest: Any) -> Any:
    """The rows of a query; or of the table that a result is in, which bqemulator only describes."""
    found = re.search(r"_bqemu_anonymous\W+anon(\w+)", query)
    return JOB_RESULTS[found[1]] if found else fetch(engine, query, *rest)


def build_read_session_response(**named: Any) -> Any:
    """A session, and how many rows it has, without which the driver reads none."""
    session = session_of(**named)
    session.estimated_row_count = named["arrow_table"].num_rows + int((folder / "cut").read_text())
    return session


def serialized_schema(schema: pa.Schema) -> bytes:
    """A schema with BigQuery's name for JSON, and without the sign of an end, behind which no row is read."""
    json_there = {"ARROW:extension:name": "google:sqlType:json"}
    is_json = [(field.metadata or {}).get(b"bqemu.duckdb_type") == b"JSON" for field in schema]
    named = [
        field.with_metadata(json_there if one else None) for field, one in zip(schema, is_json, strict=True)
    ]
    return pa.schema(named).serialize().to_pybytes()


def load_spatial(engine: DuckDBEngine) -> None:
    """Load DuckDB's extension from its package, and not from DuckDB's own server."""
    (place,) = Path(duckdb_extension_spatial.__file__).parent.rglob("spatial.duckdb_extension")
    engine._connection.execute(f"LOAD '{place}'")


jobs.router.add_api_route("/projects/{project_id}/jobs", list_children)
jobs.router.routes.insert(0, jobs.router.routes.pop())
jobs.execute_query_job = execute_query_job
jobs.JOB_RESULTS = Results()
DuckDBEngine.fetch_arrow = fetch_arrow
DuckDBEngine._load_spatial = load_spatial
DuckDBEngine._load_format_extensions = lambda engine: None
read_servicer._build_read_session_response = build_read_session_response
read_session._serialise_arrow_schema = serialized_schema
main()
