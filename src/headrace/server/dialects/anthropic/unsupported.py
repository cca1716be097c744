"""Parts of Anthropic's API that are known and not implemented: fields, paths, opt-ins.

Fields are refused by name, except where their value asks for nothing: null always, and the values listed here.
"""

from __future__ import annotations

from collections.abc import Mapping

from headrace.server.dialects.decode import NEVER, Unsupported, Words

_KEEP_ALL = [{"edits": [{"type": "clear_thinking_20251015", "keep": every}]} for every in ("all", {"type": "all"})]
"""Asks to clear nothing; Claude Code sends it"""

COUNT: Unsupported = {
    "compaction": NEVER,
    "container": NEVER,
    "context_management": ({}, {"edits": []}, *_KEEP_ALL),
    "mcp_servers": ([],),
    "speed": ("standard",),
}
"""Fields of both paths"""

MESSAGES: Unsupported = {
    **COUNT,
    "billing_policy": NEVER,
    "diagnostics": NEVER,
    "fallback_credit_token": NEVER,
    "fallbacks": ([],),
    "inference_geo": NEVER,
    "user_profile_id": NEVER,
}

WORDS = Words(
    expected={
        "role": "user, assistant or system",
        "type": "one that is supported: of blocks text, tool_use, tool_result, thinking and redacted_thinking",
        "thinking.type": "enabled, adaptive or disabled",
        "tool_choice.type": "auto, any, tool or none",
        "output_config.format.type": "json_schema",
        "output_format.type": "json_schema",
    },
    instead={
        "mcp_servers": "leave it out, and give tools that the client calls itself",
        "container": "leave it out: no code runs on this server",
        "context_management": "leave it out: the conversation is read as it is sent",
        "compaction": "leave it out: the conversation is read as it is sent",
    },
)

PATHS: Mapping[str, str] = {
    "/v1/messages/batches": "send the requests one by one, or as a batch of OpenAI's API",
    "/v1/messages/batches/{rest:path}": "send the requests one by one, or as a batch of OpenAI's API",
    "/v1/complete": "use POST /v1/messages",
    "/v1/skills": "leave skills out",
    "/v1/skills/{rest:path}": "leave skills out",
}
"""Paths of the API that are refused, and what to do instead"""

BETAS = frozenset(
    {
        # what is always so here, or is asked for by fields and paths of its own, which are refused by name if need be
        "adaptive-thinking-2026-01-28",
        "advanced-tool-use-2025-11-20",
        "advisor-tool-2026-03-01",
        "cache-diagnosis-2026-04-07",
        "claude-code-20250219",
        "code-execution-2025-05-22",
        "code-execution-2025-08-25",
        "compact-2026-01-12",
        "compact-2026-09-04",
        "computer-use-2024-10-22",
        "computer-use-2025-01-24",
        "computer-use-2025-11-24",
        "context-management-2025-06-27",
        "dev-full-thinking-2025-05-14",
        "effort-2025-11-24",
        "extended-cache-ttl-2025-04-11",
        "fallback-credit-2026-06-01",
        "fallback-credit-2026-07-01",
        "fast-mode-2026-02-01",
        "files-api-2025-04-14",
        "fine-grained-tool-streaming-2025-05-14",
        "inline-tools-2026-09-15",
        "interleaved-thinking-2025-05-14",
        "mcp-client-2025-04-04",
        "mcp-client-2025-11-20",
        "mcp-client-2026-09-15",
        "message-batches-2024-09-24",
        "message-threads-2026-08-12",
        "mid-conversation-output-config-2026-07-01",
        "mid-conversation-system-clear-at-2026-08-21",
        "mid-conversation-tool-changes-2026-07-01",
        "model-context-window-exceeded-2025-08-26",
        "oauth-2025-04-20",
        "pdfs-2024-09-25",
        "prompt-caching-2024-07-31",
        "prompt-caching-scope-2026-01-05",
        "server-side-fallback-2026-06-01",
        "server-side-fallback-2026-07-01",
        "skills-2025-10-02",
        "structured-outputs-2025-11-13",
        "task-budgets-2026-03-13",
        "thinking-binding-controls-2026-08-01",
        "thinking-display-updates-2026-08-18",
        "thinking-token-count-2026-05-13",
        "token-counting-2024-11-01",
        "token-efficient-tools-2025-02-19",
        "tool-examples-2025-10-29",
        "tool-search-tool-2025-10-19",
        "web-fetch-2025-09-10",
        "web-search-2025-03-05",
        # longer contexts and outputs than usual: the context is the model's, and what exceeds it is said
        "context-1m-2025-08-07",
        "max-tokens-3-5-sonnet-2024-07-15",
        "output-128k-2025-02-19",
        "output-300k-2026-03-24",
    }
)
"""What the header anthropic-beta may have: it changes nothing by itself. Any other name is refused."""
