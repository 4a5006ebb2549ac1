"""A server that takes itself for a SQL warehouse of Databricks', in front of a real Spark.

It speaks the connector's protocol, Thrift over HTTPS with Arrow batches, by the classes that come with it.
Statements are executed by the Spark Connect server of the tests.
"""

import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs
from uuid import uuid4

import pyarrow as pa
import trustme
from servers import Handled

TOKEN = "dapi-Zeichen-4711"
"""The access token that the server takes."""

PRINCIPAL, SECRET = "6b2e4f5a-principal", "dose-Geheim-0815"
"""A service principal, and its secret."""

HTTP_PATH = "/sql/1.0/warehouses/0123456789abcdef"

NOT_ALLOWED = (
    "[INSUFFICIENT_PERMISSIONS] Insufficient privileges:\nUser does not have permission {}. SQLSTATE: 42501"
)
"""Databricks' words for what the user may not do."""


class DatabricksServer(Handled):
    """A SQL warehouse.

    Attributes:
        refused: how the statements begin that are answered as Databricks answers who may not.
        refusal: the answer.
        said: the statements that came.
        tokens: how many tokens were given to the service principal.
        gone: whether each request is left without an answer.
        lost: how the statements begin that are executed, and whose answer is lost.
    """

    def __init__(self, spark_url: str, folder: Path) -> None:
        authority = trustme.CA()
        self._ca_file = folder / "ca.pem"
        authority.cert_pem.write_to_path(str(self._ca_file))
        self.refused, self.refusal, self.said, self.tokens = "", NOT_ALLOWED, list[str](), 0
        self.gone, self.lost = False, ""
        self._warehouse = Warehouse(spark_url, self)
        server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler(self._warehouse))
        server.daemon_threads = True
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("localhost").configure_cert(context)
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        self.port = server.server_address[1]
        super().__init__(server)

    def __exit__(self, *_: object) -> None:
        super().__exit__()
        self._warehouse.close()

    def url(self, user: str = f"token:{TOKEN}", **more: str) -> str:
        """The URL of the warehouse."""
        given = {
            "http_path": HTTP_PATH,
            "tls_trusted_ca_file": str(self._ca_file),
            "retry_seconds": "1",
            **more,
        }
        settings = "&".join(f"{name}={value}" for name, value in given.items() if value)
        return f"databricks://{user}@localhost:{self.port}?{settings}"

    def _handler(self, warehouse: "Warehouse") -> type[BaseHTTPRequestHandler]:
        from databricks.sql.thrift_api.TCLIService import TCLIService
        from thrift.protocol.TBinaryProtocol import TBinaryProtocol
        from thrift.transport.TTransport import TMemoryBuffer

        outer, processor = self, TCLIService.Processor(warehouse)

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = (
                -1
            )  # or the head of an answer leaves before its body, which waits for an acknowledgement

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if outer.gone:
                    self.close_connection = True
                elif self.path == "/oidc/v1/token":
                    self._give_token(parse_qs(body.decode()))
                elif self.headers["Authorization"] not in (
                    f"Bearer {TOKEN}",
                    f"Bearer {TOKEN}-{outer.tokens}",
                ):
                    self._answer(403, b"", {"x-databricks-reason-phrase": "Invalid access token."})
                else:
                    assert HTTP_PATH == self.path
                    answer, before = TMemoryBuffer(), len(outer.said)
                    processor.process(TBinaryProtocol(TMemoryBuffer(body)), TBinaryProtocol(answer))
                    if outer.lost and [one for one in outer.said[before:] if one.startswith(outer.lost)]:
                        self.close_connection = True
                        return
                    self._answer(200, answer.getvalue(), {})

            def _give_token(self, form: dict[str, list[str]]) -> None:
                from urllib3.util import make_headers

                known = make_headers(basic_auth=f"{PRINCIPAL}:{SECRET}")["authorization"]
                if self.headers["Authorization"] != known or form["grant_type"] != ["client_credentials"]:
                    self._answer(401, b'{"error": "invalid_client"}', {})
                    return
                outer.tokens += 1
                token = f'{{"access_token": "{TOKEN}-{outer.tokens}", "expires_in": 3600}}'
                self._answer(200, token.encode(), {})

            def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(body))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        return Handler


