"""OpenAI's /v1/responses: fields.py (what is taken), items.py (items ↔ messages), parse.py, output.py (chunks → items
and events), render.py, routes.py (with what is stored).

`background` runs on without its client; `previous_response_id` goes on from what is stored. Nothing is truncated.
"""

from headrace.server.dialects.openai.responses.routes import response_routes

__all__ = ["response_routes"]
