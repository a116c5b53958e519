"""What the OpenAPI description says of bodies, which are parsed by hand."""

import re
from typing import Any

DESCRIPTION = """Classifies images, each by its own path through the network, under a budget chosen per request.

`budget` is a mean cost, `trade_off` the price of a unit of cost, `max_cost` a limit for every image; the unit is the
static w8a8 network. Errors are `{"error": "reason"}`. 503 comes with Retry-After."""


def _refusal(description: str) -> dict[str, Any]:
    error = {"type": "object", "properties": {"error": {"type": "string"}}, "required": ["error"]}
    return {"description": description, "content": {"application/json": {"schema": error}}}


REFUSALS: dict[int | str, dict[str, Any]] = {
    400: _refusal("Cannot be answered; the reason is named."),
    401: _refusal("The token is missing or wrong."),
    403: _refusal("Not allowed from there."),
    404: _refusal("No such model or page."),
    405: _refusal("No such method."),
    408: _refusal("The body came too slowly."),
    409: _refusal("The new bundle was refused."),
    413: _refusal("Too large."),
    415: _refusal("Not a content type or encoding that is taken."),
    421: _refusal("Another host's request."),
    422: _refusal("Not valid."),
    503: _refusal("Overloaded, or about to end; see Retry-After."),
}
_BUDGETS: dict[str, Any] = {
    "budget": {"type": "number", "exclusiveMinimum": 0, "description": "Mean cost; not with trade_off."},
    "trade_off": {"type": "number", "minimum": 0},
    "max_cost": {"type": "number", "exclusiveMinimum": 0},
}


def path_parameters(path: str) -> list[dict[str, Any]]:
    """Of an operation that reads them itself, which takes a tenth of the time that FastAPI's own reading does."""
    names = re.findall(r"{(\w+)}", path)
    return [{"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names]


def _body(**content: Any) -> dict[str, Any]:
    return {"requestBody": {"required": True, "content": content}}


_TENSOR = {
    "type": "object",
    "required": ["name", "datatype", "shape"],
    "properties": {
        "name": {"enum": ["images", "encoded"]},
        "datatype": {"enum": ["UINT8", "FP16", "FP32", "FP64", "BYTES"]},
        "shape": {"type": "array", "items": {"type": "integer", "minimum": 1}, "minItems": 1, "maxItems": 4},
        "parameters": {"type": "object", "properties": {"binary_data_size": {"type": "integer", "minimum": 0}}},
        "data": {"type": "array", "items": {}},
    },
}
_OUTPUT = {
    "type": "object",
    "required": ["name"],
    "properties": {
        "name": {"enum": ["label", "class", "probabilities", "path", "cost"]},
        "parameters": {"type": "object", "properties": {"binary_data": {"type": "boolean"}}},
    },
}
INFER = _body(
    **{
        "application/json": {
            "schema": {
                "type": "object",
                "required": ["inputs"],
                "properties": {
                    "id": {"type": "string"},
                    "parameters": {
                        "type": "object",
                        "properties": {
                            **_BUDGETS,
                            "pixels": {
                                "enum": ["uint8", "unit"],
                                "description": "unit: the images are FP16, FP32 or FP64 from 0 to 1.",
                            },
                            "timeout": {"type": "integer", "minimum": 1, "description": "Microseconds."},
                            "binary_data_output": {"type": "boolean"},
                        },
                    },
                    "inputs": {"type": "array", "items": _TENSOR, "minItems": 1, "maxItems": 1},
                    "outputs": {"type": "array", "items": _OUTPUT},
                },
            },
            "example": {
                "parameters": {"budget": 0.2},
                "inputs": [
                    {"name": "images", "datatype": "UINT8", "shape": [1, 2, 2], "data": [[[0, 255], [255, 0]]]},
                ],
            },
        }
    }
)
CLASSIFY = _body(
    **{
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["image"],
                "properties": {
                    "image": {
                        "type": "string",
                        "format": "binary",
                        "description": "JPEG, PNG or WebP; may be repeated.",
                    },
                    **_BUDGETS,
                    "explain": {"type": "boolean"},
                },
            }
        },
        "application/json": {
            "schema": {
                "type": "object",
                "properties": {
                    "image": {"type": "string", "format": "byte"},
                    "images": {"type": "array", "items": {"type": "string", "format": "byte"}},
                    **_BUDGETS,
                    "explain": {"type": "boolean"},
                },
            }
        },
    }
)
RELOAD = {
    "requestBody": {
        "required": False,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "properties": {"digest": {"type": "string"}},
                    "additionalProperties": False,
                }
            }
        },
    }
}
