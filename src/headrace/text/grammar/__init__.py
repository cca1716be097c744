"""Structured output: what a request asks for becomes a grammar, the grammar masks, and an ending that always fits.

    StructuredOutput ── specification ──→ grammar text ── compiler ──→ Grammar ── constraint ──→ masks, forced tokens
                          json_schema, negation             ending
                          regex, gbnf
                          structural_tag

Masks are computed by llguidance; see docs/structured-output.md for why, and for what is enforced.
"""
