"""Errors of Spark's as errors of retl's: of the model, or of the warehouse."""

from pyspark.errors import AnalysisException, PySparkException, PythonException

from retl.address import Address, shown
from retl.errors import ConfigError, ModelError, WarehouseError
from retl.model import Model
from retl.warehouse.base import at_line
from retl.warehouse.message import WHOLE_MESSAGE, log_message, model_error, read_error
from retl.warehouse.spark_message import MODELS_STATES, first_sentence, line_in

_OPEN_PARAMETERS = {
    *("type", "sourceType", "targetType", "dataType", "function", "functionName"),
    *("config", "ansiConfig", "suggestion", "alternative"),
}
"""Parameters of messages that hold no value of a row, whatever the message is about."""

_LARGEST_RESULT = "spark.driver.maxResultSize"


def unopened(error: Exception, address: Address) -> ConfigError | WarehouseError:
    """The error for a session that could not be opened."""
    said, where = sentence(error, address), shown(address)
    if isinstance(error, ValueError):
        return ConfigError(
            f"the warehouse's URL cannot be used: {said}",
            where=where,
            hint="Write sc://host:15002, or sc://host:port/;token=…;use_ssl=true.",
        )
    return WarehouseError(
        f"the warehouse cannot be reached: {said}",
        where=where,
        hint="Check that Spark Connect runs there, that this machine may reach it, and the token.",
    )


def read_failed(model: Model, error: PySparkException, address: Address) -> ModelError | WarehouseError:
    """The error for a model that could not be described or read."""
    text = str(error).strip()
    said, line = first_sentence(text, address), line_in(text)
    if isinstance(error, AnalysisException):  # no row was read: it quotes the model and the catalogue
        return ModelError(f"model {model.name}: {said}", where=at_line(model, line))
    is_models = error.getCondition() and (error.getSqlState() or "").startswith(MODELS_STATES)
    if is_models or isinstance(error, PythonException):
        plain = _without_parameters(text, error, model)
        if plain is None:
            return model_error(model, said, line)
        log_message(model, text)
        said = first_sentence(plain, address)
        hint = WHOLE_MESSAGE if "…" in said else None
        return ModelError(f"model {model.name}: {said}", where=at_line(model, line), hint=hint)
    broken = read_error(model, said, address)
    if _LARGEST_RESULT in text:
        broken.hint = f"Raise {_LARGEST_RESULT} of the Spark Connect server; 0 is no limit."
    return broken


def sentence(error: Exception, address: Address) -> str:
    """The words of Spark, or of its client, for what is wrong, in one sentence."""
    return first_sentence(str(error).strip(), address)


def _without_parameters(text: str, error: PySparkException, model: Model) -> str | None:
    """A message without what was put into its template, as far as that may come from a row.

    Returns:
        None where that cannot be told.
    """
    parameters = error.getMessageParameters()
    if not parameters:
        return None
    values = [value for name, value in parameters.items() if name not in _OPEN_PARAMETERS and value]
    for value in sorted(values, key=len, reverse=True):
        if value not in text:
            return None
        if value.strip("'\"`") not in model.sql:
            text = text.replace(value, "…")
    return text
