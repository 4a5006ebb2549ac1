"""The JSON Schema of the sync file, for editors, from the models that check it."""

from typing import Any

from retl.config.sync import KINDS, Audience, Group, Identify, Sync, Track
from retl.receivers.data_file import receiver
from retl.receivers.settings import Setting, known_receivers


def json_schema() -> dict[str, Any]:
    """The JSON Schema of a sync file, for editors; looser than retl's own check."""
    schema = Sync.model_json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "retl sync"
    schema["required"].remove("name")
    schema["oneOf"] = [{"required": [kind]} for kind in KINDS]
    for key in ("primary_key", "compare"):
        schema["properties"][key].setdefault("anyOf", [_array()]).append({"type": "string", "minLength": 1})
        schema["properties"][key].pop("type", None)
    definitions = schema["$defs"]
    for short in ("Value", "TrackCall", "Event"):
        definitions[short] = {"anyOf": [{"type": "string", "minLength": 1}, definitions[short]]}
    for block in (Track, Audience, Identify, Group):
        fields = definitions[block.__name__]["properties"]
        one_by_one = fields[block.fields_key]
        described = {"description": one_by_one["description"]}
        fields[block.fields_key] = {**described, "anyOf": [{"const": "all"}, one_by_one]}
    definitions["Limit"] = {
        "description": definitions["Limit"]["description"],
        "anyOf": [
            {"type": "integer", "minimum": 0},
            {"type": "string", "pattern": r"^([0-9]+(\.[0-9]+)?%|[0-9]+|off)$"},
            {"const": False},
        ],
    }
    definitions.pop("Settings", None)
    schema["properties"]["receivers"] = {
        "description": schema["properties"]["receivers"]["description"],
        "type": "object",
        "properties": {name: _receiver(name) for name in known_receivers()},
        "additionalProperties": False,
    }
    definitions["SegmentSettings"]["properties"]["write_key"]["default"] = "${SEGMENT_WRITE_KEY}"
    return schema


def _receiver(name: str) -> dict[str, object]:
    """The JSON Schema of what a sync says of a receiver."""
    about = receiver(name)
    rules = {"type": "array", "items": {"enum": list(about.rules)}, "description": "Rules not to look at."}
    mode = {
        "enum": ["warn", "reject"],
        "description": "Whether calls that break a rule are only counted, or become rejected rows.",
    }
    own = {key: _setting(setting) for key, setting in about.settings.items()}
    properties = {"mode": mode, "ignore": rules, **own}
    return {
        "description": about.title,
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
    }


def _setting(setting: Setting) -> dict[str, object]:
    kinds: dict[str, dict[str, object]] = {
        "flag": {"type": "boolean"},
        "trait": {"type": "string", "minLength": 1},
    }
    named: dict[str, object] = {"type": "object", "additionalProperties": {"type": "string", "minLength": 1}}
    if setting.keys is not None:
        named["propertyNames"] = {"enum": list(setting.keys)}
    return {"description": setting.says, **kinds.get(setting.kind, named)}


def _array() -> dict[str, object]:
    return {"type": "array", "items": {"type": "string", "minLength": 1}, "minItems": 1}