class Warehouse:
    """What the server does with each kind of request, by the names that the protocol has for them."""

    def __init__(self, spark_url: str, server: DatabricksServer) -> None:
        from databricks.sql.thrift_api.TCLIService import ttypes

        self._types, self._spark_url, self._server = ttypes, spark_url, server
        self._sessions: dict[bytes, Any] = {}
        self._operations: dict[bytes, Operation] = {}

    def OpenSession(self, request: Any) -> Any:  # noqa: N802
        """Open a session of Spark's own."""
        from warehouses import SparkStatements

        t, session = self._types, uuid4().bytes
        self._sessions[session] = SparkStatements(self._spark_url)
        return t.TOpenSessionResp(
            status=self._ok(),
            serverProtocolVersion=t.TProtocolVersion.SPARK_CLI_SERVICE_PROTOCOL_V7,
            sessionHandle=t.TSessionHandle(t.THandleIdentifier(session, session)),
            canUseMultipleCatalogs=True,
        )

    def ExecuteStatement(self, request: Any) -> Any:  # noqa: N802
        """Start a statement."""
        t, key = self._types, uuid4().bytes
        self._server.said.append(request.statement)
        refused = self._server.refused and request.statement.startswith(self._server.refused)
        refusal = self._server.refusal.format(self._server.refused) if refused else ""
        session = self._sessions[request.sessionHandle.sessionId.guid]
        self._operations[key] = Operation(session, request.statement, refusal)
        handle = t.TOperationHandle(
            t.THandleIdentifier(key, key), t.TOperationType.EXECUTE_STATEMENT, hasResultSet=True
        )
        return t.TExecuteStatementResp(status=self._ok(), operationHandle=handle)

    def GetOperationStatus(self, request: Any) -> Any:  # noqa: N802
        """Say how far a statement is."""
        t, operation = self._types, self._operation(request)
        state = t.TOperationState
        if not operation.ended.wait(0.01):
            return t.TGetOperationStatusResp(status=self._ok(), operationState=state.RUNNING_STATE)
        if operation.error is None:
            return t.TGetOperationStatusResp(status=self._ok(), operationState=state.FINISHED_STATE)
        if operation.cancelled:
            return t.TGetOperationStatusResp(status=self._ok(), operationState=state.CANCELED_STATE)
        return t.TGetOperationStatusResp(
            status=self._ok(), operationState=state.ERROR_STATE, displayMessage=operation.error
        )

    def FetchResults(self, request: Any) -> Any:  # noqa: N802
        """Hand over some rows."""
        t, operation = self._types, self._operation(request)
        start, batch = operation.taken, operation.take(request.maxRows)
        rows = t.TRowSet(startRowOffset=start, rows=[])
        rows.arrowBatches = [
            t.TSparkArrowBatch(part.serialize().to_pybytes(), part.num_rows) for part in batch
        ]
        metadata = t.TGetResultSetMetadataResp(
            status=self._ok(),
            schema=t.TTableSchema([self._column(*one) for one in enumerate(operation.table.schema)]),
            resultFormat=t.TSparkRowSetType.ARROW_BASED_SET,
            lz4Compressed=False,
            arrowSchema=operation.table.schema.serialize().to_pybytes(),
        )
        return t.TFetchResultsResp(
            status=self._ok(), hasMoreRows=operation.has_more(), results=rows, resultSetMetadata=metadata
        )

    def CancelOperation(self, request: Any) -> Any:  # noqa: N802
        """Stop a statement."""
        self._operation(request).cancel()
        return self._types.TCancelOperationResp(status=self._ok())

    def CloseOperation(self, request: Any) -> Any:  # noqa: N802
        """Forget a statement."""
        del self._operations[request.operationHandle.operationId.guid]
        return self._types.TCloseOperationResp(status=self._ok())

    def CloseSession(self, request: Any) -> Any:  # noqa: N802
        """End a session."""
        self._sessions.pop(request.sessionHandle.sessionId.guid).close()
        return self._types.TCloseSessionResp(status=self._ok())

    def close(self) -> None:
        """End what clients have left open."""
        while self._sessions:
            self._sessions.popitem()[1].close()

    def _operation(self, request: Any) -> "Operation":
        return self._operations[request.operationHandle.operationId.guid]

    def _ok(self) -> Any:
        return self._types.TStatus(statusCode=self._types.TStatusCode.SUCCESS_STATUS)

    def _column(self, place: int, field: pa.Field) -> Any:
        """A column as the protocol knows it, in which a nested type has no name of its own."""
        t = self._types
        entry = t.TPrimitiveTypeEntry(type=t.TTypeId.STRING_TYPE)
        if pa.types.is_decimal(field.type):
            scale = {"precision": field.type.precision, "scale": field.type.scale}
            qualifiers = {name: t.TTypeQualifierValue(i32Value=value) for name, value in scale.items()}
            entry = t.TPrimitiveTypeEntry(t.TTypeId.DECIMAL_TYPE, t.TTypeQualifiers(qualifiers))
        return t.TColumnDesc(field.name, t.TTypeDesc([t.TTypeEntry(primitiveEntry=entry)]), place + 1)


class Operation:
    """A statement in a thread of its own, and what is left of its rows."""

    def __init__(self, session: Any, statement: str, refusal: str) -> None:
        self._session, self._statement = session, statement
        self.ended, self.cancelled, self.error, self.taken = threading.Event(), False, refusal or None, 0
        self.table = pa.table({})
        self._tag = f"t{uuid4().hex}"
        if refusal:
            self.ended.set()
        else:
            threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        try:
            self.table = self._session.table(self._statement, self._tag)
        except Exception as error:
            self.error = str(error)
        self.ended.set()

    def cancel(self) -> None:
        """Have Spark stop it: again, where its client was between two requests of the statement."""
        self.cancelled = True
        self._session.interrupt(self._tag)
        while not self.ended.wait(0.1):
            self._session.interrupt(self._tag)

    def take(self, rows: int) -> list[pa.RecordBatch]:
        """The next rows; a result of none is one batch of none."""
        part = self.table.slice(self.taken, rows)
        self.taken += part.num_rows
        empty = pa.RecordBatch.from_arrays([pa.nulls(0, one.type) for one in part.schema], schema=part.schema)
        return part.to_batches() or [empty]

    def has_more(self) -> bool:
        """Whether rows are left."""
        return self.taken < self.table.num_rows
